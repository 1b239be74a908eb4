"""Histories: every version is there once, in its order; none overlaps another, and one at most is current."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from google.cloud.bigquery import SchemaField

from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Feed, Merge, Row, Rows
from tests.chaos.oracle import Seen

BEGAN = datetime(2020, 1, 1, tzinfo=UTC)
_AT = "timestamptz '2020-01-01 00:00:00+00' + change * interval '1 second'"
# What each version must be, given those of its key: ends where the next begins, the last one is current.
_ORDER = """
SELECT count(*) FROM (
    SELECT *, lead(_valid_from) OVER by_time AS follows, lead(change) OVER by_time AS newer
    FROM {table} WINDOW by_time AS (PARTITION BY seq ORDER BY _valid_from, _valid_to, change)) v
WHERE newer < change OR _valid_to < _valid_from OR _valid_to > follows OR (follows IS NOT NULL AND _valid_to IS NULL)
   OR _is_current IS DISTINCT FROM (_valid_to IS NULL)
"""


def past(row: Row) -> Row:
    """A version that holds no more, as `triple` tells it."""
    return row[0], -1 - abs(row[1]), row[2]


def as_it_was(row: Row) -> Row:
    return row if row[1] >= 0 else (row[0], -1 - row[1], row[2])


class _Versions(Feed):
    disposition = "history"
    more_fields = [SchemaField("at", "TIMESTAMP")]
    more_columns = [
        ("at", "timestamp with time zone"),
        ("_valid_from", "timestamp with time zone"),
        ("_valid_to", "timestamp with time zone"),
        ("_is_current", "boolean"),
    ]
    triple = "seq, CASE WHEN _is_current THEN version ELSE -1 - version END, change"

    def more_of(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        times = [BEGAN + timedelta(seconds=change) for _, _, change in rows]
        return {"at": pa.array(times, pa.timestamp("us", "UTC"))}

    def strange(self) -> str:
        return f" OR at <> {_AT}"

    def faults(self, seen: Seen) -> Iterable[str]:
        if not seen.found:
            return
        seen.cursor.execute(_ORDER.format(table=seen.place.key))
        wrong = seen.cursor.fetchone()[0]
        if wrong:
            yield f"{wrong} versions do not follow one another"


class History(_Versions, Merge):
    """Only new rows: all versions of a key come, some of them in one batch."""

    options = {"write_disposition": "history", "merge_key": ["seq"], "incremental": True, "cursor_column": "at"}

    def first_rows(self, target: Rows) -> list[Row]:
        return super().first_rows(Rows(map(as_it_was, target)))

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        known = {as_it_was(row) for row in before}
        for held in self.held:
            yield _told(known | set(held))

    def faults(self, seen: Seen) -> Iterable[str]:
        yield from super().faults(seen)
        if not seen.found:
            return
        seen.cursor.execute(
            f"""
            SELECT count(*) FROM (
                SELECT *, lead(at) OVER (PARTITION BY seq ORDER BY change) AS follows FROM {seen.place.key}) v
            WHERE _valid_from IS DISTINCT FROM at OR _valid_to IS DISTINCT FROM follows
            """
        )
        wrong = seen.cursor.fetchone()[0]
        if wrong:
            yield f"{wrong} versions do not hold from their time to that of the next"


def _told(versions: Iterable[Row], there: set[int] | None = None) -> Rows:
    """All versions, of which the newest of each key is current, if the key is `there`."""
    newest: dict[int, int] = {}
    for seq, _, change in versions:
        newest[seq] = max(change, newest.get(seq, 0))
    told = Rows()
    for row in versions:
        is_current = newest[row[0]] == row[2] and (there is None or row[0] in there)
        told[row if is_current else past(row)] += 1
    return told


class Snapshots(_Versions):
    """All rows every time: rows change, vanish and come back."""

    options = {"write_disposition": "history", "merge_key": ["seq"], "cursor_column": "at"}
    ROWS = 900

    def first_rows(self, target: Rows) -> list[Row]:
        there = {row[0]: row for row in target if row[1] >= 0}
        numbers = [number for number in range(1, self.ROWS + 1) if (number + self.round) % 7]
        # Whoever was gone comes back as another version.
        new = [number for number in numbers if number not in there or (number + self.round) % 3 == 0]
        same = [there[number] for number in numbers if number not in set(new)]
        return [*same, *self._changed(new, self.round)]

    def more_rows(self) -> list[Row]:
        there = sorted({row[0] for row in self.held[-1]})
        return self._changed(there[:: max(1, len(there) // 100)], self.round)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        known = {as_it_was(row) for row in before}
        for held in self.held:
            yield _told(known | set(held), {row[0] for row in held})


class HistoryLane(Watched):
    FEEDS = {"history": History, "history_all": Snapshots}


LANES = (HistoryLane,)
