"""Rows that fail a check of their own go into quarantine, before anything is made of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg2
from psycopg2 import sql

from connectors.base import StopSignal
from connectors.checks import Check, CheckKind, CheckResult, Severity, Status
from connectors.errors import ConnectorError
from connectors.postgres import errors
from connectors.postgres.auditing import words
from connectors.postgres.auditing.conditions import condition
from connectors.postgres.auditing.judging import Scene, judge, other_rows
from connectors.postgres.auditing.reading import STAGED, bad_rows_of, places_of, read_only
from connectors.postgres.client import Session
from connectors.postgres.quarantine import Quarantine
from connectors.writing import Target

CODE = "check_failed"
# Of a query's rows: more would be no few bad ones.
MOST_PLACES = 1_000_000
# Values are read as they were when the check was judged.
_READ = "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'"
_AS_BEFORE = "SET LOCAL timezone TO DEFAULT; SET LOCAL datestyle TO DEFAULT"


def put_aside(
    session: Session, checks: Sequence[Check], scene: Scene, quarantine: Quarantine, *, stop: StopSignal
) -> tuple[tuple[CheckResult, ...], int]:
    """Judge checks whose bad rows go into quarantine, and move these there: the results, and how many rows went.

    A check that nobody could judge moves nothing, and holds the run as any other does.
    """
    results, moved = [], 0
    for check, result in zip(checks, judge(session, checks, scene, stop=stop), strict=True):
        found = result
        if result.status is Status.FAILED:
            try:
                bad, places = _bad(session, check, scene)
            except (psycopg2.Error, ConnectorError) as error:
                said = error.message if isinstance(error, ConnectorError) else error.diag.message_primary
                found = words.result(check, Status.UNKNOWN, f"Its bad rows cannot be told apart: {said}")
            else:
                session.execute(_READ)
                rows = quarantine.divert(scene.staged, scene.columns, bad, code=CODE)
                session.execute(_AS_BEFORE)
                moved += rows
                found = replace(result, message=f"{result.message} They are in quarantine.", sample=None)
                if places is not None and (rows < places or _finds_more(session, check, scene)):
                    message = f"{result.message} Not all of them could be put aside: its ctid is not {STAGED}'s."
                    found = words.result(check, Status.UNKNOWN, message, result.value)
        results.append(found)
    return tuple(results), moved


def _finds_more(session: Session, check: Check, scene: Scene) -> bool:
    """Whether a query still gives rows when those that it told are gone."""
    with read_only(session, limit_s=check.time_limit_s):
        return bad_rows_of(session, check.query, scene.staged)[0] > 0


def _bad(session: Session, check: Check, scene: Scene) -> tuple[sql.Composable, int | None]:
    """Place, column and reason of each bad row, and of a query's how many places they are."""
    places = None
    if check.kind is CheckKind.SQL:
        _refuse_partitions(session, scene.staged)
        with read_only(session, limit_s=check.time_limit_s):
            places = places_of(session, check.query, scene.staged, most=MOST_PLACES + 1)
        if len(places) > MOST_PLACES:
            raise ConnectorError(f"they are more than {MOST_PLACES:,}.", code="check_failed", field="checks")
        where: sql.Composable = sql.SQL("s.ctid = ANY({}::tid[])").format(sql.Literal(places))
    else:
        where = condition(check, scene.columns, other=other_rows(check, scene))
    told = sql.SQL("SELECT s.tableoid, s.ctid, {}, {} FROM {} AS s WHERE {}").format(
        sql.Literal(check.columns[0] if check.columns else ""),
        sql.Literal(f"Check {check.name} failed: {check.what}."),
        sql.Identifier(scene.staged.schema, scene.staged.table),
        where,
    )
    return told, None if places is None else len(places)


def _refuse_partitions(session: Session, staged: Target) -> None:
    """A place is one row's only within a partition."""
    name = errors.quoted(staged.schema, staged.table)
    if (session.one("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)", (name,)) or (False,))[0]:
        raise ConnectorError(
            "in a new table with partitions a query cannot say which rows it means.",
            hint="Use a check of another kind.",
            code="check_column",
        )


def are_put_aside(checks: Sequence[Check], *, is_on: bool) -> tuple[tuple[Check, ...], tuple[Check, ...]]:
    """The checks whose bad rows go into quarantine, and all others; without a quarantine those hold the run."""
    aside = tuple(check for check in checks if check.severity is Severity.QUARANTINE)
    others = tuple(check for check in checks if check.severity is not Severity.QUARANTINE)
    if is_on:
        return aside, others
    return (), (*others, *(replace(check, severity=Severity.HOLD) for check in aside))
