"""A past range loaded again: the range is as the source has it, all else stays, and it is done once whatever dies."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from google.cloud.bigquery import SchemaField

from connectors.cursor import CursorRead, Span, span_numbers
from connectors.errors import ConnectorError, Held, TransientError
from connectors.modes import Guard
from connectors.target_options import PartitionUnit, TargetOptions
from tests.bigquery.fixtures import bigquery, bigquery_tables  # noqa: F401
from tests.connectors.postgres.test_incremental import Flights, at, either, flights  # noqa: F401

RANGE = Span("at", "2026-01-01 12:01:00+00:00", "2026-01-01 12:03:00+00:00")
WHOLE = ((1, "a", at(0)), (2, "b", at(1)), (3, "c", at(2)), (4, "d", at(3)), (5, "e", at(10)))
DAYS = TargetOptions(partition_column="at", partition_unit=PartitionUnit.DAY)


def changed(flights: Flights) -> None:  # noqa: F811
    """A target with all of WHOLE, and a source that says of the range, and of the rest, something else by now."""
    flights.make(*WHOLE)
    flights.run("append", settle=0)
    flights.make((1, "new a", at(0)), (2, "new b", at(1)), (6, "late", at(2.5)), (4, "new d", at(3)), (5, "e", at(10)))


MOMENT_LATER = "2026-01-01 00:00:00.000001"
REFERRED = "ALTER TABLE flights ADD UNIQUE (id); CREATE TABLE seats (flight bigint REFERENCES flights (id)"
AFTER = [(1, "a"), (2, "new b"), (4, "d"), (5, "e"), (6, "late")]


@pytest.mark.parametrize("form", [TargetOptions(), DAYS], ids=["plain", "in partitions"])
def test_an_append_puts_the_range_in_the_place_of_what_was_there(either, form):  # noqa: F811
    either.make(*WHOLE)
    either.run("append", settle=0, form=form)
    either.make((1, "new a", at(0)), (2, "new b", at(1)), (6, "late", at(2.5)), (4, "new d", at(3)), (5, "e", at(10)))
    before = either.watermark()
    done = either.run("append", settle=0, span=RANGE, form=form)
    assert either.target() == AFTER
    assert (done.changes.inserted, done.changes.deleted, done.rows, done.source_rows) == (2, 2, 2, 2)
    assert either.watermark() == before == done.watermark_after == done.watermark_before
    assert done.interval["late"] is None


def test_a_merge_brings_the_rows_of_the_range_only(either):  # noqa: F811
    either.make(*WHOLE)
    either.run("merge")
    either.make((1, "new a", at(0)), (2, "new b", at(1)), (6, "late", at(2.5)), (4, "new d", at(3)), (5, "e", at(10)))
    before = either.watermark()
    done = either.run("merge", span=RANGE)
    assert either.target() == [(1, "a"), (2, "new b"), (3, "c"), (4, "d"), (5, "e"), (6, "late")]
    assert (done.rows, either.watermark()) == (2, before)


def test_live_runs_go_on_behind_the_watermark_as_if_nothing_had_been(flights):  # noqa: F811
    changed(flights)
    flights.run("append", settle=0, span=RANGE)
    flights.add((7, "g", at(11)))
    assert flights.run("append", settle=0).rows == 1
    assert flights.target() == sorted([*AFTER, (7, "g")])


def test_the_range_is_loaded_again_as_often_as_one_likes(flights):  # noqa: F811
    changed(flights)
    for _ in range(3):
        flights.run("append", settle=0, span=RANGE)
    assert flights.target() == AFTER


@pytest.mark.parametrize(
    "point", ["load.end", "publish.before_lock", "publish.after_lock", "publish.before_commit", "publish.after_commit"]
)
@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_whatever_dies_at_the_publish_it_is_applied_once(flights, point, disposition):  # noqa: F811
    flights.make(*WHOLE)
    flights.run(disposition, **({"settle": 0} if disposition == "append" else {}))
    flights.make((2, "new b", at(1)), (6, "late", at(2.5)))
    run = uuid.uuid4()

    class Killed(BaseException):
        """Not an error that anybody catches."""

    def kill(reached: str) -> None:
        if reached == point:
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            flights.run(disposition, span=RANGE, crash=kill, id=run)
        if point == "publish.after_commit":
            break  # a further attempt finds it done
    again = flights.run(disposition, span=RANGE, id=run)
    assert again.rows == 2
    left = [(1, "a"), (2, "new b"), *([(3, "c")] if disposition == "merge" else []), (4, "d"), (5, "e"), (6, "late")]
    assert flights.target() == left
    flights.admin.execute("SELECT count(*) FROM _datamantri.applied WHERE run = %s", (str(run),))
    assert flights.admin.fetchone() == (1,)
    # What the range says by now does not matter to a run that was applied.
    flights.make((2, "newest", at(1)))
    assert flights.run(disposition, span=RANGE, id=run).rows == 2
    assert flights.target() == left


def test_a_former_owner_that_wakes_up_late_changes_nothing(flights):  # noqa: F811
    changed(flights)

    def overtaken(reached: str) -> None:
        if reached == "publish.before_lock":
            flights.run("append", settle=0, span=Span("at", RANGE.low, "2026-01-01 12:02:00+00:00"))

    with pytest.raises((ConnectorError, TransientError)):
        flights.run("append", settle=0, span=RANGE, crash=overtaken)
    assert flights.target() == [(1, "a"), (2, "new b"), (3, "c"), (4, "d"), (5, "e")]


def test_a_range_that_the_source_no_longer_has_is_held_and_may_be_published(flights):  # noqa: F811
    flights.make(*WHOLE)
    flights.run("append", settle=0)
    flights.make((5, "e", at(10)))
    run = uuid.uuid4()
    with pytest.raises(Held) as held:
        flights.run("append", settle=0, span=RANGE, id=run)
    assert held.value.code == "guard_zero_rows"
    assert RANGE.low in held.value.message
    assert len(flights.target()) == 5
    done = flights.world.publish_held(run)
    assert (done.changes.deleted, done.changes.inserted) == (2, 0)
    assert flights.target() == [(1, "a"), (4, "d"), (5, "e")]


def test_a_guard_looks_at_the_range_alone(flights):  # noqa: F811
    flights.make(*[(n, "x", at(1 + n / 100)) for n in range(10)], *[(n, "y", at(5)) for n in range(100, 200)])
    flights.run("append", settle=0)
    flights.make((1, "x", at(1)))
    with pytest.raises(Held) as held:
        flights.run("append", settle=0, span=RANGE, guard=Guard(shrink_percent=50))
    assert held.value.code == "guard_shrink"
    assert "9 of 10" in held.value.message


@pytest.mark.parametrize(
    ("high", "code"),
    [
        ("2026-01-01 12:10:00.000002+00:00", "backfill_beyond_watermark"),
        ("2026-01-01 12:01:00+00:00", "backfill_range"),
    ],
)
def test_a_range_that_is_not_past_is_refused(flights, high, code):  # noqa: F811
    changed(flights)
    with pytest.raises(ConnectorError) as refused:
        flights.run("append", settle=0, span=Span("at", RANGE.low, high))
    assert refused.value.code == code


def test_the_last_value_at_the_watermark_is_past(flights):  # noqa: F811
    changed(flights)
    done = flights.run("append", settle=0, span=Span("AT", RANGE.low, "2026-01-01 12:10:00.000001+00:00"))
    assert done.rows == 4


def test_before_the_first_run_there_is_nothing_to_fill_in(flights):  # noqa: F811
    flights.make(*WHOLE)
    with pytest.raises(ConnectorError) as refused:
        flights.run("append", settle=0, span=RANGE)
    assert refused.value.code == "backfill_no_watermark"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("DROP TABLE flights", "backfill_no_target"),
        (f"{REFERRED} ON DELETE CASCADE)",
         "replace_would_break"),
        (f"{REFERRED}); GRANT ALL ON seats TO loader; INSERT INTO seats VALUES (3)",
         "rows_referenced"),
    ],
)  # fmt: skip
def test_rows_of_others_are_not_touched(flights, statement, code):  # noqa: F811
    changed(flights)
    flights.admin.execute(statement)
    with pytest.raises(ConnectorError) as refused:
        flights.run("append", settle=0, span=RANGE)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("kind", "low", "high", "numbers"),
    [
        ("DATE", "2026-01-01", "2026-02-01", (20454, 20484)),
        ("INT64", "10", "20", (10, 19)),
    ],
)
def test_a_span_is_its_first_and_its_last_value(kind, low, high, numbers):
    assert span_numbers(CursorRead("c", watermark=high, span=Span("c", low, high)), kind) == numbers


@pytest.mark.parametrize(
    ("field", "value", "span"),
    [
        (SchemaField("at", "DATE"), dt.date(2026, 1, 1), Span("at", "2026-01-01", "2026-01-02")),
        (SchemaField("at", "INT64"), 5, Span("at", "5", "6")),
        (SchemaField("at", "DATETIME"), dt.datetime(2026, 1, 1), Span("at", "2026-01-01 00:00:00", MOMENT_LATER)),
    ],
)  # fmt: skip
def test_cursors_of_each_type(flights, field: SchemaField, value: Any, span: Span):  # noqa: F811
    import pyarrow as pa

    kinds = {"DATE": pa.date32(), "INT64": pa.int64(), "DATETIME": pa.timestamp("us")}
    schema, kind = (SchemaField("id", "INT64"), SchemaField("name", "STRING"), field), kinds[field.field_type]
    flights.make((1, "a", value), schema=schema, kind=kind)
    flights.run("append", settle=0)
    flights.make((1, "again", value), schema=schema, kind=kind)
    flights.run("append", settle=0, span=span)
    assert flights.target() == [(1, "again")]
