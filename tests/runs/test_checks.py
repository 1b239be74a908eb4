"""Checks of real runs: held, shown to those who may see rows, decided, and kept as a history."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from connectors.checks import Check, CheckKind, Severity
from pipelines import services as definitions
from pipelines.models import Pipeline
from runs import row_checks, services
from runs.models import CheckResult, Decision, Run, RunAction
from runs.states import RunStatus
from tests.runs.memory import Script
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import VIEW, allow, logged_in

pytestmark = pytest.mark.django_db(transaction=True)

LOW_IDS = Check(CheckKind.RANGE, "low ids", ("id",), maximum="2")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def run_of(queue: Any, work: Any) -> Any:
    def run_of(pipeline: Pipeline, **changes: Any) -> Run:
        run = queue(pipeline, **changes)
        work()
        run.refresh_from_db()
        return run

    return run_of


def checked_by(pipeline: Pipeline, *wanted: Check) -> Pipeline:
    definitions.save_pipeline(pipeline, schedules=None, checks=wanted, by=None)
    return pipeline


def told(run: Run) -> list[tuple[str, str, float | None]]:
    return list(run.check_results.values_list("name", "status", "value"))


def test_a_run_that_fails_a_check_is_held_shown_approved_and_kept(
    moving: Any, run_of: Any, work: Any, rows_of: Any, script: Script, operator: User
) -> None:
    pipeline = checked_by(moving(), LOW_IDS, Check(CheckKind.NOT_NULL, columns=("name",)))
    first = run_of(pipeline)
    assert (first.status, rows_of(pipeline)) == (RunStatus.SUCCEEDED, 3)
    assert told(first) == [("low ids", "passed", 0), ("name: not null", "passed", 0)]
    script.rows = 5
    run = run_of(pipeline)
    assert (run.status, run.error_code, rows_of(pipeline)) == (RunStatus.HELD, "check_failed", 3)
    assert "2 rows of 5 have a value of id above 2" in run.error_message
    assert told(run) == [("low ids", "failed", 2), ("name: not null", "passed", 0)]
    address = reverse("run", args=[run.pk])
    shown = logged_in(allow(operator, *VIEW, "run_pipeline")).get(address).content.decode()
    assert "The 2 bad rows" in shown
    assert ">row 4</td>" in shown
    viewer = logged_in(allow(User.objects.create_user("vera"), *VIEW))
    page = viewer.get(address).content.decode()
    assert "2 rows of 5 have" in page
    assert "row 4" not in page
    listed = viewer.get(f"/api/v1/check-results/?run={run.pk}&name=low+ids").json()["results"]
    assert [(each["status"], each["bad_rows"]) for each in listed] == [("failed", None)]
    (listed,) = logged_in(operator).get(f"/api/v1/check-results/?run={run.pk}&status=failed").json()["results"]
    assert listed["bad_rows"]["rows"] == [["3", "row 3"], ["4", "row 4"]]
    (listed,) = logged_in(operator).get("/api/v1/check-results/?status=failed").json()["results"]
    assert listed["bad_rows"] is None, "only of one run"
    services.decide(run, Decision.PUBLISH, by=operator)
    work()
    run.refresh_from_db()
    assert (run.status, rows_of(pipeline)) == (RunStatus.SUCCEEDED, 8)
    assert [each["status"] for each in run.receipt["checks"]] == ["failed", "passed"]
    assert "row 4" not in str(run.receipt), "receipts are for those who may not see rows as well"
    assert run.check_results.get(name="low ids").sample is not None
    page = viewer.get(reverse("pipeline", args=[pipeline.pk])).content.decode()
    assert "Last 2 results: 1 passed, 1 failed" in page


def test_a_run_that_is_cleared_forgets_what_checks_said_of_its_former_definition(
    moving: Any, run_of: Any, work: Any, script: Script, operator: User
) -> None:
    script.rows = 5
    pipeline = checked_by(moving(), LOW_IDS)
    run = run_of(pipeline)
    services.decide(run, Decision.DISCARD, by=operator)
    work()
    checked_by(pipeline, Check(CheckKind.NOT_NULL, "ids", ("id",)))
    run.refresh_from_db()
    services.clear_run(run, by=operator, note="another check")
    work()
    run.refresh_from_db()
    assert (run.status, told(run)) == (RunStatus.SUCCEEDED, [("ids", "passed", 0)])


def test_who_approves_a_check_decides_again_where_a_guard_asks_too(
    moving: Any, run_of: Any, work: Any, rows_of: Any, script: Script, operator: User
) -> None:
    at_least = Check(CheckKind.ROW_COUNT, "enough", minimum="3")
    pipeline = checked_by(moving(write_disposition="replace"), at_least)
    run_of(pipeline)
    script.rows = 0
    run = run_of(pipeline)
    for code in ("check_failed", "guard_zero_rows"):
        assert (run.status, run.error_code, run.decision, rows_of(pipeline)) == (RunStatus.HELD, code, "", 3)
        services.decide(run, Decision.PUBLISH, by=operator)
        assert run.approved_code == code, "what the next owner, whoever it is, takes for approved"
        work()
        run.refresh_from_db()
    assert (run.status, rows_of(pipeline)) == (RunStatus.SUCCEEDED, 0)
    assert told(run) == [("enough", "failed", 0)]


def test_bad_rows_are_kept_of_the_newest_failure_and_of_what_is_held(
    moving: Any, run_of: Any, script: Script, rows_of: Any
) -> None:
    script.rows = 4
    warns = Check(CheckKind.RANGE, "low ids", ("id",), Severity.WARN, maximum="2")
    pipeline = checked_by(moving(), warns)
    first, second = run_of(pipeline), run_of(pipeline)
    assert rows_of(pipeline) == 8
    samples = dict(CheckResult.objects.values_list("run", "sample"))
    assert samples[first.pk] is None
    assert samples[second.pk] == {"columns": ["id", "name"], "rows": [["3", "row 3"]]}


def test_what_a_lost_worker_found_out_is_told_by_the_receipt(
    moving: Any, run_of: Any, work: Any, script: Script, rows_of: Any
) -> None:
    class Killed(BaseException):
        """Stands for the end of the process."""

    def end() -> None:
        raise Killed

    pipeline = checked_by(moving(), LOW_IDS)
    script.after_commit = [end, lambda: None]
    with pytest.raises(Killed):
        run_of(pipeline)
    assert not CheckResult.objects.exists()
    Run.objects.update(lease_until="2020-01-01 00:00Z")
    services.sweep()
    work()
    run = Run.objects.get()
    assert (run.status, rows_of(pipeline)) == (RunStatus.SUCCEEDED, 3)
    assert told(run) == [("low ids", "passed", 0)]


def test_the_number_of_rows_is_compared_with_runs_that_read_alike(moving: Any, run_of: Any, script: Script) -> None:
    usual = Check(CheckKind.ROW_COUNT, "as usual", percent=50, runs=3)
    pipeline = checked_by(moving(), usual)
    runs = [run_of(pipeline) for _ in range(3)]
    assert [told(run)[0][1] for run in runs] == ["skipped"] * 3
    assert told(run_of(pipeline)) == [("as usual", "passed", 3)]
    script.rows = 5
    run = run_of(pipeline)
    assert (run.status, told(run)) == (RunStatus.HELD, [("as usual", "failed", 5)])
    assert "the median of the last 3 runs is 3, 50 % off are allowed" in run.error_message


@pytest.mark.parametrize("incremental", [False, True])
def test_a_full_refresh_is_unlike_runs_that_read_only_new_rows(
    make_pipeline: Any, queue: Any, claim: Any, incremental: bool
) -> None:
    more = {"write_disposition": "append", "incremental": True, "cursor_column": "id"} if incremental else {}
    pipeline = checked_by(make_pipeline(**more), Check(CheckKind.ROW_COUNT, percent=50))
    for rows in (10, 20):
        queue(pipeline, status=RunStatus.SUCCEEDED, rows=rows)
    queue(pipeline, status=RunStatus.SUCCEEDED, rows=7, action=RunAction.BACKFILL)
    queue(pipeline, action=RunAction.FULL_REFRESH)
    assert row_checks.former_rows(claim()) == (None if incremental else (20, 10))


def test_pages_show_what_comes_from_rows_as_text(make_pipeline: Any, make_run: Any, operator_client: Any) -> None:
    hostile = Check(CheckKind.SQL, HOSTILE, query="SELECT * FROM {staged} -- <script>")
    pipeline = checked_by(make_pipeline(), hostile)
    run = make_run(pipeline, status=RunStatus.HELD)
    sample = {"columns": [HOSTILE], "rows": [[HOSTILE], [None]]}
    result = {"name": HOSTILE, "kind": "sql", "severity": "hold", "status": "failed", "message": HOSTILE, "value": 2}
    CheckResult.objects.create(run=run, pipeline=pipeline, sample=sample, **result)
    for address in (reverse("run", args=[run.pk]), reverse("pipeline", args=[pipeline.pk])):
        page = operator_client.get(address).content.decode()
        assert "&lt;script&gt;alert(1)" in page
        assert HOSTILE not in page


def test_pages_of_pipelines_without_checks_ask_nothing_of_them(
    make_pipeline: Any, make_run: Any, operator_client: Any
) -> None:
    run = make_run(make_pipeline(), status=RunStatus.SUCCEEDED)
    for address in (reverse("run", args=[run.pk]), reverse("pipeline", args=[run.pipeline_id])):
        with CaptureQueriesContext(connection) as queries:
            operator_client.get(address)
        assert not [query for query in queries if "checkresult" in query["sql"]]
