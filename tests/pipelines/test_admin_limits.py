"""Pools, priorities and limits on the desk."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.db.models.functions import Now
from django.test import Client

from pipelines import services
from pipelines.models import Connection, Pipeline, Pool, Priority
from runs.models import Run, Trigger
from tests.pipelines.test_admin_pipelines import ADD, again, change_url, findings, form_errors, typed

__all__ = ["findings"]

POOLS = "/admin/pipelines/pool/"
LIST = "/admin/pipelines/pipeline/"


@pytest.fixture
def pool(db: None) -> Pool:
    return Pool.objects.create(name="Heavy", slots=3)


def test_what_is_chosen_is_kept_and_is_no_new_revision(admin_client, source, destination, findings, pool):
    chosen = {"priority": Priority.HIGH, "pool": pool.pk}
    assert admin_client.post(ADD, typed(source, destination, **chosen)).status_code == 302
    pipeline = Pipeline.objects.get()
    assert (pipeline.priority, pipeline.pool) == (Priority.HIGH, pool)
    changed = again(pipeline, priority=Priority.LOW, pool="")
    assert admin_client.post(change_url(pipeline), changed).status_code == 302
    pipeline.refresh_from_db()
    assert (pipeline.priority, pipeline.pool, pipeline.revisions.count()) == (Priority.LOW, None, 1)
    assert set(form_errors(admin_client.post(change_url(pipeline), again(pipeline, priority=7)))) == {"priority"}


def test_a_duplicate_has_them_too(make_pipeline, operator, pool):
    copy = services.duplicate(make_pipeline(priority=Priority.LOW, pool=pool), by=operator)
    assert (copy.priority, copy.pool) == (Priority.LOW, pool)


def test_a_pool_tells_who_has_its_slots_and_how_many_wait(admin_client, make_pipeline, pool):
    orders, refunds = make_pipeline("Orders", pool=pool), make_pipeline("Refunds", pool=pool)

    def run(pipeline: Pipeline, **changes: Any) -> Run:
        return Run.objects.create(
            pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.MANUAL, **changes
        )

    running = run(orders, status="running", lease_until=Now())
    for pipeline in (orders, refunds, make_pipeline("Elsewhere")):
        run(pipeline)
    ended = admin_client.get(POOLS)
    (shown,) = ended.context["cl"].result_list
    assert (shown.in_use, shown.waiting, shown.used_by) == (1, 2, 2)
    page = admin_client.get(f"{POOLS}{pool.pk}/change/").content.decode()
    assert "1 of 3: " in page
    assert f'href="{running.get_absolute_url()}">Orders</a>' in page
    members = f"{LIST}?pool__id__exact={pool.pk}"
    assert members in page
    assert {p.name for p in admin_client.get(members).context["cl"].result_list} == {"Orders", "Refunds"}


def test_pools_are_made_changed_and_deleted_unless_pipelines_are_in_them(admin_client, make_pipeline, pool):
    typed_in = {"name": "Light", "slots": "2", "description": "Small ones"}
    assert admin_client.post(f"{POOLS}add/", typed_in).status_code == 302
    light = Pool.objects.get(name="Light")
    assert form_errors(admin_client.post(f"{POOLS}add/", typed_in)).keys() == {"name"}
    assert form_errors(admin_client.post(f"{POOLS}{light.pk}/change/", typed_in | {"slots": 0})).keys() == {"slots"}
    admin_client.post(f"{POOLS}{light.pk}/change/", typed_in | {"slots": 9})
    assert Pool.objects.get(name="Light").slots == 9
    make_pipeline("Orders", pool=light)
    page = admin_client.post(f"{POOLS}{light.pk}/delete/", {"post": "yes"}).content.decode()
    assert "Not deleted, because these pipelines use it" in page
    assert "Orders" in page
    Pipeline.objects.update(pool=None)
    admin_client.post(f"{POOLS}{light.pk}/delete/", {"post": "yes"})
    assert list(Pool.objects.values_list("name", flat=True)) == ["Heavy"]


def test_many_pipelines_get_a_priority_and_a_pool_at_once(admin_client, make_pipeline, pool):
    chosen = [make_pipeline("Orders"), make_pipeline("Refunds")]
    other = make_pipeline("Stock")
    send = {"action": "set_limits", "_selected_action": [pipeline.pk for pipeline in chosen]}
    page = admin_client.post(LIST, send).content.decode()
    for text in ("Orders", "Refunds", "As it is", "No pool", "Heavy (3)"):
        assert text in page, text

    def after(**values: Any) -> set[tuple[int, str | None]]:
        sent = {f"limits-{name}": value for name, value in values.items()}
        assert admin_client.post(LIST, {**send, **sent, "apply": "1"}).status_code == 302
        return set(Pipeline.objects.exclude(pk=other.pk).values_list("priority", "pool__name"))

    assert after(priority="", pool=str(pool.pk)) == {(20, "Heavy")}
    assert after(priority="30", pool="") == {(30, "Heavy")}
    assert after(priority="", pool="none") == {(30, None)}
    assert after(priority="", pool="") == {(30, None)}
    assert LogEntry.objects.filter(change_message="Set priority and pool.").count() == 6
    other.refresh_from_db()
    assert (other.priority, other.pool) == (20, None)


def test_a_connections_limit_is_typed_beside_its_options(admin_client, destination):
    url = f"/admin/pipelines/connection/{destination.pk}/change/"
    options = {f"option_{name}": value for name, value in destination.options.items()} | {"name": "Shop"}
    page = admin_client.get(url)
    assert "Running at once" in page.content.decode()
    for sent, kept in (("4", 4), ("", None)):
        assert admin_client.post(url, options | {"max_running": sent}).status_code == 302
        assert Connection.objects.get(pk=destination.pk).max_running == kept
    assert set(form_errors(admin_client.post(url, options | {"max_running": "0"}))) == {"max_running"}


def test_viewers_look_and_operators_change(make_pipeline, pool):
    def client(group: str) -> Client:
        user = User.objects.create_user(group, is_staff=True)
        user.groups.add(Group.objects.get(name=group))
        client = Client()
        client.force_login(user)
        return client

    viewer, operator = client("viewer"), client("operator")
    change = f"{POOLS}{pool.pk}/change/"
    for url in (POOLS, change):
        assert viewer.get(url).status_code == 200
    assert viewer.post(change, {"name": "Mine", "slots": 99}).status_code == 403
    assert viewer.get(f"{POOLS}add/").status_code == 403
    pipeline = make_pipeline()
    send = {"action": "set_limits", "_selected_action": [pipeline.pk], "apply": "1", "limits-priority": "10"}
    viewer.post(LIST, send)
    pipeline.refresh_from_db()
    assert pipeline.priority == Priority.NORMAL
    operator.post(LIST, send)
    pipeline.refresh_from_db()
    assert pipeline.priority == Priority.HIGH
    assert operator.post(change, {"name": "Ours", "slots": 99, "description": ""}).status_code == 302
