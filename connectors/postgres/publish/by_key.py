"""The target of a publish that knows rows by their key: made, or looked at, before a row is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.publish import append, history_form, marks, merge_index, replace
from connectors.postgres.publish.target_form import TargetForm
from connectors.writing import Target

METHODS = ("merge", "history")


def make_ready(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    form: TargetForm,
    method: str,
    *,
    is_there: bool,
    besides: Collection[str] = (),
    reporter: Reporter,
    stop: StopSignal,
) -> None:
    """Have a target with its unique index, or with what a history has in its place.

    What it lacks of `besides` comes with the publish. Raises ConnectorError for columns that do not fit, and keys that
    do not tell rows apart.
    """
    if not is_there:
        replace.create(session, target, columns, None, by=form.by)
        marks.add(session, target, marks.of_mode(mode))
        form.make_key(session, target)
    append.refuse_other_form(session, target, columns, besides=besides)
    if method == "history":
        history_form.prepare(session, target, columns, mode, reporter=reporter, stop=stop)
        return
    remark = merge_index.ensure_index(session, target, columns, mode.key)
    if remark:
        reporter.log("info", remark)


def complete(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    *,
    reporter: Reporter,
    stop: StopSignal,
) -> None:
    """Give a locked table that stays what this mode keeps beside the source's columns, where it is new to the table."""
    marks.ensure(session, target, mode, reporter=reporter, stop=stop)
    if mode.disposition is WriteDisposition.HISTORY:
        history_form.make(session, target, columns, mode, reporter=reporter, stop=stop)
