"""Staged rows that outlive their transaction: written down with all that publishing them has to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg2 import sql

from connectors.base import Fence, Target
from connectors.errors import ConnectorError
from connectors.postgres import control
from connectors.postgres.client import Session
from connectors.postgres.control import SCHEMA


@dataclass(frozen=True)
class Plan:
    """One making of a run's plan; `facts` are JSON: the columns, how to publish, the draft of the receipt."""

    run: UUID
    generation: int
    staging: Target
    planned_on: UUID | None
    facts: Mapping[str, Any]


def write_plan(session: Session, fence: Fence, generation: int, staging: Target, facts: Mapping[str, Any]) -> None:
    """Write down what the open transaction staged, in place of what other runs did; the caller commits.

    Raises StaleToken.
    """
    others = session.execute(
        f"DELETE FROM {SCHEMA}.plan WHERE target = %s RETURNING staging", (control.target_key(fence.target),)
    ).fetchall()
    for (table,) in others:
        session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(fence.target.schema, table)))
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
    control.check_fence(session.connection.cursor(), fence)


def read_plan(session: Session, fence: Fence) -> Plan | None:
    """The newest plan of the fence's run; None if it has none, or no longer."""
    row = session.one(
        f"""
        SELECT generation, staging, planned_on, facts FROM {SCHEMA}.plan
        WHERE run = %s ORDER BY generation DESC LIMIT 1
        """,
        (str(fence.owner.run),),
    )
    if row is None:
        return None
    generation, staging, planned_on, facts = row
    return Plan(fence.owner.run, generation, Target(fence.target.schema, staging), planned_on, facts)


def check_plan(session: Session, fence: Fence, plan: Plan | None, rows: int | None = None) -> Plan:
    """The plan, if its rows can still be published; raises ConnectorError: overtaken, staging_gone.

    An unlogged table is emptied when PostgreSQL recovers from a crash, hence the count against `rows`.
    """
    if plan is None:
        raise _gone(fence)
    if plan.planned_on != fence.last_run:
        raise ConnectorError(
            f"Another run was published to {fence.target} since these rows were staged.",
            hint="Discard this run; the next one reads the source as it is now.",
            code="overtaken",
        )
    there = session.one("SELECT to_regclass(%s) IS NOT NULL", (control.target_key(plan.staging),))
    if there is None or not there[0]:
        raise _gone(fence)
    if rows is not None:
        found = session.one(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(plan.staging.schema, plan.staging.table))
        )
        if found is None or found[0] != rows:
            raise _gone(fence)
    return plan


def make_logged(session: Session, table: Target) -> None:
    """A table that readers will see must outlive a crash; where it is logged already nothing is written again."""
    session.execute(sql.SQL("ALTER TABLE {} SET LOGGED").format(sql.Identifier(table.schema, table.table)))


def end_plan(session: Session, plan: Plan) -> None:
    """The plan is being carried out: part of the publishing transaction."""
    session.execute(f"DELETE FROM {SCHEMA}.plan WHERE run = %s", (str(plan.run),))


def forget(session: Session, fence: Fence, tables: tuple[str, ...]) -> None:
    """Drop staging tables of the fence's target, and their plans, in a transaction of its own. Raises StaleToken."""
    drops = [sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(fence.target.schema, table)) for table in tables]
    try:
        session.execute(sql.SQL("; ").join([sql.SQL("BEGIN; SET LOCAL lock_timeout = '5s'"), *drops]))
        session.execute(
            f"DELETE FROM {SCHEMA}.plan WHERE target = %s AND staging = ANY(%s)",
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
