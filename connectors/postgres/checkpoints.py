"""Parts of a staged load: rows and the position they were read up to, committed together.

Every commit moves its checkpoint by compare-and-set on position and token, and then reads the fence: an
owner that was outlived, by a newer owner of the part or by a newer plan, commits nothing.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.base import StopSignal
from connectors.checks import Check
from connectors.column import Column
from connectors.errors import NewGeneration, StaleToken, TransientError
from connectors.modes import TextPolicy
from connectors.postgres import control
from connectors.postgres.client import Session
from connectors.postgres.control_schema import INCOMPLETE, SCHEMA, create_schema
from connectors.postgres.copy import CopyResult, copy_feed
from connectors.postgres.publish import merge_rules
from connectors.postgres.quarantine import Quarantine
from connectors.postgres.transactions import begin_long
from connectors.request import TransferRequest, write_mode
from connectors.writing import Fence, Target

if TYPE_CHECKING:
    import pyarrow as pa

LOCK_TIMEOUT_MS = 500
TAKE_LIMIT_S = 15.0


@dataclass(frozen=True)
class PartKey:
    """A part of a run's plan, and the token of whoever loads it."""

    generation: int
    part: int
    token: int


@dataclass(frozen=True)
class Checkpoint:
    """How far a part is: `position` rows of `reading` are committed, as `rows` rows and `bytes` bytes of COPY.

    The others of them were put aside. `proven` are the marks of checks that all of these rows pass.
    """

    part: int
    reading: str = ""
    position: int = 0
    rows: int = 0
    bytes: int = 0
    repaired: Mapping[str, int] = field(default_factory=dict)
    done: bool = False
    proven: Collection[str] = ()

    @property
    def quarantined(self) -> int:
        return self.position - self.rows


def read_checkpoints(session: Session, plan_run: str, generation: int) -> list[Checkpoint]:
    """The checkpoints of all parts of a plan, in their order."""
    rows = session.execute(
        f"""
        SELECT part, reading, position, rows, bytes, repaired, done, coalesce(proven, '{{}}')
        FROM {SCHEMA}.checkpoint
        WHERE run = %s AND generation = %s ORDER BY part
        """,
        (plan_run, generation),
    ).fetchall()
    return [Checkpoint(*row) for row in rows]


class PartLoad:
    """Brings the rows of one part into the run's staging table, one committed batch after another."""

    def __init__(self, session: Session, fence: Fence, key: PartKey, *, stop: StopSignal) -> None:
        self._session = session
        self._fence = fence
        self._key = key
        self._stop = stop
        self._where = (str(fence.owner.run), key.generation, key.part)
        self._name = control.application_name(fence.target, fence.token, part=f"p{key.part}.{key.token}")
        self._staging = Target("", "")
        self.at = Checkpoint(key.part)
        self.facts: Mapping[str, Any] = {}
        self._put_aside: Quarantine | None = None

    def take(self) -> None:
        """Become the part's only owner, and learn what was planned and how far it is.

        Raises NewGeneration where the plan is no more, StaleToken for a part with a newer owner.
        """
        deadline = time.monotonic() + TAKE_LIMIT_S
        while not self._try_to_take():
            self._stop.check()
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Another session holds part {self._key.part + 1} of {self._fence.target}.", code="fence_blocked"
                )
            self._end_former()
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 jitter

    def _try_to_take(self) -> bool:
        session = self._session
        try:
            row = session.one(
                f"""
                SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
                WITH taken AS (
                    UPDATE {SCHEMA}.checkpoint SET token = %(token)s
                    WHERE run = %(run)s AND generation = %(generation)s AND part = %(part)s AND token < %(token)s
                    RETURNING *
                )
                SELECT p.staging, p.facts, t.reading, t.position, t.rows, t.bytes, t.repaired, t.done,
                       coalesce(t.proven, '{{}}'), t.part IS NOT NULL
                FROM {SCHEMA}.plan p LEFT JOIN taken t ON true
                WHERE p.run = %(run)s AND p.generation = %(generation)s
                """,
                {
                    "token": self._key.token,
                    "run": self._where[0],
                    "generation": self._key.generation,
                    "part": self._key.part,
                },
            )
        except psycopg2.Error as error:
            if error.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
                return False
            if error.pgcode in INCOMPLETE:  # planned by a former version
                create_schema(session)
                return False
            raise
        if row is None:
            raise self._gone()
        staging, self.facts, *at, is_ours = row
        if not is_ours:
            raise self._stale()
        self._staging = Target(self._fence.target.schema, staging)
        self.at = Checkpoint(self._key.part, *at)
        return True

    def _end_former(self) -> None:
        """End the transactions of former owners of this part: a paused one may hold its checkpoint."""
        prefix = control.application_name(self._fence.target, 0).rpartition(":")[0] + f":p{self._key.part}."
        self._session.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND starts_with(application_name, %s)
              AND application_name <> %s AND pg_has_role(usesysid, 'USAGE') AND pid <> pg_backend_pid()
            """,
            (prefix, self._name),
        )

    def quarantine(self, columns: tuple[Column, ...], request: TransferRequest) -> Quarantine:
        """Where rows of this part go that cannot be stored."""
        mode = merge_rules.in_the_sources_words(write_mode(request), columns)
        self._put_aside = Quarantine(
            self._session,
            self._fence,
            columns,
            mode,
            request,
            generation=self._key.generation,
            part=self._key.part,
        )
        return self._put_aside

    def close(self) -> None:
        if self._put_aside is not None:
            self._put_aside.close()

    def add(
        self,
        columns: tuple[Column, ...],
        batches: Iterable[pa.RecordBatch],
        reading: str,
        *,
        is_last: Callable[[], bool],
        text_policy: TextPolicy,
        quarantine: Quarantine,
        knows_rows_by_key: bool = False,
        may_restart: bool,
        checks: Sequence[Check] = (),
        on_batch: Callable[[int, int], None],
        before_commit: Callable[[], None] = lambda: None,
    ) -> CopyResult:
        """Commit all that `batches` gives, with the position behind it; done if `is_last` says so afterwards.

        Raises StaleToken where somebody else has gone on from this position, or plans anew.
        """
        session = self._session
        # Rows and checkpoint come or go together: what a crash takes back is read again, and the publish waits for all.
        begin = begin_long(session, self._name, is_safe=False)
        session.execute(begin)

        def copy(some: Iterable[pa.RecordBatch]) -> CopyResult:
            return copy_feed(
                session.connection.cursor(),
                sql.Identifier(self._staging.schema, self._staging.table),
                columns,
                some,
                on_batch=on_batch,
                stop=self._stop,
                text_policy=text_policy,
                diverter=quarantine.diverter(knows_rows_by_key=knows_rows_by_key),
                checks=checks,
            )

        kept: list[pa.RecordBatch] = []
        coming = iter(batches)
        try:
            copied = copy(_keeping(coming, kept) if quarantine.is_on and not quarantine.is_strict else coming)
        except psycopg2.DataError:
            if not quarantine.is_on or quarantine.is_strict:
                raise
            # PostgreSQL refused a value that nothing was found against: from now on this part is looked at closer.
            quarantine.look_closer()
            session.rollback()
            session.execute(begin)
            copied = copy(chain(kept, coming))
        quarantine.write()
        done = is_last()
        if not copied.read and not done:
            session.rollback()
            return copied
        repaired = dict(self.at.repaired)
        for column, count in copied.repaired.items():
            repaired[column] = repaired.get(column, 0) + count
        at = Checkpoint(
            self._key.part,
            reading,
            self.at.position + copied.read,
            self.at.rows + copied.rows,
            self.at.bytes + copied.bytes,
            repaired,
            done,
            copied.proven.intersection(self.at.proven) if self.at.position else copied.proven,
        )
        self._advance(at, "xids || pg_current_xact_id()::xid::text" if may_restart else "xids")
        before_commit()
        session.commit()
        self.at = at
        return copied

    def finish(self, before_commit: Callable[[], None] = lambda: None) -> None:
        """The part has no (more) rows: say so."""
        self._session.execute(begin_long(self._session, self._name))
        at = Checkpoint(**{**vars(self.at), "done": True})
        self._advance(at, "xids")
        before_commit()
        self._session.commit()
        self.at = at

    def start_over(self, quarantine: Quarantine, before_commit: Callable[[], None] = lambda: None) -> None:
        """Take back the rows of this part alone: what they were read from is gone, other parts stay."""
        if not self.at.position:
            return
        session = self._session
        session.execute(begin_long(session, self._name))
        # The transaction that brought a row is written on the row, and on the checkpoint.
        gone = session.execute(
            sql.SQL(
                f"DELETE FROM {{}} WHERE xmin::text = ANY (SELECT unnest(xids) FROM {SCHEMA}.checkpoint"
                " WHERE run = {} AND generation = {} AND part = {})"
            ).format(sql.Identifier(self._staging.schema, self._staging.table), *map(sql.Literal, self._where))
        ).rowcount
        if gone != self.at.rows:
            session.rollback()
            raise self._gone()
        if self.at.quarantined:
            quarantine.start_over()
        self._advance(Checkpoint(self._key.part), "'{}'")
        before_commit()
        session.commit()
        self.at = Checkpoint(self._key.part)

    def _advance(self, at: Checkpoint, xids: str) -> None:
        """Move the checkpoint on from where this owner left it, and see that the fence still holds."""
        moved = self._session.execute(
            f"""
            UPDATE {SCHEMA}.checkpoint SET reading = %s, position = %s, rows = %s, bytes = %s, repaired = %s,
                done = %s, proven = %s, xids = {xids}
            WHERE run = %s AND generation = %s AND part = %s AND token = %s AND position = %s AND NOT done
            """,
            (
                *(
                    at.reading,
                    at.position,
                    at.rows,
                    at.bytes,
                    json.dumps(dict(at.repaired)),
                    at.done,
                    sorted(at.proven),
                ),
                *(*self._where, self._key.token, self.at.position),
            ),
        ).rowcount
        if not moved:
            raise self._stale()
        control.check_fence(self._session.connection.cursor(), self._fence)

    def _gone(self) -> NewGeneration:
        return NewGeneration(
            f"What was staged for {self._fence.target} is no longer there.", hint="The next attempt reads again."
        )

    def _stale(self) -> StaleToken:
        return StaleToken(f"A newer owner has taken over part {self._key.part + 1} of {self._fence.target}.")


def _keeping(batches: Iterator[pa.RecordBatch], kept: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches of one commit, at hand should they have to be sent again."""
    for batch in batches:
        kept.append(batch)
        yield batch
