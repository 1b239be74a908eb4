"""Every check of a load judged, in as few scans of the staged rows as there can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import psycopg2
from psycopg2 import sql

from connectors.base import StopSignal
from connectors.checks import LEAST_RUNS, Check, CheckKind, CheckResult, Status
from connectors.checksums import AskSource, nobody_asked
from connectors.column import Column
from connectors.errors import ConnectorError, TransientError
from connectors.postgres import errors
from connectors.postgres.auditing import samples, words
from connectors.postgres.auditing.conditions import PLAIN, condition, named, table_of
from connectors.postgres.auditing.outcome import Outcome
from connectors.postgres.auditing.reading import bad_rows_of, read_only
from connectors.postgres.client import Session
from connectors.postgres.compare import PostgresSide
from connectors.postgres.publish.merge_index import has_index
from connectors.postgres.publish.merge_rules import inspect
from connectors.writing import Target

_CANCELLED = "57014"


@dataclass(frozen=True)
class Scene:
    """What checks look at: `rows` rows in `staged`, made for `columns`, and what `target` will hold.

    `former_rows` are the numbers of rows of earlier runs, the newest first; None where this run is not like them.
    """

    staged: Target
    target: Target
    columns: Sequence[Column]
    rows: int
    outcome: Outcome
    former_rows: Sequence[int] | None = ()
    ask_source: AskSource = nobody_asked


def judge(session: Session, checks: Sequence[Check], scene: Scene, *, stop: StopSignal) -> tuple[CheckResult, ...]:
    """Judge every check, in order; nothing is written.

    What PostgreSQL refuses of a check, or does not answer in time, leaves that check unknown and the others as they
    are. Raises what has nothing to do with a check: psycopg2.Error, Stopped.
    """
    judges = _Judges(session, scene, stop)
    together = [check for check in checks if check.kind in PLAIN or check.kind is CheckKind.FRESHNESS]
    found = judges.in_one_scan(together) if len(together) > 1 else {}
    return tuple(found[check.name] if check.name in found else judges.alone(check) for check in checks)


class _Judges:
    def __init__(self, session: Session, scene: Scene, stop: StopSignal) -> None:
        self._session = session
        self._scene = scene
        self._stop = stop
        self._staged = sql.Identifier(scene.staged.schema, scene.staged.table)

    def in_one_scan(self, checks: Sequence[Check]) -> dict[str, CheckResult]:
        """The results of checks that look at single rows; none, where one of them spoils the scan for the others."""
        began = time.monotonic()
        try:
            with read_only(self._session, limit_s=max(check.time_limit_s for check in checks)):
                values = self._scan(checks)
        except (psycopg2.Error, ConnectorError) as error:
            self._refused(error)
            return {}
        seconds = (time.monotonic() - began) / len(checks)
        return {
            check.name: self._judged(check, partial(self._of_scan, check, value), seconds)
            for check, value in zip(checks, values, strict=True)
        }

    def alone(self, check: Check) -> CheckResult:
        if check.kind is CheckKind.ROW_COUNT:
            return self._row_count(check)
        ways: dict[CheckKind, Callable[[Check], CheckResult]] = {
            CheckKind.UNIQUE: self._unique,
            CheckKind.RELATION: self._relation,
            CheckKind.SQL: self._query,
            CheckKind.CHECKSUM: self._checksum,
        }
        return self._judged(check, partial(ways.get(check.kind, self._in_a_scan), check))

    def _in_a_scan(self, check: Check) -> CheckResult:
        return self._of_scan(check, self._scan([check])[0])

    def _judged(self, check: Check, judge: Callable[[], CheckResult], seconds: float = 0.0) -> CheckResult:
        """What `judge` says, or that nobody can say."""
        self._stop.check()
        began = time.monotonic()
        try:
            with read_only(self._session, limit_s=check.time_limit_s):
                found = judge()
        except (psycopg2.Error, ConnectorError) as error:
            found = words.result(check, Status.UNKNOWN, self._refused(error, check))
        return words.timed(found, seconds + time.monotonic() - began)

    def _refused(self, error: psycopg2.Error | ConnectorError, check: Check | None = None) -> str:
        """What PostgreSQL has against a check; raises what is no fault of the check."""
        if isinstance(error, ConnectorError):
            if error.code != "check_column":
                raise error
            return error.message
        if error.pgcode == _CANCELLED:
            self._stop.check()
            return f"There was no answer within {check.time_limit_s if check else 0} seconds."
        session = self._session
        if isinstance(errors.statement_error(error, session.connection, session.options), TransientError):
            raise error
        return f"PostgreSQL says: {(error.diag.message_primary or 'an error without words').rstrip('.')}."

    # One scan ---------------------------------------------------------------------------------

    def _scan(self, checks: Sequence[Check]) -> tuple[Any, ...]:
        """For each check the number of bad rows, or the age in seconds of the newest."""
        asked = sql.SQL(", ").join(map(self._expression, checks))
        return self._row(sql.SQL("SELECT {} FROM {} AS s").format(asked, self._staged))

    def _expression(self, check: Check) -> sql.Composable:
        if check.kind is CheckKind.FRESHNESS:
            return _age(named(check, self._scene.columns)[0][0], "s")
        return sql.SQL("count(*) FILTER (WHERE {})").format(condition(check, self._scene.columns))

    def _of_scan(self, check: Check, value: Any) -> CheckResult:
        if check.kind is CheckKind.FRESHNESS:
            return self._freshness(check, value)
        if not value:
            return words.passed(check, self._scene.rows)
        bad = condition(check, self._scene.columns)
        shown = samples.where(self._session, self._scene.staged, self._scene.columns, check, bad)
        return words.bad_rows(check, value, self._scene.rows, shown)

    def _freshness(self, check: Check, age_s: float | None) -> CheckResult:
        """Of what comes, unless that is too old and rows stay which may be newer."""
        staying, limit = self._scene.outcome.staying, check.max_age_s or 0
        if staying is not None and (age_s is None or age_s > limit):
            name = named(check, self._scene.columns)[0][0]
            (there,) = self._row(sql.SQL("SELECT {} FROM ({}) AS t").format(_age(name, "t"), staying))
            age_s = min((age for age in (age_s, there) if age is not None), default=None)
        return words.freshness(check, age_s)

    # Scans of their own -----------------------------------------------------------------------

    def _unique(self, check: Check) -> CheckResult:
        """Rows that share their values with another of what the target will hold; as an index, NULLs are different."""
        outcome = self._scene.outcome
        names = [name for name, _ in named(check, self._scene.columns)]
        if outcome.staying is None and (self._is_indexed(names) or (len(names) == 1 and self._is_distinct(check))):
            return words.passed(check, self._scene.rows)
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        given = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in names)
        same = sql.SQL(" AND ").join(
            sql.SQL("t.{0} = {1}").format(sql.Identifier(name), outcome.collated(name, sql.Identifier("g", name)))
            for name in names
        )
        there: sql.Composable = sql.SQL("false")
        if outcome.staying is not None:
            there = sql.SQL("EXISTS (SELECT FROM ({}) AS t WHERE {})").format(outcome.staying, same)
        shared = sql.SQL(
            "SELECT {columns}, n FROM (SELECT {columns}, count(*) AS n FROM ({coming}) AS c WHERE {given}"
            " GROUP BY {columns}) AS g WHERE n > 1 OR {there}"
        ).format(columns=columns, coming=outcome.coming, given=given, there=there)
        (count,) = self._row(sql.SQL("SELECT coalesce(sum(n), 0)::bigint FROM ({}) AS shared").format(shared))
        if not count:
            return words.passed(check, self._scene.rows)
        shown = samples.sharing(self._session, outcome.coming, self._scene.columns, check, names, shared)
        return words.bad_rows(check, count, self._scene.rows, shown)

    def _is_indexed(self, names: Sequence[str]) -> bool:
        """Whether an index of the new table has seen to it already."""
        table = inspect(self._session, self._scene.staged)
        return table is not None and has_index(self._session, table, names)

    def _is_distinct(self, check: Check) -> bool:
        """Whether no value of the one staged column comes twice.

        Sorting takes a quarter of what making groups takes (measured); texts are sorted byte by byte, which is faster
        and finds the same ones equal.
        """
        ((name, type_),) = named(check, self._scene.columns)
        value: sql.Composable = sql.Identifier(name)
        if type_ in ("text", "character varying"):
            value = sql.SQL('{} COLLATE "C"').format(value)
        (doubles,) = self._row(sql.SQL("SELECT count({0}) - count(DISTINCT {0}) FROM {1}").format(value, self._staged))
        return not doubles

    def _relation(self, check: Check) -> CheckResult:
        bad = condition(check, self._scene.columns, other=other_rows(check, self._scene))
        (count,) = self._row(sql.SQL("SELECT count(*) FROM {} AS s WHERE {}").format(self._staged, bad))
        if not count:
            return words.passed(check, self._scene.rows)
        shown = samples.where(self._session, self._scene.staged, self._scene.columns, check, bad)
        return words.bad_rows(check, count, self._scene.rows, shown)

    def _query(self, check: Check) -> CheckResult:
        count, shown = bad_rows_of(self._session, check.query, self._scene.staged)
        if not count:
            return words.passed(check, self._scene.rows)
        return words.bad_rows(check, count, self._scene.rows, shown)

    def _checksum(self, check: Check) -> CheckResult:
        """Column by column, in the words of a comparison; the source is asked only here."""
        chosen = {name.lower() for name in check.columns}
        columns = [column for column in self._scene.columns if not chosen or column.name.lower() in chosen]
        named(check, self._scene.columns)
        told = self._scene.ask_source(columns)
        if told.digest is None:
            return words.result(check, Status.SKIPPED, told.why_not)
        here = PostgresSide(self._session, self._scene.staged, self._stop).digest(columns)
        return words.checksum(check, told, here)

    def _row_count(self, check: Check) -> CheckResult:
        rows, former = self._scene.rows, self._scene.former_rows
        least, most = check.minimum and int(check.minimum), check.maximum and int(check.maximum)
        if (least != "" and rows < least) or (most != "" and rows > most):
            return words.row_count(check, rows, is_bad=True)
        if check.percent is None:
            return words.row_count(check, rows)
        if former is None:
            return words.result(check, Status.SKIPPED, "This run reads other rows than those before it.", rows)
        counted = list(former[: check.runs])
        if len(counted) < min(LEAST_RUNS, check.runs):
            message = f"{len(counted)} earlier runs are too few to say what is usual."
            return words.result(check, Status.SKIPPED, message, rows)
        usual = median(counted)
        return words.row_count(
            check, rows, usual, is_bad=abs(rows - usual) > usual * check.percent / 100, runs=len(counted)
        )

    def _row(self, query: sql.Composable) -> tuple[Any, ...]:
        row = self._session.one(query)
        if row is None:
            raise RuntimeError("an aggregate always gives a row")
        return row


def other_rows(check: Check, scene: Scene) -> sql.Composable | None:
    """What a relation is about, if not a table as it is now: rows that refer to their own find what it will hold."""
    if check.kind is not CheckKind.RELATION or table_of(check) != (scene.target.schema, scene.target.table):
        return None
    outcome = scene.outcome
    if outcome.staying is None:
        return sql.SQL("({})").format(outcome.coming)
    return sql.SQL("({} UNION ALL {})").format(
        sql.SQL("(SELECT * FROM ({}) AS coming)").format(outcome.coming), outcome.staying
    )


def _age(name: str, alias: str) -> sql.Composable:
    return sql.SQL("extract(epoch FROM clock_timestamp() - max({})::timestamptz)::float8").format(
        sql.Identifier(alias, name)
    )
