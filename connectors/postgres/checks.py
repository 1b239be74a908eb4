"""The connection test: what must hold before a first run can end well, in steps that people read."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from connectors.base import StepResult
from connectors.errors import ConnectorError, Unreachable
from connectors.postgres import errors
from connectors.postgres.client import Session, check_options
from connectors.postgres.options import PostgresOptions

OLDEST, NEWEST = 14, 18
REACH_TIMEOUT_S = 3.0
LOOK_TIMEOUT_MS = 5000

_FACTS = """
SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',
       current_setting('server_version'), has_database_privilege(current_database(), 'CREATE'),
       to_regnamespace('_datamantri') IS NOT NULL
"""

_CONTROL_RIGHTS = """
SELECT has_schema_privilege('_datamantri', 'USAGE') AND coalesce(bool_and(
         has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
         AND has_table_privilege(c.oid, 'UPDATE') AND (c.relname NOT IN ('plan', 'checkpoint')
                                                       OR has_table_privilege(c.oid, 'DELETE'))), true), count(*)
FROM pg_class c WHERE c.relnamespace = to_regnamespace('_datamantri')
  AND c.relname IN ('meta', 'head', 'plan', 'checkpoint', 'applied')
"""


@dataclass(frozen=True)
class _Facts:
    is_standby: bool
    is_read_only: bool
    version: str
    may_create_schema: bool
    has_control_schema: bool


def check(
    options: PostgresOptions, connect: Callable[[], Session], refuse_powers: Callable[[Session], None]
) -> Iterator[StepResult]:
    """Test a connection in readable steps, stopping at the first that fails.

    `refuse_powers` raises ConnectorError for a role that may do too much.
    """
    result = _try("Reach the server", partial(_reach, options))
    yield result
    if result.passed is False:
        return
    try:
        session = connect()
    except ConnectorError as error:
        yield StepResult.failed("Log in", error)
        return
    try:
        yield StepResult("Log in", True, f"{options.user} in {options.dbname}")
        for name, step in (
            (f"Server version {OLDEST} to {NEWEST}", _check_version),
            ("Not read-only", _check_writable),
            (f"May keep its records in {errors.CONTROL_SCHEMA}", _check_control),
            ("No more rights than needed", partial(_check_role, refuse_powers)),
        ):
            result = _try(name, partial(_read_only, session, step))
            yield result
            if result.passed is False:
                return
    finally:
        session.close()


def refuse_unusable(session: Session) -> None:
    """Raise ConnectorError where no run could end well through this session, whatever its target."""
    _check_writable(session)
    _check_control(session)


def describe_powers(session: Session) -> str:
    first, *_ = powers = session.powers()
    if first == "superuser":
        return f"{session.role} is a superuser."
    return f"{session.role} is a member of {', '.join(powers)}."


def _try(name: str, step: Callable[[], tuple[bool | None, str]]) -> StepResult:
    try:
        passed, detail = step()
    except ConnectorError as error:
        return StepResult.failed(name, error)
    return StepResult(name, passed, detail)


def _read_only(session: Session, step: Callable[[Session], tuple[bool | None, str]]) -> tuple[bool | None, str]:
    with session.explained():
        try:
            session.execute(f"BEGIN READ ONLY; SET LOCAL statement_timeout = {LOOK_TIMEOUT_MS}")
            return step(session)
        finally:
            session.rollback()


def _facts(session: Session) -> _Facts:
    return _Facts(*session.execute(_FACTS).fetchall()[0])


def _reach(options: PostgresOptions) -> tuple[bool, str]:
    check_options(options)
    host, port = options.host, int(options.port)
    try:
        with socket.create_connection((host, port), timeout=REACH_TIMEOUT_S):
            return True, f"{host}, port {port}"
    except socket.gaierror as error:
        raise Unreachable(f"There is no host called {host}.", hint="Check its name.", field="host") from error
    except OSError as error:
        raise Unreachable(
            f"Nobody answers on {host}, port {port}.",
            hint="Check host and port, and that a firewall lets this machine through.",
            field="host",
        ) from error


def _check_version(session: Session) -> tuple[bool | None, str]:
    major, text = session.server_version // 10000, _facts(session).version
    if major < OLDEST:
        raise ConnectorError(
            f"The server is PostgreSQL {text}.", hint=f"Use {OLDEST} or later.", code="server_too_old", field="host"
        )
    if major > NEWEST:
        return None, f"PostgreSQL {text}: newer than what this was tested with"
    return True, f"PostgreSQL {text}"


def _check_writable(session: Session) -> tuple[bool, str]:
    facts = _facts(session)
    if facts.is_standby or facts.is_read_only:
        where = f"{session.options.dbname} on {session.options.host}"
        raise ConnectorError(
            f"{where} is a standby." if facts.is_standby else f"{where} is set to read-only for {session.role}.",
            hint="Connect to the primary." if facts.is_standby else "Set default_transaction_read_only to off.",
            code="read_only",
            field="host",
        )
    return True, ""


def _check_control(session: Session) -> tuple[bool, str]:
    facts = _facts(session)
    if facts.has_control_schema:
        usable, tables = session.one(_CONTROL_RIGHTS) or (False, 0)
        if not usable:
            raise errors.missing_grant(
                f"{session.role} may not use the schema {errors.CONTROL_SCHEMA}.",
                errors.control_grants(session.role),
                field="user",
            )
        return True, "It is there." if tables else "It is there, and empty."
    if not facts.may_create_schema:
        role, dbname = errors.quoted(session.role), errors.quoted(session.options.dbname)
        raise errors.missing_grant(
            f"{session.role} may not create the schema {errors.CONTROL_SCHEMA} in {session.options.dbname}.",
            f"GRANT CREATE ON DATABASE {dbname} TO {role};",
            field="user",
        )
    return True, "It is made by the first run."


def _check_role(refuse_powers: Callable[[Session], None], session: Session) -> tuple[bool | None, str]:
    refuse_powers(session)
    if session.powers():
        return None, f"{describe_powers(session)} That is accepted for a server on this machine."
    return True, ""
