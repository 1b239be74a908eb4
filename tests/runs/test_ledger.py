"""The ledger's page, file and API, what runs and pipelines show of their cost, and the button that approves one."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pipelines.models import Pipeline
from pipelines.specs import ScheduleSpec
from runs import ledger, ledger_months
from runs.models import CostApproval, Ledger, Run, RunAction, Skip
from runs.states import RunStatus
from tests.runs.clockwork import Clock, clock, cron
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import allow, logged_in

__all__ = ["clock"]
pytestmark = pytest.mark.django_db
GB = 10**9


@pytest.fixture
def seer(viewer: User) -> Client:
    return logged_in(allow(viewer, "view_ledger"))


def spend(pipeline: Pipeline, cost: float, *, ago: int = 0, action: str = "load", runs: int = 1) -> Ledger:
    month = datetime.now(UTC).date().replace(day=1)
    day = month - timedelta(days=ago) if ago else month
    amounts = {"query_bytes": int(cost * GB), "storage_bytes": int(2 * cost * GB), "cost": cost, "runs": runs}
    return Ledger.objects.create(pipeline=pipeline, day=day, action=action, **amounts)


@pytest.fixture
def waiting(make_run: Any, make_pipeline: Any) -> Run:
    """A run that waits for its cost to be approved."""
    run = make_run(make_pipeline("Big"), status=RunStatus.HELD, attempt=1, started_at=timezone.now())
    told = {"error_code": "over_budget", "error_message": "This run would bill about 25 GB.", "phase": ""}
    estimates = {"estimated_query_bytes": 5 * GB, "estimated_storage_bytes": 20 * GB}
    Run.objects.filter(pk=run.pk).update(**told, **estimates, lease_until=None)
    run.refresh_from_db()
    return run


def test_the_page_says_who_spent_most_this_month_and_who_approved(
    seer: Client, make_pipeline: Any, operator: Any
) -> None:
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    spend(orders, 1.5, runs=3)
    spend(orders, 0.25, action="compare")
    spend(items, 4, runs=20)
    spend(items, 100, ago=1)
    CostApproval.objects.create(pipeline=items, by=operator, note="month end", bytes=25 * GB)
    page = seer.get("/ledger/").content.decode()
    assert page.index(">Items<") < page.index(">Orders<")
    for told in (">5.75<", ">4.00<", ">1.75<", "olga", "month end", "25 GB for a run of Items", "cost by day"):
        assert told in page, told
    assert ">100.00<" not in page
    compared = seer.get("/ledger/?action=compare").content.decode()
    assert ">0.25<" in compared
    assert ">Items<" not in compared
    assert ">Items<" not in seer.get("/ledger/?text=orders").content.decode()


def test_one_pipelines_days_and_other_months(seer: Client, make_pipeline: Any) -> None:
    orders = make_pipeline("Orders")
    last = spend(orders, 7, ago=1)
    spend(orders, 1)
    page = seer.get(f"/ledger/?pipeline={orders.pk}&month={last.day:%Y-%m}").content.decode()
    assert ">7.00<" in page
    assert f"{last.day:%a} {last.day.day} {last.day:%b %Y}" in page
    assert "Nothing was billed" in seer.get("/ledger/?text=nobody").content.decode()
    assert seer.get("/ledger/?month=nonsense&page=x&pipeline=no").status_code == 200


def test_the_months_are_a_picture_and_the_list_is_sorted_as_asked(seer: Client, make_pipeline: Any) -> None:
    cache.clear()
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    last = spend(items, 3, ago=1, runs=2)
    assert "cost by month" not in seer.get("/ledger/").content.decode()  # one month is no history
    spend(orders, 1, runs=9)
    spend(items, 2)
    cache.clear()
    page = seer.get("/ledger/").content.decode()
    assert f"{last.day:%B %Y}: 3.00, 9 GB, 2 runs" in page
    assert f'href="?month={last.day:%Y-%m}"' in page
    assert page.index(">Items<") < page.index(">Orders<")
    by_runs = seer.get("/ledger/?order=runs").content.decode()
    assert by_runs.index(">Orders<") < by_runs.index(">Items<")
    assert 'aria-sort="descending"><a href="?order=runs">' in by_runs
    of_one = seer.get(f"/ledger/?pipeline={items.pk}&month={last.day:%Y-%m}").content.decode()
    assert f"{last.day:%B %Y}: 3.00" in of_one
    assert "9.00" not in of_one


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_the_file_has_every_entry_and_no_formula(
    seer: Client, make_pipeline: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CSV_AT_ONCE", at_once)
    pipeline, other = make_pipeline("=SUM(A1)", target_table="sums"), make_pipeline("other", target_table="others")
    spend(pipeline, 1.5)
    spend(pipeline, 9, ago=1)
    spend(other, 2)
    answer = seer.get("/ledger.csv")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"

    async def read() -> bytes:
        return b"".join([part async for part in answer.streaming_content])

    rows = list(csv.DictReader(io.StringIO(async_to_sync(read)().decode())))
    assert [row["pipeline"] for row in rows] == ["'=SUM(A1)", "other"]
    assert rows[0]["cost"] == "1.500000000"
    assert (rows[0]["query_bytes"], rows[0]["pipeline_id"]) == (str(1_500_000_000), str(pipeline.pk))


def test_only_who_may_see_the_ledger_does(viewer_client: Client) -> None:
    assert [viewer_client.get(path).status_code for path in ("/ledger/", "/ledger.csv")] == [403, 403]
    assert "/ledger/" not in viewer_client.get("/").content.decode()


def test_the_number_of_queries_does_not_grow(make_pipeline: Any, operator: Any) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as asked:
            month = datetime.now(UTC).date().replace(day=1)
            cache.clear()
            ledger_months.months(month, month, ledger.page(month).total)
        return len(asked)

    for number in range(3):
        spend(make_pipeline(f"First {number}"), 1)
    before = queries()
    for number in range(30):
        pipeline = make_pipeline(f"More {number}")
        spend(pipeline, 1)
        CostApproval.objects.create(pipeline=pipeline, by=operator, bytes=1)
    assert queries() == before == 4


def test_the_api_lists_what_was_billed(seer: Client, make_pipeline: Any) -> None:
    entry = spend(make_pipeline("Orders"), 1.5)
    spend(make_pipeline("Items"), 9, ago=1)
    answer = seer.get("/api/v1/ledger/", {"day_from": entry.day.isoformat()}).json()
    assert [(row["pipeline_name"], row["money"], row["runs"]) for row in answer["results"]] == [("Orders", 1.5, 1)]


def test_a_run_that_waits_shows_its_estimate_and_only_approvers_a_button(
    waiting: Run, operator_client: Client, operator: User
) -> None:
    page = operator_client.get(f"/runs/{waiting.pk}/").content.decode()
    for told in ("Nothing of this run was read yet", "A dry run said", "25 GB", "Discard", "Somebody who may approve"):
        assert told in page, told
    assert "go on and read" not in page
    address = f"/runs/{waiting.pk}/approve-cost/"
    assert operator_client.post(address).status_code == 403
    allow(operator, "approve_cost")
    assert "go on and read" in operator_client.get(f"/runs/{waiting.pk}/").content.decode()
    assert 'name="attempt" form="act" value="1"' in page
    assert operator_client.post(address, {"note": "too late", "attempt": "0"}).status_code == 302
    waiting.refresh_from_db()
    assert waiting.status == RunStatus.HELD
    assert operator_client.post(address, {"note": "month end", "attempt": "1"}).status_code == 302
    waiting.refresh_from_db()
    assert waiting.status == RunStatus.RETRYING
    page = operator_client.get(f"/runs/{waiting.pk}/").content.decode()
    assert "Approved" in page
    assert "month end" in page


def test_the_api_approves_with_a_permission_of_its_own(waiting: Run, operator_client: Client, operator: User) -> None:
    address = f"/api/v1/runs/{waiting.pk}/approve-cost/"
    assert operator_client.post(address).status_code == 403
    assert (
        operator_client.post(f"/api/v1/runs/{waiting.pk}/approve/", {}, "application/json").json()["code"]
        == "nothing_staged"
    )
    allow(operator, "approve_cost")
    answer = operator_client.post(address, {"note": "yes"}, content_type="application/json").json()
    assert answer["status"] == "retrying"
    assert answer["cost"]["estimated_storage_bytes"] == 20 * GB
    assert answer["cost"]["approvals"][0] | {"at": ""} == {"at": "", "by": "olga", "note": "yes", "bytes": 25 * GB}
    assert operator_client.post(address, {}, "application/json").json()["code"] == "not_over_budget"


def test_a_pipeline_shows_its_month_its_budget_and_the_next(
    operator_client: Client, make_pipeline: Any, make_run: Any
) -> None:
    pipeline = make_pipeline("Orders", schedules=[ScheduleSpec("cron", "0 6 * * *")], month_budget_bytes=30 * GB)
    spend(pipeline, 5)
    for _ in range(3):
        run = make_run(pipeline, status=RunStatus.SUCCEEDED)
        Run.objects.filter(pk=run.pk).update(query_bytes=GB, cost=0.5)
    page = operator_client.get(f"/pipelines/{pipeline.pk}/").content.decode()
    for told in ("60 % spent", "18 GB", "A usual load", "Next 30 days, by schedule", "15.00", "30 runs"):
        assert told in page, told


def test_ticks_that_come_while_a_scheduled_run_waits_are_skips_that_name_it(clock: Clock, make_run: Any) -> None:
    pipeline = clock.pipeline(cron("* * * * *"))
    run = make_run(pipeline, status=RunStatus.HELD, trigger="schedule")
    Run.objects.filter(pk=run.pk).update(error_code="over_budget", lease_until=None)
    assert clock.tick_after(minutes=1) == 0
    assert Run.objects.count() == 1
    assert list(Skip.objects.values_list("reason", "run")) == [(Skip.Reason.OVERLAP, run.pk)]
    # Rows that are staged and wait are another matter: the next tick may well bring what somebody would approve.
    Run.objects.filter(pk=run.pk).update(error_code="guard_zero_rows")
    Skip.objects.all().delete()
    assert clock.tick_after(minutes=1) == 1
    assert not Skip.objects.exists()
    assert Run.objects.filter(action=RunAction.LOAD).count() == 2


def test_a_pipeline_whose_bills_are_kept_is_not_deleted_and_its_lines_are_counted(
    make_pipeline: Any, admin_client: Client
) -> None:
    pipeline = make_pipeline("Spent")
    spend(pipeline, 1)
    spend(pipeline, 2, ago=40)
    page = admin_client.post(f"/admin/pipelines/pipeline/{pipeline.pk}/delete/", {"post": "yes"}).content.decode()
    assert "Spent</a>: 2 ledger lines" in page
    assert Pipeline.objects.filter(pk=pipeline.pk).exists()
