"""The transaction of a load: begun with a look at the target; ended by a commit, a hold, or as if it had never been."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg2
from psycopg2 import sql

from connectors import mending
from connectors.base import Reporter, StopSignal
from connectors.checksums import AskSource, nobody_asked
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteMode
from connectors.postgres import control, errors, snapshots, staging
from connectors.postgres.auditing import Looked, look_through
from connectors.postgres.client import Session
from connectors.postgres.publish import (
    append,
    by_key,
    in_place,
    merge_rules,
    partitions,
    replace,
)
from connectors.postgres.publish.around import Around
from connectors.postgres.publish.choice import choose
from connectors.postgres.publish.evolve import Evolution
from connectors.postgres.publish.existing import Existing, Look, look
from connectors.postgres.publish.former import Former
from connectors.postgres.publish.target_form import TargetForm
from connectors.postgres.quarantine import Quarantine
from connectors.postgres.staging import Plan
from connectors.postgres.transactions import begin_long
from connectors.writing import Changes, Fence, Target

if TYPE_CHECKING:
    from connectors.checks import CheckResult
    from connectors.request import TransferRequest

# Methods that change the rows of a table that stays, by those of a staging table.
STAGED = ("in_place", *by_key.METHODS)


class OpenedLoad(AbstractContextManager["OpenedLoad"]):
    """Where the rows of a load go, as the target stands; what a load then does with them is for `Load`.

    `against` is what a person can mend that keeps rows that were staged before from being published. Leaving the block
    without a commit rolls everything back.
    """

    def __init__(
        self,
        session: Session,
        fence: Fence,
        columns: Sequence[Column],
        mode: WriteMode,
        request: TransferRequest,
        *,
        reporter: Reporter,
        stop: StopSignal,
    ) -> None:
        self._session = session
        self._fence = fence
        self._target = fence.target
        self._columns = columns
        self._mode = merge_rules.in_the_sources_words(mode, columns)
        self._request = request
        self._reporter = reporter
        self._stop = stop
        self._form = TargetForm()
        self.evolution = Evolution(fence, request, columns, mode.key)
        self._former = Former(session, fence, self._mode, reporter)
        self.around = Around(session, fence, request, reporter, stop)
        self._new = replace.new_table(fence.target, fence.owner.run)
        self._old: Existing | None = None
        self._found: list[Any] | None = None
        self._plan: Plan | None = None
        self._is_in_parts = False
        self._may_be_undone = False
        self._has_made_target = False
        self._began = time.monotonic()
        self._duplicates = 0
        self._starts: list[date] = []
        self._judged: tuple[CheckResult, ...] = ()
        self._looked: Looked | None = None
        self.proven: frozenset[str] = frozenset()
        self._older: snapshots.Held = frozenset()
        self.quarantine = Quarantine(session, fence, columns, self._mode, request)
        self.ask_source: AskSource = nobody_asked
        self.against: ConnectorError | None = None
        self.method = ""
        self.changes = Changes(0)
        self.lock_wait_ms = 0.0
        self.locked_at: float | None = None

    def __enter__(self) -> Self:
        self._take_back = self._stop.on_stop(self._session.cancel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._take_back()
        self.quarantine.close()
        plain = None
        if isinstance(error, psycopg2.Error):
            plain = errors.statement_error(error, self._session.connection, self._session.options, self._target)
        self._session.rollback()
        if plain is not None:
            if plain.code == "query_cancelled":
                self._stop.check()
            raise plain from error

    def open(self) -> None:
        """Begin, look at the target, and refuse what cannot end well before a row is read."""
        self._choose()
        if self.method in by_key.METHODS:
            self._prepare_target()
            replace.create(self._session, self._new, self._columns, None, unlogged=True)
        elif self.method == "append" and not self._is_staged:
            append.hold_target(self._session, self._target, self._columns, reporter=self._reporter, stop=self._stop)
        else:
            by = None if self._is_staged else self._form.by
            replace.create(self._session, self._new, self._whole, self._old, unlogged=self._is_staged, by=by)

    def reopen(self, plan: Plan, rows: int, *, ends: mending.Ends = mending.ends_at_once) -> None:
        """Begin with the rows that an earlier transaction staged; raises ConnectorError if they cannot be published.

        How they become visible is chosen anew: what stands at the target's name may have changed since. Of a table that
        is replaced the log says so, as nothing else would: one that stays is compared under its lock. What a person
        can mend is kept in `against` where it `ends` the run: then the rows are seen to be there, and nothing is done.
        """
        self._is_in_parts = True
        try:
            with self.explained():
                self._reopen(plan, rows)
        except ConnectorError as error:
            if error.code not in mending.ON_OPENING | mending.PASSING or not ends(error):
                raise
            self._session.rollback()
            self._begin()
            count = partial(staging.rows_in, self._session, plan.staging)
            self._plan = staging.check_plan(self._session, self._fence, plan, rows, count)
            self._new, self._has_made_target = plan.staging, False
            self.against = error
        self.changes = Changes(rows)

    def _reopen(self, plan: Plan, rows: int) -> None:
        self._choose()
        if not self._is_staged and plan.facts.get("found", self._found) != self._found:
            self._reporter.log("warning", replace.changed_meanwhile(self._target))
        # Else its rows are frozen: every snapshot sees them.
        if "read" in plan.facts or plan.facts.get("rewritten"):
            self._older = snapshots.now_held(self._session)
        self._plan = staging.check_plan(self._session, self._fence, plan, rows, partial(self._count, plan.staging))
        self._new = plan.staging
        is_divided = self._form.by is not None and not self._is_staged
        if is_divided != (partitions.tree_of(self._session, self._new) is not None):
            raise ConnectorError(
                f"The staged rows do not have the form that publishing them to {self._target} takes by now.",
                hint="Run the pipeline again.",
                code="staging_gone",
            )
        if self.method in by_key.METHODS:
            self._prepare_target()
        elif not self._is_staged and not is_divided:
            staging.make_logged(self._session, self._new)

    def _count(self, staged: Target) -> int:
        """How many rows are staged; what checks ask of each of them is looked at in the same scan."""
        place = (self.method, staged, self._columns, self._mode.options, self.proven)
        self._looked = look_through(self._session, self._request, *place, stop=self._stop)
        return self._looked.rows

    def hold(self, facts: Mapping[str, Any]) -> None:
        """Instead of a publish that something refused: commit the staged rows with what publishing them has to know."""
        if self._may_be_undone:
            self._session.execute("ROLLBACK TO SAVEPOINT publish")
            self.around.leave()
        if self._has_made_target:
            self._session.execute(
                sql.SQL("DROP TABLE {}").format(sql.Identifier(self._target.schema, self._target.table))
            )
        is_staged = self._is_staged if self.against is None else self._plan is not None and "read" in self._plan.facts
        if self.against is None:
            facts = {**facts, "found": self._found, "rewritten": is_staged}
        if is_staged:
            # A person may take days: a server that crashes or is failed over meanwhile must not empty it.
            staging.make_logged(self._session, self._new)
        if self._plan is None:
            staging.write_plan(self._session, self._fence, 1, self._new, facts)
        else:
            staging.change_plan(self._session, self._fence, self._plan, facts)
        self._session.commit()

    def stage(self, generation: int, parts: int, facts: Mapping[str, Any]) -> bool:
        """Instead of a load: commit an empty staging table, its plan, and a checkpoint for each of `parts`.

        False, and nothing is done, where rows have to go straight into the partitions of a new table.
        """
        self._is_in_parts = True
        self._choose()
        if self._form.by is not None and not self._is_staged:
            return False
        self._new = staging.table_of(self._target, self._fence.owner.run, generation)
        old = None if self._is_staged else self._old
        replace.create(self._session, self._new, self._whole, old, unlogged=self._is_staged)
        facts = {**facts, "found": self._found}
        staging.write_plan(self._session, self._fence, generation, self._new, facts, parts=parts)
        self._session.commit()
        return True

    def _choose(self) -> None:
        """Begin, and decide how rows become visible; raises what is against it."""
        seen = self._begin()
        self._form = TargetForm.of(self._mode, self._columns)
        self._old = seen.relations.get(self._target.table)
        self._found = None if self._old is None else [self._old.oid, self._old.form]
        if self._old is not None:
            self.evolution.look(self._session, self._target, owner=self._old.owner, is_ours=self._old.is_ours)
        altered = self.evolution.alterations
        method, refusal = choose(
            self._session, self._target, self._columns, self._mode, seen, self._form, altered=altered
        )
        if refusal is not None:
            raise refusal
        self.method = method
        if method == "rename" and self.evolution.left_over:
            names = ", ".join(self.evolution.left_over)
            self._reporter.log("warning", f"{self._target} keeps, as NULL, what its source has no longer: {names}.")
        if method == "in_place" and self._old is not None:
            self._reporter.log("info", in_place.describe(self._target, self._old))

    @property
    def can_go_back(self) -> bool:
        """Whether its rows were staged by an earlier transaction, and what was done to them can be undone."""
        return self._plan is not None and (self._may_be_undone or self.against is not None)

    def see_constraints(self) -> None:
        """Have constraints of the target that are put off to the commit looked at while there is a way back."""
        if self._plan is not None:
            self._session.execute("SET CONSTRAINTS ALL IMMEDIATE")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of psycopg2 into ours, or into that somebody asked to stop."""
        try:
            with self._session.explained(self._target):
                yield
        except ConnectorError as error:
            if error.code == "query_cancelled":
                self._stop.check()
            raise

    @property
    def _is_staged(self) -> bool:
        """Whether rows go into a staging table, and then into one that stays."""
        mode, divided = self._mode, self._form.by is not None
        return self.method in STAGED or (
            self.method == "append"
            and (self._is_in_parts or divided or mode.span is not None or mode.staged or self.evolution.is_needed)
        )

    @property
    def _whole(self) -> Sequence[Column]:
        """The columns of the source, and those it dropped that a table with all its rows anew keeps as NULL."""
        return (*self._columns, *self.evolution.kept_by(self.method))

    def _prepare_target(self) -> None:
        """Have a target in which rows are known by their key."""
        by_key.make_ready(
            *(self._session, self._target, self._columns, self._mode, self._form, self.method),
            is_there=self._old is not None,
            besides=self.evolution.alterations.names,
            reporter=self._reporter,
            stop=self._stop,
        )
        self._has_made_target = self._old is None

    def commit(self) -> None:
        self._session.commit()

    def _begin(self) -> Look:
        before = begin_long(self._session, control.application_name(self._target, self._fence.token))
        try:
            return look(self._session, self._target, before=before)
        except psycopg2.Error as error:
            # The plan may have taken long enough for a firewall to forget the idle connection.
            if not errors.is_lost(error, self._session.connection):
                raise
            self._session.reconnect()
            return look(self._session, self._target, before=before)
