"""Rows that cannot be stored, told from the others column by column, and left out of what is encoded.

A slice of which nothing is refused costs one look at the NULLs of its keys. Where something is, the slice is halved
until what is refused stands alone: a column says by itself, as it does in a load without a quarantine, what it
refuses and why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.column import Column
from connectors.columns import casts
from connectors.columns.binary import hex_text
from connectors.columns.buffers import Mask
from connectors.columns.characters import Characters
from connectors.columns.raw import raw_texts, scalar_text
from connectors.errors import ConnectorError

# What the encoder says of a value, and not of the whole column.
OF_A_VALUE = frozenset({"nul_character", "bad_text", "value_out_of_range", "bad_json"})
LONGEST_REASON = 500

Prepare = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True)
class Reason:
    """Why a row is left out: the column at fault, a stable code, a sentence."""

    column: str
    code: str
    text: str


@dataclass(frozen=True)
class Diverted:
    """Rows that were left out: as JSON text, each with its reason; `keys` and `cursors` are NULL where illegible.

    Both are as the target would have them: a key as a JSON object of texts, by the source's names.
    """

    raw: pa.Array
    keys: pa.Array
    cursors: pa.Array
    reasons: tuple[Reason, ...]


class Diverter:
    """Takes rows that cannot be stored out of slices, and hands them to `take`.

    `never_null` are columns in which a NULL has no place, each with the code that says so; `key` and `cursor` are what
    rows are known and ordered by. All by the source's names. Once `is_strict`, what only PostgreSQL would find is
    looked for as well.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        take: Callable[[Diverted], None],
        *,
        never_null: Sequence[tuple[str, str]] = (),
        key: Sequence[str] = (),
        cursor: str = "",
        text_policy: str = "fail",
        is_strict: bool = False,
    ) -> None:
        self.columns = tuple(columns)
        self._policy = text_policy
        self.is_strict = is_strict
        self.rows = 0
        self._take = take
        places = {column.name.lower(): place for place, column in enumerate(self.columns)}
        self._never_null = tuple((places[name.lower()], code) for name, code in never_null if name.lower() in places)
        self._key = tuple(places[name.lower()] for name in key if name.lower() in places)
        self._cursor = places.get(cursor.lower()) if cursor else None

    def is_clean(self, rows: pa.RecordBatch) -> bool:
        """Whether no key lacks a value, so that the slice may be tried as a whole."""
        return not self.is_strict and not any(rows.column(place).null_count for place, _ in self._never_null)

    def sift(self, rows: pa.RecordBatch, prepare: Sequence[Prepare]) -> pa.RecordBatch:
        """The rows that can be stored; the others are taken. `prepare` makes each column, or raises."""
        found: dict[int, Reason] = {}
        faults: dict[int, set[int]] = defaultdict(set)  # of each row, which columns
        for place, (column, change) in enumerate(zip(self.columns, prepare, strict=True)):
            for row, reason in refused(rows.column(place), change, column.name):
                found.setdefault(row, reason)
                faults[row].add(place)
        for place, code in self._never_null:
            column = self.columns[place]
            for row in np.flatnonzero(rows.column(place).is_null().to_numpy(zero_copy_only=False)).tolist():
                found.setdefault(row, Reason(column.name, code, _WITHOUT[code].format(column.name)))
                faults[row].add(place)
        if not found:
            return rows
        is_bad = np.zeros(rows.num_rows, bool)
        is_bad[list(found)] = True
        bad = sorted(found)
        self._hand_over(rows.filter(pa.array(is_bad)), [found[row] for row in bad], [faults[row] for row in bad])
        return rows.filter(pa.array(~is_bad))

    def _hand_over(self, rows: pa.RecordBatch, bad: Sequence[Reason], faults: Sequence[set[int]]) -> None:
        self.rows += rows.num_rows
        reasons = tuple(replace(reason, text=reason.text[:LONGEST_REASON]) for reason in bad)
        keys = self._texts(rows, self._key, faults, lambda arrays, columns: raw_texts(arrays, columns))
        cursor = () if self._cursor is None else (self._cursor,)
        cursors = self._texts(rows, cursor, faults, lambda arrays, _: arrays[0])
        self._take(Diverted(raw_texts(rows.columns, self.columns), keys, cursors, reasons))

    def _texts(
        self,
        rows: pa.RecordBatch,
        places: Sequence[int],
        faults: Sequence[set[int]],
        of: Callable[[list[pa.Array], list[Column]], pa.Array],
    ) -> pa.Array:
        """What `of` makes of these columns as the target would have them; NULL where one of them is at fault, too."""
        nothing = pa.nulls(rows.num_rows, pa.string())
        if not places:
            return nothing
        legible = np.array([fault.isdisjoint(places) for fault in faults], bool)
        for place in places:
            legible &= rows.column(place).is_valid().to_numpy(zero_copy_only=False)
        some = rows.filter(pa.array(legible))
        texts = [stored_text(some.column(place), self.columns[place], self._policy) for place in places]
        made = of(texts, [Column(self.columns[place].name, "STRING") for place in places])
        return pc.replace_with_mask(nothing, pa.array(legible), made)


_WITHOUT = {
    "null_key": "Column {} identifies the row and has no value.",
    "null_partition": "Column {} says which partition the row belongs to and has no value.",
}


def stored_text(array: pa.Array, column: Column, text_policy: str) -> pa.Array:
    """The values as texts that the target's type reads as what is stored there, with characters mended as there."""
    characters = Characters(text_policy)
    if column.target_type:
        cast = casts.cast_of(column, characters)
        if cast.column.type in ("STRING", "DATETIME", "TIMESTAMP"):
            return characters.mend(scalar_text(cast.change(array), cast.column), cast.column.type, column.name)
    if column.type == "BYTES":
        return pc.binary_join_element_wise("\\x", hex_text(array), "")
    return characters.mend(scalar_text(array, column), column.type, column.name)


def refused(array: pa.Array, prepare: Prepare, column: str) -> Iterator[tuple[int, Reason]]:
    """The rows of `array` that `prepare` refuses, each with why; raises what is not about a value."""
    parts = [(0, array)]
    while parts:
        start, part = parts.pop()
        try:
            prepare(part)
        except ConnectorError as error:
            if error.code not in OF_A_VALUE:
                raise
            if len(part) == 1:
                yield start, Reason(error.field or column, error.code, error.message)
                continue
            known = _known(error, len(part))
            if known is None:
                half = len(part) // 2
                parts += [(start + half, part.slice(half)), (start, part.slice(0, half))]
                continue
            for row in np.flatnonzero(known).tolist():
                parts.append((start + row, part.slice(row, 1)))
            parts += [(start + begin, part.slice(begin, end - begin)) for begin, end in _runs(~known)]


def _known(error: ConnectorError, rows: int) -> Mask | None:
    """Which rows of those tried the error is about, where it tells of all of them."""
    mask = getattr(error.__cause__ or error, "rows", None)
    if mask is None or len(mask) != rows:
        return None
    found: Mask = np.asarray(mask.fill_null(False).to_numpy(zero_copy_only=False))
    return found if found.any() else None


def _runs(wanted: Mask) -> Iterator[tuple[int, int]]:
    """Where rows that are wanted stand side by side: from, to."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
