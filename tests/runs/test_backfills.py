"""Backfills: slice by slice behind live runs, paused, cancelled, tried again; each slice applied once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connectors.errors import ConnectorError, TransientError
from pipelines import services as definitions
from pipelines.models import Overlap, Pipeline
from runs import backfills, services, ticker
from runs.backfill_plans import Refused, Wish, plan
from runs.models import Backfill, BackfillSlice, BackfillState, Run, RunAction, SliceStatus, Trigger
from runs.services.backfills import interval_of
from runs.states import RunStatus
from tests.runs.clockwork import at, clock, cron
from tests.runs.memory import nothing, raising

__all__ = ["clock"]

DAY = timedelta(days=1)
QUERY = "SELECT * FROM d.t WHERE at >= @data_interval_start AND at < @data_interval_end"
CURSOR = [{"name": "at", "type": "TIMESTAMP"}]
LOW, HIGH = "2026-01-01", "2026-01-04"


@pytest.fixture
def filling(make_pipeline):
    """A merge whose query names the interval; nobody reads from it."""

    def make(name="Filling", **changes):
        values = {"source_table": "", "source_query": QUERY, "write_disposition": "merge", "merge_key": ["id"]}
        return make_pipeline(name, **{**values, **changes})

    return make


@pytest.fixture
def moving_by_interval(moving):
    """The same, with a source in memory and a real destination."""

    def make(**changes):
        pipeline = moving(write_disposition="merge", merge_key=["id"], **changes)
        pipeline.source_table, pipeline.source_query = "", QUERY
        definitions.save_pipeline(pipeline, schedules=None, by=None)
        return pipeline

    return make


def begin(pipeline, low=LOW, high=HIGH, **wish) -> Backfill:
    return services.start_backfill(pipeline, plan(pipeline, Wish(low, high, **wish)), by=None)


def statuses(backfill) -> list[str]:
    return list(backfill.slices.order_by("number").values_list("status", flat=True))


def state(backfill) -> str:
    backfill.refresh_from_db()
    return backfill.state


def end_run(status=RunStatus.SUCCEEDED, **found) -> None:
    """As a worker would have ended what is queued."""
    Run.objects.filter(trigger=Trigger.BACKFILL, status=RunStatus.QUEUED, **found).update(
        status=status, started_at=datetime.now(UTC), finished_at=datetime.now(UTC)
    )
    services.advance_backfills()


def refusal(pipeline, **wish) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        plan(pipeline, Wish(**{"low": LOW, "high": HIGH, **wish}))
    return {field: error.code for field, error in refused.value.errors.items()}


# What can be filled in


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"source_query": "SELECT 1 AS id"}, "backfill_no_range"),
        ({"source_table": "d.t", "source_query": ""}, "backfill_no_range"),
        ({"write_disposition": "append", "merge_key": []}, "backfill_would_double"),
        ({"write_disposition": "append", "merge_key": [], "target_table": "t_{data_interval_start:%Y%m%d}"},
         "backfill_would_double"),
        ({"write_disposition": "replace", "merge_key": []}, "backfill_would_replace"),
        ({"state": "archived"}, "pipeline_archived"),
    ],
)  # fmt: skip
def test_what_has_no_range_is_refused_with_a_hint(filling, changes, code):
    pipeline = filling(**changes)
    with pytest.raises(Refused) as refused:
        plan(pipeline, Wish(LOW, HIGH))
    (error,) = refused.value.errors.values()
    assert (error.code, bool(error.hint)) == (code, True)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"low": "x"}, {"low": "cursor_value"}),
        ({"low": "0001-01-01", "zone": "Europe/Berlin", "step": "10 years"}, {"low": "interval_outside"}),
        ({"low": "9999-12-31 23:59", "zone": "America/New_York"}, {"low": "backfill_beyond_watermark"}),
        ({"high": "2025-01-01"}, {"high": "backfill_range"}),
        ({"step": "often"}, {"step": "backfill_step"}),
        ({"step": "0 days"}, {"step": "backfill_step"}),
        ({"step": "1 minute"}, {"step": "backfill_too_many"}),
        ({"zone": "Europe/Nowhere"}, {"zone": "bad_rule"}),
        ({"low": "2999-01-01", "high": ""}, {"low": "backfill_beyond_watermark"}),
        ({"parameters": {"other": 1}}, {"parameters.other": "no_such_parameter"}),
    ],
)
def test_a_bad_wish_is_told_at_its_field(filling, wish, expected):
    assert refusal(filling(), **wish) == expected


@pytest.mark.django_db
def test_a_range_ends_where_the_past_does(filling):
    found = plan(filling(), Wish(LOW, "2999-01-01", step="1 year"))
    assert datetime.fromisoformat(found.high) <= datetime.now(UTC)
    assert found.remarks


@pytest.mark.django_db
def test_slices_of_a_zone_are_its_days(filling):
    found = plan(filling(), Wish("2026-03-28", "2026-03-31", zone="Europe/Berlin"))
    assert found.slices == [
        ("2026-03-27 23:00:00+00:00", "2026-03-28 23:00:00+00:00"),
        ("2026-03-28 23:00:00+00:00", "2026-03-29 22:00:00+00:00"),
        ("2026-03-29 22:00:00+00:00", "2026-03-30 22:00:00+00:00"),
    ]


@pytest.mark.django_db
def test_months_do_not_shrink(filling):
    found = plan(filling(), Wish("2025-01-31", "2025-05-31", step="month"))
    assert [low[:10] for low, _ in found.slices] == ["2025-01-31", "2025-02-28", "2025-03-31", "2025-04-30"]


@pytest.mark.django_db
def test_a_replace_needs_a_table_for_each_slice(filling):
    pipeline = filling(write_disposition="replace", merge_key=[], target_table="t_{data_interval_start:%Y%m}")
    assert refusal(pipeline, step="1 day") == {"step": "backfill_same_target"}
    assert len(plan(pipeline, Wish("2025-10-01", "2026-01-01", step="1 month")).slices) == 3


@pytest.mark.django_db
def test_a_cursor_is_filled_in_up_to_the_watermark(make_pipeline, queue):
    pipeline = make_pipeline(
        write_disposition="append",
        incremental=True,
        cursor_column="AT",
        source_columns=[{"name": "at", "type": "DATE"}],
    )
    assert refusal(pipeline) == {"": "backfill_no_watermark"}
    queue(pipeline, status=RunStatus.SUCCEEDED, receipt={"watermark_after": "2026-01-10"})
    assert refusal(pipeline, step="6 hours") == {"step": "backfill_step"}
    found = plan(pipeline, Wish("2026-01-08", ""))
    assert found.slices == [("2026-01-08", "2026-01-09"), ("2026-01-09", "2026-01-10"), ("2026-01-10", "2026-01-11")]
    assert plan(pipeline, Wish("2026-01-08", "2026-02-01")).remarks
    backfill = services.start_backfill(pipeline, found, by=None)
    run = backfill.slices.get(number=0).run
    assert run.action_options["span"] == {"low": "2026-01-08", "high": "2026-01-09"}
    assert (run.data_interval_start, run.data_interval_end) == (
        datetime(2026, 1, 8, tzinfo=UTC),
        datetime(2026, 1, 9, tzinfo=UTC),
    )


@pytest.mark.django_db
def test_an_append_is_not_filled_in_with_values_that_leave_rows_out(make_pipeline, queue):
    changes = {"incremental": True, "cursor_column": "n", "source_columns": [{"name": "n", "type": "INT64"}]}
    changes |= {"source_table": "", "source_query": "SELECT * FROM d.t WHERE country = @country"}
    changes["parameters"] = {"country": {"type": "STRING", "default": "DE"}}
    wish = {"low": "0", "high": "", "step": "100"}
    for disposition in ("append", "merge"):
        named = {"write_disposition": disposition, "target_table": disposition}
        pipeline = make_pipeline(disposition, **named, merge_key=["n"] * (disposition == "merge"), **changes)
        queue(pipeline, status=RunStatus.SUCCEEDED, receipt={"watermark_after": "250"})
        assert plan(pipeline, Wish(**wish, parameters={"country": "DE"})).slices
        if disposition == "append":
            assert refusal(pipeline, **wish, parameters={"country": "FR"}) == {"parameters.country": "backfill_values"}
        else:
            assert plan(pipeline, Wish(**wish, parameters={"country": "FR"})).slices


def test_a_whole_number_is_no_day():
    assert interval_of("20200101", "20200201") == (None, None)
    assert interval_of("2020-01-01", "2020-02-01")[0] == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.django_db
def test_whole_numbers_are_cut_by_units(make_pipeline, queue):
    pipeline = make_pipeline(
        write_disposition="append", incremental=True, cursor_column="n", source_columns=[{"name": "n", "type": "INT64"}]
    )
    queue(pipeline, status=RunStatus.SUCCEEDED, receipt={"watermark_after": "250"})
    assert plan(pipeline, Wish("0", "", step="100")).slices == [("0", "100"), ("100", "200"), ("200", "251")]
    assert refusal(pipeline, low="0", high="", step="1 day") == {"step": "backfill_step"}


# Slice by slice


@pytest.mark.django_db
def test_one_slice_after_another_and_then_it_has_ended(filling):
    backfill = begin(filling(), parameters={})
    for number in range(3):
        run = Run.objects.get(status=RunStatus.QUEUED)
        assert (run.trigger, run.action, run.action_options["slice"]) == (Trigger.BACKFILL, RunAction.BACKFILL, number)
        assert (run.data_interval_start, run.data_interval_end) == (
            datetime(2026, 1, 1, tzinfo=UTC) + number * DAY,
            datetime(2026, 1, 2, tzinfo=UTC) + number * DAY,
        )
        end_run()
    assert statuses(backfill) == ["succeeded"] * 3
    assert state(backfill) == BackfillState.ENDED
    assert backfill.ended_at


@pytest.mark.django_db
def test_asking_often_gives_a_slice_one_run(filling):
    begin(filling())
    for _ in range(5):
        assert services.advance_backfills() == 0
    assert Run.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_many_at_once_give_a_slice_one_run(filling, at_once, settings):
    settings.BACKFILL_MAX_RUNNING = 5
    backfills = [begin(filling(f"Filling {n}", target_table=f"t{n}")) for n in range(3)]
    Run.objects.update(status=RunStatus.SUCCEEDED, finished_at=datetime.now(UTC))
    results = at_once(lambda _: services.advance_backfills(), 6)
    assert sum(results) == 3
    assert [statuses(backfill)[:2] for backfill in backfills] == [["succeeded", "running"]] * 3


@pytest.mark.django_db
def test_no_more_slices_than_allowed_are_under_way_and_turns_are_taken(filling, settings):
    settings.BACKFILL_MAX_RUNNING = 2
    backfills = [begin(filling(f"Filling {n}", target_table=f"t{n}")) for n in range(3)]
    assert Run.objects.filter(status=RunStatus.QUEUED).count() == 2
    end_run(pipeline=backfills[0].pipeline)
    assert Run.objects.filter(status=RunStatus.QUEUED, pipeline=backfills[2].pipeline).exists()
    assert Run.objects.filter(status=RunStatus.QUEUED).count() == 2


@pytest.mark.django_db
def test_live_runs_go_first_even_of_pipelines_of_low_priority(filling, make_pipeline, queue, claim):
    begin(filling(priority=10))
    live = make_pipeline("Live", priority=30)
    live_run = queue(live, priority=30)
    assert claim().run == live_run.pk
    assert claim().action == RunAction.BACKFILL


@pytest.mark.django_db
def test_a_live_run_of_the_same_pipeline_goes_first(filling, claim):
    pipeline = filling()
    begin(pipeline)
    live_run, _ = services.request_run(
        pipeline, trigger=Trigger.MANUAL, by=None, interval=(datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC))
    )
    assert claim().run == live_run.pk
    assert claim() is None  # one active run per pipeline


@pytest.mark.django_db
@pytest.mark.parametrize("overlap", Overlap.values)
def test_a_tick_is_not_skipped_because_of_a_backfill(clock, overlap):
    pipeline = clock.pipeline(cron("0 * * * *"), overlap=overlap, source_table="", source_query=QUERY,
                              write_disposition="merge", merge_key=["id"])  # fmt: skip
    begin(pipeline)
    Run.objects.update(status=RunStatus.RUNNING)
    clock.tick_at(at(13))
    assert Run.objects.filter(trigger=Trigger.SCHEDULE).count() == 1


@pytest.mark.django_db
def test_without_a_backfill_nothing_is_asked_but_whether_there_is_one(make_pipeline):
    make_pipeline()
    with CaptureQueriesContext(connection) as captured:
        assert services.advance_backfills() == 0
    assert len(captured) <= 2
    with CaptureQueriesContext(connection) as captured:
        ticker.tick()
    assert not [query for query in captured if "backfill" in query["sql"]]


@pytest.mark.django_db
def test_a_held_run_is_not_put_out_of_date_by_a_backfill(filling, queue):
    pipeline = filling()
    held = queue(pipeline, status=RunStatus.HELD)
    backfill = begin(pipeline)
    assert statuses(backfill) == ["waiting"] * 3
    Run.objects.filter(pk=held.pk).update(status=RunStatus.CANCELLED)
    services.advance_backfills()
    assert statuses(backfill)[0] == "running"


@pytest.mark.django_db(transaction=True)
def test_a_pipeline_that_is_being_saved_is_passed_by(filling, at_once):
    backfill = begin(filling())
    Run.objects.update(status=RunStatus.SUCCEEDED, finished_at=datetime.now(UTC))
    with transaction.atomic():
        list(Pipeline.objects.select_for_update().filter(pk=backfill.pipeline_id))
        assert at_once(lambda _: services.advance_backfills(), times=1) == [0]
    assert services.advance_backfills() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("waits", "moves"), [("for a person", True), ("an hour", True), ("a minute", False), ("in line", False)]
)
def test_a_slice_that_waits_long_leaves_its_turn_to_another_backfill(filling, queue, waits, moves):
    first, other = begin(filling("A", target_table="a")), begin(filling("B", target_table="b"))
    assert (statuses(first)[0], statuses(other)[0]) == ("running", "waiting")
    if waits == "for a person":
        queue(first.pipeline, status=RunStatus.HELD)
    elif waits != "in line":
        due = timezone.now() + timedelta(hours=1 if waits == "an hour" else 1 / 60)
        Run.objects.filter(trigger=Trigger.BACKFILL).update(status=RunStatus.RETRYING, due=due)
    assert services.advance_backfills() == moves
    assert statuses(other)[0] == ("running" if moves else "waiting")


# A pipeline that is changed meanwhile


TABLE_EACH = {"write_disposition": "replace", "merge_key": [], "target_table": "t_{data_interval_start:%Y%m%d}"}
DAYS = {"days": {"type": "INT64", "default": 1}}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "before", "wish", "words"),
    [
        ({"state": "paused"}, {}, {}, "is paused"),
        ({"source_query": "SELECT 1 AS id"}, {}, {}, "no range"),
        ({"target_table": "t"}, TABLE_EACH, {}, "only the last range"),
        ({"target_table": "t_{data_interval_start:%Y%m}"}, TABLE_EACH, {}, "would both replace"),
        ({"parameters": {}}, {"parameters": DAYS}, {"parameters": {"days": 2}}, "no parameter days"),
        ({"incremental": True, "cursor_column": "at", "source_columns": CURSOR}, {}, {}, "has changed"),
    ],
)
def test_no_slice_follows_on_a_change_that_a_start_would_refuse(filling, changes, before, wish, words):
    pipeline = filling(**before)
    backfill = begin(pipeline, **wish)
    for name, value in changes.items():
        setattr(pipeline, name, value)
    pipeline.save()
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    end_run()
    assert (state(backfill), statuses(backfill)) == (BackfillState.PAUSED, ["succeeded", "waiting", "waiting"])
    assert words in backfill.reason
    assert Run.objects.count() == 1


@pytest.mark.django_db
def test_a_paused_pipeline_pauses_its_backfill_and_takes_back_what_only_waits(filling):
    backfill = begin(filling())
    Pipeline.objects.update(state="paused")
    services.advance_backfills()
    assert (state(backfill), statuses(backfill)) == (BackfillState.PAUSED, ["waiting"] * 3)
    assert Run.objects.get().status == RunStatus.CANCELLED
    Pipeline.objects.update(state="active")
    assert services.advance_backfills() == 0
    services.resume_backfill(backfill, by=None)
    assert statuses(backfill)[0] == "running"


@pytest.mark.django_db
def test_a_change_of_something_else_holds_no_slice_up(filling):
    pipeline = filling(**TABLE_EACH)
    backfill = begin(pipeline)
    pipeline.target_table = "other_{data_interval_start:%Y%m%d}"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    end_run()
    assert statuses(backfill) == ["succeeded", "running", "waiting"]


# Paused, cancelled, tried again


@pytest.mark.django_db
def test_a_pause_takes_back_what_only_waits_and_resuming_goes_on(filling):
    backfill = begin(filling())
    services.pause_backfill(backfill, by=None)
    assert (state(backfill), statuses(backfill)) == (BackfillState.PAUSED, ["waiting"] * 3)
    assert Run.objects.get().status == RunStatus.CANCELLED
    services.advance_backfills()
    assert Run.objects.count() == 1
    services.resume_backfill(backfill, by=None)
    assert statuses(backfill) == ["running", "waiting", "waiting"]


@pytest.mark.django_db
def test_a_pause_lets_go_on_what_runs(filling, claim):
    backfill = begin(filling())
    claimed = claim()
    services.pause_backfill(backfill, by=None)
    assert statuses(backfill) == ["running", "waiting", "waiting"]
    Run.objects.filter(pk=claimed.run).update(status=RunStatus.SUCCEEDED, finished_at=datetime.now(UTC))
    services.advance_backfills()
    assert (state(backfill), statuses(backfill)) == (BackfillState.PAUSED, ["succeeded", "waiting", "waiting"])


@pytest.mark.django_db
def test_a_cancel_ends_it_and_asks_what_runs_to_stop(filling, claim):
    backfill = begin(filling())
    claimed = claim()
    services.cancel_backfill(backfill, by=None)
    assert state(backfill) == BackfillState.CANCELLED
    assert Run.objects.get(pk=claimed.run).cancel_requested
    Run.objects.filter(pk=claimed.run).update(status=RunStatus.CANCELLED, finished_at=datetime.now(UTC))
    services.advance_backfills()
    assert statuses(backfill) == ["cancelled", "waiting", "waiting"]
    with pytest.raises(services.RunRefused):
        services.resume_backfill(backfill, by=None)


@pytest.mark.django_db
def test_only_what_failed_is_tried_again(filling):
    backfill = begin(filling())
    for status in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.SUCCEEDED):
        end_run(status)
    assert (state(backfill), statuses(backfill)) == (BackfillState.ENDED, ["succeeded", "failed", "succeeded"])
    assert services.retry_backfill(backfill, by=None) == 1
    assert (state(backfill), statuses(backfill)) == (BackfillState.RUNNING, ["succeeded", "running", "succeeded"])
    end_run()
    assert (state(backfill), statuses(backfill)) == (BackfillState.ENDED, ["succeeded"] * 3)
    assert backfill.slices.get(number=1).tries == 2
    with pytest.raises(services.RunRefused) as refused:
        services.retry_backfill(backfill, by=None)
    assert refused.value.code == "backfill_nothing_failed"


@pytest.mark.django_db
def test_a_failed_run_that_a_person_had_try_again_makes_its_slice_good(filling):
    backfill = begin(filling(), high="2026-01-02")
    end_run(RunStatus.FAILED)
    assert (state(backfill), statuses(backfill)) == (BackfillState.ENDED, ["failed"])
    Run.objects.update(status=RunStatus.SUCCEEDED, rows=7)
    backfills.move_on()
    assert (statuses(backfill), backfill.slices.get().rows) == (["succeeded"], 7)


@pytest.mark.django_db
def test_three_failures_one_after_another_pause_it(filling):
    backfill = begin(filling(), high="2026-01-10")
    for status in (RunStatus.FAILED, RunStatus.SUCCEEDED, *[RunStatus.FAILED] * 3):
        assert state(backfill) == BackfillState.RUNNING
        end_run(status)
    assert (state(backfill), backfill.reason) == (BackfillState.PAUSED, "3 slices failed one after another.")
    assert not Run.objects.filter(status=RunStatus.QUEUED).exists()


@pytest.mark.django_db
def test_a_pipeline_has_one_backfill_at_a_time(filling):
    pipeline = filling()
    first = begin(pipeline)
    with pytest.raises(services.RunRefused) as refused:
        begin(pipeline)
    assert refused.value.code == "backfill_in_progress"
    services.cancel_backfill(first, by=None)
    begin(pipeline)
    with pytest.raises(services.RunRefused) as refused:
        services.retry_backfill(first, by=None)
    assert refused.value.code == "backfill_in_progress"


@pytest.mark.django_db
def test_an_archived_pipeline_ends_its_backfill(filling):
    backfill = begin(filling())
    definitions.archive([backfill.pipeline], by=None)
    end_run(RunStatus.CANCELLED)
    assert state(backfill) == BackfillState.CANCELLED
    assert "archived" in backfill.reason


@pytest.mark.django_db
def test_what_came_of_a_slice_outlives_its_run(filling):
    backfill = begin(filling())
    end_run()
    BackfillSlice.objects.get(number=0).run.delete()
    services.advance_backfills()
    assert statuses(backfill) == ["succeeded", "running", "waiting"]


# With a real destination


def test_slices_move_rows_one_after_another_without_waiting_for_beat(moving_by_interval, work, script, rows_of):
    pipeline = moving_by_interval()
    backfill = begin(pipeline)
    work()
    assert (state(backfill), statuses(backfill)) == (BackfillState.ENDED, ["succeeded"] * 3)
    starts = [
        next(each.value for each in request.parameters if each.name == "data_interval_start")
        for request in script.requests
    ]
    assert starts == [f"2026-01-0{day} 00:00:00+00:00" for day in (1, 2, 3)]
    assert rows_of(pipeline) == 3
    assert list(backfill.slices.values_list("rows", flat=True)) == [3, 3, 3]


def test_a_slice_whose_worker_is_lost_at_the_publish_is_applied_once(
    moving_by_interval, work, script, rows_of, warehouse_cursor
):
    """The commit got through, and nobody heard of it: the next owner reads that from the destination."""

    class Killed(BaseException):
        """Not an error that anybody catches."""

    pipeline = moving_by_interval()
    script.after_commit = [raising(Killed()), nothing]
    backfill = begin(pipeline)
    with pytest.raises(Killed):
        work()
    Run.objects.filter(status=RunStatus.RUNNING).update(lease_until=datetime(2026, 1, 1, tzinfo=UTC))
    services.sweep()
    work()
    assert (state(backfill), statuses(backfill)) == (BackfillState.ENDED, ["succeeded"] * 3)
    assert script.reads == 3  # not four
    warehouse_cursor.execute("SELECT count(*) FROM _datamantri.applied WHERE pipeline = %s", [str(pipeline.pk)])
    assert warehouse_cursor.fetchone() == (3,)
    assert rows_of(pipeline) == 3
    assert BackfillSlice.objects.get(backfill=backfill, number=0).run.attempts.count() == 2


def test_a_slice_whose_worker_is_lost_before_the_commit_starts_over(moving_by_interval, work, script, rows_of):
    class Killed(BaseException):
        """Not an error that anybody catches."""

    pipeline = moving_by_interval()
    script.before_commit = [raising(Killed()), nothing]
    backfill = begin(pipeline)
    with pytest.raises(Killed):
        work()
    Run.objects.filter(status=RunStatus.RUNNING).update(lease_until=datetime(2026, 1, 1, tzinfo=UTC))
    services.sweep()
    work()
    assert (state(backfill), statuses(backfill), script.reads) == (BackfillState.ENDED, ["succeeded"] * 3, 4)
    assert rows_of(pipeline) == 3


def test_a_slice_that_fails_for_good_does_not_hold_up_the_others(moving_by_interval, work, script):
    script.on_plan = [nothing, raising(ConnectorError("no", code="invalid_query")), nothing]
    backfill = begin(moving_by_interval())
    work()
    assert statuses(backfill) == ["succeeded", "failed", "succeeded"]
    assert backfill.slices.get(number=1).error_code == "invalid_query"


def test_a_slice_is_retried_as_any_run(moving_by_interval, work, script):
    script.on_plan = [raising(TransientError("not now")), nothing]
    backfill = begin(moving_by_interval(), high="2026-01-02")
    work()
    assert statuses(backfill) == [SliceStatus.RUNNING]
    work()
    assert statuses(backfill) == [SliceStatus.SUCCEEDED]


def test_a_pipeline_that_no_longer_reads_by_a_cursor_ends_its_slices(moving, queue, work):
    pipeline = moving(incremental=True, cursor_column="id", source_columns=[{"name": "id", "type": "INT64"}])
    queue(pipeline, status=RunStatus.SUCCEEDED, receipt={"watermark_after": "10"})
    begin(pipeline, "0", "5", step="5")
    pipeline.incremental, pipeline.cursor_column = False, ""
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    Run.objects.filter(trigger=Trigger.BACKFILL).update(revision=pipeline.revision)
    work()
    run = Run.objects.get(trigger=Trigger.BACKFILL)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "backfill_redefined")
