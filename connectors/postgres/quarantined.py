"""The quarantine as people see it: counted, shown, chosen, and decided on outside of a load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA, create_schema
from connectors.quarantine import RowState
from connectors.replay import MOST_ROWS, QuarantinedRow
from connectors.writing import Fence, Target

SHOWN_ROWS = 50
LONGEST_SHOWN = 4_000  # characters of a raw row on a page
_TARGET = "array_to_string(parse_ident(target), '.')"
_SHOWN = (
    f"id, {_TARGET}, run, state, column_name, code, reason, key, seen_at, decided_at, decided_by, decided_run, note,"
    f" left(raw, {LONGEST_SHOWN}), length(raw)"
)


@dataclass(frozen=True)
class Wanted:
    """Which rows: by what is given. `ids` name them one by one.

    `as_of` is what `look` said: what became open since then is not among them.
    """

    ids: tuple[str, ...] = ()
    run: str = ""
    column: str = ""
    code: str = ""
    state: str = ""
    as_of: Mapping[str, int] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Wanted:
        texts = {name: str(values.get(name) or "") for name in ("run", "column", "code", "state")}
        return cls(tuple(map(str, values.get("ids") or ())), **texts, as_of=values.get("as_of"))

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
        if self.as_of is not None:
            # Publishes of a target follow one another, each under a higher token.
            said.append("coalesce(opened, 0) <= (%s::jsonb->>target)::bigint")
            values.append(json.dumps(dict(self.as_of)))
        return " AND ".join(said), values


def exists(session: Session) -> bool:
    """Whether any run has made the table."""
    return bool((session.one(f"SELECT to_regclass('{SCHEMA}.quarantine') IS NOT NULL") or (False,))[0])


def _is_complete(session: Session) -> bool:
    """Whether the table is of this version: the first run completes it."""
    row = session.one(
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'opened')",
        (f"{SCHEMA}.quarantine",),
    )
    return bool(row and row[0])


def look(session: Session, pipeline: UUID, wanted: Wanted) -> dict[str, Any]:
    """A pipeline's rows of published runs: counts by target, column, code and state, and the newest that are wanted.

    `as_of` tells, by target, up to which publish they are known: it bounds what is done with them later. `later` counts
    those that are wanted and came after the `as_of` that is asked for.
    """
    if not exists(session):
        return {"counts": [], "rows": [], "total": 0, "targets": [], "as_of": {}, "later": 0}
    mine = "pipeline = %s AND state <> 'staged'"
    opened = "coalesce(opened, 0)" if _is_complete(session) else "0"
    if opened == "0":
        wanted = replace(wanted, as_of=None)
    counts = session.execute(
        f"""
        SELECT {_TARGET}, column_name, code, state, count(*), max(seen_at) FROM {SCHEMA}.quarantine
        WHERE {mine} GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC LIMIT 200
        """,
        (str(pipeline),),
    ).fetchall()
    where, values = wanted.where()
    ever, known = replace(wanted, as_of=None).where()
    # One statement, hence one snapshot: what it counts is what `as_of` bounds.
    targets = session.execute(
        f"""
        SELECT (parse_ident(target))[1], (parse_ident(target))[2], target, max({opened}),
               count(*) FILTER (WHERE {where}), count(*) FILTER (WHERE {ever})
        FROM {SCHEMA}.quarantine WHERE {mine} GROUP BY target ORDER BY 1, 2
        """,
        (*values, *known, str(pipeline)),
    ).fetchall()
    total = sum(rows for *_, rows, _ in targets)
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
        "targets": [{"schema": schema, "table": table} for schema, table, *_, rows, _ in targets if rows],
        "as_of": {key: token for _, _, key, token, *_ in targets},
        "later": sum(rows for *_, rows in targets) - total,
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
        "decided_run": str(decided_run) if decided_run else "",
        "note": note or "",
        "raw": raw,
        "is_cut": length > LONGEST_SHOWN,
    }


def discard(session: Session, pipeline: UUID, wanted: Wanted, *, by: str, note: str) -> dict[str, int]:
    """Close open rows as nobody's any more, in a transaction of its own; says how many, and how many came `later`.

    One that a run is replaying waits for that run, and is not open afterwards.
    """
    if not exists(session):
        return {"discarded": 0, "later": 0}
    if not _is_complete(session):
        create_schema(session)
    where, values = wanted.where()
    ever, known = replace(wanted, as_of=None).where()
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
        later = session.one(
            f"SELECT count(*) FROM {SCHEMA}.quarantine WHERE pipeline = %s AND state = 'open' AND {ever}",
            (str(pipeline), *known),
        )
        session.commit()
    finally:
        session.rollback()
    return {"discarded": rows, "later": later[0] if later else 0}


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


def came_later(session: Session, target: Target, pipeline: UUID, wanted: Wanted) -> int:
    """How many open rows of a target would be wanted, had they not become open after `wanted.as_of`."""
    if wanted.as_of is None:
        return 0
    where, values = replace(wanted, as_of=None).where()
    row = session.one(
        f"""
        SELECT count(*) FROM {SCHEMA}.quarantine
        WHERE target = %s AND pipeline = %s AND state = %s AND {where} AND coalesce(opened, 0) > %s
        """,
        (target_key(target), str(pipeline), RowState.OPEN.value, *values, wanted.as_of.get(target_key(target), -1)),
    )
    return row[0] if row else 0


def take_back(session: Session, fence: Fence, kept: UUID) -> bool:
    """Rows are open and closed again as they were when the run `kept` put the target's former state aside.

    What came later is old; what was discarded stays so, for a person decided. Part of the transaction that puts the
    state back, before the record of it goes. False, and nothing is done, where that record is of an earlier version.
    """
    known = session.one(f"SELECT open_rows IS NOT NULL FROM {SCHEMA}.kept WHERE run = %s", (str(kept),))
    if not (known and known[0]):
        return False
    session.execute(
        f"""
        WITH former AS (
            SELECT unnest(open_rows) AS id, 'open' AS state FROM {SCHEMA}.kept WHERE run = %(kept)s
            UNION ALL
            SELECT unnest(replayed_rows), 'replayed' FROM {SCHEMA}.kept WHERE run = %(kept)s
        ), found AS (
            SELECT q.id, coalesce(former.state, 'superseded') AS state
            FROM {SCHEMA}.quarantine AS q LEFT JOIN former ON former.id = q.id WHERE q.target = %(target)s
        )
        UPDATE {SCHEMA}.quarantine AS q
        SET state = found.state, opened = CASE found.state WHEN 'open' THEN %(token)s ELSE q.opened END,
            decided_run = CASE WHEN found.state <> 'open' THEN %(undo)s::uuid END,
            decided_at = CASE WHEN found.state <> 'open' THEN clock_timestamp() END
        FROM found
        WHERE q.id = found.id AND q.state <> found.state AND q.state NOT IN ('staged', 'discarded')
        """,
        {
            "kept": str(kept),
            "target": target_key(fence.target),
            "token": fence.token,
            "undo": str(fence.owner.run),
        },
    )
    return True
