"""Tables of the source whose every row says which it is, and what must have become of them in the target.

A row has a sequence number, the version of it, the number of the change that made it, and a hash of all three and
of its filler.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from google.cloud.bigquery import SchemaField
from psycopg2 import sql

from tests.emulator_tables import EmulatorTables

if TYPE_CHECKING:
    from connectors.checks import Check
    from tests.chaos.oracle import Place, Seen

DATASET = "chaos"
SCHEMA = [
    SchemaField("seq", "INT64"),
    SchemaField("version", "INT64"),
    SchemaField("change", "INT64"),
    SchemaField("hash", "STRING"),
    SchemaField("filler", "STRING"),
]
COLUMNS = [("seq", "bigint"), ("version", "bigint"), ("change", "bigint"), ("hash", "text"), ("filler", "text")]
FILLER = "x" * 150
Row = tuple[int, int, int]  # sequence number, version, change
Rows = Counter[Row]


@dataclass
class Verdict:
    """How a target differs from what it must be, in rows: gone, there too often, not what they say they are."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    told: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.told)


class Feed:
    """A table of the source with the definition of its pipeline; `ROWS` at each round's start, `MORE` meanwhile.

    `begin` and then `make` give it other rows while no run is under way, `grow` appends some while one may be.
    """

    disposition: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    # Further columns of the source, and of the target.
    more_fields: ClassVar[list[SchemaField]] = []
    more_columns: ClassVar[list[tuple[str, str]]] = []
    # What tells a row of the target.
    triple: ClassVar[str] = "seq, version, change"
    ROWS, MORE = 1500, 300

    def __init__(self, name: str, tables: EmulatorTables) -> None:
        self.name = name
        self.table = f"{DATASET}.{name}"
        self.round = 0
        self._tables = tables
        self._change = 0
        # What the table held since the round began, oldest first.
        self.held: list[Rows] = []

    def begin(self, target: Rows) -> None:
        """Choose the rows of another round, given what the target holds."""
        self.round += 1
        self.held = [Rows(self.first_rows(target))]

    def make(self) -> None:
        """Write down all that the source's table holds, in place of what was there."""
        rows = self._arrow(list(self.held[-1].elements()))
        self._tables.make(self.table, [*SCHEMA, *self.fields()], rows)

    def grow(self) -> None:
        rows = self.more_rows()
        # Known before it is there: a run may read it before this process hears that it is.
        self.held.append(self.held[-1] + Rows(rows))
        self._tables.append(self.table, self._arrow(rows))

    def first_rows(self, target: Rows) -> list[Row]:
        raise NotImplementedError

    def more_rows(self) -> list[Row]:
        return self._changed(range(self.ROWS + 1, self.ROWS + self.MORE + 1), self.round)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        """What the target may be after a run that was published in this round, where it was `before`."""
        raise NotImplementedError

    def rows_read(self, before: Rows, found: Rows) -> int | None:
        """How many rows a load read that made `found` of `before`; None where that cannot be told."""
        return None

    # What only feeds for one of the product's features have.

    def settings(self, place: Place) -> dict[str, Any]:
        """More of the pipeline's definition, where it names its target."""
        return {}

    def checks(self) -> list[Check]:
        return []

    def furnish(self, cursor: Any, place: Place) -> None:
        """Make what is to be there beside the target before the first run."""

    def fields(self) -> list[SchemaField]:
        return self.more_fields

    def columns(self) -> list[tuple[str, str]]:
        """The target's columns with their types."""
        return [*COLUMNS, *self.more_columns]

    def more_of(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        """The values of `fields`."""
        return {}

    def filler_of(self, row: Row) -> str:
        return FILLER

    def rows_in(self, cursor: Any, place: Place) -> tuple[Rows, int]:
        """The target's rows, and how many of them have another hash than their own.

        One statement, for its snapshot is taken when it has its locks: one that is older than a rename would see
        the new table beside what went with the old one.
        """
        cursor.execute(
            sql.SQL(
                "SELECT {row}, count(*), count(*) FILTER (WHERE {strange}), NULL FROM {name} t"
                " GROUP BY 1, 2, 3{besides}"
            ).format(
                row=sql.SQL(self.triple),
                strange=sql.SQL(f"hash IS DISTINCT FROM {self.hash_in_sql()}{self.strange()}"),
                name=sql.Identifier(place.schema, place.table),
                besides=sql.SQL(self.besides).format(target=sql.Literal(place.key)),
            )
        )
        found, wrong = Rows(), 0
        for seq, version, change, count, strange, besides in cursor.fetchall():
            found[self.row_of(besides) if besides else (seq, version, change)] += count
            wrong += strange
        return found, wrong

    # More rows of that statement, of which only the last column says something.
    besides: ClassVar[str] = ""

    def row_of(self, besides: str) -> Row:
        raise NotImplementedError

    def strange(self) -> str:
        """What else, in SQL behind OR, tells a row that is not what it says it is."""
        return ""

    def faults(self, seen: Seen) -> Iterable[str]:
        """What else in the target, or beside it, is not as it must be after a run."""
        return ()

    def may_be_there(self, table: str) -> bool:
        """Whether this table may be left in the target's schema by a run that has ended."""
        return False

    def _changed(self, numbers: Sequence[int], version: int) -> list[Row]:
        first = self._change + 1
        self._change += len(numbers)
        return [(number, version, first + i) for i, number in enumerate(numbers)]

    def _arrow(self, rows: Sequence[Row]) -> pa.Table:
        numbers = list(zip(*rows, strict=True)) if rows else [(), (), ()]
        columns = {
            **{
                name: pa.array(values, pa.int64())
                for name, values in zip(("seq", "version", "change"), numbers, strict=True)
            },
            "hash": pa.array([self.hash(row) for row in rows], pa.string()),
            "filler": pa.array([self.filler_of(row) for row in rows], pa.string()),
            **self.more_of(rows),
        }
        return pa.table(columns)

    def hash(self, row: Row) -> str:
        """What the row must have in the target."""
        return hashlib.md5(f"{self.name}:{row[0]}:{row[1]}:{row[2]}:{FILLER}".encode()).hexdigest()

    def hash_in_sql(self) -> str:
        return f"md5('{self.name}:' || seq || ':' || version || ':' || change || ':' || filler)"


class Append(Feed):
    """Only new rows: a round's rows go on from the last one that the target has."""

    disposition = "append"
    options = {"write_disposition": "append", "incremental": True, "cursor_column": "change"}

    def first_rows(self, target: Rows) -> list[Row]:
        # What a failed run left for this one comes again, as it was.
        last = max((change for _, _, change in target), default=0)
        left = [row for row in (self.held[-1] if self.held else Rows()).elements() if row[2] > last]
        first = max((row[0] for row in left), default=max((seq for seq, _, _ in target), default=0)) + 1
        return left + self._changed(range(first, first + self.ROWS), 0)

    def more_rows(self) -> list[Row]:
        last = max(seq for seq, _, _ in self.held[-1])
        return self._changed(range(last + 1, last + self.MORE + 1), 0)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        return (before + Rows({row: 1 for row in held if row not in before}) for held in self.held)

    def rows_read(self, before: Rows, found: Rows) -> int | None:
        return found.total() - before.total()


class AppendAll(Feed):
    """All rows every time: a run's rows are there once for each run that was published."""

    disposition = "append"
    options = {"write_disposition": "append"}

    def first_rows(self, target: Rows) -> list[Row]:
        return self._changed(range(1, self.ROWS + 1), self.round)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        return (before + held for held in self.held)

    def rows_read(self, before: Rows, found: Rows) -> int | None:
        return found.total() - before.total()


class Replace(Feed):
    disposition = "replace"
    options = {"write_disposition": "replace"}

    def first_rows(self, target: Rows) -> list[Row]:
        return self._changed(range(1, self.ROWS + 1), self.round)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        return iter(self.held)

    def rows_read(self, before: Rows, found: Rows) -> int | None:
        return found.total()


class Emptied(Replace):
    """Every other round the source has no rows: a guard holds that, and a person approves it."""

    MORE = 0
    options = {"write_disposition": "replace", "guard_zero_rows": True}

    @property
    def is_held(self) -> bool:
        return self.round % 2 == 0

    def first_rows(self, target: Rows) -> list[Row]:
        return [] if self.is_held else super().first_rows(target)


class Merge(Feed):
    """A log of changes: of the rows of one sequence number the last change counts."""

    disposition = "merge"
    options = {"write_disposition": "merge", "merge_key": ["seq"], "incremental": True, "cursor_column": "change"}

    def first_rows(self, target: Rows) -> list[Row]:
        last = max((change for _, _, change in target), default=0)
        left = [row for row in (self.held[-1] if self.held else Rows()).elements() if row[2] > last]
        count = self.ROWS * 2
        # A third of the rows changes, each some twice, and new ones come.
        some = [number for number in range(1, count) if (number + self.round) % 3 == 0]
        new = range(count + self.round * 50, count + self.round * 50 + 50)
        return left + self._changed([*some, *some[::2], *new], self.round)

    def more_rows(self) -> list[Row]:
        return self._changed(range(self.round, self.round + self.MORE), self.round)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        for held in self.held:
            newest = {row[0]: row for row in before}
            for row in sorted(held, key=lambda row: row[2]):
                if row[0] not in newest or row[2] > newest[row[0]][2]:
                    newest[row[0]] = row
            yield Rows(newest.values())


KINDS: dict[str, type[Feed]] = {
    **{"append": Append, "append_all": AppendAll, "replace": Replace, "merge": Merge, "held": Emptied},
}


def compare(found: Rows, outcomes: Iterable[Rows]) -> Verdict:
    """The verdict by the outcome that comes closest to what was found; raises ValueError if there is none."""
    best: Verdict | None = None
    for outcome in outcomes:
        lost, more = (outcome - found), (found - outcome)
        doubled = sum(count for row, count in more.items() if row in outcome)
        verdict = Verdict(lost=lost.total(), doubled=doubled, wrong=more.total() - doubled)
        if best is None or _weight(verdict) < _weight(best):
            best = verdict
    if best is None:
        raise ValueError("nobody says what the target must hold")
    return best


def _weight(verdict: Verdict) -> int:
    return verdict.lost + verdict.doubled + verdict.wrong
