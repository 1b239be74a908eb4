"""A run that is loaded in parts, and its parts, through the API."""

from __future__ import annotations

import uuid

import pytest

from runs.models import Run
from runs.states import RunStatus, Step
from tests.runs.pages import divide, make_run  # noqa: F401

URL = "/api/v1/runs/"


@pytest.fixture
def run(make_pipeline, make_run) -> Run:  # noqa: F811
    return make_run(make_pipeline("Orders"), RunStatus.RUNNING)


def test_a_run_says_its_step_and_how_its_parts_stand(viewer_api, run):
    answer = viewer_api.get(f"{URL}{run.pk}/").json()
    assert (answer["step"], answer["parts"]) == ("", None)
    divide(run, "done", "done", "running", {"status": "waiting", "losses": 1}, "waiting", "failed")
    answer = viewer_api.get(f"{URL}{run.pk}/").json()
    assert answer["step"] == "parts"
    assert answer["parts"] == {"total": 6, "waiting": 2, "running": 1, "done": 2, "failed": 1}
    assert viewer_api.get(URL).json()["results"][0]["step"] == "parts"


def test_parts_are_listed_in_order_a_page_at_a_time(viewer_api, run):
    error = {"error_code": "bad", "error_message": "The stream broke.", "error_hint": "Look."}
    divide(run, "running", {"status": "failed", "failures": 2, **error}, *["waiting"] * 10)
    page = viewer_api.get(f"{URL}{run.pk}/parts/", {"limit": 3}).json()
    assert page["count"] == 12
    first, second, _ = page["results"]
    assert (first["number"], first["name"], first["status"]) == (1, "day 0", "running")
    assert (first["worker"], first["rows"], first["estimated_rows"]) == ("worker@here:1:7", 500, 1000)
    assert (second["failures"], second["losses"], first["error"]) == (2, 0, None)
    assert second["error"] == {"code": "bad", "message": "The stream broke.", "hint": "Look."}
    last = viewer_api.get(f"{URL}{run.pk}/parts/", {"limit": 3, "offset": 9}).json()
    assert [part["number"] for part in last["results"]] == [10, 11, 12]
    # What filters runs is no filter of a run's parts.
    assert viewer_api.get(f"{URL}{run.pk}/parts/", {"status": "succeeded"}).json()["count"] == 12


def test_a_run_in_one_go_has_no_parts(viewer_api, run):
    assert viewer_api.get(f"{URL}{run.pk}/parts/").json()["results"] == []
    divide(run, "done", step=Step.WHOLE)  # left behind: a new plan is being made
    assert viewer_api.get(f"{URL}{run.pk}/parts/").json()["count"] == 0


def test_parts_are_seen_by_those_who_see_the_run(outsider_api, viewer_api, run):
    divide(run, "done")
    assert outsider_api.get(f"{URL}{run.pk}/parts/").status_code == 403
    assert viewer_api.get(f"{URL}{uuid.uuid4()}/parts/").status_code == 404


def test_a_list_of_parts_takes_the_same_queries_however_long(viewer_api, run, django_assert_num_queries):
    viewer_api.get(URL)
    for parts in (2, 40):
        divide(run, *["running"] * parts)
        with django_assert_num_queries(6):
            assert len(viewer_api.get(f"{URL}{run.pk}/parts/", {"limit": 50}).json()["results"]) == parts
