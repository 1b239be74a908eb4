"""Staged rows that outlive their transaction: written down with all that publishing them has to know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg2 import sql

from connectors.errors import ConnectorError
from connectors.postgres import control, readers
from connectors.postgres.client import Session
from connectors.postgres.control_schema import SCHEMA
from connectors.writing import Fence, Target

# Of who takes staged tables away: a dump may hold them.
LOCK_TIMEOUT_MS = 5000
# What the plans that are gone had put aside goes with them.
SWEEP = f"""
DELETE FROM {SCHEMA}.quarantine AS q USING gone
WHERE q.run = gone.run AND q.generation = gone.generation AND q.state = 'staged'
"""


@dataclass(frozen=True)
class Plan:
    """One making of a run's plan, `age_s` ago.

    `facts` are JSON: the columns, how to publish, the draft of the receipt; of a load in parts, what is read.
    """

    run: UUID
    generation: int
    staging: Target
    planned_on: UUID | None
    facts: Mapping[str, Any]
    age_s: float = 0.0


def table_of(target: Target, run: UUID, generation: int) -> Target:
    """Where a generation's rows wait for their publish; the next one has a table of its own."""
    return Target(target.schema, f"_datamantri_new_{run.hex}_{generation}")


def write_plan(
    session: Session, fence: Fence, generation: int, staging: Target, facts: Mapping[str, Any], *, parts: int = 0
) -> None:
    """Write down what the open transaction staged, in place of what came before; the caller commits.

    With `parts`, nothing is staged yet: each of them gets its checkpoint, and what another run holds, which may
    still be approved, stays. Nobody but the owner may read what is staged. Raises StaleToken.
    """
    _sweep(session, fence, None, and_held=not parts)
    readers.shut_out(session, staging)
    session.execute(
        f"""
        INSERT INTO {SCHEMA}.plan (run, generation, target, staging, planned_on, facts)
        VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (
            str(fence.owner.run),
            generation,
            control.target_key(fence.target),
            staging.table,
            None if fence.last_run is None else str(fence.last_run),
            json.dumps(facts, default=str),
        ),
    )
    if parts:
        session.execute(
            f"INSERT INTO {SCHEMA}.checkpoint (run, generation, part) SELECT %s, %s, generate_series(0, %s - 1)",
            (str(fence.owner.run), generation, parts),
        )
    control.check_fence(session.connection.cursor(), fence)


def change_plan(session: Session, fence: Fence, plan: Plan, facts: Mapping[str, Any]) -> None:
    """Write down what else publishing the staged rows has to know; the caller commits. Raises StaleToken."""
    _sweep(session, fence, plan, and_held=True)
    session.execute(
        f"UPDATE {SCHEMA}.plan SET facts = facts || %s::jsonb WHERE run = %s AND generation = %s",
        (json.dumps(facts, default=str), str(plan.run), plan.generation),
    )
    control.check_fence(session.connection.cursor(), fence)


def _sweep(session: Session, fence: Fence, kept: Plan | None, *, and_held: bool) -> None:
    """Take away what is staged for the target but for `kept`; what other runs staged on the same state is held."""
    planned_on = None if fence.last_run is None else str(fence.last_run)
    gone = session.execute(
        f"""
        WITH gone AS (
            DELETE FROM {SCHEMA}.plan WHERE target = %s AND staging IS DISTINCT FROM %s
              AND (%s OR run = %s OR planned_on IS DISTINCT FROM %s)
            RETURNING run, generation, staging
        ), put_aside AS ({SWEEP})
        SELECT staging FROM gone
        """,
        (
            control.target_key(fence.target),
            kept.staging.table if kept else None,
            and_held,
            str(fence.owner.run),
            planned_on,
        ),
    ).fetchall()
    for (table,) in gone:
        session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(fence.target.schema, table)))


def read_plan(session: Session, fence: Fence) -> Plan | None:
    """The newest plan of the fence's run; None if it has none, or no longer."""
    row = session.one(
        f"""
        SELECT generation, staging, planned_on, facts, extract(epoch FROM clock_timestamp() - made_at)::float8
        FROM {SCHEMA}.plan
        WHERE run = %s ORDER BY generation DESC LIMIT 1
        """,
        (str(fence.owner.run),),
    )
    if row is None:
        return None
    generation, staging, planned_on, facts, age_s = row
    return Plan(fence.owner.run, generation, Target(fence.target.schema, staging), planned_on, facts, age_s)


def check_plan(session: Session, fence: Fence, plan: Plan, rows: int, count: Callable[[], int]) -> Plan:
    """The plan, if its rows can still be published; raises ConnectorError: overtaken, staging_gone.

    An unlogged table is emptied when PostgreSQL recovers from a crash, hence the `count` of what is staged.
    """
    if plan.planned_on != fence.last_run:
        raise ConnectorError(
            f"Another run was published to {fence.target} since these rows were staged.",
            hint="Run the pipeline again; a run with an interval or values of its own is cleared instead.",
            code="overtaken",
        )
    there = session.one("SELECT to_regclass(%s) IS NOT NULL", (control.target_key(plan.staging),))
    if there is None or not there[0]:
        raise _gone(fence)
    if count() != rows:
        raise _gone(fence)
    return plan


def rows_in(session: Session, table: Target) -> int:
    row = session.one(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table.schema, table.table)))
    return int(row[0]) if row else 0


def make_logged(session: Session, table: Target) -> None:
    """A table that readers will see, or a person, must outlive a crash; one that is logged is not written again."""
    session.execute(sql.SQL("ALTER TABLE {} SET LOGGED").format(sql.Identifier(table.schema, table.table)))


def end_plan(session: Session, plan: Plan) -> None:
    """The plan is being carried out: part of the publishing transaction."""
    session.execute(f"DELETE FROM {SCHEMA}.plan WHERE run = %s", (str(plan.run),))


def forget(session: Session, fence: Fence, tables: tuple[str, ...]) -> None:
    """Drop staging tables of the fence's target, and their plans, in a transaction of its own. Raises StaleToken."""
    drops = [sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(fence.target.schema, table)) for table in tables]
    try:
        session.execute(sql.SQL("; ").join([sql.SQL(f"BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"), *drops]))
        session.execute(
            f"""
            WITH gone AS (
                DELETE FROM {SCHEMA}.plan WHERE target = %s AND staging = ANY(%s) RETURNING run, generation
            )
            {SWEEP}
            """,
            (control.target_key(fence.target), list(tables)),
        )
        control.check_fence(session.connection.cursor(), fence)
        session.commit()
    finally:
        session.rollback()


def _gone(fence: Fence) -> ConnectorError:
    return ConnectorError(
        f"The rows that were staged for {fence.target} are no longer there.",
        hint="Run the pipeline again.",
        code="staging_gone",
    )
