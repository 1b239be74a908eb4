"""The values that a run goes by: fixed when it is asked for, the same in every attempt, and part of no definition."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connectors.errors import ConnectorError, TransientError
from pipelines import services as definitions
from pipelines.specs import ScheduleSpec
from runs import giving, services
from runs.models import Run, RunAction, Trigger
from runs.states import RunStatus
from runs.values import shown
from tests.runs.days import one_day
from tests.runs.memory import nothing, raising

__all__ = ["one_day"]

START, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
COUNTRY = {"country": {"type": "STRING", "default": "DE"}, "days": {"type": "INT64", "default": 7}}
QUERY = "SELECT * FROM d.t WHERE country = @country AND at >= @data_interval_start AND at < @data_interval_end"


def ask(pipeline, **more) -> Run:
    run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None, **more)
    return run


def values_of(request) -> dict:
    return {each.name: each.value for each in request.parameters}


@pytest.fixture
def querying(moving):
    """A pipeline that reads a query, by default with two parameters and the interval."""

    def make(query=QUERY, parameters=COUNTRY, **changes):
        pipeline = moving(parameters=parameters, **changes)
        pipeline.source_table, pipeline.source_query = "", query
        definitions.save_pipeline(pipeline, schedules=None, by=None)
        return pipeline

    return make


def test_a_run_by_hand_goes_by_what_it_was_given_and_defaults_for_the_rest(querying, work, script):
    run = ask(querying(), options={"parameters": {"country": "FR"}}, interval=(START, END))
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert values_of(script.requests[-1]) == {
        "country": "FR",
        "days": 7,
        "data_interval_start": "2026-03-01 00:00:00+00:00",
        "data_interval_end": "2026-03-02 00:00:00+00:00",
        "scheduled_for": run.created_at.astimezone(UTC).isoformat(sep=" "),
        "run_id": str(run.pk),
    }
    assert shown(run) == {"country": "FR", "days": 7}


def test_every_attempt_goes_by_the_same_values_whatever_the_pipeline_says_by_then(querying, work, script):
    pipeline = querying()
    run = ask(pipeline, options={"parameters": {"country": "FR"}}, interval=(START, END))
    script.on_plan = [raising(TransientError("not now")), nothing]
    work()
    pipeline.parameters = {"country": {"type": "STRING", "default": "IT"}, "days": {"type": "INT64", "default": 1}}
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt) == (RunStatus.SUCCEEDED, 2)
    first, second = script.requests
    assert values_of(first) == values_of(second)


def test_another_value_is_no_change_of_the_definition(querying, work, rows_of):
    pipeline = querying()
    for country in ("FR", "IT"):
        run = ask(pipeline, options={"parameters": {"country": country}}, interval=(START, END))
        work()
        run.refresh_from_db()
        assert (run.status, run.receipt["revision"]) == (RunStatus.SUCCEEDED, 2)
    assert rows_of(pipeline) == 6


def test_another_declaration_is_a_change_of_the_definition(querying, work):
    pipeline = querying()
    ask(pipeline, interval=(START, END))
    work()
    pipeline.parameters = {**COUNTRY, "country": {"type": "STRING", "default": "IT"}}
    revision = definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert revision.number == 3  # the second one brought the query
    run = ask(pipeline, interval=(START, END))
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "definition_changed")


def test_a_run_again_goes_by_the_same_values(querying, work, script):
    pipeline = querying(write_disposition="replace")
    run = ask(pipeline, options={"parameters": {"country": "FR"}}, interval=(START, END))
    work()
    again = services.run_again(run, by=None)
    work()
    first, second = (values_of(request) for request in script.requests)
    assert second == {**first, "run_id": str(again.pk), "scheduled_for": second["scheduled_for"]}


def test_a_run_again_with_values_that_are_no_longer_taken_is_refused(querying):
    pipeline = querying()
    run = ask(pipeline, options={"parameters": {"country": "FR"}}, interval=(START, END))
    pipeline.parameters = {"country": {"type": "INT64", "default": 1}}
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    with pytest.raises(services.RunRefused) as refused:
        services.run_again(run, by=None)
    assert refused.value.code == "parameter_value"
    assert Run.objects.count() == 1


def test_without_an_interval_a_run_by_hand_takes_that_of_the_last_tick(querying):
    pipeline = querying()
    definitions.save_pipeline(pipeline, schedules=[ScheduleSpec("cron", "0 0 * * *", "Europe/Berlin")], by=None)
    run = ask(pipeline)
    assert run.data_interval_end - run.data_interval_start in (timedelta(hours=n) for n in (23, 24, 25))
    assert timedelta(0) <= timezone.now() - run.data_interval_end < timedelta(hours=25)


def test_without_an_interval_and_a_schedule_it_is_refused(querying):
    with pytest.raises(services.RunRefused) as refused:
        ask(querying())
    assert refused.value.code == "interval_needed"
    assert not Run.objects.exists()


def test_a_pipeline_without_values_costs_no_query_more(moving, script):
    pipeline = moving()
    with CaptureQueriesContext(connection) as plain:
        run = ask(pipeline)
    assert run.data_interval_start is None
    assert not [query for query in plain if "pipelines_schedule" in query["sql"]]


# Names that follow the run


def test_each_interval_gets_its_table(querying, work, warehouse_cursor):
    table = f"monthly_{uuid.uuid4().hex[:6]}"
    pipeline = querying(target_table=f"{table}_{{data_interval_start:%Y%m}}", write_disposition="replace")
    for month in (3, 4, 3):
        run = ask(pipeline, interval=(datetime(2026, month, 1, tzinfo=UTC), datetime(2026, month + 1, 1, tzinfo=UTC)))
        work()
        run.refresh_from_db()
        assert run.status == RunStatus.SUCCEEDED, run.error_message
        assert run.receipt["target"] == {"schema": "public", "table": f"{table}_20260{month}"}
    warehouse_cursor.execute(f"SELECT relname FROM pg_class WHERE relname LIKE '{table}%' AND relkind = 'r'")
    assert sorted(name for (name,) in warehouse_cursor.fetchall()) == [f"{table}_202603", f"{table}_202604"]
    warehouse_cursor.execute(
        "SELECT count(*), count(DISTINCT pipeline) FROM _datamantri.head WHERE target LIKE %s", [f"%{table}%"]
    )
    assert warehouse_cursor.fetchone() == (2, 1)
    warehouse_cursor.execute(f"DROP TABLE {table}_202603, {table}_202604")


def test_parts_go_into_the_table_of_their_run(querying, work, script, warehouse_cursor):
    table = f"parted_{uuid.uuid4().hex[:6]}"
    pipeline = querying(
        query="SELECT 1 AS id", target_table=f"{table}_{{country}}", write_disposition="replace", load_method="staged"
    )
    script.rows, script.parts = 3000, 3
    run = ask(pipeline, options={"parameters": {"country": "FR"}})
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    warehouse_cursor.execute(f'SELECT count(*) FROM "{table}_FR"')
    assert warehouse_cursor.fetchone() == (3000,)
    warehouse_cursor.execute(f'DROP TABLE "{table}_FR"')


def test_a_target_still_belongs_to_one_pipeline(querying, moving, work):
    table = f"owned_{uuid.uuid4().hex[:6]}"
    pipeline = querying(query="SELECT 1 AS id", target_table=f"{table}_{{country}}", write_disposition="replace")
    ask(pipeline)
    work()
    # The form would refuse it; another installation would not know.
    other = moving(target_table=f"{table}_DE", adopt_target=True)
    run = ask(other)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "target_owned")


def test_a_comparison_reads_with_the_values_of_the_last_run(querying, work, script):
    pipeline = querying(query="SELECT @country AS id", write_disposition="replace")
    ask(pipeline, options={"parameters": {"country": "FR"}})
    work()
    ask(pipeline, action=RunAction.COMPARE, options={"at": "now"})
    work()
    assert [values_of(request)["country"] for request in script.requests] == ["FR", "FR"]


def test_rows_of_many_intervals_are_not_compared_with_those_of_one(querying, work):
    pipeline = querying()
    ask(pipeline, interval=(START, END))
    work()
    run = ask(pipeline, action=RunAction.COMPARE)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "comparison_of_intervals")


# What would lose rows


@pytest.mark.parametrize("by", ["query", "name"])
def test_no_run_reads_without_the_interval_that_is_named(querying, queue, work, script, by):
    if by == "query":
        pipeline = querying()
    else:
        named = {"target_table": "never_{data_interval_start:%Y%m%d}", "write_disposition": "replace"}
        pipeline = querying(query="SELECT 1 AS id", **named)
    run = queue(pipeline)  # as nobody who asks is let
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "interval_needed")
    assert not script.requests


def test_the_watermark_is_not_moved_by_rows_that_a_value_chose(querying):
    new = {"incremental": True, "cursor_column": "id", "source_columns": [{"name": "id", "type": "INT64"}]}
    pipeline = querying(query="SELECT * FROM d.t WHERE country = @country", **new)
    refused = giving.check(pipeline, RunAction.LOAD, {"country": "FR"}, None, None).errors
    assert {name: error.code for name, error in refused.items()} == {"parameters.country": "watermark_values"}
    # What a scheduled run takes, and what the query does not name, choose no rows.
    assert not giving.check(pipeline, RunAction.LOAD, {"country": "DE", "days": 1}, None, None).errors
    run = ask(pipeline, options={"parameters": {"country": "FR"}})
    with pytest.raises(services.RunRefused) as again:
        services.run_again(run, by=None)
    assert again.value.code == "watermark_values"


def test_rows_that_a_value_chose_are_not_brought_where_the_next_run_would_take_them_for_gone(querying):
    pipeline = querying(query="SELECT * FROM d.t WHERE country = @country", deletes="soft")
    refused = giving.check(pipeline, RunAction.LOAD, {"country": "FR"}, None, None).errors
    assert {name: error.code for name, error in refused.items()} == {"parameters.country": "deletes_values"}
    assert not giving.check(pipeline, RunAction.LOAD, {"country": "DE", "days": 1}, None, None).errors


@pytest.mark.usefixtures("one_day")
def test_nor_by_an_interval_that_no_scheduled_run_has(querying, queue):
    new = {"incremental": True, "cursor_column": "id", "source_columns": [{"name": "id", "type": "INT64"}]}
    pipeline = querying(**new)
    definitions.save_pipeline(pipeline, schedules=[ScheduleSpec("cron", "0 0 * * *", "UTC")], by=None)
    refused = giving.check(pipeline, RunAction.LOAD, {}, START, END).errors
    assert {error.code for error in refused.values()} == {"watermark_values"}
    last = ask(pipeline)
    earlier = queue(pipeline, data_interval_start=START, data_interval_end=END)
    Run.objects.filter(pk=earlier.pk).update(trigger=Trigger.UPSTREAM)
    for interval in ((last.data_interval_start, last.data_interval_end), (START, END)):
        assert not giving.check(pipeline, RunAction.LOAD, {}, *interval).errors


@pytest.mark.parametrize("year", [1, 1899, 2200, 9999])
def test_an_interval_far_outside_is_refused_at_its_end(querying, year):
    moment = datetime(year, 12, 31, 23, 59, tzinfo=UTC)
    low, high = (moment, END) if year < 2000 else (START, moment)
    refused = giving.check(querying(), RunAction.LOAD, {}, low, high).errors
    field = "data_interval_start" if year < 2000 else "data_interval_end"
    assert {name: error.code for name, error in refused.items()} == {field: "interval_outside"}


# What would be there twice


OTHER_DAY = (END, END + timedelta(days=1))


def refusal(pipeline, **more) -> str:
    with pytest.raises(services.RunRefused) as refused:
        ask(pipeline, **more)
    assert refused.value.hint
    return refused.value.code


def test_an_append_loads_no_interval_twice(querying, work):
    pipeline = querying()
    first = ask(pipeline, interval=(START, END))
    assert refusal(pipeline, interval=(START, END)) == "interval_loaded"  # it is about to be
    work()
    half = (START + timedelta(hours=12), END + timedelta(hours=12))
    assert refusal(pipeline, interval=half) == "interval_loaded"
    assert refusal(pipeline, interval=half, action=RunAction.KEEP) == "interval_loaded"
    with pytest.raises(services.RunRefused, match=str(first.pk)):
        services.run_again(first, by=None)
    assert Run.objects.count() == 1
    # Other rows, another time, no rows, and who knows better.
    ask(pipeline, interval=(START, END), options={"parameters": {"country": "FR"}})
    ask(pipeline, interval=OTHER_DAY)
    ask(pipeline, interval=(START, END), action=RunAction.COMPARE)
    ask(pipeline, interval=(START, END), force=True)


def test_nor_does_a_run_that_failed_stand_in_the_way_or_come_back_beside_one_that_loaded_it(querying, work, script):
    pipeline = querying()
    script.on_plan = [raising(ConnectorError("no", code="invalid_query")), nothing]
    failed = ask(pipeline, interval=(START, END))
    work()
    ask(pipeline, interval=(START, END))
    work()
    with pytest.raises(services.RunRefused) as refused:
        services.clear_run(failed, by=None)
    assert refused.value.code == "interval_loaded"


@pytest.mark.parametrize("changes", [{"write_disposition": "replace"}, {"query": "SELECT 1 AS id"}])
def test_what_cannot_double_is_run_as_often_as_anybody_likes(querying, changes):
    pipeline = querying(**changes)
    for _ in range(2):
        ask(pipeline, interval=(START, END))
    assert Run.objects.count() == 2


def test_another_table_has_none_of_the_rows(querying, work):
    pipeline = querying(target_table=f"into_{uuid.uuid4().hex[:6]}_{{country}}", parameters=COUNTRY)
    ask(pipeline, interval=(START, END))
    work()
    assert refusal(pipeline, interval=(START, END)) == "interval_loaded"
    pipeline.target_table = f"into_{uuid.uuid4().hex[:6]}_{{country}}"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    ask(pipeline, interval=(START, END))


def test_of_two_that_ask_at_once_one_is_refused(querying, at_once):
    pipeline = querying()
    answers = at_once(lambda _: ask(pipeline, interval=(START, END)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Run", "RunRefused"]
