"""SQL around the load, with a book: each published run is in it once before and once after, every other one never."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Append, Merge, Replace
from tests.chaos.oracle import Place, Seen

_RUN = "current_setting('datamantri.run')"


class Booked:
    """Goes before a feed."""

    def furnish(self, cursor: Any, place: Place) -> None:
        cursor.execute(f'CREATE SCHEMA "{place.beside}" AUTHORIZATION warehouse')
        cursor.execute(f'CREATE TABLE "{place.beside}".book (run text, at text, rows bigint)')
        cursor.execute(f'CREATE TABLE "{place.beside}".counter AS SELECT 0::bigint AS n')
        for table in ("book", "counter"):
            cursor.execute(f'ALTER TABLE "{place.beside}".{table} OWNER TO warehouse')

    def settings(self, place: Place) -> dict[str, Any]:
        book = f'"{place.beside}".book'
        return {
            "sql_before": f"INSERT INTO {book} VALUES ({_RUN}, 'before', 0);",
            "sql_after": f"INSERT INTO {book} SELECT {_RUN}, 'after', count(*) FROM {place.key};"
            f' UPDATE "{place.beside}".counter SET n = n + 1;',
        }

    def faults(self, seen: Seen) -> Iterable[str]:
        seen.cursor.execute("SELECT run::text FROM _datamantri.applied WHERE target = %s", (seen.place.key,))
        published = {run for (run,) in seen.cursor.fetchall()}
        seen.cursor.execute(f'SELECT run, at, rows FROM "{seen.place.beside}".book')
        book = seen.cursor.fetchall()
        entries = Counter((run, at) for run, at, _ in book)
        if entries != Counter({(run, at): 1 for run in published for at in ("before", "after")}):
            yield f"the book says {entries} of the runs {published}"
        seen.cursor.execute(f'SELECT n FROM "{seen.place.beside}".counter')
        counted = seen.cursor.fetchone()[0]
        if counted != len(published):
            yield f"the counter says {counted} of {len(published)} runs"
        rows = [rows for run, at, rows in book if (run, at) == (str(seen.run.pk), "after")]
        if seen.is_applied and rows != [seen.found.total()]:
            yield f"the statement after the rows saw {rows} of {seen.found.total()}"


class BookedAppend(Booked, Append):
    pass


class BookedMerge(Booked, Merge):
    pass


class BookedReplace(Booked, Replace):
    pass


class SqlLane(Watched):
    FEEDS = {"sql_append": BookedAppend, "sql_merge": BookedMerge, "sql_replace": BookedReplace}


LANES = (SqlLane,)
