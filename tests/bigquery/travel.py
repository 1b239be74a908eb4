"""FOR SYSTEM_TIME AS OF: the version of a table that a query means, in words that the emulator understands.

The emulator keeps versions too, but takes no parameters for their times, loses their types, and its
clock is not that of the proxy's snapshots: here both sides of the proxy give the same version for the
same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tests.bigquery import results
from tests.bigquery.snapshots import NoSuchTable, NoSuchTime, Snapshots, Version
from tests.bigquery.statements import TableName, name_of
from tests.bigquery.upstream import Upstream

_CLAUSE = "SYSTEM_TIME"
_EPOCH = datetime.fromtimestamp(0, UTC)


class BadTime(Exception):
    """The words with which BigQuery refuses a time."""


@dataclass(frozen=True)
class Travelled:
    """A statement for the emulator, and the rows that its tables had at the times it names."""

    sql: str
    rows: dict[TableName, pa.Table] = field(default_factory=dict)


class Travel:
    """Copies of former versions, made when a query asks for one, as tables of the emulator."""

    def __init__(self, upstream: Upstream, snapshots: Snapshots) -> None:
        self._upstream = upstream
        self._snapshots = snapshots
        self._copies: dict[tuple[TableName, datetime], TableName] = {}

    def to_the_times_of(self, project: str, query: Mapping[str, Any]) -> Travelled:
        """The query with each former version by its name. Raises BadTime.

        It is right for as long as the caller holds the snapshots' lock.
        """
        sql, dataset = query.get("query", ""), query.get("defaultDataset", {}).get("datasetId", "")
        if _CLAUSE not in sql.upper():
            return Travelled(sql)
        try:
            tree = sqlglot.parse_one(sql, read="bigquery")
        except SqlglotError:
            return Travelled(sql)
        times: dict[TableName, set[datetime | None]] = {}
        rows: dict[TableName, pa.Table] = {}
        evaluate = partial(self._evaluate, project, query)
        for table in list(tree.find_all(exp.Table)):
            if (name := name_of(table, project, dataset)) is None:
                continue
            clause = table.args.get("version")
            time = None if clause is None else _time(name, clause.args["expression"].sql("bigquery"), evaluate)
            times.setdefault(name, set()).add(time)
            if time is not None:
                rows[name] = self._send_back(table, name, time)
        if twice := [str(name) for name, found in times.items() if len(found) > 1]:
            raise BadTime(f"A query cannot refer to one table at more than one point in time: {', '.join(twice)}")
        return Travelled(tree.sql("bigquery", identify=True), rows)

    def keep(self, name: TableName) -> None:
        """Have the emulator remember a table that was just made from a query, which it does after changes only."""
        column = (self._upstream.resource(name) or {})["schema"]["fields"][0]["name"]
        table = f"`{name.project}.{name.dataset}.{name.table}`"
        nothing = {"query": f"UPDATE {table} SET `{column}` = `{column}` WHERE FALSE", "useLegacySql": False}
        self._ask(name.project, nothing)

    def close(self) -> None:
        for copy in self._copies.values():
            results.drop(self._upstream, copy)

    def _send_back(self, table: exp.Table, name: TableName, time: datetime) -> pa.Table:
        """Make `table` name the version of `time`, and return its rows."""
        try:
            version = self._snapshots.version(name, time)
            rows = self._snapshots.at(name, time)
        except NoSuchTable as error:
            raise BadTime(f"Not found: Table {name} was not found in location US") from error
        except NoSuchTime as error:
            raise BadTime(str(error)) from error
        table.set("version", None)
        if version is not None:
            alias = table.alias or name.table
            copy = self._copy(name, version)
            for part, text in (("catalog", copy.project), ("db", copy.dataset), ("this", copy.table)):
                table.set(part, exp.to_identifier(text, quoted=True))
            table.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))
        return rows

    def _copy(self, name: TableName, version: Version) -> TableName:
        if (name, version.since) not in self._copies:
            copy = results.declare(self._upstream, name.project, version.fields)
            columns = ", ".join(f"`{column['name']}`" for column in version.fields)
            table = f"`{name.project}.{name.dataset}.{name.table}`"
            sql = f"SELECT {columns} FROM {table} FOR SYSTEM_TIME AS OF TIMESTAMP '{version.seen.isoformat()}'"
            # Of a table that was empty until then the emulator has nothing.
            if version.rows.num_rows and not results.fill(self._upstream, copy, {"query": sql}):
                raise BadTime(f"The emulator has lost the version of {name} of {version.seen}")
            self._copies[name, version.since] = copy
        return self._copies[name, version.since]

    def _evaluate(self, project: str, query: Mapping[str, Any], expression: str) -> datetime | None:
        names = ("queryParameters", "parameterMode", "defaultDataset")
        kept = {name: query[name] for name in names if name in query}
        ask = {**kept, "query": f"SELECT CAST({expression} AS TIMESTAMP)", "useLegacySql": False}
        value = self._ask(project, {**ask, "formatOptions": {"useInt64Timestamp": True}})["rows"][0]["f"][0]["v"]
        return None if value is None else _EPOCH + timedelta(microseconds=int(value))

    def _ask(self, project: str, query: Mapping[str, Any]) -> dict[str, Any]:
        path = f"/bigquery/v2/projects/{project}/queries"
        content = self._upstream.ask("POST", path, results.JSON, json.dumps(query).encode()).content
        if refused := content.get("error") or next(iter(content.get("errors", ())), None):
            raise BadTime(refused["message"])
        return content


def _time(name: TableName, expression: str, evaluate: Callable[[str], datetime | None]) -> datetime:
    time = evaluate(expression)
    if time is None:
        raise BadTime(f"The 'FOR SYSTEM_TIME AS OF' expression for table '{name.table}' evaluates to NULL")
    if time > datetime.now(UTC):
        raise BadTime(
            f"The 'FOR SYSTEM_TIME AS OF' expression for table '{name.table}' evaluates to a TIMESTAMP value"
            f" in the future: {time:%Y-%m-%d %H:%M:%S.%f} UTC."
        )
    return time
