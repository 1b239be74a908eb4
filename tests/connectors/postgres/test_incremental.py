"""Only new rows: what is read of a cursor, what the target then has, and how far the watermark goes."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.cursor import CursorRead
from connectors.errors import ConnectorError
from connectors.modes import Guard, Refresh
from connectors.target_options import Index, PartitionUnit, TargetOptions
from tests.bigquery.fixtures import bigquery, bigquery_tables  # noqa: F401
from tests.connectors.postgres.conftest import World

UTC = dt.UTC
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=UTC)
STAMP = pa.timestamp("us", "UTC")
SCHEMA = (SchemaField("id", "INT64"), SchemaField("name", "STRING"), SchemaField("at", "TIMESTAMP"))


def at(minutes: float) -> dt.datetime:
    return NOON + dt.timedelta(minutes=minutes)


def rows(*values: tuple[int, str, Any], kind: pa.DataType = STAMP) -> pa.Table:
    ids, names, moments = zip(*values, strict=True)
    return pa.table({"id": pa.array(ids, pa.int64()), "name": list(names), "at": pa.array(moments, kind)})


class Flights:
    """A source table and the pipeline that follows it."""

    def __init__(self, world: World, proxy: Any, tables: Any, admin: Any) -> None:
        self.world, self.proxy, self.tables, self.admin = world, proxy, tables, admin
        self.query = ""
        # The emulator is everybody's.
        self.table = f"air_{uuid.uuid4().hex[:10]}.flights"

    def make(self, *values: tuple[int, str, Any], schema: Any = SCHEMA, **kind: Any) -> None:
        self.tables.make(self.table, schema, rows(*values, **kind))

    def add(self, *values: tuple[int, str, Any], **kind: Any) -> None:
        self.tables.append(self.table, rows(*values, **kind))

    def run(
        self,
        disposition: str = "merge",
        *,
        refresh: Refresh = Refresh.NEW,
        fingerprint: str = "f",
        form: TargetOptions = TargetOptions(),  # noqa: B008 - it is frozen
        crash: Any = lambda point: None,
        id: uuid.UUID | None = None,
        guard: Guard = Guard(),  # noqa: B008 - it is frozen
        **rule: Any,
    ) -> Any:
        source = BigQuerySource(BigQueryOptions("demo-project"), endpoints=self.proxy.endpoints)
        settles = disposition == "append"
        try:
            return self.world.move(
                source=source,
                disposition=disposition,
                cursor="at" if disposition == "merge" else "",
                read=CursorRead("at", settles=settles, **rule),
                table="" if self.query else self.table,
                query=self.query,
                refresh=refresh,
                fingerprint=fingerprint,
                guard=guard,
                crash=crash,
                run=id,
                form=form,
                key=("id", "at") if form.partition_column and disposition == "merge" else (),
            )
        finally:
            source.close()

    def target(self) -> list[tuple[int, str]]:
        self.admin.execute("SELECT id, name FROM flights ORDER BY id, name")
        return self.admin.fetchall()

    def watermark(self) -> str | None:
        self.admin.execute("SELECT watermark FROM _datamantri.head")
        return self.admin.fetchone()[0]


@pytest.fixture
def flights(world: World, bigquery: Any, bigquery_tables: Any, admin: Any) -> Flights:  # noqa: F811
    return Flights(world, bigquery, bigquery_tables, admin)


@pytest.fixture(params=["table", "query"])
def either(request: pytest.FixtureRequest, flights: Flights) -> Flights:
    """The same rows, read from the table or by a query."""
    if request.param == "query":
        flights.query = f"SELECT * FROM `demo-project.{flights.table}` -- a comment at its end"
    return flights


def test_the_first_run_reads_all_and_the_next_only_what_is_new(either: Flights) -> None:
    either.make((1, "a", at(0)), (2, "b", at(1)))
    first = either.run()
    assert (first.rows, first.watermark_before, first.watermark_after) == (2, "", "2026-01-01 12:01:00+00:00")
    either.add((3, "c", at(2)), (1, "A", at(3)))
    second = either.run()
    assert second.rows == second.source_rows == 2
    assert (second.changes.inserted, second.changes.updated) == (1, 1)
    assert second.watermark_before == first.watermark_after
    assert either.watermark() == second.watermark_after == "2026-01-01 12:03:00+00:00"
    assert either.target() == [(1, "A"), (2, "b"), (3, "c")]


def test_nothing_new_moves_nothing_and_keeps_the_watermark(either: Flights) -> None:
    either.make((1, "a", at(0)))
    before = either.run().watermark_after
    again = either.run()
    assert (again.rows, again.watermark_after) == (0, before)
    assert either.target() == [(1, "a")]


def test_a_row_at_the_watermark_itself_is_not_read_again(flights: Flights) -> None:
    flights.make((1, "a", at(0)))
    flights.run()
    flights.add((2, "b", at(0)))
    receipt = flights.run()
    assert receipt.rows == 0
    assert receipt.interval["late"] == 1
    assert "1 more" in flights.world.recorder.text()


def test_late_rows_within_the_lookback_are_merged(either: Flights) -> None:
    either.make((1, "a", at(0)), (2, "b", at(10)))
    either.run(lookback=300)
    either.add((3, "late", at(6)), (4, "too late", at(2)))
    receipt = either.run(lookback=300)
    assert either.target() == [(1, "a"), (2, "b"), (3, "late")]
    assert receipt.interval["late"] == 2
    assert receipt.changes.unchanged == 1
    assert receipt.watermark_after == receipt.watermark_before


def test_rows_that_were_deleted_below_the_watermark_are_counted_too(flights: Flights) -> None:
    flights.make((1, "a", at(0)), (2, "b", at(1)), (3, "c", at(2)))
    flights.run()
    flights.tables.run(f"DELETE FROM `demo-project.{flights.table}` WHERE id IN (1, 3)")
    receipt = flights.run()
    assert receipt.interval["late"] == -2
    assert receipt.watermark_after == receipt.watermark_before  # never back
    flights.add((4, "d", at(1.5)))
    assert flights.run().interval["late"] == 1


def test_an_initial_value_is_where_the_first_run_begins(either: Flights) -> None:
    either.make((1, "a", at(0)), (2, "b", at(1)), (3, "c", at(2)))
    receipt = either.run(initial="2026-01-01 12:01")
    assert either.target() == [(2, "b"), (3, "c")]
    assert receipt.rows == 2
    # Once there is a watermark, it counts.
    either.add((4, "d", at(3)))
    assert either.run(initial="2026-01-01 12:01").rows == 1


def test_append_leaves_the_newest_rows_until_they_have_settled(either: Flights) -> None:
    either.make((1, "a", at(0)), (2, "b", at(5)), (3, "c", at(5.5)))
    first = either.run("append")
    assert either.target() == [(1, "a")]
    assert first.interval["left"] == 2
    assert first.watermark_after == "2026-01-01 12:04:30+00:00"
    either.add((4, "same minute", at(5.5)), (5, "e", at(20)))
    assert either.run("append").rows == 3
    assert either.target() == [(1, "a"), (2, "b"), (3, "c"), (4, "same minute")]
    assert either.run("append").rows == 0


def test_append_without_settling_reads_up_to_the_highest(flights: Flights) -> None:
    flights.make((1, "a", at(0)), (2, "b", at(5)))
    assert flights.run("append", settle=0).rows == 2


def test_a_date_leaves_today_for_tomorrow(flights: Flights) -> None:
    today = dt.datetime.now(UTC).date()
    schema = (*SCHEMA[:2], SchemaField("at", "DATE"))
    days = [today - dt.timedelta(days=n) for n in (2, 1, 0, -1)]
    flights.make(*((i, "x", day) for i, day in enumerate(days)), schema=schema, kind=pa.date32())
    receipt = flights.run("append")
    # Today may have begun since.
    past = [day for day in days if day < receipt.snapshot_time.astimezone(UTC).date()]
    assert 2 <= len(past) <= 3
    assert [id for id, _ in flights.target()] == list(range(len(past)))
    assert receipt.watermark_after == past[-1].isoformat()


@pytest.mark.parametrize(
    ("type_", "kind", "values", "watermark"),
    [
        ("INT64", pa.int64(), (5, 7, 9), "9"),
        ("DATE", pa.date32(), (dt.date(2026, 1, 1), dt.date(2026, 1, 3), dt.date(2026, 2, 1)), "2026-02-01"),
        (
            "DATETIME",
            pa.timestamp("us"),
            (dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, 1), dt.datetime(2026, 1, 1, 2, 3, 4, 5)),
            "2026-01-01 02:03:04.000005",
        ),
    ],
)
def test_every_type_of_cursor_follows_its_table(
    flights: Flights, type_: str, kind: pa.DataType, values: Any, watermark: str
) -> None:
    schema = (*SCHEMA[:2], SchemaField("at", type_))
    flights.make((1, "a", values[0]), schema=schema, kind=kind)
    flights.run()
    flights.add((2, "b", values[1]), (3, "c", values[2]), kind=kind)
    receipt = flights.run()
    assert (receipt.rows, receipt.watermark_after) == (2, watermark)
    assert flights.target() == [(1, "a"), (2, "b"), (3, "c")]


def test_rows_without_a_cursor_come_with_the_first_load_and_are_told_of_later(flights: Flights) -> None:
    flights.make((1, "a", at(0)), (2, "none", None))
    flights.run()
    assert flights.target() == [(1, "a"), (2, "none")]
    flights.add((3, "none either", None), (4, "d", at(1)))
    flights.run()
    assert [id for id, _ in flights.target()] == [1, 2, 4]
    assert "2 rows have no at" in flights.world.recorder.text()


def test_append_refuses_rows_without_a_cursor_with_their_count(flights: Flights) -> None:
    flights.make((1, "a", at(0)), (2, "none", None), (3, "none", None))
    with pytest.raises(ConnectorError, match="2 rows have no at") as refused:
        flights.run("append")
    assert refused.value.code == "null_cursor"


def test_an_empty_table_is_no_error_and_sets_no_watermark(either: Flights) -> None:
    either.tables.make(either.table, SCHEMA)
    assert either.run().watermark_after == ""
    either.add((1, "a", at(0)))
    assert either.run().rows == 1


def test_another_definition_stops_before_a_row_is_read(flights: Flights) -> None:
    flights.make((1, "a", at(0)))
    flights.run()
    with pytest.raises(ConnectorError) as stopped:
        flights.run(fingerprint="another")
    assert stopped.value.code == "definition_changed"
    assert flights.run(fingerprint="another", refresh=Refresh.KEEP).rows == 0
    assert flights.run(fingerprint="another").rows == 0


def test_a_full_refresh_writes_all_rows_anew_and_takes_what_is_gone_away(either: Flights) -> None:
    either.make((1, "a", at(0)), (2, "b", at(1)), (3, "c", at(2)))
    either.run()
    either.tables.run(f"DELETE FROM `demo-project.{either.table}` WHERE id = 3")
    receipt = either.run(refresh=Refresh.FULL, fingerprint="another")
    assert either.target() == [(1, "a"), (2, "b")]
    assert receipt.watermark_after == "2026-01-01 12:01:00+00:00"
    either.add((4, "d", at(5)))
    assert either.run(fingerprint="another").rows == 1


def test_what_is_new_is_read_as_of_one_snapshot(flights: Flights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come between the bounds and the read are for the next run, not half in this one."""
    flights.make((1, "a", at(0)))
    flights.run()
    flights.add((2, "b", at(2)))
    original = BigQuerySource.read

    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        flights.add((3, "between", at(1)))
        monkeypatch.setattr(BigQuerySource, "read", original)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(BigQuerySource, "read", read)
    receipt = flights.run()
    assert receipt.rows == receipt.source_rows == 1
    assert flights.target() == [(1, "a"), (2, "b")]


def test_through_rest_new_rows_are_read_by_a_query(flights: Flights) -> None:
    flights.make((1, "a", at(0)))
    flights.run()
    flights.add((2, "b", at(2)))
    from dataclasses import replace

    from connectors.bigquery.client import Endpoints

    class OnlyRest:
        endpoints = replace(flights.proxy.endpoints, storage="")

    assert isinstance(OnlyRest.endpoints, Endpoints)
    flights.proxy = OnlyRest
    receipt = flights.run()
    assert receipt.rows == 1
    assert "with a query" in flights.world.recorder.text()
    assert flights.target() == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("column", ["name", "nothing"])
def test_a_column_that_orders_nothing_is_refused(flights: Flights, column: str) -> None:
    flights.make((1, "a", at(0)))
    with pytest.raises(ConnectorError) as refused:
        flights.world.move(
            source=BigQuerySource(BigQueryOptions("demo-project"), endpoints=flights.proxy.endpoints),
            table=flights.table,
            read=CursorRead(column),
            disposition="merge",
        )
    assert refused.value.code in ("cursor_type", "cursor_column_missing")


DAILY = TargetOptions(("id", "at"), (Index(("name",)),), "at", PartitionUnit.DAY)


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_new_rows_go_into_partitions_made_for_them_and_a_full_refresh_makes_the_table_anew(
    flights: Flights, disposition: str
) -> None:
    flights.make((1, "a", at(0)), (2, "b", at(1440)))
    flights.run(disposition, form=DAILY)
    flights.add((3, "c", at(2880)), (4, "d", at(4320)))
    assert flights.run(disposition, form=DAILY).method == disposition
    assert flights.run(disposition, form=DAILY, refresh=Refresh.FULL).method == "rename"
    assert [number for number, _ in flights.target()][:3] == [1, 2, 3]
    flights.admin.execute("SELECT DISTINCT tableoid::regclass::text FROM flights ORDER BY 1")
    parts = [name for (name,) in flights.admin.fetchall()]
    assert parts[:3] == ["flights_p20260101", "flights_p20260102", "flights_p20260103"]
    flights.admin.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'flights' ORDER BY 1")
    assert [name for (name,) in flights.admin.fetchall()] == ["flights_name_idx", "flights_pkey"]
