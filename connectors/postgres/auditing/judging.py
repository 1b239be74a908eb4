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
from connectors.errors import ConnectorError
from connectors.postgres.auditing import samples, words
from connectors.postgres.auditing.conditions import condition, named, table_of
from connectors.postgres.auditing.one_look import OF_EACH_ROW, Looked, age, refused, statement, take
from connectors.postgres.auditing.outcome import Outcome
from connectors.postgres.auditing.reading import bad_rows_of, read_only
from connectors.postgres.client import Session
from connectors.postgres.compare import PostgresSide
from connectors.postgres.publish.merge_index import has_index
from connectors.postgres.publish.merge_rules import inspect
from connectors.proofs import mark
from connectors.writing import Target


@dataclass(frozen=True)
class Scene:
    """What checks look at: `rows` rows in `staged`, made for `columns`, and what `target` will hold.

    `former_rows` are the numbers of rows of earlier runs, the newest first; None where this run is not like them.
    `looked` is a look at the staged rows that was taken before: it says something as long as they are as many.
    `proven` are the marks of checks that each row passed when it was sent, and passes still.
    """

    staged: Target
    target: Target
    columns: Sequence[Column]
    rows: int
    outcome: Outcome
    former_rows: Sequence[int] | None = ()
    ask_source: AskSource = nobody_asked
    looked: Looked | None = None
    proven: frozenset[str] = frozenset()


def judge(session: Session, checks: Sequence[Check], scene: Scene, *, stop: StopSignal) -> tuple[CheckResult, ...]:
    """Judge every check, in order; nothing is written.

    What PostgreSQL refuses of a check, or does not answer in time, leaves that check unknown and the others as they
    are. Raises what has nothing to do with a check: psycopg2.Error, Stopped.
    """
    proven = {check.name for check in checks if scene.proven and mark(check) in scene.proven}
    judges = _Judges(session, scene, stop)
    left = [check for check in checks if check.name not in proven]
    looked = scene.looked
    if looked is None or looked.rows != scene.rows:
        looked = judges.look(left)
    return tuple(
        words.passed(check, scene.rows) if check.name in proven else judges.judge(check, looked) for check in checks
    )


class _Judges:
    def __init__(self, session: Session, scene: Scene, stop: StopSignal) -> None:
        self._session = session
        self._scene = scene
        self._stop = stop
        self._staged = sql.Identifier(scene.staged.schema, scene.staged.table)

    def look(self, checks: Sequence[Check]) -> Looked:
        """What those come to that can be looked at together."""
        scene = self._scene
        try:
            asked = [check for check in checks if check.kind in OF_EACH_ROW or self._is_to_be_sorted(check)]
        except ConnectorError as error:
            refused(self._session, error, self._stop)
            return Looked(scene.rows, is_spoilt=True)
        together = asked if len(asked) > 1 else []
        return take(self._session, scene.staged, scene.columns, together, scene.rows, stop=self._stop)

    def judge(self, check: Check, looked: Looked) -> CheckResult:
        if check.kind is CheckKind.ROW_COUNT:
            return self._row_count(check)
        if check.name in looked.found:
            return self._looked_at(check, looked)
        ways: dict[CheckKind, Callable[[Check], CheckResult]] = {
            CheckKind.UNIQUE: self._unique,
            CheckKind.RELATION: self._relation,
            CheckKind.SQL: self._query,
            CheckKind.CHECKSUM: self._checksum,
        }
        return self._judged(check, partial(ways.get(check.kind, self._alone), check))

    def _judged(self, check: Check, judge: Callable[[], CheckResult], seconds: float = 0.0) -> CheckResult:
        """What `judge` says, or that nobody can say."""
        self._stop.check()
        began = time.monotonic()
        try:
            with read_only(self._session, limit_s=check.time_limit_s):
                found = judge()
        except (psycopg2.Error, ConnectorError) as error:
            found = words.result(check, Status.UNKNOWN, refused(self._session, error, self._stop, check))
        return words.timed(found, seconds + time.monotonic() - began)

    # One look ---------------------------------------------------------------------------------

    def _looked_at(self, check: Check, looked: Looked) -> CheckResult:
        """What was found already; only bad rows are looked for."""
        seconds, value = looked.seconds / len(looked.found), looked.found[check.name]
        if check.kind is CheckKind.FRESHNESS:
            age_s = None if value is None else value + time.monotonic() - looked.taken_at
            return self._judged(check, partial(self._freshness, check, age_s), seconds)
        is_beside_others = check.kind is CheckKind.UNIQUE and self._scene.outcome.staying is not None
        if not value and not is_beside_others:
            return words.timed(words.passed(check, self._scene.rows), seconds)
        way = self._of_doubles if check.kind is CheckKind.UNIQUE else self._bad
        return self._judged(check, partial(way, check, value), seconds)

    def _alone(self, check: Check) -> CheckResult:
        """The same, where the check would spoil the look for others, or is by itself."""
        _, value = self._row(statement(self._scene.staged, self._scene.columns, [check]))
        if check.kind is CheckKind.FRESHNESS:
            return self._freshness(check, value)
        return self._bad(check, value) if value else words.passed(check, self._scene.rows)

    def _bad(self, check: Check, count: int) -> CheckResult:
        bad = condition(check, self._scene.columns)
        shown = samples.where(self._session, self._scene.staged, self._scene.columns, check, bad)
        return words.bad_rows(check, count, self._scene.rows, shown)

    def _freshness(self, check: Check, age_s: float | None) -> CheckResult:
        """Of what comes, unless that is too old and rows stay which may be newer."""
        staying, limit = self._scene.outcome.staying, check.max_age_s or 0
        if staying is not None and (age_s is None or age_s > limit):
            name = named(check, self._scene.columns)[0][0]
            (there,) = self._row(sql.SQL("SELECT {} FROM ({}) AS t").format(age(name, "t"), staying))
            age_s = min((age for age in (age_s, there) if age is not None), default=None)
        return words.freshness(check, age_s)

    # Scans of their own -----------------------------------------------------------------------

    def _is_to_be_sorted(self, check: Check) -> bool:
        """Whether sorting the staged rows says something of how unique values are that no index has said already."""
        outcome = self._scene.outcome
        return (
            check.kind is CheckKind.UNIQUE
            and outcome.are_all_coming
            and not (outcome.staying is None and self._is_indexed(check))
        )

    def _unique(self, check: Check) -> CheckResult:
        if not self._scene.outcome.are_all_coming:
            return self._sharing(check)
        doubles = 0
        if self._is_to_be_sorted(check):
            _, doubles = self._row(statement(self._scene.staged, self._scene.columns, [check]))
        return self._of_doubles(check, doubles)

    def _of_doubles(self, check: Check, doubles: int) -> CheckResult:
        """Which rows share their values is a dearer question than whether any do."""
        outcome = self._scene.outcome
        if not doubles and outcome.staying is not None:
            is_there = self._is_there(check, outcome.staying)
            (doubles,) = self._row(sql.SQL("SELECT count(*) FROM ({}) AS g WHERE {}").format(outcome.coming, is_there))
        return self._sharing(check) if doubles else words.passed(check, self._scene.rows)

    def _is_there(self, check: Check, staying: sql.Composable) -> sql.Composable:
        """That a row that stays has the values of g."""
        outcome = self._scene.outcome
        same = sql.SQL(" AND ").join(
            sql.SQL("t.{0} = {1}").format(sql.Identifier(name), outcome.collated(name, sql.Identifier("g", name)))
            for name, _ in named(check, self._scene.columns)
        )
        return sql.SQL("EXISTS (SELECT FROM ({}) AS t WHERE {})").format(staying, same)

    def _sharing(self, check: Check) -> CheckResult:
        """Rows that share their values with another of what the target will hold; as an index, NULLs are different."""
        outcome = self._scene.outcome
        names = [name for name, _ in named(check, self._scene.columns)]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        given = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in names)
        shared = sql.SQL(
            "WITH g AS (SELECT {columns}, count(*) AS n FROM ({coming}) AS c WHERE {given} GROUP BY {columns})"
            " SELECT {columns}, n FROM g WHERE n > 1"
        ).format(columns=columns, coming=outcome.coming, given=given)
        if outcome.staying is not None:
            # Not n > 1 OR EXISTS: that would be no join, but a search of all that stays for each value.
            is_there = self._is_there(check, outcome.staying)
            shared = sql.SQL("{} UNION SELECT {}, n FROM g WHERE {}").format(shared, columns, is_there)
        (count,) = self._row(sql.SQL("SELECT coalesce(sum(n), 0)::bigint FROM ({}) AS shared").format(shared))
        if not count:
            return words.passed(check, self._scene.rows)
        shown = samples.sharing(self._session, outcome.coming, self._scene.columns, check, names, shared)
        return words.bad_rows(check, count, self._scene.rows, shown)

    def _is_indexed(self, check: Check) -> bool:
        """Whether an index of the new table has seen to it already."""
        names = [name for name, _ in named(check, self._scene.columns)]
        table = inspect(self._session, self._scene.staged)
        return table is not None and has_index(self._session, table, names)

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
