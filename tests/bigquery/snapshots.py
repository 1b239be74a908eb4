"""Tables as they were at any time since the proxy began to watch them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from tests.bigquery import sizes
from tests.bigquery.statements import TableName
from tests.bigquery.upstream import Upstream

_VIEWS = ("VIEW", "MATERIALIZED_VIEW")


class NoSuchTable(Exception):
    """The emulator does not know it."""


class NoSuchTime(Exception):
    """The table was not there then."""


@dataclass(frozen=True)
class Version:
    """A table from `since` on, before `until`: its fields as REST describes them, and its rows.

    `seen` is when they were last known to be there.
    """

    since: datetime
    until: datetime
    seen: datetime
    fields: list[dict[str, Any]]
    rows: pa.Table


class Snapshots:
    """Keeps a copy of each table that is asked for, and of each one before it changes.

    It knows of changes that pass through the proxy only. `lock` is held while something changes.
    """

    def __init__(self, upstream: Upstream, *, keeps_history: bool = True) -> None:
        self.lock = threading.RLock()
        self._upstream = upstream
        self._keeps_history = keeps_history
        self._current: dict[TableName, pa.Table] = {}
        self._sizes: dict[TableName, dict[str, int]] = {}
        self._history: dict[TableName, list[Version]] = {}
        self._changed: dict[TableName, datetime] = {}
        self._views: dict[TableName, frozenset[TableName]] = {}

    @contextmanager
    def changing(self, names: Iterable[TableName], *, forget: bool = False) -> Iterator[None]:
        """Around a request that may change these tables; `forget` when it makes or drops them."""
        names = list(names)
        fields: dict[TableName, list[dict[str, Any]]] = {}
        with self.lock:
            if self._keeps_history and not forget:
                for name in names:
                    if (resource := self._upstream.resource(name)) is not None and not _is_view(resource):
                        self._now(name)
                        self._changed.setdefault(name, _created(resource))
                        fields[name] = resource["schema"]["fields"]
            began = datetime.now(UTC)
            try:
                yield
            finally:
                for name in names:
                    self._note_change(name, forget, began, fields.get(name))

    def changed(self, name: TableName) -> datetime | None:
        """When a request last changed it; None if the proxy saw none."""
        with self.lock:
            return self._changed.get(name)

    def note_view(self, name: TableName, reads: frozenset[TableName]) -> None:
        """The emulator does not tell what a view is made of."""
        self._views[name] = reads

    def tables_behind(self, names: Iterable[TableName]) -> frozenset[TableName]:
        """The tables that are read through these, some of which may be views or wildcards."""
        found: set[TableName] = set()
        for name in names:
            if name.table.endswith("*"):
                siblings = self._upstream.tables(name.project, name.dataset)
                found |= {table for table in siblings if table.table.startswith(name.table[:-1])}
            elif name in self._views:
                found |= self.tables_behind(self._views[name]) | {name}
            else:
                found.add(name)
        return frozenset(found)

    def at(self, name: TableName, time: datetime | None) -> pa.Table:
        """The table's rows at `time`, or now. Raises NoSuchTable, NoSuchTime."""
        with self.lock:
            version = self.version(name, time)
            return self._now(name) if version is None else version.rows

    def version(self, name: TableName, time: datetime | None) -> Version | None:
        """The former version of the table at `time`; None if it is as it is now. Raises NoSuchTable, NoSuchTime."""
        with self.lock:
            resource = self._upstream.resource(name)
            if resource is None:
                raise NoSuchTable(str(name))
            since = self._since(name, resource)
            if time is None or time >= since:
                return None
            for version in self._history.get(name, ()):
                if version.since <= time < version.until:
                    return version
            earliest = min([since, *(version.since for version in self._history.get(name, ()))])
            milliseconds = int(time.timestamp() * 1000)
            raise NoSuchTime(
                f"Invalid time travel timestamp {milliseconds} for table {name}@{milliseconds}."
                f" Cannot read before {int(earliest.timestamp() * 1000)}."
            )

    def columns(self, name: TableName) -> list[str]:
        """The columns of a table or view; none where there is neither."""
        resource = self._upstream.resource(name) or {}
        return [column["name"] for column in resource.get("schema", {}).get("fields", [])]

    def size(self, name: TableName, columns: frozenset[str] | None = None, rows: pa.Table | None = None) -> int:
        """Logical bytes of these columns (names in lower case), or of all.

        Of `rows` where they are given, of the table as it is otherwise; 0 for a view, which has none of its
        own, and where there is none.
        """
        if rows is not None:
            return _sum(sizes.column_bytes(rows), columns)
        with self.lock:
            resource = self._upstream.resource(name)
            if resource is None or _is_view(resource):
                return 0
            if name not in self._sizes:
                self._sizes[name] = sizes.column_bytes(self._now(name))
            return _sum(self._sizes[name], columns)

    def _now(self, name: TableName) -> pa.Table:
        if name not in self._current:
            self._current[name] = self._upstream.rows(name)
        return self._current[name]

    def _since(self, name: TableName, resource: dict[str, Any]) -> datetime:
        return self._changed.get(name) or _created(resource)

    def _note_change(self, name: TableName, forget: bool, began: datetime, fields: list[dict[str, Any]] | None) -> None:
        now = datetime.now(UTC)
        rows = self._current.pop(name, None)
        self._sizes.pop(name, None)
        if forget:
            self._history.pop(name, None)
        elif rows is not None and fields is not None:
            self._history.setdefault(name, []).append(Version(self._changed[name], now, began, fields, rows))
        self._changed[name] = now


def _created(resource: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(int(resource.get("creationTime", 0)) / 1000, UTC)


def _is_view(resource: dict[str, Any]) -> bool:
    return resource.get("type") in _VIEWS


def _sum(by_column: Mapping[str, int], columns: frozenset[str] | None) -> int:
    return sum(size for name, size in by_column.items() if columns is None or name in columns)
