"""Somebody who reads a target all the time: what is there at any moment is a whole table, and no older than before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2

from tests.chaos import oracle

if TYPE_CHECKING:
    from tests.chaos.lanes import Lane

EVERY_S = 0.4
TOLD_MOST = 3


@dataclass
class Reader:
    """What was seen so far: how often, and what of it may not be."""

    looks: int = 0
    told: list[str] = field(default_factory=list)
    watermark: int | None = None


@contextmanager
def reading(lane: Lane) -> Iterator[Reader]:
    """Read the lane's target from another session for as long as this lasts."""
    reader, over = Reader(), threading.Event()

    def read() -> None:
        while not over.wait(EVERY_S):
            # The server may have been killed, or be starting.
            with suppress(psycopg2.Error), lane.at_warehouse() as cursor:
                _look(lane, reader, cursor)

    thread = threading.Thread(target=read, name=f"reader of {lane.name}", daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        over.set()
        thread.join()


def _look(lane: Lane, reader: Reader, cursor: Any) -> None:
    before = lane.rows
    found, strange = oracle.rows_of(cursor, lane.place, lane.feed)
    reader.looks += 1
    if strange:
        reader.told.append(f"a reader saw {strange} rows that are not what they say they are")
    if not lane.may_be_seen(found, before):
        reader.told.append(f"a reader saw a table that never was, of {found.total()} rows")
    mark = _watermark(cursor, lane)
    if mark is not None and reader.watermark is not None and mark < reader.watermark and lane.keeps_watermark:
        reader.told.append(f"the watermark went from {reader.watermark} to {mark}")
    reader.watermark = mark if mark is not None else reader.watermark
    del reader.told[TOLD_MOST:]


def _watermark(cursor: Any, lane: Lane) -> int | None:
    with suppress(psycopg2.errors.UndefinedTable):
        cursor.execute("SELECT watermark FROM _datamantri.head WHERE target = %s", (lane.place.key,))
        row = cursor.fetchone()
        if row is not None and row[0] is not None and row[0].isdigit():
            return int(row[0])
    return None
