"""Putting a former state of a target back: one transaction, fenced and recorded as a publish is.

By renaming where nothing depends on the table that stands there, else by changing its rows to those that were
kept. What was current is kept in its turn, so that an undo can be undone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import psycopg2
from psycopg2 import sql

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError, TransientError
from connectors.postgres import control, errors, kept, quarantined, snapshots
from connectors.postgres.client import Session
from connectors.postgres.kept import Kept
from connectors.postgres.publish import in_place, in_place_rules, replace
from connectors.postgres.publish.append import LOCK_TIMEOUT_MS
from connectors.postgres.publish.existing import Look, look, refuse_create, refuse_replace
from connectors.postgres.publish.final_names import free_names
from connectors.postgres.publish.lock import with_lock
from connectors.postgres.transactions import begin_long
from connectors.writing import Changes, Fence, Target


class Undo(AbstractContextManager["Undo"]):
    """The steps of an undo, in order: open, lock, record, commit.

    `method` says how: rename (the former table takes its name back) or in_place (the rows change). `rows` is how many
    the former state has, `written` how many of them somebody wrote since. Leaving the block without a commit
    rolls everything back.
    """

    def __init__(
        self, session: Session, fence: Fence, run: UUID, *, depth: int, reporter: Reporter, stop: StopSignal
    ) -> None:
        self._session = session
        self._fence = fence
        self._target = fence.target
        self._run = run
        # What was current is kept, or it could not be put back; with a depth of 0 the next publish drops it.
        self._depth = max(1, depth)
        self._reporter = reporter
        self._stop = stop
        self._aside = kept.table_of(fence.target, fence.owner.run)
        self._older: snapshots.Held = frozenset()
        self._oid: int | None = None
        self._locked_at: float | None = None
        self.method = ""
        self.rows = 0
        self.written = 0
        self.changes = Changes(0)
        self.totals = kept.Totals(0, 0)
        self.lock_wait_ms = 0.0

    def __enter__(self) -> Self:
        self._take_back = self._stop.on_stop(self._session.cancel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._take_back()
        plain = None
        if isinstance(error, psycopg2.Error):
            plain = errors.statement_error(error, self._session.connection, self._session.options, self._target)
        self._session.rollback()
        if plain is not None:
            if plain.code == "query_cancelled":
                self._stop.check()
            raise plain from error

    def open(self) -> Kept:
        """Begin, see that the former state is whole, and choose how it comes back; nobody waits for this."""
        session, target = self._session, self._target
        session.execute(begin_long(session, control.application_name(target, self._fence.token)))
        found = next((one for one in kept.read(session, target) if one.run == self._run), None)
        if found is None:
            raise _gone(f"What run {self._run} put aside of {target} is no longer kept.")
        self.kept = found
        self._older = kept.older_snapshots(session, found)
        self._refuse_altered()
        self.rows, self.written = kept.count(session, found)
        self.method = self._choose(look(session, target))
        if self.method == "in_place":
            in_place_rules.refuse_columns(target, self._columns_there(), found.columns)
            self._key = self._usable_key()
        return found

    def wait_for_readers(self) -> None:
        """Let snapshots end that are older than the former state's rows."""
        snapshots.wait_out(self._session, self._older, self._target, reporter=self._reporter, stop=self._stop)

    def lock(self) -> None:
        """Put the former state in the place of the current one; from here to the commit others wait."""
        self._stop.check()
        asked_at = time.monotonic()
        if self.method == "rename":
            self._swap(asked_at)
        else:
            self._bring_back(asked_at)
        kept.forget(self._session, self.kept)
        self.totals = kept.prune(self._session, self._target, self._depth, self._reporter)

    def record(self, receipt: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write `applied`, and move the head back; returns the receipt as it was written."""
        return control.record_publish(
            self._session,
            self._fence,
            rows=self.rows,
            receipt=receipt,
            fingerprint=self.kept.fingerprint,
            target_oid=self._oid,
            watermark=self.kept.watermark,
            columns=self.kept.head.get("columns") or {},
        )

    def commit(self) -> None:
        self._session.commit()

    @property
    def lock_held_ms(self) -> float:
        return 0.0 if self._locked_at is None else (time.monotonic() - self._locked_at) * 1000

    # By renaming ------------------------------------------------------------------------------

    def _choose(self, seen: Look) -> str:
        session, target = self._session, self._target
        if target.table not in seen.relations:
            refusal = refuse_create(target, seen.schema, session.role)
            if refusal is not None:
                raise refusal
            return "rename"
        refusal = refuse_replace(target, seen, session.role)
        if refusal is None:
            # A copy lacks the indexes and constraints that the table has.
            return "in_place" if self.kept.is_copy else "rename"
        if refusal.code != "replace_would_break":
            raise refusal
        refusal = in_place_rules.refuse_table(session, target)
        if refusal is not None:
            raise refusal
        return "in_place"

    def _swap(self, asked_at: float) -> None:
        session, target, former = self._session, self._target, self.kept
        seen = look(session, target, former.table.table)
        names: Mapping[str, str] = {}
        statements: list[sql.Composable] = []
        if target.table in seen.relations:
            seen = replace.lock_old(session, target, former.table, reporter=self._reporter, stop=self._stop)
            self._locked_at = seen.answered_at
            self.lock_wait_ms = (self._locked_at - asked_at) * 1000
        session.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(_name(former.table)))
        self._refuse_altered()
        fresh, old = seen.relations[former.table.table], seen.relations.get(target.table)
        if old is not None:
            refusal = refuse_replace(target, seen, session.role)
            if refusal is not None:
                raise TransientError(
                    refusal.message,
                    hint="The next attempt changes the rows in place.",
                    code="target_changed",
                    field="table",
                )
            statements, names = kept.put_aside(session, target, old, self._aside)
        wished = list(former.names.values())
        free = free_names(session, target.schema, wished, old.oid if old else None)
        statements += kept.take_out(target, former, free)
        if old is not None:
            there = {name for name, _ in former.columns}
            statements += replace.carry_over(_name(target), old, fresh, there)
        else:
            self._reporter.log("warning", f"There was no {target}: its owner's rights are all that it has now.")
        session.execute(sql.SQL("; ").join(statements))
        self._oid = former.oid
        self.changes = Changes(self.rows)
        if old is not None:
            kept.record(session, self._fence, self._aside, names=names, is_copy=False, key=former.key)
        self._take_rows_back()

    # In place ---------------------------------------------------------------------------------

    def _columns_there(self) -> tuple[tuple[str, str], ...]:
        here = look(self._session, self._target).relations[self._target.table]
        return kept.columns_of(self._session, here.oid)

    def _usable_key(self) -> tuple[str, ...]:
        """The columns by which rows are known, where they tell the kept ones apart; else whole rows are compared."""
        try:
            in_place.prepare(self._session, self.kept.table, self._as_columns(), self.kept.key)
        except ConnectorError as error:
            if error.code not in ("null_key", "key_not_unique"):
                raise
            return ()
        return self.kept.key

    def _as_columns(self) -> list[Column]:
        """The kept table's columns for what knows them by the source's names: they are their own."""
        return [Column(name, "STRING") for name, _ in self.kept.columns]

    def _bring_back(self, asked_at: float) -> None:
        session, target, former = self._session, self._target, self.kept
        after = (
            f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {replace.STALL_LIMIT_MS}"
        )
        with_lock(
            session,
            target,
            in_place.MODE,
            lambda lock: session.execute(lock + after),
            reporter=self._reporter,
            stop=self._stop,
        )
        self._locked_at = time.monotonic()
        self.lock_wait_ms = (self._locked_at - asked_at) * 1000
        refusal = in_place_rules.refuse_table(session, target)
        if refusal is not None:
            raise refusal
        here = look(session, target).relations[target.table]
        in_place_rules.refuse_columns(target, kept.columns_of(session, here.oid), former.columns)
        self._oid = here.oid
        rows = kept.copy_aside(session, target, self._aside)
        kept.record(session, self._fence, self._aside, names={}, is_copy=True, key=former.key, rows=rows)
        self._take_rows_back()
        self.changes = in_place.apply(session, target, former.table, self._as_columns(), self._key)
        if why := kept.drop(session, former):
            raise TransientError(
                f"{former.table} is in use: {why}.",
                hint="The next attempt tries again.",
                code="target_locked",
                field="table",
            )

    def _take_rows_back(self) -> None:
        """Let the quarantine be what it was, once what it is was written down beside the state that goes."""
        if self._fence.has_quarantine and not quarantined.take_back(self._session, self._fence, self.kept.run):
            message = (
                "It was put aside by an earlier version: rows in quarantine stay as they are. Look before a replay."
            )
            self._reporter.log("warning", message)

    def _refuse_altered(self) -> None:
        """Raise ConnectorError if the kept table is not as it was put aside."""
        former = self.kept
        if not kept.is_there(self._session, former):
            raise _gone(f"{former.table}, the former state of {self._target}, was dropped or renamed by someone else.")
        if kept.columns_of(self._session, former.oid) != former.columns:
            raise ConnectorError(
                f"The columns of {former.table}, the former state of {self._target}, were changed by someone else.",
                hint="Change them back, or choose another former state.",
                code="kept_altered",
            )


def _gone(message: str) -> ConnectorError:
    return ConnectorError(
        message, hint="Look at what is kept now; a full refresh loads the table anew.", code="kept_gone"
    )


def _name(table: Target) -> sql.Composable:
    return sql.Identifier(table.schema, table.table)
