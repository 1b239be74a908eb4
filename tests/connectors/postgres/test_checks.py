"""Checks before publish: what they find, what they hold, and that they are right about the target to come."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from connectors.checks import Check, CheckKind, CheckResult, Severity, Status
from connectors.column import Column
from tests.connectors.memory import MemorySource, batch
from tests.connectors.postgres.conftest import World

NOW = datetime.now(UTC).replace(microsecond=0)
COLUMNS = (
    *(Column("id", "INT64"), Column("name", "STRING"), Column("amount", "NUMERIC", precision=12, scale=2)),
    *(Column("at", "TIMESTAMP"), Column("day", "DATE")),
)


def rows(*given: tuple[Any, ...]) -> MemorySource:
    """Rows of id, name, amount, at, day; what is left out is NULL."""
    types = [pa.int64(), pa.string(), pa.decimal128(12, 2), pa.timestamp("us", tz="UTC"), pa.date32()]
    filled = [(*row, *[None] * (5 - len(row))) for row in given]
    arrays = [pa.array([row[i] for row in filled], type_) for i, type_ in enumerate(types)]
    return MemorySource([pa.record_batch(arrays, [column.name for column in COLUMNS])] if given else [], COLUMNS)


def warn(kind: CheckKind, *columns: str, name: str = "it", **more: Any) -> Check:
    return Check(kind, name, columns, Severity.WARN, **more)


def judge(
    world: World, checks: Any, source: MemorySource, disposition: str = "replace", **request: Any
) -> list[CheckResult]:
    """Move rows with checks; gives their results."""
    checks = [replace(check, name=f"{number}") for number, check in enumerate(checks)]
    world.move((), disposition, source=source, checks=tuple(checks), **request)
    return list(world.recorder.results)


GOOD, BAD = ["passed", 0], ["failed", 1]
# As long as all tests may take, since NOW.
BETWEEN_10_AND_20_HOURS = pytest.approx(15 * 3600, abs=5 * 3600 - 1)

CASES: list[tuple[Check, list[Any]]] = [
    (warn(CheckKind.NOT_NULL, "ID"), GOOD),
    (warn(CheckKind.NOT_NULL, "amount"), BAD),
    (warn(CheckKind.NOT_NULL, "id", "amount"), BAD),
    (warn(CheckKind.UNIQUE, "id"), GOOD),
    (warn(CheckKind.UNIQUE, "name"), ["failed", 2]),
    (warn(CheckKind.UNIQUE, "amount"), GOOD),
    (warn(CheckKind.UNIQUE, "name", "amount"), GOOD),  # as in an index, NULL is like nothing
    (warn(CheckKind.ACCEPTED, "name", values=("Ada", "it's")), GOOD),
    (warn(CheckKind.ACCEPTED, "name", values=("Ada",)), BAD),
    (warn(CheckKind.ACCEPTED, "amount", values=("5", "7.50")), GOOD),
    (warn(CheckKind.RANGE, "amount", minimum="5", maximum="7.5"), GOOD),
    (warn(CheckKind.RANGE, "amount", minimum="5.01"), BAD),
    (warn(CheckKind.RANGE, "amount", maximum="7"), BAD),
    (warn(CheckKind.RANGE, "day", minimum="2026-01-01", maximum="today"), GOOD),
    (warn(CheckKind.REGEX, "name", pattern="^[A-Z']|it's"), GOOD),
    (warn(CheckKind.REGEX, "name", pattern="^A"), BAD),
    (warn(CheckKind.REGEX, "id", pattern="^[12]$"), BAD),
    (warn(CheckKind.RELATION, "id", table="public.known", table_columns=("no",)), BAD),
    (warn(CheckKind.RELATION, "amount", table="known", table_columns=("no",)), BAD),
    (warn(CheckKind.SQL, query="SELECT * FROM {staged} WHERE id > 3 -- none"), GOOD),
    (
        warn(CheckKind.SQL, query="SELECT s.id FROM {staged} s JOIN known k ON k.no = s.id WHERE name = 'Ada'"),
        ["failed", 2],
    ),
    (warn(CheckKind.FRESHNESS, "at", max_age_s=20 * 3600), ["passed", BETWEEN_10_AND_20_HOURS]),
    (warn(CheckKind.FRESHNESS, "at", max_age_s=60), ["failed", BETWEEN_10_AND_20_HOURS]),
    (warn(CheckKind.ROW_COUNT, minimum="3", maximum="3"), ["passed", 3]),
    (warn(CheckKind.ROW_COUNT, minimum="4"), ["failed", 3]),
    (warn(CheckKind.ROW_COUNT, maximum="2"), ["failed", 3]),
    (warn(CheckKind.RANGE, "amount", minimum="much"), ["unknown", None]),
    (warn(CheckKind.REGEX, "name", pattern="("), ["unknown", None]),
    (warn(CheckKind.RELATION, "id", table="public.nowhere", table_columns=("no",)), ["unknown", None]),
    (warn(CheckKind.NOT_NULL, "gone"), ["unknown", None]),
]


@pytest.mark.parametrize("is_spoilt", [False, True], ids=["in one scan", "each alone, where one of them is no SQL"])
def test_what_checks_find(world: World, connect: Any, is_spoilt: bool) -> None:
    connection = connect()
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE known (no bigint); INSERT INTO known VALUES (1), (2), (5)")
    cases = [case for case in CASES if is_spoilt or case[1][0] != "unknown"]
    first = (1, "Ada", Decimal(5), NOW - timedelta(hours=20), NOW.date())
    source = rows(first, (2, "Ada", Decimal("7.5")), (3, "it's", None, NOW - timedelta(hours=10, seconds=1)))
    results = judge(world, [check for check, _ in cases], source)
    told = [(check.what, str(result.status), result.value) for (check, _), result in zip(cases, results, strict=True)]
    assert told == [(check.what, *found) for check, found in cases]
    for (check, _), result in zip(cases, results, strict=True):
        shows = result.status is Status.FAILED and check.kind not in (CheckKind.FRESHNESS, CheckKind.ROW_COUNT)
        assert len(result.sample.rows if result.sample else ()) == (result.value if shows else 0), result


def test_a_checksum_compares_each_column_with_the_source_and_says_what_that_cost(world: World) -> None:
    class Lying(MemorySource):
        """Says that its rows are others than those it gave."""

        def comparing(self, *args: Any, **options: Any) -> Any:
            return MemorySource([batch([1, 4])]).comparing(*args, **options)

    sums = Check(CheckKind.CHECKSUM, "sums", severity=Severity.WARN)
    names = replace(sums, name="names", columns=("name",))
    world.move(source=MemorySource([batch([1, 2])]), checks=(sums, names))
    assert [result.status for result in world.recorder.results] == [Status.PASSED] * 2
    assert "As in the source: 2 columns. Asking the source for them was billed as 0.0 MB." in (
        world.recorder.results[0].message
    )
    world.move(source=Lying([batch([1, 2])]), checks=(sums, names))
    assert [result.value for result in world.recorder.results] == [2, 1]
    assert world.recorder.results[1].message.startswith("name: not as in the source.")
