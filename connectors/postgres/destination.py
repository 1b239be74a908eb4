"""PostgreSQL as a destination: its checks, look-ups and fence, and the door to its loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from connectors.base import Destination, Reporter, StepResult, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.forecast import Forecast
from connectors.former import FormerState
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres import (
    checks,
    compare,
    control,
    control_schema,
    keep,
    kept,
    letting_go,
    published,
    quarantined,
    staging,
)
from connectors.postgres.client import CONNECT_TIMEOUT_S, Session, is_local
from connectors.postgres.ddl import compare_catalog, refuse_unknown_types
from connectors.postgres.names import check_identifier, column_names
from connectors.postgres.options import PostgresOptions
from connectors.postgres.publish import around, deletion_rules, evolve, history_form, in_place_rules, merge_rules
from connectors.postgres.publish.existing import look, refuse_append, refuse_create
from connectors.postgres.publish.forecast import forecast
from connectors.postgres.publish.target_form import TargetForm
from connectors.postgres.quarantined import Wanted
from connectors.postgres.undo import Undo
from connectors.reading import TableInfo
from connectors.sides import Published
from connectors.sql_around import SqlAround
from connectors.writing import Fence, Owner, Target, Watermark

if TYPE_CHECKING:
    from connectors.postgres.checkpoints import Checkpoint, PartKey, PartLoad
    from connectors.postgres.load import Load
    from connectors.postgres.staging import Plan
    from connectors.replay import QuarantinedRow
    from connectors.request import TransferRequest


class PostgresDestination(Destination):
    """A PostgreSQL database, spoken to over one connection that is made when first needed.

    `timeout_s` limits connecting and, for look-ups, each statement. A superuser is refused unless
    `allow_superuser` or the server is on this machine.
    """

    Options = PostgresOptions

    def __init__(
        self, options: PostgresOptions, *, timeout_s: float = CONNECT_TIMEOUT_S, allow_superuser: bool = False
    ) -> None:
        self._options = options
        self._timeout_s = timeout_s
        self._allow_superuser = allow_superuser or is_local(options.host)
        self._session: Session | None = None

    def check(self) -> Iterator[StepResult]:
        """Test the connection in readable steps, stopping at the first that fails."""
        yield from checks.check(self._options, self._connect, self._refuse_powers)

    @property
    def mask_key(self) -> str:
        return self._options.mask_key

    def schemas(self) -> list[str]:
        """Names of the schemas that tables can be made in or written to, sorted."""
        with self._looking() as session:
            rows = session.execute(
                """
                SELECT nspname FROM pg_namespace
                WHERE NOT starts_with(nspname, 'pg_') AND nspname NOT IN ('information_schema', %s)
                  AND has_schema_privilege(oid, 'USAGE')
                ORDER BY 1
                """,
                (control_schema.SCHEMA,),
            ).fetchall()
        return [name for (name,) in rows]

    def validate_target(
        self,
        target: Target,
        columns: tuple[Column, ...],
        mode: WriteMode,
        *,
        pipeline: UUID,
        adopt: bool,
    ) -> list[ConnectorError]:
        """What stands against writing `columns` to `target`, each with its `field`: schema, table or a column.

        Raises ConnectorError for what stands against any target of this connection.
        """
        found = list(_illegal_names(target))
        if found:
            return found
        with self._looking() as session:
            checks.refuse_unusable(session)
            found += refuse_unknown_types(session.connection.cursor(), columns)
            try:
                seen = look(session, target)
                here, head = seen.relations.get(target.table), control.read_head(session, target)
                columns, altered = evolve.foreseen(session, target, columns, mode, head, here)
                column_names(columns)
            except ConnectorError as error:
                return [error]
            try:
                control.refuse_foreign(target, pipeline, adopt=adopt, exists=here is not None, head=head)
            except ConnectorError as error:
                found.append(error)
            mode = merge_rules.in_the_sources_words(mode, columns)
            stays = mode.disposition is not WriteDisposition.REPLACE
            if mode.disposition is WriteDisposition.MERGE:
                refusal = merge_rules.refuse_target(session, target, columns, mode, seen)
            elif mode.disposition is WriteDisposition.HISTORY:
                refusal = history_form.refuse_target(session, target, columns, mode, seen, besides=altered.names)
            elif here is None:
                refusal = refuse_create(target, seen.schema, session.role)
            elif mode.disposition is WriteDisposition.APPEND:
                refusal = refuse_append(target, seen, session.role)
            else:
                method, refusal = in_place_rules.choose(session, target, columns, mode.key, seen, besides=altered.names)
                stays = method == "in_place"
            if stays and altered.refusal is not None:
                refusal = altered.refusal
            if refusal is None and columns:
                try:
                    form = TargetForm.of(mode, columns)
                    refusal = form.refuse_staying(session, target, here) if here is not None and stays else None
                except ConnectorError as error:
                    refusal = error
            staying = here if stays else None
            refusal = refusal or deletion_rules.refuse(session, target, columns, mode, staying, besides=altered.names)
            if refusal is not None:
                found.append(refusal)
            elif here is not None and mode.disposition is not WriteDisposition.REPLACE:
                cursor = session.connection.cursor()
                found += compare_catalog(cursor, target.schema, target.table, columns, besides=altered.names)
        return found

    def forecast(self, target: Target, columns: tuple[Column, ...], mode: WriteMode) -> Forecast:
        """What a run would do to `target` as things stand; raises ConnectorError for what it would refuse at once."""
        with self._looking() as session:
            seen, head = look(session, target), control.read_head(session, target)
            columns, altered = evolve.foreseen(session, target, columns, mode, head, seen.relations.get(target.table))
            mode = merge_rules.in_the_sources_words(mode, columns)
            return forecast(session, target, columns, mode, seen, altered)

    def raise_fence(self, target: Target, owner: Owner, *, adopt: bool = False) -> Fence:
        """Make `owner` the only one who can commit to `target`, and say where things stand.

        With `adopt`, a table that exists but was never written by a pipeline may be taken over.
        """
        for error in _illegal_names(target):
            raise error
        session = self._open()
        with session.explained():
            return control.raise_fence(session, target, owner, adopt=adopt)

    def load(
        self,
        fence: Fence,
        columns: Sequence[Column],
        mode: WriteMode,
        request: TransferRequest,
        *,
        reporter: Reporter,
        stop: StopSignal,
    ) -> Load:
        """The transaction of one run, on the connection that raised the fence.

        `mode` is the one that this load has, which need not be the request's; what else it says counts as it is.
        """
        from connectors.postgres.load import Load  # brings pyarrow, which look-ups do without

        return Load(self._open(), fence, columns, mode, request, reporter=reporter, stop=stop)

    def staged(self, fence: Fence) -> Plan | None:
        """What the fence's run staged in an earlier transaction, None if nothing."""
        session = self._open()
        with session.explained(fence.target):
            return staging.read_plan(session, fence)

    def checkpoints(self, plan: Plan) -> list[Checkpoint]:
        """How far each part of a staged load is."""
        from connectors.postgres.checkpoints import read_checkpoints

        session = self._open()
        with session.explained(plan.staging):
            return read_checkpoints(session, str(plan.run), plan.generation)

    @contextmanager
    def load_part(self, fence: Fence, key: PartKey, *, stop: StopSignal) -> Iterator[PartLoad]:
        """One part of a staged load, taken over from whoever had it; uncommitted rows are rolled back in the end.

        `fence` is the one that the plan was made under. Raises NewGeneration, StaleToken.
        """
        from connectors.postgres.checkpoints import PartLoad  # brings pyarrow

        session = self._open()
        take_back = stop.on_stop(session.cancel)
        try:
            with session.explained(fence.target), closing(PartLoad(session, fence, key, stop=stop)) as load:
                load.take()
                yield load
        except ConnectorError as error:
            if error.code == "query_cancelled":
                stop.check()
            raise
        finally:
            take_back()
            session.rollback()

    def move_watermark(
        self, fence: Fence, watermark: Watermark, receipt: Mapping[str, Any], fingerprint: str
    ) -> Mapping[str, Any]:
        """Publish nothing but another watermark; raises as a publish does. Returns the receipt as it was written."""
        session = self._open()
        with session.explained(fence.target):
            try:
                session.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                written = control.record_publish(
                    session,
                    fence,
                    rows=0,
                    receipt=receipt,
                    fingerprint=fingerprint,
                    target_oid=None,
                    watermark=watermark,
                )
                session.commit()
            finally:
                session.rollback()
        return written

    def undo(self, fence: Fence, run: UUID, *, depth: int, reporter: Reporter, stop: StopSignal) -> Undo:
        """The transaction of an undo of what `run` put aside, on the connection that raised the fence."""
        return Undo(self._open(), fence, run, depth=depth, reporter=reporter, stop=stop)

    def forget_staged(self, fence: Fence, tables: tuple[str, ...]) -> None:
        """Drop staging tables of the fence's target; raises StaleToken."""
        session = self._open()
        with session.explained(fence.target):
            staging.forget(session, fence, tables)

    def validate_sql(self, sql: SqlAround) -> list[ConnectorError]:
        if not sql:
            return []
        with self._looking() as session:
            return around.validate(session, sql)

    def former_states(self, pipeline: UUID) -> list[FormerState]:
        with self._looking() as session:
            return kept.former_states(session, pipeline)

    def drop_former(self, pipeline: UUID) -> dict[str, Any]:
        """Drop the former states of a pipeline; see letting_go.drop_former."""
        session = self._open()
        with session.explained():
            return letting_go.drop_former(session, pipeline)

    def quarantined(self, pipeline: UUID, wanted: Wanted) -> dict[str, Any]:
        """A pipeline's quarantined rows of published runs: counts, and the first that are wanted."""
        with self._looking() as session:
            return quarantined.look(session, pipeline, wanted)

    def discard_quarantined(self, pipeline: UUID, wanted: Wanted, *, by: str, note: str) -> dict[str, int]:
        """Close open rows of a pipeline; says how many, and how many came later than `wanted` knows."""
        session = self._open()
        with session.explained():
            return quarantined.discard(session, pipeline, wanted, by=by, note=note)

    def choose_quarantined(self, target: Target, pipeline: UUID, wanted: Wanted) -> tuple[list[QuarantinedRow], int]:
        """A pipeline's open rows of a target that are wanted, to be replayed; and how many came since."""
        session = self._open()
        with session.explained(target):
            rows = quarantined.choose(session, target, pipeline, wanted)
            return rows, quarantined.came_later(session, target, pipeline, wanted)

    def published(self, target: Target) -> Published | None:
        with self._looking() as session:
            return published.read_published(session, target)

    def size(self, target: Target) -> TableInfo | None:
        with self._looking() as session:
            return compare.size(session, target)

    @contextmanager
    def comparing(
        self, target: Target, *, mode: WriteMode | None = None, stop: StopSignal
    ) -> Iterator[compare.PostgresSide]:
        with compare.reading(self._open(), target, stop, mode) as side:
            yield side

    def close(self) -> None:
        """Give the session to the next run of this process, or end it."""
        if self._session is not None:
            keep.sessions.give_back(self._session)
            self._session = None

    def _open(self) -> Session:
        """The session, made anew if it was lost; refuses roles that could do more than write rows."""
        if self._session is None or self._session.connection.closed:
            self._session = keep.sessions.take(self._options, self._connect)
            try:
                with self._session.explained():
                    self._refuse_powers(self._session)
            except ConnectorError:
                self.close()
                raise
        return self._session

    def _connect(self) -> Session:
        return Session(self._options, timeout_s=self._timeout_s)

    def _refuse_powers(self, session: Session) -> None:
        if not self._allow_superuser and session.powers():
            raise ConnectorError(
                f"{checks.describe_powers(session)}"
                " Whoever can change a pipeline could run programs on the database server.",
                hint="Make a role of its own for DataMantri that may only write to its schemas.",
                code="superuser_refused",
                field="user",
            )

    @contextmanager
    def _looking(self) -> Iterator[Session]:
        """A read-only transaction in which no statement takes longer than the time limit."""
        session = self._open()
        with session.explained():
            try:
                limit_ms = max(1, round(self._timeout_s * 1000))
                session.execute(f"BEGIN READ ONLY; SET LOCAL statement_timeout = {limit_ms}")
                yield session
            finally:
                session.rollback()


def _illegal_names(target: Target) -> Iterator[ConnectorError]:
    for name, field in ((target.schema, "schema"), (target.table, "table")):
        try:
            check_identifier(name, field=field)
        except ConnectorError as error:
            yield error
    if (
        target.schema == control_schema.SCHEMA
        or target.schema.startswith("pg_")
        or target.schema == "information_schema"
    ):
        yield ConnectorError(
            f"The schema {target.schema} is not for tables of pipelines.",
            hint="Choose another.",
            code="schema_reserved",
            field="schema",
        )
