"""What a publish does for a later undo: the state that it replaces is kept, and what is kept beyond that goes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2 import sql

from connectors.base import Reporter
from connectors.column import Column
from connectors.counts import counted
from connectors.modes import WriteMode
from connectors.postgres import kept
from connectors.postgres.client import Session
from connectors.postgres.publish.existing import Existing
from connectors.postgres.publish.merge_rules import named
from connectors.writing import Changes, Fence


class Former:
    """The former states of one publish's target; does nothing where none is kept nor to be.

    In order: `make_room`, before the lock; then `away` and `renamed`, or `copy`. `facts` are for the receipt.
    """

    def __init__(self, session: Session, fence: Fence, mode: WriteMode, reporter: Reporter) -> None:
        self._session = session
        self._fence = fence
        self._target = fence.target
        self._depth = mode.undo_depth
        self._key = mode.key
        self._reporter = reporter
        self._aside = kept.table_of(fence.target, fence.owner.run)
        self._names: Mapping[str, str] = {}
        self._totals: kept.Totals | None = None
        self._facts: dict[str, Any] = {}

    def make_room(self, method: str) -> None:
        """Drop what is kept beyond what may be once this publish is done: before anybody waits for the target."""
        most = self._depth - (1 if method == "rename" else 0)
        if self._fence.kept > max(most, 0):
            self._prune(max(most, 0))

    def away(self, old: Existing) -> list[sql.Composable]:
        """Statements that take the old table out of the new one's way."""
        if not self._depth:
            return [sql.SQL("DROP TABLE {}").format(sql.Identifier(self._target.schema, self._target.table))]
        statements, self._names = kept.put_aside(self._session, self._target, old, self._aside)
        return statements

    def renamed(self, columns: Sequence[Column]) -> None:
        """The new table has taken its place: write down where the old one is."""
        if self._depth:
            self._record(columns, self._names, is_copy=False)
            self._reporter.log("info", f"The former table is kept as {self._aside}.")

    def copy(self, columns: Sequence[Column], changes: Changes) -> None:
        """Rows are about to change in place: keep them as they are first. Writers wait meanwhile, readers do not."""
        if not self._depth or not changes.deleted + changes.updated + changes.inserted:
            return
        began = time.monotonic()
        rows = kept.copy_aside(self._session, self._target, self._aside)
        self._record(columns, {}, is_copy=True, rows=rows)
        self._prune(self._depth)
        took = time.monotonic() - began
        self._facts = {"copied_rows": rows, "copy_seconds": round(took, 3)}
        told = f"Kept a copy of the table as it was, {counted(rows)}, as {self._aside}"
        self._reporter.log("info", f"{told}: {took:.1f} s, for which writers waited.")

    @property
    def facts(self) -> dict[str, Any] | None:
        """How much is kept by now; None where nothing is."""
        if not self._depth:
            return None
        totals = self._totals or kept.totals(self._session, self._target)
        return {**totals.to_json(), **self._facts}

    def _record(
        self, columns: Sequence[Column], names: Mapping[str, str], *, is_copy: bool, rows: int | None = None
    ) -> None:
        self._totals = None
        kept.record(
            self._session,
            self._fence,
            self._aside,
            names=names,
            is_copy=is_copy,
            key=named(columns, self._key),
            rows=rows,
        )

    def _prune(self, most: int) -> None:
        self._totals = kept.prune(self._session, self._target, most, self._reporter)
