"""Who may do what on the desk, and what the desk does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import CrontabSchedule, PeriodicTask
from django_celery_results.models import TaskResult

from pipelines import lookups
from pipelines.models import ApiToken, Pipeline
from pipelines.specs import ScheduleSpec
from runs.models import Attempt, PartLoad, Run, Trigger
from runs.services import request_run

LIST = "/admin/pipelines/pipeline/"
DESK = f"{LIST}desk/"
CONNECTIONS = "/admin/pipelines/connection/"


@pytest.fixture
def client_in(db: None) -> Callable[[str], Client]:
    """A staff member of one of the groups that every installation has."""

    def log_in(group: str) -> Client:
        user = User.objects.create_user(f"{group}-person", is_staff=True)
        user.groups.add(Group.objects.get(name=group))
        client = Client()
        client.force_login(user)
        return client

    return log_in


def act(client: Client, name: str, *pipelines: Pipeline) -> Any:
    return client.post(LIST, {"action": name, "_selected_action": [pipeline.pk for pipeline in pipelines]})


def test_a_viewer_looks_and_changes_nothing(client_in, make_pipeline, destination):
    viewer, pipeline = client_in("viewer"), make_pipeline()
    request_run(pipeline, trigger=Trigger.MANUAL, by=None)
    change = reverse("admin:pipelines_pipeline_change", args=[pipeline.pk])
    connection = reverse("admin:pipelines_connection_change", args=[destination.pk])
    for url in (LIST, CONNECTIONS, change, connection, "/admin/runs/run/"):
        page = viewer.get(url)
        assert page.status_code == 200, url
        for button in ('name="_save"', "Run now", "Duplicate", ">Archive<", "Add tables", "data-desk-test"):
            assert button not in page.content.decode(), (url, button)
    assert "s3cret" not in viewer.get(connection).content.decode()
    assert "Password:</strong> stored" in viewer.get(connection).content.decode()


def test_a_viewer_is_refused_at_every_other_address(client_in, make_pipeline, destination):
    viewer, pipeline = client_in("viewer"), make_pipeline()
    for address in ("duplicate", "archive", "run-now"):
        for ask in (viewer.get, viewer.post):
            assert ask(f"{LIST}{pipeline.pk}/{address}/").status_code == 403, address
    gets = ("datasets/", "tables/", "schemas/", "schedule/")
    assert {viewer.get(f"{DESK}{address}").status_code for address in gets} == {403}
    assert {viewer.post(f"{DESK}{address}").status_code for address in ("preview/", "describe/")} == {403}
    assert viewer.get(f"{LIST}add-tables/").status_code == 403
    assert viewer.post(f"{LIST}add-tables/").status_code == 403
    assert viewer.get(f"{CONNECTIONS}add/").status_code == 403
    assert viewer.get(f"{CONNECTIONS}add/?kind=postgres").status_code == 403
    assert viewer.post(f"{CONNECTIONS}test/?kind=postgres").status_code == 403
    assert viewer.post(f"{CONNECTIONS}test/?connection={destination.pk}").status_code == 403
    change = reverse("admin:pipelines_connection_change", args=[destination.pk])
    assert viewer.post(change, {"name": "Mine", "option_host": "evil.example.com"}).status_code == 403
    for name in ("run_now", "pause", "resume", "archive", "set_schedule", "delete_selected"):
        act(viewer, name, pipeline)
    pipeline.refresh_from_db()
    assert (pipeline.state, Pipeline.objects.count(), Run.objects.count()) == ("active", 1, 0)


def test_an_operator_runs_pauses_and_defines(client_in, make_pipeline, monkeypatch):
    monkeypatch.setattr(lookups, "datasets", lambda connection: ["sales"])
    operator_client, pipeline = client_in("operator"), make_pipeline()
    act(operator_client, "run_now", pipeline)
    assert Run.objects.count() == 1
    act(operator_client, "pause", pipeline)
    pipeline.refresh_from_db()
    assert pipeline.state == "paused"
    assert operator_client.get(f"{LIST}add/").status_code == 200
    answer = operator_client.get(f"{DESK}datasets/", {"connection": pipeline.source_id})
    assert answer.json() == {"datasets": ["sales"]}
    assert operator_client.post(f"{LIST}{pipeline.pk}/duplicate/").status_code == 302


def test_an_operator_sees_no_users(client_in):
    operator = client_in("operator")
    assert operator.get("/admin/auth/user/").status_code == 403
    assert "/admin/auth/" not in operator.get(LIST).content.decode()


def test_the_sidebar_leads_to_what_one_may_see_and_back_to_the_pages(client_in):
    page = client_in("admin").get(LIST).content.decode()
    sidebar = page[page.index("nav-sidebar-inner") :]
    for address in (reverse("dashboard"), LIST, CONNECTIONS, "/admin/runs/run/", "/admin/auth/user/"):
        assert f'href="{address}"' in sidebar, address


def test_an_admin_makes_users(client_in):
    page = client_in("admin").get("/admin/auth/user/add/")
    assert page.status_code == 200


def test_strangers_are_sent_to_log_in(client, make_pipeline):
    pipeline = make_pipeline()
    for address in ("", "add-tables/", f"{pipeline.pk}/run-now/", "desk/datasets/"):
        answer = client.post(f"{LIST}{address}")
        assert answer.status_code == 302, address
        assert "login" in answer.headers["Location"]


def test_what_changes_something_needs_the_csrf_token(make_pipeline, admin_user):
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(admin_user)
    pipeline = make_pipeline()
    addresses = [f"{LIST}{pipeline.pk}/{address}/" for address in ("run-now", "duplicate", "archive")]
    for address in (*addresses, f"{CONNECTIONS}test/?kind=postgres", f"{DESK}preview/", f"{LIST}add-tables/"):
        assert careful.post(address).status_code == 403, address
    assert Run.objects.count() == 0


def test_what_lets_staff_run_any_task_is_not_in_the_admin():
    registered = {model.__name__ for model in admin.site._registry}
    assert not {"PeriodicTask", "IntervalSchedule", "SolarSchedule", "ClockedSchedule"} & registered
    assert not {"TaskResult", "GroupResult", "ApiToken", "LogLine"} & registered
    assert not admin.site.is_registered(PeriodicTask)
    assert not admin.site.is_registered(TaskResult)
    assert not admin.site.is_registered(ApiToken)


def test_crontab_rows_are_shown_with_their_pipeline_and_never_changed(admin_client, make_pipeline):
    pipeline = make_pipeline("Orders", schedules=[ScheduleSpec("cron", "30 6 * * 1-5", "Europe/Berlin")])
    page = admin_client.get("/admin/django_celery_beat/crontabschedule/").content.decode()
    assert "30 6 * * 1-5" in page
    assert reverse("admin:pipelines_pipeline_change", args=[pipeline.pk]) in page
    row = CrontabSchedule.objects.get()
    for address in ("add/", f"{row.pk}/delete/"):
        assert admin_client.post(f"/admin/django_celery_beat/crontabschedule/{address}").status_code == 403
    assert admin_client.post(f"/admin/django_celery_beat/crontabschedule/{row.pk}/change/").status_code == 403


def test_runs_are_looked_at_only(admin_client, make_pipeline):
    run, _ = request_run(make_pipeline(), trigger=Trigger.MANUAL, by=None)
    assert "Orders" in admin_client.get("/admin/runs/run/").content.decode()
    page = admin_client.get(f"/admin/runs/run/{run.pk}/change/").content.decode()
    assert run.get_absolute_url() in page
    assert 'name="_save"' not in page
    for address in ("add/", f"{run.pk}/delete/", f"{run.pk}/change/"):
        assert admin_client.post(f"/admin/runs/run/{address}").status_code == 403
    assert Run.objects.count() == 1


def test_a_runs_parts_are_looked_at_by_those_who_may(client_in, make_pipeline):
    run, _ = request_run(make_pipeline(), trigger=Trigger.MANUAL, by=None)
    Run.objects.filter(pk=run.pk).update(status="running", step="parts", generation=1)
    Attempt.objects.create(run=run, number=1, token=1, worker="w", outcome="divided")
    PartLoad.objects.bulk_create(
        PartLoad(run=run, number=number, name=f"<day {number}>", status="waiting") for number in range(60)
    )
    viewer = client_in("viewer")
    page = viewer.get(f"/admin/runs/run/{run.pk}/change/").content.decode()
    assert "None of 60 parts is staged, 60 wait." in page
    assert "(&#x27;running" not in page
    assert "Planned: divided into parts" in page
    assert "&lt;day 49&gt;" in page
    assert "&lt;day 50&gt;" not in page  # on the next page
    assert viewer.post(f"/admin/runs/run/{run.pk}/change/").status_code == 403
    viewer_group = Group.objects.get(name="viewer")
    viewer_group.permissions.remove(Permission.objects.get(codename="view_partload"))
    assert "&lt;day 1&gt;" not in viewer.get(f"/admin/runs/run/{run.pk}/change/").content.decode()
