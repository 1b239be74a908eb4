"""Masks: what a source must not tell is nowhere at the destination, at no time, be it staged, put aside or logged."""

from __future__ import annotations

import hashlib
import hmac
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.cloud.bigquery import SchemaField

from pipelines.models import Connection
from runs.models import Run
from tests.chaos import lanes
from tests.chaos.features.quarantines import DivertingAppend
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Merge, Replace, Row
from tests.chaos.lanes import Outcome
from tests.chaos.oracle import Seen
from tests.chaos.stack import Stack

KEY = "chaos-0123456789abcdef0123456789abcdef"
# In each value that is masked, and in nothing else.
CLEAR = "Klartext"


class Masked:
    """Goes before a feed: three columns that are masked, each in its own way."""

    more_fields = [SchemaField(name, "STRING") for name in ("secret", "card", "note")]
    more_columns = [("secret", "text"), ("card", "text"), ("note", "text")]
    options: dict[str, Any]

    def more_of(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        return {
            **super().more_of(rows),
            "secret": pa.array([_secret(row) for row in rows]),
            "card": pa.array([f"{CLEAR} {row[2]:04}" for row in rows]),
            "note": pa.array([f"{CLEAR} {row[0]}" for row in rows]),
        }

    def faults(self, seen: Seen) -> Iterable[str]:
        yield from super().faults(seen)
        if not seen.found:
            return
        seen.cursor.execute(f"SELECT seq, version, change, secret, card, note FROM {seen.place.key}")
        wrong = sum(
            (secret, card, note) != (_mask(_secret((seq, version, change))), f"****{change % 100:02}", "***")
            for seq, version, change, secret, card, note in seen.cursor.fetchall()
        )
        if wrong:
            yield f"{wrong} rows have other masks than theirs"


RULES = {"secret": {"mask": "hmac"}, "card": {"mask": "keep_last", "keep": 2}, "note": {"mask": "redact"}}


def _secret(row: Row) -> str:
    return f"{CLEAR} {row[0]}"


def _mask(text: str) -> str:
    return hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


class MaskedAppend(Masked, DivertingAppend):
    """Some of its rows are put aside."""

    more_fields = [*DivertingAppend.more_fields, *Masked.more_fields]
    more_columns = [*DivertingAppend.more_columns, *Masked.more_columns]
    options = {**DivertingAppend.options, "column_rules": RULES}


class MaskedMerge(Masked, Merge):
    """Its key is masked as well."""

    options = {**Merge.options, "merge_key": ["secret"], "column_rules": RULES}


class MaskedReplace(Masked, Replace):
    options = {**Replace.options, "column_rules": RULES}


class MaskLane(Watched):
    FEEDS = {"masked_append": MaskedAppend, "masked_merge": MaskedMerge, "masked_replace": MaskedReplace}

    @classmethod
    def ends(cls, stack: Stack, ends: Mapping[str, Connection]) -> Mapping[str, Connection]:
        return lanes.connections(stack, {"mask_key": KEY})

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        outcome = super()._turn(meanwhile)
        outcome.verdict.told += [f"a value that is masked stands in {path}" for path in leaks(self._stack)]
        return outcome


def leaks(stack: Stack) -> list[str]:
    """Files of the destination's server, of either database's log and of the workers that tell what is masked."""
    assert stack.warehouse.postgres is not None
    assert stack.main.postgres is not None
    folders = [
        stack.warehouse.postgres._way.data,
        stack.main.postgres._way.data,
        *(stack.folder / name / "logs" for name in ("main", "warehouse")),
        stack.folder / "logs",
    ]
    return [str(path) for folder in folders for path in _files(folder) if _tells(path)]


def _files(folder: Path) -> Iterator[Path]:
    # BigQuery's own log may tell what stands in its tables.
    return (path for path in folder.rglob("*") if path.is_file() and "emulator" not in path.name)


def _tells(path: Path) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(CLEAR.encode()) >= 0
    except (OSError, ValueError):
        return False  # gone by now, or empty


LANES = (MaskLane,)
