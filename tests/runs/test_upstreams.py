"""Runs that wait for other pipelines, and runs that other pipelines' successes start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now

from pipelines import services as definitions
from pipelines.dependencies import DependencySpec
from pipelines.models import Pipeline, Pool
from pipelines.specs import ScheduleSpec
from runs import capacity, services
from runs.models import Prerequisite, Run, RunAction, Trigger, UpstreamSuccess
from runs.states import RunStatus
from runs.waiting import reasons_to_wait, wait_of, why_waiting
from tests.runs.clockwork import clock

__all__ = ["clock"]

pytestmark = pytest.mark.django_db
HOURLY = ScheduleSpec("cron", "0 * * * *")
NOON = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture
def wait_for(make_pipeline: Callable[..., Pipeline]) -> Callable[..., Pipeline]:
    """A pipeline of this name that waits for these."""

    def wait_for(
        name: str, *upstreams: Any, rule: str = "same_interval", schedules: Any = (), **changes: Any
    ) -> Pipeline:
        specs = [each if isinstance(each, DependencySpec) else DependencySpec(each.pk, rule) for each in upstreams]
        pipeline = make_pipeline(name, schedules=schedules, **changes)
        definitions.save_pipeline(pipeline, schedules=None, dependencies=specs, by=None)
        return pipeline

    return wait_for


def run_for(pipeline: Pipeline, end: datetime | None = None, *, hours: int = 1, **changes: Any) -> Run:
    """A run for the hours before `end`, as the ticker makes it; without one as a person does."""
    start = end - hours * HOUR if end else None
    times = {"data_interval_start": start, "data_interval_end": end}
    return Run.objects.create(
        pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.SCHEDULE, **times, **changes
    )


def blocked(pipeline: Pipeline, end: datetime, *, hours: int = 1) -> Run:
    """A scheduled run for the hours before `end`, which waits for its upstreams as the ticker has it."""
    run = Run(
        pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.SCHEDULE,
        data_interval_start=end - hours * HOUR, data_interval_end=end,
    )  # fmt: skip
    needed = services.prerequisites.hold_back([run])
    run.save()
    Prerequisite.objects.bulk_create(needed)
    return run


def end(run: Run, status: str = "succeeded", *, rows: int = 1, **changes: Any) -> Run:
    started = {"started_at": Now()} if run.started_at is None else {}
    Run.objects.filter(pk=run.pk).update(status=status, finished_at=Now(), rows=rows, **{**started, **changes})
    return run


def succeed(pipeline: Pipeline, end_: datetime | None = None, **more: Any) -> Run:
    return end(run_for(pipeline, end_, hours=more.pop("hours", 1)), **more)


def fail(pipeline: Pipeline, end_: datetime) -> Run:
    return end(run_for(pipeline, end_), "failed", error_message="No such table.")


def status_of(run: Run) -> str:
    run.refresh_from_db()
    return run.status


def runs_of(pipeline: Pipeline) -> list[Run]:
    return list(Run.objects.filter(pipeline=pipeline).order_by("created_at"))


def states_of(pipeline: Pipeline) -> dict[datetime | None, str]:
    return {run.data_interval_end: run.status for run in runs_of(pipeline)}


# With a schedule of its own -------------------------------------------------------------------


def test_a_scheduled_run_waits_for_its_upstreams_run_of_the_same_interval(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    succeed(orders, NOON - HOUR)
    succeed(orders, NOON + HOUR)
    assert services.settle() == 0
    assert status_of(run) == "blocked"
    succeed(orders, NOON)
    assert services.settle() == 1
    assert status_of(run) == "queued"
    assert [line.message for line in run.log_lines.all()] == ["Upstream Orders has succeeded."]


def test_a_run_whose_upstreams_are_done_already_starts_at_once(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, schedules=[HOURLY])
    succeed(orders, NOON)
    services.settle()
    run = blocked(sales, NOON)
    services.settle()
    assert status_of(run) == "queued"


def test_all_upstreams_must_have_succeeded(make_pipeline, wait_for):
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    run = blocked(wait_for("Sales", orders, items, schedules=[HOURLY]), NOON)
    succeed(orders, NOON)
    services.settle()
    assert status_of(run) == "blocked"
    assert why_waiting(run) == f"Waiting for upstream Items to succeed for the data up to {NOON:%Y-%m-%d %H:%M} UTC."
    succeed(items, NOON)
    services.settle()
    assert status_of(run) == "queued"


def test_a_day_waits_for_each_hour_of_it_and_an_hour_for_its_day(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    day = blocked(wait_for("Day", orders, schedules=[HOURLY]), NOON, hours=3)
    succeed(orders, NOON - 2 * HOUR)
    failed = fail(orders, NOON - HOUR)
    succeed(orders, NOON)
    services.settle()
    assert status_of(day) == "blocked", "an hour in the middle failed"
    assert [str(each.run) for each in wait_of(day).holders] == [str(failed.pk)]
    succeed(orders, NOON - HOUR)
    services.settle()
    assert status_of(day) == "queued", "a later run made up for it"
    daily = make_pipeline("Daily")
    hour = blocked(wait_for("Hour", daily, schedules=[HOURLY]), NOON - HOUR)
    succeed(daily, NOON, hours=24)
    services.settle()
    assert status_of(hour) == "queued"


def test_a_run_by_hand_stands_for_all_that_was_there_when_it_began(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, schedules=[HOURLY])
    run, next_one = blocked(sales, NOON), blocked(sales, NOON + 2 * HOUR)  # whatever the hour has become meanwhile
    fail(orders, NOON)
    succeed(orders)
    services.settle()
    assert [status_of(run), status_of(next_one)] == ["queued", "blocked"]


def test_a_run_that_stands_for_skipped_ticks_counts_for_them(make_pipeline, wait_for):
    orders = make_pipeline("Orders", schedules=[HOURLY])
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    late = run_for(orders, NOON - HOUR)
    schedule = orders.schedules.get()
    orders.skips.create(schedule=schedule, first=NOON, last=NOON, ticks=1, reason="overlap", run=late)
    end(late, started_at=NOON + timedelta(minutes=1))
    services.settle()
    assert status_of(run) == "queued"


def test_an_offset_waits_for_an_earlier_interval(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", DependencySpec(orders.pk, "offset", 7200), schedules=[HOURLY]), NOON)
    succeed(orders, NOON)
    services.settle()
    assert status_of(run) == "blocked"
    succeed(orders, NOON - 2 * HOUR)
    services.settle()
    assert status_of(run) == "queued"


def test_new_data_is_a_success_since_the_last_run_that_brought_rows(make_pipeline, wait_for):
    orders = make_pipeline("Orders", write_disposition="append")
    sales = wait_for("Sales", orders, rule="new_data", schedules=[HOURLY])
    succeed(orders, NOON - HOUR)
    succeed(sales, NOON - HOUR)
    services.settle()
    run = blocked(sales, NOON)
    succeed(orders, NOON, rows=0)
    services.settle()
    assert status_of(run) == "blocked", "it appended no row"
    assert why_waiting(run) == "Waiting for upstream Orders to succeed."
    succeed(orders, NOON + HOUR)
    services.settle()
    assert status_of(run) == "queued"


@pytest.mark.parametrize("action", ["compare", "set_watermark"])
def test_what_moves_no_rows_is_no_success(make_pipeline, wait_for, action):
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    end(run_for(orders, NOON, action=action))
    services.settle()
    assert status_of(run) == "blocked"
    assert not UpstreamSuccess.objects.exists()


def test_a_failed_upstream_holds_its_downstream_and_is_named(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    failed = fail(orders, NOON)
    failed.refresh_from_db()
    services.settle()
    at = f"{failed.finished_at:%Y-%m-%d %H:%M} UTC"
    assert why_waiting(run) == f"Waiting because upstream Orders failed at {at}: No such table."
    again = run_for(orders, NOON)
    assert why_waiting(run) == "Waiting for upstream Orders, whose run is queued."
    end(again)
    services.settle()
    assert status_of(run) == "queued"


def test_the_same_few_queries_say_why_any_number_of_runs_are_blocked(
    make_pipeline, wait_for, django_assert_max_num_queries
):
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    fail(orders, NOON)
    runs = [blocked(wait_for(f"Sales {n}", orders, items, schedules=[HOURLY]), NOON) for n in range(5)]
    with django_assert_max_num_queries(1):
        reasons = reasons_to_wait(runs)
    assert len({wait.why for wait in reasons.values()}) == 1
    assert "Orders failed" in reasons[runs[0].pk].why
    assert "and for upstream Items" in reasons[runs[0].pk].why


def test_a_blocked_run_is_in_nobodys_way(make_pipeline, wait_for, queue, claim, worker_alive):
    worker_alive()
    run = blocked(wait_for("Sales", make_pipeline("Orders"), schedules=[HOURLY]), NOON)
    assert claim() is None
    assert capacity.claimable_count() == 0
    by_hand = queue(run.pipeline)
    assert claim().run == by_hand.pk, "nor in that of its own pipeline"


def test_with_a_dependency_a_tick_makes_a_blocked_run_and_each_interval_its_own(wait_for, make_pipeline, clock):
    orders = make_pipeline("Orders")
    sales = clock.pipeline(HOURLY)
    definitions.save_pipeline(sales, schedules=None, dependencies=[DependencySpec(orders.pk)], by=None)
    clock.tick_after(hours=1, seconds=1)
    clock.tick_after(hours=1)
    assert [(run.status, run.prerequisites.count()) for run in runs_of(sales)] == [("blocked", 1), ("blocked", 1)]
    assert [run.prerequisites.get().interval_end for run in runs_of(sales)] == [
        run.scheduled_for for run in runs_of(sales)
    ]


def test_of_runs_that_wait_for_any_new_data_one_waits(make_pipeline, clock):
    orders = make_pipeline("Orders")
    sales = clock.pipeline(HOURLY)
    definitions.save_pipeline(sales, schedules=None, dependencies=[DependencySpec(orders.pk, "new_data")], by=None)
    clock.tick_after(hours=1, seconds=1)
    clock.tick_after(hours=1)
    (run,) = runs_of(sales)
    assert run.status == "blocked"
    assert [(skip.reason, skip.run_id) for skip in sales.skips.all()] == [("overlap", run.pk)]


def test_without_the_feature_a_round_costs_one_query(make_pipeline, django_assert_num_queries):
    make_pipeline("Orders")
    with django_assert_num_queries(1):
        services.settle()


# Giving up, and not waiting -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "status", "code"), [("fail", "failed", "upstream_timeout"), ("skip", "cancelled", "")]
)
def test_a_run_gives_up_as_its_dependency_says(make_pipeline, wait_for, then, status, code):
    orders = make_pipeline("Orders")
    spec = DependencySpec(orders.pk, give_up_hours=3, on_give_up=then)
    run = blocked(wait_for("Sales", spec, schedules=[HOURLY]), NOON)
    wanted = run.prerequisites.get()
    assert abs(wanted.give_up_at - datetime.now(UTC) - 3 * HOUR) < timedelta(minutes=1)
    services.settle()
    assert status_of(run) == "blocked"
    Prerequisite.objects.update(give_up_at=Now() - timedelta(seconds=1))
    services.settle()
    assert status_of(run) == status
    assert run.error_code == code
    assert run.finished_at is not None
    assert "Upstream Orders did not succeed in time" in run.log_lines.get().message


def test_a_person_may_let_a_run_start_anyway(make_pipeline, wait_for, operator):
    run = blocked(wait_for("Sales", make_pipeline("Orders"), schedules=[HOURLY]), NOON)
    services.start_anyway(run, by=operator)
    assert run.status == "queued"
    assert "olga let this run start" in run.log_lines.get().message
    with pytest.raises(services.RunRefused, match="waits for no other pipeline"):
        services.start_anyway(run, by=operator)


def test_a_blocked_run_is_cancelled_at_once(make_pipeline, wait_for, operator):
    run = blocked(wait_for("Sales", make_pipeline("Orders"), schedules=[HOURLY]), NOON)
    assert services.cancel_run(run, by=operator).status == "cancelled"


def test_what_is_no_dependency_any_more_holds_nothing(make_pipeline, wait_for):
    sales = wait_for("Sales", make_pipeline("Orders"), schedules=[HOURLY])
    run = blocked(sales, NOON)
    services.settle()
    definitions.save_pipeline(sales, schedules=None, dependencies=[], by=None)
    services.settle()
    assert status_of(run) == "queued"


# Without a schedule: started by upstreams -----------------------------------------------------


def test_each_success_starts_a_downstream_without_schedule_once(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    first = succeed(orders, NOON)
    assert services.settle() == 1
    assert services.settle() == 0
    (run,) = runs_of(sales)
    assert (run.status, run.trigger, run.data_interval_end) == ("queued", "upstream", NOON)
    assert run.prerequisites.get().met_by_id == first.pk
    succeed(orders, NOON + HOUR)
    end(run)
    succeed(orders, NOON)
    services.settle()
    ends = sorted(run.data_interval_end for run in runs_of(sales))
    assert ends == [NOON, NOON, NOON + HOUR], "a second success counts, too"


def test_it_starts_when_all_upstreams_have_succeeded_for_one_interval(make_pipeline, wait_for):
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    sales = wait_for("Sales", orders, items)
    succeed(orders, NOON)
    succeed(items, NOON + HOUR)
    services.settle()
    assert states_of(sales) == {NOON: "blocked", NOON + HOUR: "blocked"}
    succeed(items, NOON)
    services.settle()
    assert states_of(sales) == {NOON: "queued", NOON + HOUR: "blocked"}, "it joined the run that waited for it"


def test_both_upstreams_in_one_round_make_one_run(make_pipeline, wait_for):
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    sales = wait_for("Sales", orders, items)
    succeed(orders, NOON)
    succeed(items, NOON)
    assert services.settle() == 1
    assert [run.status for run in runs_of(sales)] == ["queued"]


def test_an_offset_shifts_the_interval_of_what_is_started(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", DependencySpec(orders.pk, "offset", 3600))
    succeed(orders, NOON)
    services.settle()
    (run,) = runs_of(sales)
    assert (run.data_interval_end, run.status) == (NOON + HOUR, "queued")


def test_new_data_starts_one_run_for_all_that_came_before_it_began(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, rule="new_data")
    succeed(orders, NOON)
    services.settle()
    succeed(orders, NOON + HOUR)
    services.settle()
    (run,) = runs_of(sales)
    assert (run.status, run.data_interval_end) == ("queued", None)
    Run.objects.filter(pk=run.pk).update(status="running", started_at=Now())
    succeed(orders, NOON + 2 * HOUR)
    services.settle()
    assert [run.status for run in runs_of(sales)] == ["running", "queued"], "what runs may have read before it"


def test_each_waits_its_turn_where_the_pipeline_says_so(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, rule="new_data", overlap="queue")
    for hours in range(3):
        succeed(orders, NOON + hours * HOUR)
        services.settle()
    assert [run.status for run in runs_of(sales)] == ["queued"] * 3


def test_an_upstream_that_runs_by_hand_starts_its_downstream_without_an_interval(make_pipeline, wait_for):
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    sales, both = wait_for("Sales", orders), wait_for("Both", orders, items)
    succeed(orders)
    services.settle()
    assert [(run.status, run.data_interval_end) for run in runs_of(sales)] == [("queued", None)]
    assert [run.status for run in runs_of(both)] == ["blocked"]
    succeed(items)
    services.settle()
    assert [run.status for run in runs_of(both)] == ["queued"]


def test_what_reads_an_interval_and_is_given_none_reads_all_since_its_last_run_began(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    query = "SELECT * FROM sales.orders WHERE at >= @data_interval_start AND at < @data_interval_end"
    sales = wait_for("Sales", orders, rule="new_data", source_table="", source_query=query)
    succeed(orders)
    services.settle()
    (first,) = runs_of(sales)
    sales.refresh_from_db()
    assert (first.status, first.data_interval_start) == ("queued", sales.created_at)
    assert abs(first.data_interval_end - datetime.now(UTC)) < timedelta(seconds=30)
    end(first)
    succeed(orders)
    services.settle()
    first.refresh_from_db()
    assert runs_of(sales)[1].data_interval_start == first.started_at


@pytest.mark.parametrize("state", ["paused", "archived"])
def test_what_is_paused_or_archived_is_not_started_nor_later(make_pipeline, wait_for, state):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    Pipeline.objects.filter(pk=sales.pk).update(state=state)
    succeed(orders, NOON)
    services.settle()
    Pipeline.objects.filter(pk=sales.pk).update(state="active")
    services.settle()
    assert runs_of(sales) == []


def test_successes_go_down_a_line_of_pipelines(make_pipeline, wait_for):
    first = make_pipeline("First")
    second = wait_for("Second", first)
    third = wait_for("Third", second)
    succeed(first, NOON)
    services.settle()
    assert runs_of(third) == []
    end(runs_of(second)[0])
    services.settle()
    assert [run.data_interval_end for run in runs_of(third)] == [NOON]


# Exactly once ---------------------------------------------------------------------------------


def test_a_success_is_told_in_the_transaction_that_ends_the_run(make_pipeline, wait_for, queue, claim):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    queue(orders)
    claimed = claim()
    with transaction.atomic():
        services.finish(claimed, RunStatus.SUCCEEDED, receipt={})
        assert UpstreamSuccess.objects.count() == 1
        transaction.set_rollback(True)
    assert not UpstreamSuccess.objects.exists()
    services.finish(claimed, RunStatus.SUCCEEDED, receipt={})
    services.settle()
    assert len(runs_of(sales)) == 1


def test_a_pass_that_breaks_off_is_done_again_as_a_whole(make_pipeline, wait_for, monkeypatch):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    succeed(orders, NOON)
    monkeypatch.setattr(services.prerequisites, "release", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        services.settle()
    assert runs_of(sales) == []
    monkeypatch.undo()
    services.settle()
    assert [run.status for run in runs_of(sales)] == ["queued"]


@pytest.mark.django_db(transaction=True)
def test_many_schedulers_at_once_start_each_downstream_once(make_pipeline, wait_for, at_once):
    orders, items = make_pipeline("Orders"), make_pipeline("Items")
    sales = [wait_for(f"Sales {n}", orders, items, rule="new_data", overlap="queue") for n in range(3)]
    for hours in range(5):
        succeed(orders, NOON + hours * HOUR)
        succeed(items, NOON + hours * HOUR)
        results = at_once(lambda _: services.settle(), 4)
        assert all(isinstance(result, int) for result in results), results
        services.settle()
    assert [len(runs_of(each)) for each in sales] == [5, 5, 5]


@pytest.mark.django_db(transaction=True)
def test_a_success_that_comes_while_a_run_is_being_made_is_not_missed(make_pipeline, wait_for, at_once):
    """The run is committed after the success was handled: its first look finds it."""
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, schedules=[HOURLY])
    succeed(orders, NOON - 5 * HOUR)
    services.settle()
    with transaction.atomic():
        run = blocked(sales, NOON)

        def elsewhere(_: int) -> int:
            succeed(orders, NOON)
            return services.settle()

        assert at_once(elsewhere, 1) == [0]
        assert not UpstreamSuccess.objects.exists()
    assert status_of(run) == "blocked"
    assert services.settle() == 1
    assert status_of(run) == "queued"


def test_a_success_that_nobody_has_handled_meets_nothing_yet(make_pipeline, wait_for, monkeypatch):
    """Else its downstream would go on now, and be started by it once more when it is handled."""
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    head, *_ = services.request_chain(orders, trigger="manual", by=None)[0]
    chained = runs_of(sales)[0]
    monkeypatch.setattr(services.prerequisites, "AT_ONCE", 0)
    end(head)
    services.settle()
    assert status_of(chained) == "blocked"
    monkeypatch.undo()
    services.settle()
    assert status_of(chained) == "queued"
    assert len(runs_of(sales)) == 1


# From here down -------------------------------------------------------------------------------


def test_from_here_down_runs_all_below_in_order_and_each_once(make_pipeline, wait_for, operator):
    top = make_pipeline("Top")
    left, right = wait_for("Left", top), wait_for("Right", top, rule="new_data")
    bottom = wait_for("Bottom", left, right, rule="new_data")
    make_pipeline("Beside")
    runs, is_new = services.request_chain(top, trigger=Trigger.MANUAL, by=operator)
    assert is_new
    assert [run.pipeline.name for run in runs][0::3] == ["Top", "Bottom"]
    assert {run.pipeline.name for run in runs[1:3]} == {"Left", "Right"}
    assert [run.status for run in runs] == ["queued", "blocked", "blocked", "blocked"]
    end(runs[0])
    services.settle()
    assert sorted(run.status for run in Run.objects.all()) == ["blocked", "queued", "queued", "succeeded"]
    for run in runs[1:3]:
        end(run)
        services.settle()
    assert [len(runs_of(each)) for each in (top, left, right, bottom)] == [1, 1, 1, 1]
    assert status_of(runs[3]) == "queued"


def test_a_chain_goes_by_its_own_runs_and_not_by_one_in_between(make_pipeline, wait_for, operator):
    top = make_pipeline("Top")
    middle = wait_for("Middle", top)
    wait_for("Bottom", middle)
    head, own, below = services.request_chain(top, trigger=Trigger.MANUAL, by=operator)[0]
    stranger, _ = services.request_run(middle, trigger=Trigger.MANUAL, by=operator)
    end(stranger)
    services.settle()
    assert status_of(below) == "blocked", "the stranger read what Top had before"
    end(head)
    services.settle()
    end(own)
    services.settle()
    assert status_of(below) == "queued"


def test_an_upstreams_run_with_values_of_its_own_does_not_stand_for_the_interval(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    end(run_for(orders, NOON, action_options={"parameters": {"country": "FR"}}))
    services.settle()
    assert status_of(run) == "blocked"
    succeed(orders, NOON)
    services.settle()
    assert status_of(run) == "queued"


def test_what_is_not_started_because_it_skips_is_told_in_the_upstreams_log(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, rule="new_data", overlap="skip")
    run_for(sales, status=RunStatus.RUNNING, started_at=Now())
    success = succeed(orders)
    services.settle()
    assert len(runs_of(sales)) == 1
    assert "Sales is not started by this" in success.log_lines.get().message


def test_a_chain_hands_the_interval_down_to_what_reads_one(make_pipeline, wait_for, operator):
    reads = "SELECT * FROM shop.orders WHERE at >= @data_interval_start AND at < @data_interval_end"
    top = make_pipeline("Top", source_table="", source_query=reads)
    wait_for("Middle", top, source_table="", source_query=reads)
    wait_for("Bottom", top, rule="new_data", source_table="", source_query=reads)
    wait_for("Other", top)
    asked = {"trigger": Trigger.MANUAL, "by": operator, "interval": (NOON - HOUR, NOON)}
    runs = {run.pipeline.name: run for run in services.request_chain(top, **asked)[0]}
    assert (runs["Middle"].data_interval_start, runs["Middle"].data_interval_end) == (NOON - HOUR, NOON)
    assert runs["Bottom"].data_interval_start == runs["Bottom"].pipeline.created_at, "all since it is there"
    assert runs["Other"].data_interval_end is None


def test_a_chain_has_no_append_below_load_an_interval_twice(make_pipeline, wait_for, operator):
    reads = "SELECT * FROM shop.orders WHERE at >= @data_interval_start AND at < @data_interval_end"
    top = make_pipeline("Top", source_table="", source_query=reads)
    wait_for("Below", top, source_table="", source_query=reads, write_disposition="append")
    asked = {"trigger": Trigger.MANUAL, "by": operator, "interval": (NOON - HOUR, NOON)}
    services.request_chain(top, **asked)
    with pytest.raises(services.RunRefused) as refused:
        services.request_chain(top, **asked)
    assert refused.value.code == "interval_loaded"
    assert Run.objects.count() == 2, "nothing of it is queued"
    services.request_chain(top, **asked, force=True)


def test_a_slice_of_an_upstreams_backfill_is_no_news(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, schedules=[HOURLY])
    waiting = Run.objects.create(
        pipeline=orders,
        revision=orders.revision,
        trigger=Trigger.BACKFILL,
        action=RunAction.BACKFILL,
        data_interval_start=NOON - HOUR,
        data_interval_end=NOON,
    )
    succeed(orders, NOON)
    run = blocked(sales, NOON)
    services.settle()
    assert status_of(run) == "queued", "a slice that waits is not missing"
    later = blocked(sales, NOON + HOUR)
    Run.objects.filter(pk=waiting.pk).update(data_interval_start=None, data_interval_end=None)
    waiting.refresh_from_db()
    end(waiting)
    services.settle()
    assert status_of(later) == "blocked", "a slice that was loaded is not today's data"


def test_an_interval_that_ends_with_time_itself_stops_nobody(make_pipeline, wait_for):
    orders = make_pipeline("Orders")
    wait_for("Sales", DependencySpec(orders.pk, "offset", offset_s=3600))
    succeed(orders, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    services.settle()
    assert not UpstreamSuccess.objects.exists()


def test_a_chain_stops_where_one_fails_and_goes_on_when_it_has_run_again(make_pipeline, wait_for, operator):
    top = make_pipeline("Top")
    bottom = wait_for("Bottom", top)
    succeed(top, NOON)
    services.settle()
    end(runs_of(bottom)[0])
    head, below = services.request_chain(top, trigger=Trigger.MANUAL, by=operator)[0]
    end(head, "failed", error_message="No.")
    services.settle()
    assert status_of(below) == "blocked"
    assert "because upstream Top failed" in why_waiting(below)
    end(services.run_again(head, by=operator))
    services.settle()
    assert status_of(below) == "queued"
    assert len(runs_of(bottom)) == 2


def test_what_is_paused_is_left_out_with_what_it_alone_leads_to(make_pipeline, wait_for):
    top = make_pipeline("Top")
    resting = wait_for("Resting", top)
    wait_for("Behind", resting)
    wait_for("Both", resting, top)
    definitions.pause([resting], by=None)
    chain = services.chain_from(top)
    assert [each.name for each in chain.pipelines] == ["Top", "Both"]
    assert [each.name for each in chain.left_out] == ["Behind", "Resting"]


def test_a_key_that_is_repeated_gives_the_chain_it_made(make_pipeline, wait_for, operator):
    top = make_pipeline("Top")
    wait_for("Bottom", top)
    more = {"trigger": Trigger.API, "by": operator, "idempotency_key": "k", "request_digest": "d"}
    first, is_new = services.request_chain(top, **more)
    again, is_new_again = services.request_chain(top, **more)
    assert [run.pk for run in first] == [run.pk for run in again]
    assert (is_new, is_new_again) == (True, False)


def test_a_run_that_waits_follows_its_pipeline_to_other_slots(make_pipeline, wait_for, destination):
    sales = wait_for("Sales", make_pipeline("Orders"), schedules=[HOURLY])
    run = blocked(sales, NOON)
    lane = Run.objects.get(pk=run.pk).lane_id
    pool = Pool.objects.create(name="Night")
    definitions.set_limits(Pipeline.objects.filter(pk=sales.pk), priority=10, pool=pool, by=None)
    run.refresh_from_db()
    assert run.lane_id != lane
    assert run.priority == 10
