"""Merges of the whole source that mark or delete what is gone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Feed, Row, Rows
from tests.chaos.oracle import Seen


class Hard(Feed):
    """All rows every time, some twice: of a key the newest counts; a seventh is gone, another in every round."""

    disposition = "merge"
    options = {"write_disposition": "merge", "merge_key": ["seq"], "cursor_column": "change", "deletes": "hard"}

    def first_rows(self, target: Rows) -> list[Row]:
        there = {row[0]: row for row in target if row[1] >= 0}
        numbers = [number for number in range(1, self.ROWS + 1) if (number + self.round) % 7]
        new = [number for number in numbers if number not in there or (number + self.round) % 3 == 0]
        same = [there[number] for number in numbers if number not in set(new)]
        return [*same, *self._changed([*new, *new[::2]], self.round)]

    def more_rows(self) -> list[Row]:
        there = sorted({row[0] for row in self.held[-1]})
        return self._changed(there[: self.MORE], self.round)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        for held in self.held:
            yield Rows(newest(held).values())


class Soft(Hard):
    """A row that is marked is told with its version below zero."""

    options = {**Hard.options, "deletes": "soft"}
    more_columns = [("_deleted_at", "timestamp with time zone")]
    triple = "seq, CASE WHEN _deleted_at IS NULL THEN version ELSE -1 - version END, change"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._marks: dict[Row, datetime] = {}

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        for held in self.held:
            there = newest(held)
            gone = [row for row in before if row[0] not in there]
            yield Rows([*there.values(), *((seq, min(version, -1 - version), change) for seq, version, change in gone)])

    def faults(self, seen: Seen) -> Iterable[str]:
        if not seen.found:
            return
        seen.cursor.execute(
            f"SELECT seq, version, change, _deleted_at FROM {seen.place.key} WHERE _deleted_at IS NOT NULL"
        )
        marks = {(seq, version, change): at for seq, version, change, at in seen.cursor.fetchall()}
        moved = [row for row, at in marks.items() if self._marks.get(row, at) != at]
        self._marks = marks
        if moved:
            yield f"{len(moved)} marks are others than before"


def newest(rows: Iterable[Row]) -> dict[int, Row]:
    """Of each key the row with the highest change."""
    found: dict[int, Row] = {}
    for row in rows:
        if row[0] not in found or row[2] > found[row[0]][2]:
            found[row[0]] = row
    return found


class DeletesLane(Watched):
    FEEDS = {"deletes_hard": Hard, "deletes_soft": Soft}


LANES = (DeletesLane,)
