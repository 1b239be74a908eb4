"""The oracles of features see what is wrong beside the rows: each thing that must not be is told."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runs.models import Decision
from runs.states import RunStatus
from tests.chaos.features import approvals, backfills, deletes, histories, masks, quarantines, sql, undo
from tests.chaos.feeds import Feed, Rows
from tests.chaos.oracle import Place, Seen

PLACE = Place("chaos_oracle", "rows")
RUN = uuid.UUID(int=7)


@pytest.fixture
def cursor(warehouse_cursor: Any) -> Iterator[Any]:
    """In a transaction that leaves nothing behind."""
    warehouse_cursor.execute("BEGIN; SET LOCAL lock_timeout = '30s'; DROP SCHEMA IF EXISTS _datamantri CASCADE")
    warehouse_cursor.execute(f"CREATE SCHEMA _datamantri; CREATE SCHEMA {PLACE.schema}")
    yield warehouse_cursor
    warehouse_cursor.execute("ROLLBACK")


def told(feed: Feed, cursor: Any, *, found: Rows | None = None, is_applied: bool = True, **run: Any) -> list[str]:
    run = {"error_code": "", "error_message": "", **run}
    about = SimpleNamespace(
        **{"pk": RUN, "status": RunStatus.SUCCEEDED, "decision": "", "cancel_requested": False, **run}
    )
    return list(feed.faults(Seen(cursor, PLACE, about, Rows(), found or Rows([(1, 0, 1)]), is_applied)))


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ([("1 s", "2 s", False, 1), ("2 s", None, True, 2)], ""),
        ([("1 s", "3 s", False, 1), ("2 s", None, True, 2)], "do not follow one another"),
        ([("1 s", None, True, 1), ("2 s", None, True, 2)], "do not follow one another"),
        ([("1 s", "2 s", False, 2), ("2 s", None, True, 1)], "do not follow one another"),
        ([("1 s", "2 s", False, 1), ("2 s", None, False, 2)], "do not follow one another"),
        ([("1 s", "2 s", False, 1), ("3 s", None, True, 2)], "do not hold from their time"),
    ],
)
def test_versions_that_overlap_or_are_out_of_order_are_told(cursor: Any, versions: Any, said: str) -> None:
    cursor.execute(
        f"CREATE TABLE {PLACE.key} (seq bigint, change bigint, at timestamptz, _valid_from timestamptz,"
        " _valid_to timestamptz, _is_current boolean)"
    )
    began = f"timestamptz '{histories.BEGAN}'"
    for start, end, is_current, change in versions:
        cursor.execute(
            f"INSERT INTO {PLACE.key} VALUES (1, %s, {began} + %s * interval '1 s', {began} + %s::interval,"
            f" {began} + %s::interval, %s)",
            (change, change, start, end, is_current),
        )
    words = " ".join(told(histories.History("h", None), cursor))  # type: ignore[arg-type]
    assert said in words
    assert bool(words) == bool(said)


@pytest.mark.parametrize(
    ("book", "counter", "is_right"),
    [
        ([("before", 0), ("after", 1)], 1, True),
        ([("before", 0), ("after", 1), ("after", 1)], 1, False),
        ([("after", 1)], 1, False),
        ([("before", 0), ("after", 2)], 1, False),
        ([("before", 0), ("after", 1)], 2, False),
    ],
)
def test_a_statement_that_ran_twice_or_never_is_told(cursor: Any, book: Any, counter: int, is_right: bool) -> None:
    feed = sql.BookedReplace("s", None)  # type: ignore[arg-type]
    cursor.execute("CREATE TABLE _datamantri.applied (run uuid, target text)")
    cursor.execute(f'CREATE SCHEMA "{PLACE.beside}"')
    cursor.execute(f'CREATE TABLE "{PLACE.beside}".book (run text, at text, rows bigint)')
    cursor.execute(f'CREATE TABLE "{PLACE.beside}".counter AS SELECT {counter}::bigint AS n')
    cursor.execute("INSERT INTO _datamantri.applied VALUES (%s, %s)", (str(RUN), PLACE.key))
    for at, rows in book:
        cursor.execute(f'INSERT INTO "{PLACE.beside}".book VALUES (%s, %s, %s)', (str(RUN), at, rows))
    assert (told(feed, cursor) == []) == is_right


@pytest.mark.parametrize(
    ("kept", "tables", "said"), [(1, 1, ""), (1, 0, "no table"), (0, 1, "nobody knows"), (3, 3, "3 former")]
)
def test_what_is_kept_without_a_record_or_recorded_without_a_table_is_told(
    cursor: Any, kept: int, tables: int, said: str
) -> None:
    cursor.execute("CREATE TABLE _datamantri.kept (run uuid, target text, oid oid, schema_name text, table_name text)")
    for number in range(tables):
        cursor.execute(f'CREATE TABLE "{PLACE.schema}"."{undo.KEPT}{number}" ()')
    for number in range(kept):
        cursor.execute(
            "INSERT INTO _datamantri.kept SELECT %s, %s, coalesce(to_regclass(%s), 1), %s, %s",
            (str(RUN), PLACE.key, f'"{PLACE.schema}"."{undo.KEPT}{number}"', PLACE.schema, f"{undo.KEPT}{number}"),
        )
    words = " ".join(told(undo.Kept("k", None), cursor))  # type: ignore[arg-type]
    assert said in words
    assert bool(words) == bool(said)


@pytest.mark.parametrize(
    ("status", "decision", "is_right"),
    [
        (RunStatus.SUCCEEDED, Decision.PUBLISH, True),
        (RunStatus.CANCELLED, Decision.DISCARD, True),
        (RunStatus.SUCCEEDED, Decision.DISCARD, False),
        (RunStatus.CANCELLED, Decision.PUBLISH, False),
    ],
)
def test_a_run_that_ends_otherwise_than_it_was_decided_is_told(status: str, decision: str, is_right: bool) -> None:
    feed = approvals.CheckedReplace("c", None)  # type: ignore[arg-type]
    assert (told(feed, None, status=status, decision=decision) == []) == is_right


def test_a_mark_that_moves_is_told(cursor: Any) -> None:
    cursor.execute(f"CREATE TABLE {PLACE.key} AS SELECT 1 AS seq, 0 AS version, 1 AS change, now() AS _deleted_at")
    feed = deletes.Soft("d", None)  # type: ignore[arg-type]
    assert told(feed, cursor) == told(feed, cursor) == []
    cursor.execute(f"UPDATE {PLACE.key} SET _deleted_at = _deleted_at + interval '1 s'")
    assert told(feed, cursor) == ["1 marks are others than before"]


def test_rows_that_stay_staged_in_the_quarantine_are_told(cursor: Any) -> None:
    table = "CREATE TABLE _datamantri.quarantine AS SELECT 1 AS id, %s AS target, 'open' AS state, '' AS raw"
    cursor.execute(table, (PLACE.key,))
    feed = quarantines.DivertingAppend("q", None)  # type: ignore[arg-type]
    assert told(feed, cursor) == []
    cursor.execute("UPDATE _datamantri.quarantine SET state = 'staged'")
    assert "1 rows are staged" in told(feed, cursor)[0]


def test_another_mask_and_a_clear_value_are_told(cursor: Any, tmp_path: Path) -> None:
    feed = masks.MaskedReplace("m", None)  # type: ignore[arg-type]
    right = masks._mask(masks._secret((1, 0, 205)))
    cursor.execute(
        f"CREATE TABLE {PLACE.key} AS SELECT 1 AS seq, 0 AS version, 205 AS change, %s AS secret, '****05' AS card,"
        " '***' AS note",
        (right,),
    )
    assert told(feed, cursor) == []
    cursor.execute(f"UPDATE {PLACE.key} SET secret = md5(secret)")
    assert told(feed, cursor) == ["1 rows have other masks than theirs"]
    path = tmp_path / "segment"
    path.write_bytes(b"x" * 5000 + masks._secret((1, 0, 1)).encode())
    assert masks._tells(path)
    path.write_bytes(b"x" * 5000)
    assert not masks._tells(path)


def test_a_range_that_is_half_filled_in_is_seen() -> None:
    before = Rows((seq, 0, seq) for seq in range(1, 31))
    now = Rows((seq, 1, seq) for seq in range(1, 31))
    feed = backfills.PastAppend("b", None)  # type: ignore[arg-type]
    feed.held = [now + Rows([(31, 0, 31)])]
    lane = SimpleNamespace(feed=feed, _ranges=backfills.BackfillLane._ranges)
    seen = lambda found: backfills.BackfillLane.may_be_seen(lane, Rows(found), before)  # type: ignore[arg-type]  # noqa: E731
    low, high = backfills.BackfillLane._ranges(before)[0]
    first = {row for row in now if low <= row[2] < high}
    rest = {row for row in before if row[2] >= high}
    assert seen(before)
    assert seen(first | rest)
    assert seen(first | rest | {(31, 0, 31)})
    assert not seen(set(list(first)[1:]) | rest)
    assert not seen(first | rest | {(32, 0, 32)})
