"""What a run would do to its target, found without writing: the same choices that a run makes."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.column import Column
from connectors.forecast import Forecast, LastLock
from connectors.modes import Deletes, WriteDisposition, WriteMode
from connectors.postgres import control, control_schema, kept
from connectors.postgres.client import Session
from connectors.postgres.publish import (
    history_form,
    in_place_rules,
    indexes,
    marks,
    merge_index,
    merge_rules,
    partitions,
)
from connectors.postgres.publish.evolve import Alterations
from connectors.postgres.publish.existing import Existing, Look
from connectors.postgres.publish.lock import LIMIT_S, TRY_MS
from connectors.postgres.publish.target_form import TargetForm
from connectors.writing import Target

_ASKED = f"It is asked for {TRY_MS // 1000} s at a time, for up to {LIMIT_S:.0f} s, and others pass between."
_WAITS = {
    "create": "Nobody waits: the table is there once its rows are in it.",
    "rename": "Readers and writers wait while the tables change places (ACCESS EXCLUSIVE), usually some milliseconds."
    f" {_ASKED}",
    "in_place": "Writers wait while the difference is found and written (SHARE ROW EXCLUSIVE); readers do not."
    f" {_ASKED}",
    "append": "Nobody waits: rows are added beside those that others read and write (ROW EXCLUSIVE).",
    "history": f"Writers wait while versions are added (SHARE ROW EXCLUSIVE); readers do not. {_ASKED}",
    "merge": f"Writers wait while rows are merged (SHARE ROW EXCLUSIVE); readers do not. {_ASKED}",
}


_ALTERED = (
    "Readers and writers wait while columns are added or widened and the rows are brought over, in this run only."
)


def forecast(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    seen: Look,
    altered: Alterations = Alterations(),  # noqa: B008 - it is frozen
) -> Forecast:
    """What stands against the run is not looked for: `validate_target` says that.

    Without `columns`, which a source that does not answer cannot tell, nothing is said of keys and indexes.
    """
    here = seen.relations.get(target.table)
    form = TargetForm.of(mode, columns) if columns else TargetForm()
    method = _method(session, target, columns, mode, seen)
    makes, waits = _makes(session, target, columns, mode, form, None if method == "rename" else here)
    if altered and method not in ("rename", "create"):
        makes, waits = (str(altered), *makes), (_ALTERED, *waits)
    return Forecast(
        method,
        _why(target, mode, method, here),
        here.dependents if here is not None else (),
        makes,
        (_WAITS[method], *waits),
        (*_minds(columns, form, method, here), *_keeps(session, target, mode, method)),
        _last_lock(session, target),
    )


def _method(session: Session, target: Target, columns: Sequence[Column], mode: WriteMode, seen: Look) -> str:
    if mode.disposition in (WriteDisposition.MERGE, WriteDisposition.HISTORY):
        return str(mode.disposition)
    if target.table not in seen.relations:
        return "create"
    if mode.disposition is WriteDisposition.APPEND:
        return "append"
    return in_place_rules.choose(session, target, columns, mode.key, seen)[0]


def _why(target: Target, mode: WriteMode, method: str, here: Existing | None) -> str:
    if here is None:
        return f"There is no table {target} yet: the run makes it."
    if method == "in_place":
        return in_place_rules.describe(target, here)
    if method == "rename":
        return f"Nothing depends on {target}: a new table takes its place by renaming."
    if method == "append":
        return f"Rows are added to {target}."
    if method == "history":
        by = f"from {mode.cursor} on" if mode.cursor else "from the run's snapshot on"
        return (
            f"Each change of a row, known by {', '.join(mode.key)}, is added to {target} as a version that holds {by}."
        )
    gone = {Deletes.SOFT: " Rows that are gone are marked.", Deletes.HARD: " Rows that are gone are deleted."}
    told = f"Rows are merged into {target} by {', '.join(mode.key)}: those that differ are updated, new ones are added."
    return told + gone.get(mode.deletes, "")


def _makes(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    form: TargetForm,
    stays: Existing | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What will be made, and who waits for it; `stays` is the table that keeps its place, if one does."""
    asked: Sequence[indexes.Wanted] = form.asked
    waits = []
    if stays is not None:
        asked = indexes.missing(target, asked, indexes.found(session, target))
        if any(one.is_primary for one in asked):
            waits.append(
                "For the primary key readers wait as well, while PostgreSQL makes sure that it holds no NULL."
                if partitions.tree_of(session, target) is None
                else "For the primary key readers wait as well, while it is made: the table is partitioned."
            )
        if any(not one.is_primary for one in asked):
            waits.append("For the indexes writers wait from when they are made until the commit; readers do not.")
    makes = [one.what for one in asked]
    if mode.disposition is WriteDisposition.HISTORY and columns:
        makes += [
            f"{kind} on {', '.join(mode.key)}" for kind in _history_indexes(session, target, columns, mode, stays)
        ]
    key_index = _merge_index(session, target, columns, mode, form, stays)
    if key_index:
        makes.append(key_index)
        if stays is not None:
            waits.append(f"Writers wait from the start of the run, when the {key_index} is made.")
    missing = _marks(session, target, mode, stays)
    if missing:
        makes.append(f"{', '.join(missing)}, kept beside the columns of the source")
        if stays is not None:
            waits.append("Readers wait as well for the moment in which these columns are added to the catalog.")
    if form.by is not None:
        makes.append(f"partitions, one for each {form.by.unit} of {form.by.source} that has rows")
    return tuple(makes), tuple(waits)


def _history_indexes(
    session: Session, target: Target, columns: Sequence[Column], mode: WriteMode, stays: Existing | None
) -> list[str]:
    """Those of a history that the target lacks."""
    there = history_form.indexed(session, target, merge_rules.named(columns, mode.key)) if stays is not None else set()
    told = {"_is_current": "unique index of current versions", "NOT _is_current": "index of past versions"}
    return [what for predicate, what in told.items() if predicate not in there]


def _marks(session: Session, target: Target, mode: WriteMode, stays: Existing | None) -> Sequence[str]:
    """The columns of our own that the target lacks."""
    names = marks.of_mode(mode)
    return names if stays is None or not names else marks.lacking(session, target, names)


def _merge_index(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    form: TargetForm,
    stays: Existing | None,
) -> str:
    """The unique index that a merge needs and does not find."""
    if mode.disposition is not WriteDisposition.MERGE or not columns:
        return ""
    keys = merge_rules.named(columns, mode.key)
    if stays is not None:
        table = merge_rules.inspected(session, target)
        if merge_index.has_index(session, table, keys):
            return ""
    elif any(one.is_primary and set(one.columns) == set(keys) for one in form.asked):
        return ""
    return f"unique index on {', '.join(keys)}"


def _minds(columns: Sequence[Column], form: TargetForm, method: str, here: Existing | None) -> list[str]:
    minds = []
    if method == "rename":
        minds.append("Owner, grants, comments and storage settings go with it.")
    if method == "in_place" and here is not None and not here.is_ours:
        minds.append(f"It belongs to {here.owner}: only its owner could replace it by renaming.")
    if form.by is not None:
        source = next(column for column in columns if column.name == form.by.source)
        if not source.required:
            minds.append(f"Rows whose {source.name} is NULL have no partition: a run that reads one publishes nothing.")
        if method == "append":
            minds.append("Rows are staged first, as only they tell which partitions they need.")
    return minds


def _keeps(session: Session, target: Target, mode: WriteMode, method: str) -> list[str]:
    """What keeping the former state comes to."""
    if not mode.undo_depth or method not in ("rename", "in_place"):
        return []
    row = session.one(kept.SIZE, {"table": control.target_key(target)})
    size = f"{(row[0] if row and row[0] else 0) / 1024**2:,.1f} MiB"
    if method == "rename":
        return [f"The former table is kept for an undo ({size}), and at most {mode.undo_depth} of them."]
    return [f"Where rows change, a copy of the table ({size}) is made first, for an undo: writers wait for it."]


def _last_lock(session: Session, target: Target) -> LastLock | None:
    there = session.one(f"SELECT to_regclass('{control_schema.SCHEMA}.applied') IS NOT NULL")
    if there is None or not there[0]:
        return None
    row = session.one(
        f"""
        SELECT a.receipt->>'method', (a.receipt->>'lock_wait_ms')::float, (a.receipt->>'lock_held_ms')::float
        FROM {control_schema.SCHEMA}.head h JOIN {control_schema.SCHEMA}.applied a ON a.run = h.last_run
        WHERE h.target = %s AND (a.receipt->>'lock_held_ms')::float > 0
        """,
        (control.target_key(target),),
    )
    return None if row is None else LastLock(*row)
