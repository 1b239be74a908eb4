"""Bad rows that are put aside, and replayed later: each row is in the target or open in the quarantine, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa
from google.cloud.bigquery import SchemaField

from connectors.checks import Check, CheckKind, Severity
from connectors.modes import TextPolicy
from runs.models import Run, RunAction
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import FILLER, Append, Feed, Merge, Row, Rows
from tests.chaos.lanes import Outcome
from tests.chaos.oracle import Seen
from tests.chaos.stack import insist

_ASIDE = "SELECT id::text, state, raw FROM _datamantri.quarantine WHERE target = %s"
NUL, LOW, JSON = 7, 13, 19  # which of fifty rows is bad, and how


def is_bad(row: Row) -> bool:
    return row[2] % 50 in (NUL, LOW, JSON)


def aside(row: Row) -> Row:
    """A row of the quarantine that is open, as the feed tells it."""
    return row[0], -1 - row[1], row[2]


class Diverting(Feed):
    """Goes before a feed: a fifteenth of its rows cannot be stored, or fails a check of single rows."""

    is_mended = False
    more_fields = [SchemaField("amount", "INT64"), SchemaField("doc", "JSON")]
    more_columns = [("amount", "bigint"), ("doc", "jsonb")]

    def filler_of(self, row: Row) -> str:
        return f"{FILLER}\0" if row[2] % 50 == NUL else FILLER

    def more_of(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        return {
            "amount": pa.array([-1 if row[2] % 50 == LOW else row[2] for row in rows], pa.int64()),
            "doc": pa.array(['{"a": "\\u0000"}' if row[2] % 50 == JSON else '{"a": 1}' for row in rows]),
        }

    def checks(self) -> list[Check]:
        severity = Severity.WARN if self.is_mended else Severity.QUARANTINE
        return [Check(CheckKind.RANGE, "amounts", ("amount",), severity, minimum="0")]

    # Both become visible together.
    besides = (
        " UNION ALL SELECT NULL, NULL, NULL, 1, 0, raw FROM _datamantri.quarantine"
        " WHERE target = {target} AND state = 'open'"
    )

    def row_of(self, besides: str) -> Row:
        told = json.loads(besides)
        return aside((int(told["seq"]), int(told["version"]), int(told["change"])))

    def faults(self, seen: Seen) -> Iterable[str]:
        seen.cursor.execute(_ASIDE, (seen.place.key,))
        left = [id_ for id_, state, _ in seen.cursor.fetchall() if state == "staged"]
        if left:
            yield f"{len(left)} rows are staged in the quarantine although the run has ended"

    def rows_read(self, before: Rows, found: Rows) -> int | None:
        return None  # what is put aside is among the rows here, and not among those of the receipt

    def diverted(self, rows: Iterable[Row]) -> Rows:
        return Rows(aside(row) if is_bad(row) and not self.is_mended else row for row in rows)


class DivertingAppend(Diverting, Append):
    options = {**Append.options, "quarantine": True, "quarantine_rows": None}

    def first_rows(self, target: Rows) -> list[Row]:
        return super().first_rows(_all(target))

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        known = _all(before)
        return (before + self.diverted(row for row in held if row not in known) for held in self.held)

    def replayed(self, before: Rows, chosen: Rows) -> Rows:
        return before - chosen + _all(chosen)


class DivertingMerge(Diverting, Merge):
    """Of a key the newest counts: an open row goes when as new a one comes, and a bad one leaves the target's alone."""

    options = {**Merge.options, "quarantine": True, "quarantine_rows": None}

    def first_rows(self, target: Rows) -> list[Row]:
        last = max((change for _, _, change in _all(target)), default=0)
        left = [row for row in (self.held[-1] if self.held else Rows()).elements() if row[2] > last]
        some = [number for number in range(1, self.ROWS) if (number + self.round) % 3 == 0]
        return left + self._changed(some, self.round)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        last = max((change for _, _, change in _all(before)), default=0)
        for held in self.held:
            new = [row for row in held if row[2] > last]
            stored = {row[0]: row for row in before if row[1] >= 0}
            for row in sorted(new, key=lambda row: row[2]):
                if self.is_mended or not is_bad(row):
                    stored[row[0]] = row
            comes = {row[0] for row in new}
            open_ = [row for row in before if row[1] < 0 and row[0] not in comes]
            bad = [] if self.is_mended else [aside(row) for row in new if is_bad(row)]
            yield Rows([*stored.values(), *open_, *bad])

    def replayed(self, before: Rows, chosen: Rows) -> Rows:
        stored = {row[0]: row for row in before if row[1] >= 0}
        for row in sorted(_all(chosen), key=lambda row: row[2]):
            if row[0] not in stored or row[2] > stored[row[0]][2]:
                stored[row[0]] = row
        return Rows([*stored.values(), *(row for row in before - chosen if row[1] < 0)])


def _all(rows: Rows) -> Rows:
    """All rows as the source has them, those in quarantine too."""
    return Rows({row if row[1] >= 0 else (row[0], -1 - row[1], row[2]): count for row, count in rows.items()})


class QuarantineLane(Watched):
    """Two loads, and then a replay of some of the open rows by a definition that takes them all."""

    FEEDS = {"quarantine_append": DivertingAppend, "quarantine_merge": DivertingMerge}
    _turns = 0
    _replayed: Rows | None = None

    def begin_round(self) -> None:
        self._turns += 1
        self._replayed = None
        if self._turns % 3:
            super().begin_round()

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        if self._turns % 3 or not any(row[1] < 0 for row in self.rows):
            if not self._turns % 3:
                super().begin_round()
            return super()._turn(meanwhile)
        return self._replay()

    def _replay(self) -> Outcome:
        chosen = insist(self._some)
        self._define(is_mended=True)
        target = {"schema": self.place.schema, "table": self.place.table}
        wanted = {"state": "open", "ids": list(chosen)}
        try:
            self._replayed = self.feed.replayed(self.rows, Rows(chosen.values()))
            run = self.ask(
                action=RunAction.REPLAY, interval=(None, None), options={"target": target, "quarantine": wanted}
            )
            self.wait_for_end(run)
            return self.judge(run)
        finally:
            self._define(is_mended=False)

    def _some(self) -> dict[str, Row]:
        """Open rows to replay, by their ids: all or some of them."""
        with self.at_warehouse() as cursor:
            cursor.execute(_ASIDE, (self.place.key,))
            told = {id_: raw for id_, state, raw in cursor.fetchall() if state == "open"}
        ids = self.chance.sample(sorted(told), self.chance.randint(1, len(told)))
        return {id_: self.feed.row_of(told[id_]) for id_ in ids}

    def _define(self, *, is_mended: bool) -> None:
        self.feed.is_mended = is_mended
        self.pipeline.text_policy = (TextPolicy.STRIP if is_mended else TextPolicy.FAIL).value
        insist(self.save)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        if self._replayed is not None:
            return [self._replayed]
        return super().outcomes(before)


LANES = (QuarantineLane,)
