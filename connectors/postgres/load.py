"""One run's transaction at the destination: opened, filled and published, or as if it had never been."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from connectors.checksums import rows_put_aside
from connectors.postgres import control, errors, filling, readers, snapshots, staging
from connectors.postgres.auditing import audit, divert
from connectors.postgres.copy import CopyResult
from connectors.postgres.opened import STAGED, OpenedLoad
from connectors.postgres.publish import (
    append,
    bringing,
    by_key,
    guard,
    in_place,
    marks,
    merge,
    refreeze,
    replace,
    statistics,
)
from connectors.postgres.publish.existing import look
from connectors.postgres.publish.lock import with_lock
from connectors.sql_around import BEFORE
from connectors.writing import Changes, Watermark

if TYPE_CHECKING:
    import pyarrow as pa

    from connectors.checks import CheckResult


class Load(OpenedLoad):
    """The steps of a direct load, in order: open, copy, settle, lock, record, commit.

    `method` says how rows become visible: append, rename (a new table takes the old one's place),
    create, in_place, merge or history; `changes` what became of the target's rows. Leaving the block without a commit
    rolls everything back.
    """

    def wait_for_readers(self) -> None:
        """Let snapshots end that would see the new table without the rows that were committed after them."""
        if not self._is_staged:
            snapshots.wait_out(self._session, self._older, self._target, reporter=self._reporter, stop=self._stop)

    def copy(
        self,
        readers: Sequence[Callable[[], Iterator[pa.RecordBatch]]],
        on_batch: Callable[[int, int], None],
    ) -> CopyResult:
        """Move all rows; raises ConnectorError if the table did not take every row that was read."""
        if not readers:
            return CopyResult(0, 0)
        copied = filling.counted(
            *(partial(self._copy, readers), self._look_closer, self._target, self.quarantine), on_batch=on_batch
        )
        self.changes, self.proven = Changes(copied.rows), copied.proven
        return copied

    def _look_closer(self, error: psycopg2.Error) -> None:
        """Begin anew, for PostgreSQL refused a value that nothing was found against."""
        plain = errors.statement_error(error, self._session.connection, self._session.options, self._target)
        again = "All rows are read again, and what PostgreSQL might refuse is looked for."
        self._reporter.log("warning", f"{plain.message} {again}")
        self.quarantine.look_closer()
        self._session.rollback()
        self.open()

    def _copy(
        self, readers: Sequence[Callable[[], Iterator[pa.RecordBatch]]], count: Callable[[int, int], None]
    ) -> CopyResult:
        is_new = self.method != "append" or self._is_staged
        return filling.fill(
            *(self._session, self._new if is_new else self._target, self._columns, readers),
            by=None if self._is_staged else self._form.by,
            is_new=is_new,
            on_batch=count,
            stop=self._stop,
            text_policy=self._request.text_policy,
            diverter=self.quarantine.diverter(knows_rows_by_key=self.method in STAGED),
            checks=self._request.checks,
        )

    def settle(self, rows: int) -> int:
        """Do what is heavy before any lock: indexes and statistics of the new table, keys looked at.

        Says how many of the staged rows stay, and are published.
        """
        self._stop.check()
        if self.against is not None:
            return rows
        rows -= self._put_aside(rows)
        if self.method in by_key.METHODS:
            self._duplicates = merge.prepare(self._session, self._new, self._columns, self._mode.key, self._mode.cursor)
        if self.method == "in_place":
            in_place.prepare(self._session, self._new, self._columns, self._mode.key)
        if self._is_staged:
            self._starts = self._form.partitions_for(self._session, self._target, self._new)
        if self._is_staged or self.method == "append":
            return rows
        marks.add(self._session, self._new, marks.lacking(self._session, self._new, marks.of_mode(self._mode)))
        self._form.make_on_new(self._session, self._new, self._target, reporter=self._reporter, stop=self._stop)
        statistics.take(self._session, self._new, self._mode.options.analyze, rows, time.monotonic() - self._began)
        return rows

    def audit(self, rows: int) -> tuple[CheckResult, ...]:
        """Judge the checks of what is about to be published, as the target stands now."""
        place = (self.method, self._new, self._target, self._columns, self._mode)
        ask = rows_put_aside if self.quarantine.rows else self.ask_source
        told = (self._session, self._request, *place, rows, ask, self._seen)
        return audit(
            *told,
            judged=self._judged,
            looked=self._looked,
            proven=self.proven,
            reporter=self._reporter,
            stop=self._stop,
        )

    def _put_aside(self, rows: int) -> int:
        """Let staged rows that have no place go into quarantine, and say how many went."""
        place = (self.method, self._new, self._target, self._columns, self._mode)
        if not self.quarantine.is_on or not rows:
            return 0
        moved = self.quarantine.divert_keyless(self._new) if self._plan and self.method in STAGED else 0
        told = (self._session, self._request, *place, rows - moved, self.quarantine)
        self._judged, failed = divert(*told, looked=self._looked, proven=self.proven, stop=self._stop)
        if failed and self._plan is None and not self._is_staged and self.method != "append":
            refreeze.write_again(self._session, self._new, self._reporter)
        if moved or failed:
            self.changes = Changes(rows - moved - failed)
        return moved + failed

    def lock(self, rows: int, as_of: datetime) -> None:
        """Give the new table its name, or bring its rows over; from here to the commit others wait.

        `as_of` is the time that the rows were read as of, for what is gone since or came to be otherwise.

        Readers wait for a new table, only writers for a table whose rows change. Raises Held where a guard
        wants a person to decide; `hold` then keeps the staged rows.
        """
        self._stop.check()
        if self.method == "append" and not self._is_staged:
            self._former.make_room(self.method)
            self._complete()
            return
        self._session.execute("SAVEPOINT publish")
        self._may_be_undone = True
        self._former.make_room(self.method)
        self.quarantine.supersede(self._new if self._is_staged else None, self._reporter)
        if self.method == "rename":
            guard.check_rename(self._session, self._target, rows, self._request.guard)
        if self._is_staged:
            self._bring_over(as_of)
            return
        if self._plan is not None:
            readers.let_in(self._session, self._new)
        asked_at = time.monotonic()
        if self._old is None:
            seen = look(self._session, self._target, self._new.table)
        else:
            seen = replace.lock_old(self._session, self._target, self._new, reporter=self._reporter, stop=self._stop)
            self.locked_at = seen.answered_at
            self.lock_wait_ms = (self.locked_at - asked_at) * 1000
        if self.around.run(BEFORE):
            seen = look(self._session, self._target, self._new.table)
        for remark in replace.swap(
            *(self._session, self._target, self._new, self._whole, seen, self._old, self._form.asked),
            away=self._former.away,
        ):
            self._reporter.log("info", remark)
        if self.method == "rename":
            self._former.renamed(self._columns)
        self._old = seen.relations[self._new.table]

    def _bring_over(self, as_of: datetime) -> None:
        """Change the target's rows by what the staging table has."""
        session, target, mode = self._session, self._target, self._mode
        asked_at = time.monotonic()
        # Longer for rows that triggers and keys look up; writers do not wait for a client that stalls.
        after = (
            f"SET LOCAL lock_timeout = {append.LOCK_TIMEOUT_MS}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {replace.STALL_LIMIT_MS}"
        )
        with_lock(
            session,
            target,
            self.evolution.lock or (append.MODE if self.method == "append" and mode.span is None else merge.MODE),
            lambda lock: session.execute(lock + after),
            reporter=self._reporter,
            stop=self._stop,
        )
        self.locked_at = time.monotonic()
        self.lock_wait_ms = (self.locked_at - asked_at) * 1000
        self.evolution.apply(session, target, self._reporter)
        append.refuse_other_form(session, target, self._columns)
        by_key.complete(session, target, self._columns, mode, reporter=self._reporter, stop=self._stop)
        self._form.make_partitions(session, target, self._starts, reporter=self._reporter)
        self.around.run(BEFORE)
        self.changes = bringing.bring_over(
            *(session, target, self._new, self._whole, mode, self.method),
            rows=self.changes.inserted,
            duplicates=self._duplicates,
            as_of=as_of,
            seen=self._seen,
            guard=self._request.guard,
            reporter=self._reporter,
            before_change=partial(self._former.copy, self._columns),
        )
        session.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(self._new.schema, self._new.table)))
        self._complete()
        self._old = look(session, target).relations[target.table]

    @property
    def _seen(self) -> marks.Seen:
        """What the source has besides the staged rows."""
        return marks.Seen(self.quarantine.keys(), is_complete=not self.quarantine.illegible)

    def _complete(self) -> None:
        """Give a table that stays the indexes that it lacks, and statistics if a person asked for full ones."""
        session, target, began = self._session, self._target, time.monotonic()
        lacked = self._form.complete(
            *(session, target, self._columns, self._mode),
            is_seen=self._old is not None,
            reporter=self._reporter,
            stop=self._stop,
        )
        if lacked and self.locked_at is None:
            self.locked_at = began
        statistics.take_in_full(session, target, self._mode.options.analyze)

    @property
    def kept(self) -> Mapping[str, Any] | None:
        """How much is kept for an undo by now, for the receipt."""
        return self._former.facts

    @property
    def lock_held_ms(self) -> float:
        return 0.0 if self.locked_at is None else (time.monotonic() - self.locked_at) * 1000

    def record(
        self, rows: int, receipt: Mapping[str, Any], fingerprint: str, watermark: Watermark
    ) -> Mapping[str, Any]:
        """Write `applied` and move the head; returns the receipt as it was written."""
        if self._old is None:
            raise RuntimeError("record comes after open and lock")
        if self._plan is not None:
            staging.end_plan(self._session, self._plan)
        self.quarantine.publish()
        if self._request.supersedes is not None:
            control.forget_applied(self._session, self._fence, self._request.supersedes)
        return control.record_publish(
            self._session,
            self._fence,
            rows=rows,
            receipt=receipt,
            fingerprint=fingerprint,
            target_oid=self._old.oid,
            watermark=watermark,
            columns=self.evolution.news(self.method, receipt.get("drift", ())),
        )
