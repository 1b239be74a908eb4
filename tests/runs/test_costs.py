"""What runs are billed: noted with every attempt, summed up by day, held back beyond a budget."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Now

from connectors.billing import LEAST_BILLED, TIB, Bill, Estimate
from connectors.checks import CheckKind
from connectors.checksums import with_checksums
from connectors.errors import ConnectorError, TransientError
from connectors.reading import ReadRequest
from pipelines import services as definitions
from pipelines.models import Pipeline
from pipelines.objections import PipelineRefused
from runs import cost_guard, costs, services
from runs.models import CostApproval, Decision, Ledger, LogLine, Run, RunAction
from runs.services import RunRefused
from runs.services.begun_anew import BEGUN_ANEW
from runs.services.undoing import request_undo
from runs.states import RunStatus
from tests.connectors.memory import MemorySource
from tests.runs.memory import Script, nothing, raising
from tests.runs.pages import allow, logged_in

pytestmark = pytest.mark.django_db(transaction=True)

GB = 10**9


def log_of(run: Run) -> str:
    return "\n".join(LogLine.objects.filter(run=run).values_list("message", flat=True))


def bill_of(run: Run) -> Bill:
    run.refresh_from_db()
    return Bill(run.query_bytes, run.storage_bytes)


@pytest.fixture
def over(moving: Callable[..., Pipeline], queue: Any, work: Any, script: Script) -> tuple[Pipeline, Run]:
    """A pipeline that may bill 10 GB a run, and a run that would bill 25."""
    pipeline = moving(write_disposition="replace", run_budget_bytes=10 * GB)
    script.estimates = [Estimate(5 * GB, 20 * GB)]
    script.query_bytes, script.storage_bytes = 5 * GB, 20 * GB
    run = queue(pipeline)
    work()
    run.refresh_from_db()
    return pipeline, run


def test_every_attempt_counts_also_those_that_failed(
    moving: Any, queue: Any, work: Any, script: Script, settings: Any
) -> None:
    settings.PRICE_PER_TIB, settings.STORAGE_PRICE_PER_TIB = 8.0, 1.0
    script.query_bytes, script.storage_bytes = TIB // 8, TIB // 4
    script.on_read = [raising(TransientError("The stream broke.")), nothing]
    run = queue(moving())
    work()
    assert bill_of(run) == Bill(TIB // 8, TIB // 4)
    settings.PRICE_PER_TIB = 16.0  # what was billed before was billed at another price
    work()
    assert run.status == RunStatus.RETRYING
    assert bill_of(run) == Bill(TIB // 4, TIB // 2)
    assert run.status == RunStatus.SUCCEEDED
    assert float(run.cost) == 1.0 + 2.0 + 0.5
    (day,) = Ledger.objects.all()
    assert (day.runs, day.query_bytes, day.storage_bytes, float(day.cost)) == (1, TIB // 4, TIB // 2, 3.5)
    assert (day.day, day.action, day.pipeline_id) == (datetime.now(UTC).date(), "load", run.pipeline_id)


def test_parts_count_for_their_run_whichever_worker_loads_them_again(
    moving: Any, queue: Any, work: Any, script: Script
) -> None:
    script.rows, script.parts, script.storage_bytes = 4000, 2, GB
    script.on_read = [nothing, raising(TransientError("The stream broke.")), nothing]
    run = queue(moving(load_method="staged"))
    work()
    assert Run.objects.get(pk=run.pk).parts.filter(due__gt=Now()).update(due=Now()) == 1
    work()
    assert bill_of(run) == Bill(0, 3 * GB)
    assert run.status == RunStatus.SUCCEEDED
    assert sorted(run.parts.values_list("storage_bytes", flat=True)) == [GB, 2 * GB]
    assert Ledger.objects.get().storage_bytes == 3 * GB


def test_a_bill_of_a_lost_worker_stays_and_one_of_a_former_owner_is_not_written(
    owned: Any, claim: Any, lose: Any
) -> None:
    services.note_bill(owned, Bill(100, 0))
    lose(owned)
    again = claim()
    services.note_bill(again, Bill(7, 1))
    with pytest.raises(services.StaleToken):
        services.note_bill(owned, Bill(200, 0))
    assert bill_of(Run.objects.get(pk=owned.run)) == Bill(107, 1)
    services.note_bill(again, Bill(7, 1))  # the answer of the first one was lost
    assert Ledger.objects.get().query_bytes == 107


def test_a_run_that_costs_nothing_and_has_no_budget_asks_nobody(
    moving: Any, queue: Any, work: Any, script: Script
) -> None:
    run = queue(moving())  # the script would have no answer
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert not Ledger.objects.exists()


@pytest.mark.parametrize("way", ["direct", "staged"])
def test_without_a_budget_the_log_says_what_it_will_bill_before_a_row_is_read(
    moving: Any, queue: Any, work: Any, script: Script, operator: User, way: str
) -> None:
    script.facts = {"cursor_bytes_billed": GB, "estimated_storage_bytes": 20 * GB}
    read = []
    script.on_read = [lambda stop: read.append(stop)]
    run = queue(moving(load_method=way))
    work()
    run.refresh_from_db()
    assert (run.status, bool(read)) == (RunStatus.SUCCEEDED, True)
    lines = log_of(run).split("\n")
    told = [at for at, line in enumerate(lines) if "will bill" in line]
    assert [lines[at] for at in told] == [
        "This run will bill about 21 GB (0.03): 1 GB by queries, 20 GB by the Storage Read API."
    ]
    assert told[0] < next(at for at, line in enumerate(lines) if "Loading" in line)
    assert (run.estimated_query_bytes, run.estimated_storage_bytes) == (GB, 20 * GB)
    client = logged_in(allow(operator, "view_run", "view_pipeline"))
    assert "21 GB" in client.get(f"/runs/{run.pk}/").content.decode()


def test_over_its_budget_a_run_waits_before_anything_is_read(over: Any, script: Script, rows_of: Any) -> None:
    pipeline, run = over
    assert (run.status, run.error_code) == (RunStatus.HELD, "over_budget")
    assert "The run is held. Somebody who may approve costs lets it go on" in log_of(run)
    assert "This run would bill about 25 GB (0.05), and the budget of a run is 10 GB." in run.error_message
    assert (script.reads, rows_of(pipeline), bill_of(run)) == (0, None, Bill())
    assert (run.estimated_query_bytes, run.estimated_storage_bytes) == (5 * GB, 20 * GB)
    assert run.held_until - run.created_at > timedelta(days=6)
    assert "5 GB by queries, 20 GB by the Storage Read API" in log_of(run)


def test_approved_it_goes_on_and_its_queries_may_bill_what_was_approved(
    over: Any, script: Script, rows_of: Any, work: Any, operator: User
) -> None:
    pipeline, run = over
    services.approve_cost(run, by=operator, note="month end")
    work()
    run.refresh_from_db()
    assert (run.status, rows_of(pipeline), run.decision) == (RunStatus.SUCCEEDED, 3, "")
    assert bill_of(run) == Bill(5 * GB, 20 * GB)
    approval = CostApproval.objects.get()
    assert (approval.run, approval.by, approval.note, approval.bytes) == (run, operator, "month end", 25 * GB)
    assert script.requests[-1].maximum_bytes_billed == round(25 * GB * cost_guard.MARGIN) - 20 * GB
    assert "olga approved what this run costs" in log_of(run)
    with pytest.raises(RunRefused) as refused:
        services.approve_cost(run, by=operator)
    assert refused.value.code == "not_over_budget"


def test_an_approval_is_for_that_estimate(over: Any, script: Script, work: Any, operator: User) -> None:
    _, run = over
    services.approve_cost(run, by=operator)
    script.estimates = [Estimate(5 * GB, 23 * GB)]
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, script.reads) == (RunStatus.HELD, "over_budget", 0)
    services.approve_cost(run, by=operator)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED


def test_a_retry_of_an_approved_run_is_more_than_was_approved(
    over: Any, script: Script, work: Any, operator: User
) -> None:
    _, run = over
    script.on_read = [raising(TransientError("The stream broke.")), nothing]
    services.approve_cost(run, by=operator)
    work()
    work()
    run.refresh_from_db()
    assert (run.status, script.reads, bill_of(run)) == (RunStatus.HELD, 1, Bill(5 * GB, 20 * GB))
    assert "of which earlier attempts have spent 25 GB" in run.error_message
    services.approve_cost(run, by=operator)
    assert CostApproval.objects.first().bytes == 50 * GB
    work()
    run.refresh_from_db()
    assert (run.status, bill_of(run)) == (RunStatus.SUCCEEDED, Bill(10 * GB, 40 * GB))


@pytest.mark.parametrize("how", ["discard", "cancel", "expire"])
def test_discarded_it_ends_at_once_without_a_worker(over: Any, operator: User, how: str) -> None:
    _, run = over
    if how == "expire":
        Run.objects.filter(pk=run.pk).update(held_until=Now())
        assert services.discard_expired() == 1
    else:
        ends = {"discard": lambda: services.decide(run, Decision.DISCARD, by=operator)}
        ends.get(how, lambda: services.cancel_run(run, by=operator))()
    run.refresh_from_db()
    assert (run.status, run.finished_at is None) == (RunStatus.CANCELLED, False)
    assert "Nothing of it was read." in log_of(run)


def test_nothing_of_it_can_be_published(over: Any, operator: User) -> None:
    with pytest.raises(RunRefused) as refused:
        services.decide(over[1], Decision.PUBLISH, by=operator)
    assert refused.value.code == "nothing_staged"


def test_the_month_counts_what_all_runs_were_billed_since_it_began_in_utc(
    moving: Any, queue: Any, work: Any, script: Script
) -> None:
    pipeline = moving(month_budget_bytes=50 * GB)
    first = datetime.now(UTC).date().replace(day=1)
    spent = [(first - timedelta(days=1), "load", 40 * GB), (first, "compare", 15 * GB), (first, "backfill", 16 * GB)]
    for day, action, amount in spent:
        Ledger.objects.create(pipeline=pipeline, day=day, action=action, query_bytes=amount)
    script.estimates = [Estimate(0, 19 * GB), Estimate(0, 20 * GB)]
    runs = [queue(pipeline), queue(pipeline)]
    work()
    assert [Run.objects.get(pk=run.pk).status for run in runs] == ["succeeded", "held"]
    told = "the budget of this month is 50 GB, of which 31 GB are spent."
    assert told in Run.objects.get(pk=runs[1].pk).error_message


def test_what_fits_by_now_looks_again_by_itself(over: Any, script: Script, work: Any) -> None:
    pipeline, run = over
    assert services.release_affordable() == 0
    pipeline.run_budget_bytes = 30 * GB
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert services.release_affordable() == 1
    assert services.release_affordable() == 0
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert "The budget has room for this run by now" in log_of(run)


def test_a_new_month_has_room_again(moving: Any, queue: Any, work: Any, script: Script) -> None:
    pipeline = moving(month_budget_bytes=50 * GB)
    first = datetime.now(UTC).date().replace(day=1)
    spent = Ledger.objects.create(pipeline=pipeline, day=first, action="load", query_bytes=45 * GB)
    script.estimates = [Estimate(0, 20 * GB)]
    queue(pipeline)
    work()
    assert services.release_affordable() == 0
    Ledger.objects.filter(pk=spent.pk).update(day=first - timedelta(days=1))
    assert services.release_affordable() == 1


def test_what_nobody_can_tell_is_said_and_limited_by_the_budget(
    moving: Any, queue: Any, work: Any, script: Script
) -> None:
    pipeline = moving(run_budget_bytes=10 * GB)
    script.estimates = [Estimate(None, None, why="The dry run does not tell.")]
    script.facts = {"estimated_storage_bytes": 2 * GB}
    run = queue(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert (run.estimated_query_bytes, script.requests[-1].maximum_bytes_billed) == (None, 10 * GB)
    log = log_of(run)
    assert "What this run will bill is not known. The dry run does not tell." in log
    assert log.count("The dry run does not tell") == 1
    assert "The read session scans 2 GB, as it says." in log


def test_queries_that_pass_their_limit_end_the_run(moving: Any, queue: Any, work: Any, script: Script) -> None:
    script.estimates = [Estimate(GB, 0)]
    script.on_plan = [raising(ConnectorError("The query would read more.", code="bytes_billed_limit"))]
    run = queue(moving(run_budget_bytes=10 * GB))
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, run.attempt) == (RunStatus.FAILED, "bytes_billed_limit", 1)


def test_newer_loads_take_the_place_of_one_that_waits_but_not_of_what_somebody_asked_for(
    over: Any, queue: Any, work: Any, script: Script
) -> None:
    pipeline, first = over
    refresh = queue(pipeline, action=RunAction.FULL_REFRESH)
    second = queue(pipeline)
    work()
    runs = (first, refresh, second)
    assert [Run.objects.get(pk=run.pk).status for run in runs] == ["cancelled", "held", "held"]
    assert "A newer run of the pipeline is held instead. Nothing of this one was read." in log_of(first)
    script.estimates = [Estimate(0, GB)]
    queue(pipeline)
    work()
    assert [Run.objects.get(pk=run.pk).status for run in runs] == ["cancelled", "held", "cancelled"]


def test_what_waits_for_its_cost_does_not_put_staged_rows_out_of_date(
    moving: Any, queue: Any, work: Any, script: Script
) -> None:
    pipeline = moving(write_disposition="replace", run_budget_bytes=10 * GB)
    script.estimates = [Estimate(0, 0), Estimate(0, 0), Estimate(0, 20 * GB)]
    queue(pipeline)
    work()
    script.rows = 0
    guarded, newer = queue(pipeline), queue(pipeline)
    work()
    assert [Run.objects.get(pk=run.pk).error_code for run in (guarded, newer)] == ["guard_zero_rows", "over_budget"]
    assert Run.objects.get(pk=guarded.pk).status == RunStatus.HELD


def test_a_comparison_counts_and_waits_like_any_run(moving: Any, queue: Any, work: Any, script: Script) -> None:
    pipeline = moving(write_disposition="replace")
    queue(pipeline)
    work()
    pipeline.run_budget_bytes = 1000
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    run = queue(pipeline, action=RunAction.COMPARE)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.HELD, "over_budget")
    assert run.estimated_query_bytes >= 10 * 2**20


def test_only_who_may_approve_costs_raises_or_lifts_a_budget(moving: Any, operator: User) -> None:
    pipeline = moving(run_budget_bytes=10, month_budget_bytes=10)
    for name, value in (("run_budget_bytes", 11), ("month_budget_bytes", None)):
        before = getattr(pipeline, name)
        setattr(pipeline, name, value)
        with pytest.raises(PipelineRefused) as refused:
            definitions.save_pipeline(pipeline, schedules=None, by=operator)
        assert (refused.value.code, refused.value.field) == ("budget_raised", name)
        setattr(pipeline, name, before)
    pipeline.run_budget_bytes = 9
    revision = definitions.save_pipeline(pipeline, schedules=None, by=operator)
    assert revision.definition["run_budget_bytes"] == 9


def test_a_definition_without_budgets_is_what_it_was(moving: Any) -> None:
    definition = moving().revision.definition
    assert not {"run_budget_bytes", "month_budget_bytes"} & set(definition)


def test_the_ledger_outlives_runs(moving: Any, queue: Any, work: Any, script: Script, operator: User) -> None:
    script.storage_bytes = GB
    run = queue(moving())
    work()
    CostApproval.objects.create(pipeline=run.pipeline, run=run, by=operator, bytes=GB)
    Run.objects.update(finished_at=Now() - timedelta(days=400))
    services.trim()
    assert not Run.objects.exists()
    assert (Ledger.objects.get().storage_bytes, CostApproval.objects.get().run) == (GB, None)
    Ledger.objects.update(day=date(2020, 1, 1))
    CostApproval.objects.update(at=datetime(2020, 1, 1, tzinfo=UTC))
    services.trim()
    assert not Ledger.objects.exists()
    assert not CostApproval.objects.exists()


def test_no_query_more_for_pipelines_without_a_budget() -> None:
    with connection.execute_wrapper(raising(AssertionError("a query"))):
        claimed = services.Claim(*[None] * 16)  # type: ignore[arg-type]
        assert cost_guard.limit_of(claimed, None, raising(AssertionError("asked"))) is None  # type: ignore[arg-type]


def test_who_looked_at_an_earlier_hold_decides_nothing_about_a_later_one(
    over: Any, script: Script, work: Any, operator: User
) -> None:
    _, run = over
    services.approve_cost(run, by=operator, attempt=1)
    script.estimates = [Estimate(5 * GB, 70 * GB)]
    work()
    again = Run.objects.get(pk=run.pk)
    assert (again.status, again.attempt) == (RunStatus.HELD, 2)
    for decide in (
        lambda: services.approve_cost(again, by=operator, attempt=1),
        lambda: services.decide(again, Decision.DISCARD, by=operator, attempt=1),
    ):
        with pytest.raises(RunRefused) as refused:
            decide()
        assert refused.value.code == "not_held"
    Run.objects.filter(pk=run.pk).update(error_code="guard_zero_rows")
    again.refresh_from_db()
    with pytest.raises(RunRefused) as refused:
        services.decide(again, Decision.PUBLISH, by=operator, attempt=1)
    assert refused.value.code == "not_held"
    assert Run.objects.get(pk=run.pk).status == RunStatus.HELD
    assert CostApproval.objects.count() == 1


def test_what_reads_nothing_of_the_source_leaves_a_load_that_waits(over: Any, queue: Any, claim: Any) -> None:
    pipeline, run = over
    for action, left in ((RunAction.SET_WATERMARK, "held"), (RunAction.REPLAY, "held"), (RunAction.LOAD, "cancelled")):
        queue(pipeline, action=action)
        services.finish(claim(), RunStatus.SUCCEEDED, receipt={})
        assert Run.objects.get(pk=run.pk).status == left, action


def test_a_paused_pipelines_run_waits_for_a_person(over: Any) -> None:
    pipeline, _ = over
    pipeline.run_budget_bytes = None
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    definitions.pause([pipeline], by=None)
    assert services.release_affordable() == 0


def test_a_slice_is_not_let_go_on_over_rows_that_wait_for_a_decision(over: Any, queue: Any, operator: User) -> None:
    pipeline, run = over
    Run.objects.filter(pk=run.pk).update(action=RunAction.BACKFILL)
    load = queue(pipeline, status=RunStatus.HELD, error_code="check_failed")
    with pytest.raises(RunRefused) as refused:
        services.approve_cost(run, by=operator)
    assert (refused.value.code, CostApproval.objects.count()) == ("run_held", 0)
    pipeline.run_budget_bytes = None
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert services.release_affordable() == 0
    Run.objects.filter(pk=load.pk).update(status=RunStatus.CANCELLED)
    assert services.release_affordable() == 1


def test_an_undo_takes_back_what_waits_for_its_cost(over: Any, operator: User) -> None:
    pipeline, run = over
    target = {"schema": "public", "table": pipeline.target_table}
    request_undo(pipeline, trigger="manual", by=operator, kept=run.pk, expected=None, target=target)
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED


def test_a_load_that_becomes_a_full_refresh_is_approved_anew(over: Any, claim: Any, operator: User) -> None:
    _, run = over
    services.approve_cost(run, by=operator)
    assert costs.approval_of(run.pk) is not None
    services.begin_anew(claim(), services.Failure("schema_incompatible", "It cannot follow."))
    assert (Run.objects.get(pk=run.pk).action, costs.approval_of(run.pk)) == (RunAction.FULL_REFRESH, None)


@pytest.mark.parametrize("end", ["held", "succeeded"])
def test_a_load_that_became_a_full_refresh_makes_way_for_newer_loads_and_for_no_other_run(
    make_pipeline: Any, queue: Any, claim: Any, end: str
) -> None:
    pipeline = make_pipeline()
    asked = queue(pipeline, action=RunAction.FULL_REFRESH)
    expensive = services.Failure("over_budget", "It would bill 25 GB.")
    services.hold(claim(), expensive, keep_for=timedelta(days=1))

    def become() -> Run:
        run = queue(pipeline)
        services.begin_anew(claim(), services.Failure("schema_incompatible", "It cannot follow."))
        services.hold(claim(), expensive, keep_for=timedelta(days=1))
        return run

    older = become()
    newer = become() if end == "held" else queue(pipeline)
    if end == "succeeded":
        services.finish(claim(), RunStatus.SUCCEEDED, receipt={})
    assert [Run.objects.get(pk=run.pk).status for run in (asked, older, newer)] == ["held", "cancelled", end]
    assert "Nothing of this one was read." in log_of(older)


def test_a_full_refresh_that_somebody_asked_for_puts_no_load_out_of_date_while_it_waits(
    make_pipeline: Any, queue: Any, claim: Any
) -> None:
    pipeline = make_pipeline()
    load = queue(pipeline)
    services.begin_anew(claim(), services.Failure("schema_incompatible", "It cannot follow."))
    expensive = services.Failure("over_budget", "It would bill 25 GB.")
    services.hold(claim(), expensive, keep_for=timedelta(days=1))
    queue(pipeline, action=RunAction.FULL_REFRESH)
    services.hold(claim(), expensive, keep_for=timedelta(days=1))
    assert Run.objects.get(pk=load.pk).status == RunStatus.HELD


def test_a_cleared_run_is_approved_anew(over: Any, script: Script, work: Any, operator: User) -> None:
    _, run = over
    services.approve_cost(run, by=operator)
    script.on_plan = [raising(ConnectorError("Gone.", code="table_not_found")), nothing]
    work()
    script.query_bytes = 0
    services.clear_run(Run.objects.get(pk=run.pk), by=operator)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.HELD, "over_budget")
    assert CostApproval.objects.get().run is None


# The pipeline is defined otherwise by the time when somebody decides


def redefine(pipeline: Pipeline, **values: Any) -> None:
    pipeline.refresh_from_db()
    for name, value in values.items():
        setattr(pipeline, name, value)
    definitions.save_pipeline(pipeline, schedules=None, by=None)


MASK = {"column_rules": {"name": {"mask": "redact"}}}


def refusal(run: Run, operator: User, **more: Any) -> str:
    with pytest.raises(RunRefused) as refused:
        services.approve_cost(run, by=operator, **more)
    assert refused.value.hint
    return refused.value.code


def test_what_nobody_could_tell_is_approved_of_the_definition_that_it_was_told_of(
    moving: Any, queue: Any, work: Any, script: Script, operator: User
) -> None:
    pipeline = moving(write_disposition="replace", run_budget_bytes=10 * GB)
    script.estimates = [Estimate(None, 20 * GB, why="The dry run does not tell.")]
    run = queue(pipeline)
    work()
    redefine(pipeline, source_table="d.huge")
    run.refresh_from_db()
    assert (run.status, run.attempt, run.revision.number) == (RunStatus.HELD, 1, 1)
    script.estimates = [Estimate(900 * GB, 900 * GB)]
    assert refusal(run, operator, attempt=1) == "dry_run_outdated"
    run.refresh_from_db()
    assert (run.status, run.revision.number, run.estimated_storage_bytes) == (RunStatus.RETRYING, 2, None)
    assert "defined otherwise since this run's dry run: it looks again" in log_of(run)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, run.attempt, script.reads) == (RunStatus.HELD, "over_budget", 2, 0)
    assert run.estimated_storage_bytes == 900 * GB
    assert refusal(run, operator, attempt=1) == "not_held"
    assert not CostApproval.objects.exists()


@pytest.mark.parametrize("how", ["approved", "affordable"])
def test_a_mask_that_was_saved_during_the_dry_run_is_applied_before_a_row_is_read(
    moving: Any, queue: Any, work: Any, script: Script, operator: User, warehouse_cursor: Any, how: str
) -> None:
    pipeline = moving(write_disposition="replace", run_budget_bytes=10 * GB)
    script.estimates = [Estimate(5 * GB, 20 * GB)]
    run = queue(pipeline)
    script.on_fence = [lambda: redefine(pipeline, **MASK), nothing]
    work()
    run.refresh_from_db()
    assert (run.status, run.revision.number, script.on_fence) == (RunStatus.HELD, 1, [nothing])
    if how == "approved":
        assert refusal(run, operator) == "dry_run_outdated"
        work()
        run.refresh_from_db()
        services.approve_cost(run, by=operator)
    else:
        Pipeline.objects.filter(pk=pipeline.pk).update(run_budget_bytes=30 * GB)
        assert services.release_affordable() == 1
    work()
    run.refresh_from_db()
    assert (run.status, run.revision.number) == (RunStatus.SUCCEEDED, 2)
    warehouse_cursor.execute(f"SELECT DISTINCT name FROM public.{pipeline.target_table}")
    assert len(warehouse_cursor.fetchall()) == 1


def test_a_full_refresh_that_waits_for_its_cost_is_a_load_again_once_the_pipeline_says_otherwise(
    moving: Any, queue: Any, work: Any, script: Script, operator: User
) -> None:
    how = {"write_disposition": "merge", "merge_key": ["id"], "schema_policy": "refresh"}
    pipeline = moving(run_budget_bytes=10 * GB, **how)
    script.estimates = [Estimate(5 * GB, 20 * GB)]
    run = queue(pipeline, action=RunAction.FULL_REFRESH, action_options={BEGUN_ANEW: True})
    work()
    redefine(pipeline, schema_policy="evolve")
    assert refusal(run, operator, attempt=1) == "dry_run_outdated"
    run.refresh_from_db()
    assert (run.action, run.action_options, run.revision.number) == (RunAction.LOAD, {}, 2)


def test_what_is_no_load_or_cannot_follow_neither_goes_on_by_an_outdated_definition_nor_stands_in_the_way(
    over: Any, queue: Any, operator: User
) -> None:
    pipeline, run = over
    waits = {"status": RunStatus.HELD, "error_code": "over_budget", "estimated_query_bytes": 1}
    refresh = queue(pipeline, action=RunAction.FULL_REFRESH, **waits, estimated_storage_bytes=1)
    given = queue(pipeline, action_options={"parameters": {"gone": 1}}, **waits)  # unknown: it did not follow
    Run.objects.filter(pk=given.pk).update(created_at=run.created_at - timedelta(days=1))
    redefine(pipeline, source_table="", source_query="SELECT 1 AS id", run_budget_bytes=30 * GB)
    for each in (refresh, given):
        assert refusal(each, operator) == "definition_changed"
        assert Run.objects.get(pk=each.pk).status == RunStatus.HELD
    assert services.release_affordable() == 1
    assert Run.objects.get(pk=run.pk).status == RunStatus.RETRYING
    Run.objects.filter(pk=run.pk).update(status=RunStatus.CANCELLED)
    assert services.release_affordable() == 0
    redefine(pipeline, source_table="d.t", source_query="", retries=1)
    services.approve_cost(refresh, by=operator)  # of the same rows


def test_checksums_that_checks_ask_for_are_in_the_estimate() -> None:
    source = MemorySource([])
    checked = SimpleNamespace(read=ReadRequest(table="d.t"), checks=[SimpleNamespace(kind=CheckKind.CHECKSUM)])
    assert with_checksums(Estimate(5, 7), source, checked) == Estimate(5 + LEAST_BILLED, 7)  # type: ignore[arg-type]
    checked.checks[0].kind = CheckKind.NOT_NULL
    assert with_checksums(Estimate(5, 7), source, checked) == Estimate(5, 7)  # type: ignore[arg-type]


def test_what_only_the_read_session_knows_is_judged_before_a_row_is_read(
    moving: Any, queue: Any, work: Any, script: Script, rows_of: Any, operator: User
) -> None:
    script.estimates = [Estimate(0, None, why="The table does not tell its size.")]
    script.facts = {"estimated_storage_bytes": 20 * GB}
    pipeline = moving(run_budget_bytes=10 * GB)
    run = queue(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, script.reads) == (RunStatus.HELD, "over_budget", 0)
    assert run.estimated_storage_bytes == 20 * GB
    services.approve_cost(run, by=operator)
    work()
    run.refresh_from_db()
    assert (run.status, rows_of(pipeline)) == (RunStatus.SUCCEEDED, 3)
