"""PostgreSQL as a destination: its checks, look-ups and fence, and the door to its loads."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from connectors.base import (
    Column,
    Destination,
    Fence,
    Owner,
    Reporter,
    StepResult,
    StopSignal,
    TableDigest,
    Target,
    WriteDisposition,
)
from connectors.errors import ConnectorError, Unreachable
from connectors.postgres import compare, control, errors, keep
from connectors.postgres.client import CONNECT_TIMEOUT_S, Session, check_options, is_local
from connectors.postgres.ddl import compare_catalog
from connectors.postgres.load import Load
from connectors.postgres.names import check_identifier, column_names
from connectors.postgres.options import PostgresOptions
from connectors.postgres.publish.existing import look, refuse_append, refuse_create, refuse_replace

OLDEST, NEWEST = 14, 18

_FACTS = """
SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',
       current_setting('server_version'), has_database_privilege(current_database(), 'CREATE'),
       to_regnamespace('_datamantri') IS NOT NULL, rolsuper, ARRAY(
         SELECT rolname FROM pg_roles
         WHERE rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files')
           AND pg_has_role(oid, 'MEMBER') ORDER BY 1)
FROM pg_roles WHERE rolname = current_user
"""

_CONTROL_RIGHTS = """
SELECT has_schema_privilege('_datamantri', 'USAGE') AND coalesce(bool_and(
         has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
         AND has_table_privilege(c.oid, 'UPDATE')), true), count(*)
FROM pg_class c WHERE c.relnamespace = to_regnamespace('_datamantri') AND c.relname IN ('meta', 'head', 'applied')
"""


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
        for name, step in (
            ("Reach the server", self._reach),
            ("Log in", self._log_in),
            (f"Server version {OLDEST} to {NEWEST}", self._check_version),
            ("Not read-only", self._check_writable),
            (f"May keep its records in {control.SCHEMA}", self._check_control),
            ("No more rights than needed", self._check_role),
        ):
            try:
                passed, detail = step()
            except ConnectorError as error:
                yield StepResult.failed(name, error)
                return
            yield StepResult(name, passed, detail)

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
                (control.SCHEMA,),
            ).fetchall()
        return [name for (name,) in rows]

    def validate_target(
        self,
        target: Target,
        columns: tuple[Column, ...],
        disposition: WriteDisposition,
        *,
        pipeline: UUID,
        adopt: bool,
    ) -> list[ConnectorError]:
        """What stands against writing `columns` to `target`, each with its `field`: schema, table or a column."""
        found = list(_illegal_names(target, columns))
        if found:
            return found
        with self._looking() as session:
            try:
                seen = look(session, target)
            except ConnectorError as error:
                return [error]
            here = seen.relations.get(target.table)
            try:
                control.refuse_foreign(
                    target, pipeline, adopt=adopt, exists=here is not None, head=control.read_head(session, target)
                )
            except ConnectorError as error:
                found.append(error)
            if here is None:
                refusal = refuse_create(target, seen.schema, session.role)
            elif disposition is WriteDisposition.APPEND:
                refusal = refuse_append(target, seen, session.role)
            else:
                refusal = refuse_replace(target, seen, session.role)
            if refusal is not None:
                found.append(refusal)
            elif here is not None and disposition is WriteDisposition.APPEND:
                found += compare_catalog(session.connection.cursor(), target.schema, target.table, columns)
        return found

    def raise_fence(self, target: Target, owner: Owner, *, adopt: bool = False) -> Fence:
        """Make `owner` the only one who can commit to `target`, and say where things stand.

        With `adopt`, a table that exists but was never written by a pipeline may be taken over.
        """
        for error in _illegal_names(target, ()):
            raise error
        session = self._open()
        with session.explained():
            return control.raise_fence(session, target, owner, adopt=adopt)

    def load(
        self,
        fence: Fence,
        columns: Sequence[Column],
        disposition: WriteDisposition,
        *,
        reporter: Reporter,
        stop: StopSignal,
    ) -> Load:
        """The transaction of one run, on the connection that raised the fence."""
        return Load(self._open(), fence, columns, disposition, reporter=reporter, stop=stop)

    def digest(self, target: Target, columns: tuple[Column, ...]) -> TableDigest:
        session = self._open()
        with session.explained(target):
            return compare.digest(session, target, columns)

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
                if self._session.connection.info.parameter_status("is_superuser") == "on":
                    self._refuse_power(f"{self._options.user} is a superuser.")
            except ConnectorError:
                self.close()
                raise
        return self._session

    def _connect(self) -> Session:
        return Session(self._options, timeout_s=self._timeout_s)

    def _refuse_power(self, message: str) -> None:
        if not self._allow_superuser:
            raise ConnectorError(
                f"{message} Whoever could change a pipeline could then run programs on the database server.",
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

    def _facts(self) -> tuple[Any, ...]:
        with self._looking() as session:
            row = session.one(_FACTS)
        if row is None:
            raise ConnectorError(f"There is no role {self._options.user}.", code="role_missing", field="user")
        return row

    def _reach(self) -> tuple[bool, str]:
        check_options(self._options)
        host, port = self._options.host, int(self._options.port)
        try:
            with socket.create_connection((host, port), timeout=self._timeout_s):
                return True, f"{host}, port {port}"
        except socket.gaierror as error:
            raise Unreachable(f"There is no host called {host}.", hint="Check its name.", field="host") from error
        except OSError as error:
            raise Unreachable(
                f"Nobody answers on {host}, port {port}.",
                hint="Check host and port, and that a firewall lets this machine through.",
                field="host",
            ) from error

    def _log_in(self) -> tuple[bool, str]:
        self.close()
        self._session = self._connect()  # a kept session would prove nothing
        return True, f"{self._options.user} in {self._options.dbname}"

    def _check_version(self) -> tuple[bool | None, str]:
        major, text = self._open().server_version // 10000, str(self._facts()[2])
        if major < OLDEST:
            raise ConnectorError(
                f"The server is PostgreSQL {text}.", hint=f"Use {OLDEST} or later.", code="server_too_old", field="host"
            )
        if major > NEWEST:
            return None, f"PostgreSQL {text}: newer than what this was tested with"
        return True, f"PostgreSQL {text}"

    def _check_writable(self) -> tuple[bool, str]:
        standby, read_only, *_ = self._facts()
        if standby or read_only:
            raise ConnectorError(
                "The server is a standby." if standby else "The database or role is set to read-only.",
                hint="Connect to the primary." if standby else "Set default_transaction_read_only to off.",
                code="read_only",
                field="host",
            )
        return True, ""

    def _check_control(self) -> tuple[bool, str]:
        _, _, _, may_create, exists, *_ = self._facts()
        if exists:
            with self._looking() as session:
                usable, tables = session.one(_CONTROL_RIGHTS) or (False, 0)
            if not usable:
                raise errors.missing_grant(
                    f"{self._options.user} may not use the schema {control.SCHEMA}.",
                    errors.control_grants(self._options.user),
                    field="user",
                )
            return True, "It is there." if tables else "It is there, and empty."
        if not may_create:
            role, dbname = errors.quoted(self._options.user), errors.quoted(self._options.dbname)
            raise errors.missing_grant(
                f"{self._options.user} may not create the schema {control.SCHEMA} in {self._options.dbname}.",
                f"GRANT CREATE ON DATABASE {dbname} TO {role};",
                field="user",
            )
        return True, "It is made by the first run."

    def _check_role(self) -> tuple[bool | None, str]:
        *_, superuser, powers = self._facts()
        if not superuser and not powers:
            return True, ""
        words = (
            f"{self._options.user} is a superuser."
            if superuser
            else f"{self._options.user} is a member of {', '.join(powers)}."
        )
        self._refuse_power(words)
        return None, f"{words} That is accepted for a server on this machine."


def _illegal_names(target: Target, columns: Sequence[Column]) -> Iterator[ConnectorError]:
    for name, field in ((target.schema, "schema"), (target.table, "table")):
        try:
            check_identifier(name, field=field)
        except ConnectorError as error:
            yield error
    if target.schema == control.SCHEMA or target.schema.startswith("pg_") or target.schema == "information_schema":
        yield ConnectorError(
            f"The schema {target.schema} is not for tables of pipelines.",
            hint="Choose another.",
            code="schema_reserved",
            field="schema",
        )
    try:
        column_names(columns)
    except ConnectorError as error:
        yield error
