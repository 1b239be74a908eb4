"""What the target's options come to, given the columns of the source and the table that stands there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.publish import indexes, partitions
from connectors.postgres.publish.existing import Existing
from connectors.postgres.publish.merge_rules import named
from connectors.postgres.publish.partitions import Partitioning
from connectors.target_options import objections
from connectors.writing import Target


@dataclass(frozen=True)
class TargetForm:
    """The key and indexes that are asked for, and how the table is to be divided, if it is."""

    asked: tuple[indexes.Wanted, ...] = ()
    by: Partitioning | None = None

    @classmethod
    def of(cls, mode: WriteMode, columns: Sequence[Column]) -> TargetForm:
        """Raises ConnectorError, with the field at fault, for options that `columns` do not allow."""
        merge_key = mode.key if mode.disposition in (WriteDisposition.MERGE, WriteDisposition.HISTORY) else ()
        for error in objections(mode.options, merge_key):
            raise error
        return cls(tuple(indexes.wanted(mode.options, columns)), Partitioning.of(mode.options, columns))

    def make_on_new(
        self, session: Session, new: Target, target: Target, *, reporter: Reporter, stop: StopSignal
    ) -> None:
        """Give a filled table that nobody sees yet its key and indexes."""
        if not self.asked:
            return
        began = time.monotonic()
        indexes.make_on_new(session, new, self.asked, stop=stop)
        made = ", ".join(one.what for one in self.asked)
        reporter.log("info", f"Made for the new {target}, in {time.monotonic() - began:.1f} s: {made}.")

    def make_key(self, session: Session, target: Target) -> None:
        """Give an empty table that nobody sees yet its primary key: a merge may find rows by it."""
        for one in self.asked:
            if one.is_primary:
                indexes.make(session, target, one)

    def partitions_for(self, session: Session, target: Target, staging: Target) -> list[date]:
        """Where the partitions begin that staged rows need; raises ConnectorError for rows without a place."""
        return [] if self.by is None else partitions.starts(session, target, staging, self.by)

    def make_partitions(self, session: Session, target: Target, starts: Sequence[date], *, reporter: Reporter) -> None:
        """Give a table that stays those partitions that it lacks."""
        made = [] if self.by is None else partitions.ensure(session, target, self.by, starts)
        if made:
            some = ", ".join(made[:3]) + (f" and {len(made) - 3} more" if len(made) > 3 else "")
            reporter.log("info", f"Made partitions of {target}: {some}.")

    def refuse_staying(self, session: Session, target: Target, here: Existing) -> ConnectorError | None:
        """Why a table that is not made anew cannot be given this form."""
        if self.by is not None:
            tree = partitions.tree_of(session, target)
            refusal = partitions.refuse(target, self.by, tree, is_ours=here.is_ours, role=session.role)
            if refusal is not None:
                return refusal
        try:
            lacking = indexes.missing(target, self.asked, indexes.found(session, target))
        except ConnectorError as refusal:
            return refusal
        if lacking and not here.is_ours:
            return ConnectorError(
                f"{session.role} may not make the {lacking[0].what} of {target}: only its owner, {here.owner}, may.",
                hint="Let the owner make it, or take it out of the pipeline.",
                code="missing_grant",
                field=lacking[0].field,
            )
        return None

    def complete(
        self,
        session: Session,
        target: Target,
        columns: Sequence[Column],
        mode: WriteMode,
        *,
        is_seen: bool,
        reporter: Reporter,
        stop: StopSignal,
    ) -> bool:
        """Give a table that stays what it lacks of its key and indexes, once its rows are as they are to be.

        `is_seen` says that others use it already. Says whether it lacked something.
        """
        there = indexes.found(session, target)
        is_partitioned = self.by is not None or partitions.tree_of(session, target) is not None
        lacking = indexes.missing(target, self.asked, there)
        indexes.make_on_existing(
            session,
            target,
            lacking,
            is_partitioned=is_partitioned,
            is_seen=is_seen,
            reporter=reporter,
            stop=stop,
        )
        for index in indexes.surplus(self.asked, there, named(columns, mode.key)):
            reporter.log("info", f"{index.name} on {target} is no longer asked for; it stays until somebody drops it.")
        return bool(lacking)
