"""Runs and their logs are read, filtered and cancelled through the API."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from runs import services
from runs.models import Run, Trigger
from runs.services import Line
from runs.states import RunStatus

URL = "/api/v1/runs/"


@pytest.fixture
def make_run(make_pipeline, operator):
    def make(pipeline=None, trigger=Trigger.MANUAL, **changes):
        pipeline = pipeline or make_pipeline(f"Table {uuid.uuid4().hex[:6]}")
        run, _ = services.request_run(pipeline, trigger=trigger, by=operator)
        Run.objects.filter(pk=run.pk).update(**changes)
        return Run.objects.get(pk=run.pk)

    return make


def ids(response):
    assert response.status_code == 200, response.content
    return [run["id"] for run in response.json()["results"]]


def test_a_run_is_read_with_what_it_waits_for(api, make_run):
    run = make_run()
    answer = api.get(f"{URL}{run.pk}/").json()
    assert (answer["id"], answer["pipeline_name"], answer["status"]) == (str(run.pk), run.pipeline.name, "queued")
    assert answer["waiting"].startswith("Waiting")
    assert (answer["progress"]["rows"], answer["receipt"], answer["error"]) == (0, None, None)


def test_a_failed_run_tells_its_error(api, make_run):
    run = make_run(status=RunStatus.FAILED, error_code="nul", error_message="A NUL.", error_hint="Strip it.")
    assert api.get(f"{URL}{run.pk}/").json()["error"] == {"code": "nul", "message": "A NUL.", "hint": "Strip it."}


def test_runs_are_filtered(api, make_run):
    now = timezone.now()
    old = make_run(status=RunStatus.SUCCEEDED, created_at=now - timedelta(days=2))
    failed = make_run(status=RunStatus.FAILED, trigger=Trigger.API)
    queued = make_run()
    assert ids(api.get(URL)) == [str(queued.pk), str(failed.pk), str(old.pk)]
    assert ids(api.get(URL, {"pipeline": str(old.pipeline_id)})) == [str(old.pk)]
    assert ids(api.get(URL, {"status": ["failed", "queued"]})) == [str(queued.pk), str(failed.pk)]
    assert ids(api.get(URL, {"trigger": "api"})) == [str(failed.pk)]
    yesterday = (now - timedelta(days=1)).isoformat()
    assert ids(api.get(URL, {"created_before": yesterday})) == [str(old.pk)]
    assert ids(api.get(URL, {"created_after": yesterday})) == [str(queued.pk), str(failed.pk)]
    assert ids(api.get(URL, {"limit": 1, "offset": 1})) == [str(failed.pk)]


@pytest.mark.parametrize(
    ("name", "value"), [("pipeline", "orders"), ("status", "lost"), ("created_after", "yesterday"), ("trigger", "x")]
)
def test_a_filter_that_makes_no_sense_is_refused(api, db, name, value):
    response = api.get(URL, {name: value})
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [name]


def test_a_list_takes_the_same_queries_however_long(api, make_run, django_assert_num_queries):
    make_run()
    api.get(URL)
    with django_assert_num_queries(5):
        api.get(URL)
    for _ in range(4):
        make_run()
    with django_assert_num_queries(5):
        assert len(ids(api.get(URL))) == 5


def test_cancelling_what_waits_ends_it_once(api, make_run, operator):
    run = make_run()
    for _ in range(2):
        response = api.post(f"{URL}{run.pk}/cancel/")
        assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    run.refresh_from_db()
    assert run.cancelled_by == operator


def test_cancelling_what_runs_asks_it_to_stop(api, make_run):
    run = make_run(status=RunStatus.RUNNING, lease_until=timezone.now() + timedelta(minutes=1))
    response = api.post(f"{URL}{run.pk}/cancel/")
    assert (response.status_code, response.json()["status"]) == (200, "running")
    assert response.json()["cancel_requested"]


def test_what_has_ended_cannot_be_cancelled(api, make_run):
    run = make_run(status=RunStatus.SUCCEEDED)
    response = api.post(f"{URL}{run.pk}/cancel/")
    assert (response.status_code, response.json()["code"]) == (409, "run_ended")
    assert Run.objects.get().status == RunStatus.SUCCEEDED


def test_log_lines_come_after_a_seq_and_in_order(api, make_run):
    run = make_run()
    services.write_lines(run.pk, [Line("info", f"<b>line</b> {n}") for n in range(1, 6)], attempt=1)
    log = api.get(f"{URL}{run.pk}/log/").json()
    assert [(line["seq"], line["message"]) for line in log["lines"]] == [(n, f"<b>line</b> {n}") for n in range(1, 6)]
    assert (log["last_seq"], log["finished"], log["lines"][0]["attempt"]) == (5, False, 1)
    rest = api.get(f"{URL}{run.pk}/log/", {"after": 3}).json()
    assert [line["seq"] for line in rest["lines"]] == [4, 5]
    part = api.get(f"{URL}{run.pk}/log/", {"after": 1, "limit": 2}).json()
    assert ([line["seq"] for line in part["lines"]], part["last_seq"]) == ([2, 3], 5)
    assert api.get(f"{URL}{run.pk}/log/", {"after": 5}).json()["lines"] == []


def test_a_log_is_finished_when_its_run_is(api, make_run):
    run = make_run()
    services.cancel_run(run, by=run.requested_by)
    log = api.get(f"{URL}{run.pk}/log/").json()
    assert log["finished"]
    assert log["lines"][-1]["seq"] == log["last_seq"]


@pytest.mark.parametrize("wrong", [{"after": "first"}, {"after": -1}, {"limit": 0}, {"limit": 1001}, {"after": 2**70}])
def test_a_seq_is_a_number(api, make_run, wrong):
    response = api.get(f"{URL}{make_run().pk}/log/", wrong)
    assert response.status_code == 400
    assert list(response.json()["fields"]) == list(wrong)


def test_viewers_read_runs_and_cancel_none(viewer_api, make_run):
    run = make_run()
    assert viewer_api.get(f"{URL}{run.pk}/").status_code == 200
    assert viewer_api.get(f"{URL}{run.pk}/log/").status_code == 200
    assert viewer_api.post(f"{URL}{run.pk}/cancel/").status_code == 403
    assert Run.objects.get().status == RunStatus.QUEUED
