"""Which keys differ between two sides: buckets that differ, then hashes of the rows in them, then some rows themselves.

Each step reads less of the answer but as much of the tables: a source bills every one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from typing import Any

from connectors.base import StopSignal
from connectors.column import Column
from connectors.sides import Bucket, Keyed, Row, Side

# Rows whose hashes are held here at once, of each side: some tens of megabytes.
ROWS_AT_ONCE = 200_000
ROWS_A_BUCKET = 64
MOST_BITS = 16
# A longer list would make the statement too long.
MOST_BUCKETS = 2_000
KEYS_SHOWN = 100
VALUES_SHOWN = 12


@dataclass(frozen=True)
class KeyDifference:
    """One key: `where` it is (source, target or both), and for each value that differs what either side has."""

    where: str
    key: tuple[str | None, ...]
    values: Mapping[str, tuple[str | None, str | None]]
    more: int = 0

    def to_json(self) -> dict[str, Any]:
        values = {name: list(pair) for name, pair in self.values.items()}
        return {"where": self.where, "key": list(self.key), "values": values, "more": self.more}


@dataclass(frozen=True)
class KeyDifferences:
    """How many keys are on one side only, or on both with other values; `is_complete` if all were looked at.

    `quarantined` are keys that differ because a row of theirs is in quarantine: they count nowhere else.
    """

    only_source: int
    only_target: int
    differing: int
    is_complete: bool
    rows_looked_at: int
    quarantined: int = 0
    shown: tuple[KeyDifference, ...] = ()

    def to_json(self) -> dict[str, Any]:
        counts = {name: value for name, value in vars(self).items() if name != "shown"}
        return {**counts, "shown": [one.to_json() for one in self.shown]}


def find(
    source: Side, target: Side, keyed: Keyed, *, rows: int, explained: frozenset[int] = frozenset(), stop: StopSignal
) -> KeyDifferences:
    """Compare both sides by key; `rows` is how many the larger one has.

    Keys that are `explained`, by their hashes, are in quarantine: they are counted as that.
    """
    chosen: list[int] = []
    is_complete = True
    if rows > ROWS_AT_ONCE:
        keyed = replace(keyed, bits=min(MOST_BITS, max(1, (rows // ROWS_A_BUCKET).bit_length())))
        chosen, is_complete = _choose(source.buckets(keyed), target.buckets(keyed))
        stop.check()
        if not chosen:
            return KeyDifferences(0, 0, 0, True, 0)
    there, here = Counter(source.hashes(keyed, chosen)), Counter(target.hashes(keyed, chosen))
    stop.check()
    keys_there, keys_here = {key for key, _ in there}, {key for key, _ in here}
    found = {key for key, _ in chain((there - here), (here - there))}
    changed = found - explained
    differing = sorted(changed & keys_there & keys_here)
    only_there, only_here = sorted(changed - keys_here), sorted(changed - keys_there)
    differences = KeyDifferences(
        *(len(only_there), len(only_here), len(differing), is_complete, max(there.total(), here.total())),
        quarantined=len(found & explained),
    )
    wanted = list(islice(_in_turn(differing, only_there, only_here), KEYS_SHOWN))
    return replace(differences, shown=_show(source, target, keyed, wanted) if wanted else ())


def _choose(there: Mapping[int, Bucket], here: Mapping[int, Bucket]) -> tuple[list[int], bool]:
    """The buckets that differ, as many as may be looked at, and whether these are all."""
    nothing = Bucket(0, 0)
    differing = [b for b in sorted({*there, *here}) if there.get(b, nothing) != here.get(b, nothing)]
    chosen: list[int] = []
    rows = 0
    for bucket in differing[:MOST_BUCKETS]:
        rows += max(there.get(bucket, nothing).rows, here.get(bucket, nothing).rows)
        if chosen and rows > ROWS_AT_ONCE:
            break
        chosen.append(bucket)
    return chosen, len(chosen) == len(differing)


def _in_turn(*lists: Sequence[int]) -> Iterator[int]:
    """One of each list in turn, so that no kind of difference is crowded out."""
    return (key for keys in zip_longest(*lists) for key in keys if key is not None)


def _show(source: Side, target: Side, keyed: Keyed, keys: Sequence[int]) -> tuple[KeyDifference, ...]:
    there, here = _by_key(source.rows(keyed, keys)), _by_key(target.rows(keyed, keys))
    places = [place for place, column in enumerate(keyed.columns) if column in keyed.key]
    shown = [_difference(keyed.columns, places, there.get(key), here.get(key)) for key in keys]
    return tuple(sorted((found for found in shown if found), key=lambda found: [text or "" for text in found.key]))


def _by_key(rows: Sequence[Row]) -> dict[int, Row]:
    return {row.key: row for row in rows}


def _difference(
    columns: Sequence[Column], places: Sequence[int], there: Row | None, here: Row | None
) -> KeyDifference | None:
    row = there or here
    if row is None:
        return None  # gone between two statements, on a side that could not be pinned
    others = [place for place in range(len(columns)) if place not in places]
    if there and here:
        others = [place for place in others if there.hashes[place] != here.hashes[place]]
    values = {
        columns[place].name: (there.texts[place] if there else None, here.texts[place] if here else None)
        for place in others[:VALUES_SHOWN]
    }
    where = "both" if there and here else "source" if there else "target"
    return KeyDifference(where, tuple(row.texts[place] for place in places), values, max(0, len(others) - VALUES_SHOWN))
