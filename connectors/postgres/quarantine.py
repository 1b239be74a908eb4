"""`_datamantri.quarantine`: rows that a run puts aside, written in the transactions of the rows that it takes.

A row is `staged` until its run is published, then `open`. It goes with a generation that is thrown away, and with a
part that starts over. Of an open row a person decides; a newer version of it, or a load of everything, supersedes it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from psycopg2 import sql

from connectors.base import Reporter
from connectors.column import Column
from connectors.errors import NewGeneration, Overtaken
from connectors.modes import WriteMode
from connectors.postgres import stored_rows, superseding
from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA
from connectors.postgres.names import column_names
from connectors.quarantine import QuarantineRule, masks_in_words
from connectors.writing import Fence, Target

if TYPE_CHECKING:
    from connectors.columns.divert import Diverted, Diverter
    from connectors.request import TransferRequest

# What waits for the COPY of the good rows to end is kept in memory up to this, then on disk.
SPOOL_BYTES = 8 << 20
_WRITTEN = "target, installation, pipeline, run, generation, part, column_name, code, reason, masks, key, cursor, raw"


class Quarantine:
    """The rows that one run puts aside, as one of its transactions sees them.

    `rows` are those of the whole run so far, `illegible` those of them without a legible key, `reasons` how many there
    are by column and code. Nothing is asked of the destination while there are none.
    """

    def __init__(
        self,
        session: Session,
        fence: Fence,
        columns: Sequence[Column],
        mode: WriteMode,
        request: TransferRequest,
        *,
        generation: int = 1,
        part: int = 0,
    ) -> None:
        self._session = session
        self._fence = fence
        self._columns = columns
        self._mode = mode
        self._rule: QuarantineRule = request.quarantine
        self._text_policy = request.text_policy
        read = request.read.cursor
        # What orders the versions of a row, or tells of which range it is.
        self._cursor = mode.cursor or (read.column if read else "")
        self._part = part
        self._spool: IO[bytes] | None = None
        self._spooled: Counter[str] = Counter()
        self._spooled_illegible = 0
        self.generation = generation
        self.is_strict = False
        self.illegible = 0
        self.reasons: Counter[str] = Counter()

    @property
    def is_on(self) -> bool:
        return self._rule.is_on

    @property
    def rows(self) -> int:
        return self.reasons.total()

    # Rows that cannot be stored ---------------------------------------------------------------

    def diverter(self, *, knows_rows_by_key: bool) -> Diverter | None:
        """Takes the rows out of a COPY that it would refuse; None where the run is to fail instead.

        `knows_rows_by_key` where a row without a key has no place.
        """
        if not self.is_on:
            return None
        from connectors.columns.divert import Diverter  # brings pyarrow, which look-ups do without

        key, options = self._mode.key, self._mode.options
        keys = (*(key if knows_rows_by_key else ()), *options.primary_key)
        parted = (options.partition_column,) if options.partition_column else ()
        return Diverter(
            self._columns,
            self._take,
            never_null=(*((name, "null_key") for name in keys), *((name, "null_partition") for name in parted)),
            key=key,
            cursor=self._cursor,
            text_policy=self._text_policy,
            is_strict=self.is_strict,
        )

    def look_closer(self) -> None:
        """PostgreSQL found what Arrow had not: forget what the broken COPY left, and look for that as well."""
        self._forget_spooled()
        self.is_strict = True

    def _take(self, found: Diverted) -> None:
        from pyarrow import array, csv, repeat, string, table

        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - until written
        reasons = found.reasons
        owner = self._fence.owner
        always = {
            "target": target_key(self._fence.target),
            "installation": str(owner.installation),
            "pipeline": str(owner.pipeline),
            "run": str(owner.run),
            "generation": str(self.generation),
            "part": str(self._part),
        }
        rows = table(
            {
                **{name: repeat(value, len(reasons)) for name, value in always.items()},
                "column_name": array([reason.column for reason in reasons], string()),
                "code": array([reason.code for reason in reasons], string()),
                "reason": array([reason.text.replace("\0", "\\0") for reason in reasons], string()),
                "masks": repeat(masks_in_words(self._columns), len(reasons)),
                "key": found.keys,
                "cursor": found.cursors,
                "raw": found.raw,
            }
        )
        csv.write_csv(rows, self._spool, csv.WriteOptions(include_header=False))
        self._spooled.update(told(reason.column, reason.code) for reason in reasons)
        if self._mode.key:
            self._spooled_illegible += found.keys.null_count
        self._rule.refuse_more(self._fence.target, self.rows + self._spooled.total())

    def write(self) -> int:
        """Write down what a COPY put aside, and say how many rows that were; the caller commits it with the others."""
        rows, spool = self._spooled.total(), self._spool
        if not rows or spool is None:
            return 0
        spool.seek(0)
        cursor = self._session.connection.cursor()
        cursor.copy_expert(f"COPY {SCHEMA}.quarantine ({_WRITTEN}) FROM STDIN (FORMAT csv)", spool)
        self.reasons.update(self._spooled)
        self.illegible += self._spooled_illegible
        self._forget_spooled()
        return rows

    def close(self) -> None:
        """Let go of what was not written down."""
        self._forget_spooled()

    def _forget_spooled(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._spool, self._spooled_illegible = None, 0
        self._spooled.clear()

    def start_over(self) -> None:
        """Take back what this part put aside: it is read again from its beginning."""
        self._session.execute(
            f"DELETE FROM {SCHEMA}.quarantine WHERE run = %s AND generation = %s AND part = %s AND state = 'staged'",
            (str(self._fence.owner.run), self.generation, self._part),
        )
        self.reasons.clear()
        self.illegible = 0

    def look_again(self, generation: int, expected: int) -> None:
        """Learn what earlier transactions of this run put aside; raises NewGeneration if it is not as `expected`."""
        self.generation = generation
        if not expected:
            return
        found = self._session.execute(
            f"""
            SELECT column_name, code, count(*), count(*) FILTER (WHERE key IS NULL) FROM {SCHEMA}.quarantine
            WHERE run = %s AND generation = %s AND state = 'staged' GROUP BY 1, 2
            """,
            (str(self._fence.owner.run), generation),
        ).fetchall()
        self.reasons = Counter({told(column, code): rows for column, code, rows, _ in found})
        self.illegible = sum(without for *_, without in found) if self._mode.key else 0
        if self.rows != expected:
            raise NewGeneration(
                f"What was put aside for {self._fence.target} is no longer there.",
                hint="The next attempt reads again.",
            )

    # Rows that fail a check -------------------------------------------------------------------

    def divert(self, staging: Target, columns: Sequence[Column], bad: sql.Composable, *, code: str) -> int:
        """Move staged rows into the quarantine, and say how many; the caller corrects what it counts.

        `bad` gives tableoid, ctid, column and reason of each; of several for one row any counts.
        """
        fence, owner = self._fence, self._fence.owner
        names = dict(zip((column.name for column in columns), column_names(columns), strict=True))
        known = {column.name.lower(): column for column in columns}
        key = [known[name.lower()] for name in self._mode.key if name.lower() in known]
        cursor = known.get(self._cursor.lower()) if self._cursor else None
        statement = sql.SQL(
            """
            WITH bad AS (SELECT DISTINCT ON (1, 2) * FROM ({bad}) AS found (part, place, column_name, reason)),
            gone AS (DELETE FROM {staging} AS s USING bad WHERE s.tableoid = bad.part AND s.ctid = bad.place
                     RETURNING bad.column_name, bad.reason, {key} AS key, {cursor} AS cursor, {raw} AS raw)
            INSERT INTO {quarantine} ({written})
            SELECT {target}, {installation}, {pipeline}, {run}, {generation}, {part}, column_name, {code}, reason,
                   {masks}, key, cursor, raw
            FROM gone RETURNING column_name, key IS NULL
            """
        ).format(
            bad=bad,
            staging=sql.Identifier(staging.schema, staging.table),
            key=stored_rows.key(key, names),
            cursor=stored_rows.text(cursor, names) if cursor else sql.SQL("NULL"),
            raw=stored_rows.raw(columns, names),
            quarantine=sql.Identifier(SCHEMA, "quarantine"),
            written=sql.SQL(_WRITTEN),
            target=sql.Literal(target_key(fence.target)),
            installation=sql.Literal(str(owner.installation)),
            pipeline=sql.Literal(str(owner.pipeline)),
            run=sql.Literal(str(owner.run)),
            generation=sql.Literal(self.generation),
            part=sql.Literal(self._part),
            code=sql.Literal(code),
            masks=sql.Literal(masks_in_words(columns)),
        )
        moved = self._session.execute(statement).fetchall()
        self.reasons.update(told(column, code) for column, _ in moved)
        if self._mode.key:
            self.illegible += sum(is_illegible for _, is_illegible in moved)
        return len(moved)

    def divert_keyless(self, staging: Target) -> int:
        """Move staged rows without a key into the quarantine: how they would be published was not known before."""
        names = dict(zip((column.name for column in self._columns), column_names(self._columns), strict=True))
        bad = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT s.tableoid, s.ctid, {}, {} FROM {} AS s WHERE s.{} IS NULL").format(
                sql.Literal(name),
                sql.Literal(f"Column {name} identifies the row and has no value."),
                sql.Identifier(staging.schema, staging.table),
                sql.Identifier(names[name]),
            )
            for name in self._mode.key
        )
        return self.divert(staging, self._columns, bad, code="null_key") if self._mode.key else 0

    # The publish ------------------------------------------------------------------------------

    def judge(self, staged: int) -> None:
        """Raise where too many of the rows that were read were put aside; see QuarantineRule.judge."""
        if self.rows:
            self._rule.judge(self._fence.target, self.rows, self.rows + staged)

    def keys(self) -> sql.Composable | None:
        """The keys of the run's rows here, as the target would have them and under its names; None if there are none.

        They count as seen: the source has these rows.
        """
        if not self.rows or not self._mode.key:
            return None
        where = sql.SQL("run = {} AND generation = {} AND state = 'staged'").format(
            sql.Literal(str(self._fence.owner.run)), sql.Literal(self.generation)
        )
        return superseding.keys(self._columns, self._mode.key, where)

    def supersede(self, staging: Target | None, reporter: Reporter) -> None:
        """Close open rows that this publish makes old; see `superseding`."""
        if self._fence.has_quarantine and not self._mode.replays:
            done = superseding.supersede(self._session, self._fence, self._columns, self._mode, staging)
            if not done:
                message = "Keys in quarantine are of another type than now: none of those rows is taken for old."
                reporter.log("warning", message)

    def publish(self) -> None:
        """Open what this run put aside, close what it replayed, and forget what is old; part of the publish.

        Raises Overtaken where a row that is replayed was decided on by somebody else.
        """
        if not self.rows and not self._fence.has_quarantine:
            return
        run, target = str(self._fence.owner.run), target_key(self._fence.target)
        if self.rows:
            opened = self._session.execute(
                f"""
                DELETE FROM {SCHEMA}.quarantine WHERE run = %(run)s AND generation <> %(generation)s;
                UPDATE {SCHEMA}.quarantine SET state = 'open', opened = %(token)s
                WHERE run = %(run)s AND generation = %(generation)s AND state = 'staged'
                """,
                {"run": run, "generation": self.generation, "token": self._fence.token},
            ).rowcount
            if opened != self.rows:
                raise NewGeneration(
                    f"What was put aside for {self._fence.target} is no longer there.",
                    hint="The next attempt reads again.",
                )
        if self._mode.replays:
            replayed = self._session.execute(
                f"""
                UPDATE {SCHEMA}.quarantine
                SET state = 'replayed', decided_run = %s, decided_at = clock_timestamp()
                WHERE id = ANY(%s::uuid[]) AND target = %s AND pipeline = %s AND state = 'open'
                """,
                (run, list(self._mode.replays), target, str(self._fence.owner.pipeline)),
            ).rowcount
            if replayed != len(self._mode.replays):
                raise Overtaken(
                    f"Somebody else decided on rows of the quarantine of {self._fence.target}.",
                    hint="The next attempt takes those that are still open.",
                )
        self._session.execute(
            f"""
            DELETE FROM {SCHEMA}.quarantine
            WHERE target = %s AND state <> 'staged' AND seen_at < clock_timestamp() - %s * interval '1 day'
            """,
            (target, self._rule.keep_days),
        )


def told(column: str, code: str) -> str:
    return f"{column}: {code}"
