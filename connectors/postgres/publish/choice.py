"""Which way rows become visible, as the target stands."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.publish import deletion_rules, history_form, in_place_rules, merge_rules, span
from connectors.postgres.publish.evolve import Alterations
from connectors.postgres.publish.existing import Look, refuse_append, refuse_create
from connectors.postgres.publish.target_form import TargetForm
from connectors.writing import Target


def choose(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    seen: Look,
    form: TargetForm,
    *,
    altered: Alterations = Alterations(),  # noqa: B008 - it is frozen
) -> tuple[str, ConnectorError | None]:
    """The method, and what stands against it: append, rename, create, in_place, merge or history.

    What a table that stays lacks does not, as far as the publish can alter that.
    """
    old = seen.relations.get(target.table)
    refusal: ConnectorError | None
    if mode.disposition is WriteDisposition.MERGE:
        method = "merge"
        refusal = merge_rules.refuse_target(session, target, columns, mode, seen)
    elif mode.disposition is WriteDisposition.HISTORY:
        method = "history"
        refusal = history_form.refuse_target(session, target, columns, mode, seen, besides=altered.names)
    elif old is None:
        method, refusal = "create", refuse_create(target, seen.schema, session.role)
    elif mode.disposition is WriteDisposition.APPEND:
        method, refusal = "append", refuse_append(target, seen, session.role)
    else:
        method, refusal = in_place_rules.choose(session, target, columns, mode.key, seen, besides=altered.names)
    if refusal is None and mode.span is not None and method not in ("merge", "history"):
        refusal = span.refuse(session, target, columns, exists=old is not None, besides=altered.names)
    if method not in ("rename", "create") and altered.refusal is not None:
        refusal = altered.refusal
    if refusal is None and old is not None and method != "rename":
        refusal = form.refuse_staying(session, target, old)
    stays = None if method == "rename" else old
    return method, refusal or deletion_rules.refuse(session, target, columns, mode, stays, besides=altered.names)
