"""Pools, priorities and what runs wait for, by API."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db.models.functions import Now

from pipelines import lookups
from pipelines.models import Pipeline, Pool, Priority
from runs.models import Process, Run, Trigger

URL = "/api/v1/pools/"


@pytest.fixture
def pools_api(django_user_model, client_of):
    user = django_user_model.objects.create_user("pia")
    wanted = [f"{verb}_pool" for verb in ("view", "add", "change", "delete")]
    user.user_permissions.add(*Permission.objects.filter(codename__in=wanted))
    return client_of(user)


def make_run(pipeline: Pipeline, **changes: Any) -> Run:
    return Run.objects.create(pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.MANUAL, **changes)


def test_a_pool_is_made_read_changed_and_deleted(pools_api, make_pipeline):
    made = pools_api.post(URL, {"name": "Heavy", "slots": 2})
    assert made.status_code == 201
    pool = made.json()
    now = {"pipelines": 0, "in_use": 0, "waiting": 0}
    assert pool == pool | {"name": "Heavy", "slots": 2, "description": "", **now}
    url = f"{URL}{pool['id']}/"
    pipeline = make_pipeline(pool_id=pool["id"])
    make_run(pipeline, status="running", lease_until=Now())
    make_run(pipeline)
    assert pools_api.patch(url, {"slots": 5}).json()["slots"] == 5
    read = pools_api.get(url).json()
    assert read == read | {"name": "Heavy", "slots": 5, "pipelines": 1, "in_use": 1, "waiting": 1}
    assert pools_api.get(URL, {"name": "Heavy"}).json()["results"] == [read]
    refused = pools_api.delete(url)
    assert (refused.status_code, refused.json()["code"]) == (409, "pool_in_use")
    assert "Orders" in refused.json()["message"]
    Pipeline.objects.update(pool=None)
    assert pools_api.delete(url).status_code == 204
    assert not Pool.objects.exists()


@pytest.mark.parametrize(
    ("sent", "field", "code"),
    [
        ({"name": "Heavy"}, "name", "name_taken"),
        ({"name": "Light", "slots": 0}, "slots", "min_value"),
        ({"name": "Light", "slot": 3}, "slot", "unknown_field"),
        ({"slots": 3}, "name", "required"),
    ],
)
def test_what_is_wrong_with_a_pool_is_told_field_by_field(pools_api, sent, field, code):
    Pool.objects.create(name="Heavy")
    answer = pools_api.post(URL, sent)
    assert answer.status_code == 400
    assert [problem["code"] for problem in answer.json()["fields"][field]] == [code]


def test_who_may_not_may_not(outsider_api, viewer_api):
    pool = Pool.objects.create(name="Heavy")
    assert outsider_api.get(URL).status_code == 403
    assert viewer_api.patch(f"{URL}{pool.pk}/", {"slots": 3}).status_code == 403
    assert viewer_api.delete(f"{URL}{pool.pk}/").status_code == 403


def test_a_pipeline_has_a_pool_and_a_priority_by_name(api, make_pipeline, monkeypatch):
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: pytest.fail("nothing that is moved changes"))
    pool, pipeline = Pool.objects.create(name="Heavy"), make_pipeline()
    url = f"/api/v1/pipelines/{pipeline.pk}/"
    assert (api.get(url).json()["priority"], api.get(url).json()["pool"]) == ("normal", None)
    answer = api.patch(url, {"priority": "high", "pool": str(pool.pk)}).json()
    assert (answer["priority"], answer["pool"], answer["revision"]) == ("high", str(pool.pk), 1)
    pipeline.refresh_from_db()
    assert (pipeline.priority, pipeline.pool) == (Priority.HIGH, pool)
    wrong = api.patch(url, {"priority": 10, "pool": str(pipeline.pk)}).json()["fields"]
    assert {name: problem[0]["code"] for name, problem in wrong.items()} == {
        "priority": "invalid_choice",
        "pool": "does_not_exist",
    }
    assert api.patch(url, {"pool": None}).json()["pool"] is None


def test_a_run_says_whose_slots_it_waits_for(api, make_pipeline):
    Process.objects.create(name="worker@a:1", kind="worker", slots=4)
    pool = Pool.objects.create(name="Heavy")
    holder = make_run(make_pipeline("Orders", pool=pool), status="running", lease_until=Now())
    waiting = make_run(make_pipeline("Refunds", pool=pool))
    answer = api.get(f"/api/v1/runs/{waiting.pk}/").json()
    assert answer["waiting"] == "Waiting for a slot of pool Heavy: 1 of 1 in use by Orders."
    assert answer["waiting_on"] == [{"run": str(holder.pk), "pipeline": "Orders", "slots": 1}]
    assert api.get(f"/api/v1/runs/{holder.pk}/").json()["waiting_on"] == []
