"""The quarantine as people see it: counted, shown, chosen, and decided on outside of a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA
from connectors.quarantine import RowState
from connectors.replay import MOST_ROWS, QuarantinedRow
from connectors.writing import Target

SHOWN_ROWS = 50
LONGEST_SHOWN = 4_000  # characters of a raw row on a page
_TARGET = "array_to_string(parse_ident(target), '.')"
_SHOWN = (
    f"id, {_TARGET}, run, state, column_name, code, reason, key, seen_at, decided_at, decided_by, decided_run, note,"
    f" left(raw, {LONGEST_SHOWN}), length(raw)"
)


@dataclass(frozen=True)
class Wanted:
    """Which rows: by what is given. `ids` name them one by one."""

    ids: tuple[str, ...] = ()
    run: str = ""
    column: str = ""
    code: str = ""
    state: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Wanted:
        texts = {name: str(values.get(name) or "") for name in ("run", "column", "code", "state")}
        return cls(tuple(map(str, values.get("ids") or ())), **texts)

    def where(self) -> tuple[str, list[Any]]:
        """SQL of what is given, and its values."""
        said, values = ["true"], list[Any]()
        given = (("run::text", self.run), ("column_name", self.column), ("code", self.code), ("state", self.state))
        for name, value in given:
            if value:
                said.append(f"{name} = %s")
                values.append(value)
        if self.ids:
            said.append("id = ANY(%s::uuid[])")
            values.append(list(self.ids))
        return " AND ".join(said), values


def exists(session: Session) -> bool:
    """Whether any run has made the table."""
    return bool((session.one(f"SELECT to_regclass('{SCHEMA}.quarantine') IS NOT NULL") or (False,))[0])


def look(session: Session, pipeline: UUID, wanted: Wanted) -> dict[str, Any]:
    """A pipeline's rows of published runs: counts by target, column, code and state, and the newest that are wanted."""
    if not exists(session):
        return {"counts": [], "rows": [], "total": 0, "targets": []}
    mine = "pipeline = %s AND state <> 'staged'"
    counts = session.execute(
        f"""
        SELECT {_TARGET}, column_name, code, state, count(*), max(seen_at) FROM {SCHEMA}.quarantine
        WHERE {mine} GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC LIMIT 200
        """,
        (str(pipeline),),
    ).fetchall()
    where, values = wanted.where()
    (total,) = session.one(
        f"SELECT count(*) FROM {SCHEMA}.quarantine WHERE {mine} AND {where}", (str(pipeline), *values)
    ) or (0,)
    targets = session.execute(
        f"""
        SELECT DISTINCT (parse_ident(target))[1], (parse_ident(target))[2] FROM {SCHEMA}.quarantine
        WHERE {mine} AND {where} ORDER BY 1, 2 LIMIT 50
        """,
        (str(pipeline), *values),
    ).fetchall()
    rows = session.execute(
        f"""
        SELECT {_SHOWN} FROM {SCHEMA}.quarantine WHERE {mine} AND {where}
        ORDER BY seen_at DESC, id LIMIT {SHOWN_ROWS}
        """,
        (str(pipeline), *values),
    ).fetchall()
    names = ("target", "column", "code", "state", "rows", "newest")
    return {
        "counts": [dict(zip(names, [*row[:5], row[5].isoformat()], strict=True)) for row in counts],
        "rows": [_shown(row) for row in rows],
        "total": total,
        "targets": [{"schema": schema, "table": table} for schema, table in targets],
    }


def _shown(row: Sequence[Any]) -> dict[str, Any]:
    id_, target, run, state, column, code, reason, key, seen_at, decided_at, by, decided_run, note, raw, length = row
    return {
        "id": str(id_),
        "target": target,
        "run": str(run),
        "state": state,
        "column": column,
        "code": code,
        "reason": reason,
        "key": key,
        "seen_at": seen_at.isoformat(),
        "decided_at": decided_at and decided_at.isoformat(),
        "decided_by": by or "",
        "decided_run": str(decided_run) if decided_run and decided_at else "",
        "note": note or "",
        "raw": raw,
        "is_cut": length > LONGEST_SHOWN,
    }


def discard(session: Session, pipeline: UUID, wanted: Wanted, *, by: str, note: str) -> int:
    """Close open rows as nobody's any more, in a transaction of its own; says how many.

    One that a run is replaying waits for that run, and is not open afterwards.
    """
    if not exists(session):
        return 0
    where, values = wanted.where()
    try:
        session.execute("BEGIN; SET LOCAL lock_timeout = '2s'")
        rows = session.execute(
            f"""
            UPDATE {SCHEMA}.quarantine
            SET state = 'discarded', decided_at = clock_timestamp(), decided_by = %s, note = %s
            WHERE pipeline = %s AND state = 'open' AND {where}
            """,
            (by, note, str(pipeline), *values),
        ).rowcount
        session.commit()
    finally:
        session.rollback()
    return int(rows)


def choose(session: Session, target: Target, pipeline: UUID, wanted: Wanted) -> list[QuarantinedRow]:
    """A pipeline's open rows of a target that are wanted, the oldest first, as many as one run takes.

    The target may have been another pipeline's before, whose rows are its own.
    """
    where, values = wanted.where()
    found = session.execute(
        f"""
        SELECT id::text, raw, masks FROM {SCHEMA}.quarantine
        WHERE target = %s AND pipeline = %s AND state = %s AND {where}
        ORDER BY seen_at, id LIMIT {MOST_ROWS}
        """,
        (target_key(target), str(pipeline), RowState.OPEN.value, *values),
    ).fetchall()
    return [QuarantinedRow(*row) for row in found]


def take_back(session: Session, target: Target, made_by: UUID | None, *, undo: UUID) -> None:
    """The target is again as `made_by` left it: what later runs put aside is old, what they closed is open again.

    Part of the transaction of the run `undo`. Who had closed a row is kept with it, so that an undo of this undo closes
    it again.
    """
    session.execute(
        f"""
        WITH restored AS (
            SELECT coalesce(max(published_at), '-infinity') AS moment
            FROM {SCHEMA}.applied WHERE run = %(made_by)s::uuid
        ), known AS (
            SELECT run, published_at > restored.moment AS is_later, receipt->>'method' = 'undo' AS undoes,
                   coalesce(receipt->>'replayed', '0') <> '0' AS replays
            FROM {SCHEMA}.applied, restored WHERE target = %(target)s
        ), found AS (
            SELECT q.id, CASE
                WHEN q.state = 'open' AND brought.is_later THEN 'superseded'
                WHEN q.state = 'open' AND NOT closed.is_later AND NOT closed.undoes
                    THEN CASE WHEN closed.replays THEN 'replayed' ELSE 'superseded' END
                WHEN q.state IN ('superseded', 'replayed') AND closed.is_later AND NOT brought.is_later THEN 'open'
            END AS state, brought.is_later
            FROM {SCHEMA}.quarantine AS q JOIN known AS brought ON brought.run = q.run
            LEFT JOIN known AS closed ON closed.run = q.decided_run
            WHERE q.target = %(target)s AND q.state <> 'staged'
        )
        UPDATE {SCHEMA}.quarantine AS q
        SET state = found.state, decided_run = CASE WHEN found.is_later THEN %(undo)s::uuid ELSE q.decided_run END,
            decided_at = CASE WHEN found.state = 'open' THEN NULL ELSE clock_timestamp() END
        FROM found WHERE q.id = found.id AND found.state IS NOT NULL
        """,
        {"target": target_key(target), "made_by": made_by and str(made_by), "undo": str(undo)},
    )
