"""A session with PostgreSQL: how we connect, and transactions that say what became of them."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions, extras, sql

from connectors.errors import ConnectorError, OutcomeUnknown, TransientError
from connectors.postgres import errors
from connectors.postgres.options import PostgresOptions
from connectors.writing import Target

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

APPLICATION = "datamantri"
CONNECT_TIMEOUT_S = 10.0
# Where systems keep the authorities they trust: libpq's own wheel looks in its builder's folder.
_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# A path that cannot exist: given where libpq would otherwise look into the home folder.
_NO_FILE = "/dev/null/none"
_HOST = re.compile(r"[\w.:%-]+")
_ENVIRONMENT = threading.Lock()


def connect(options: PostgresOptions, *, timeout_s: float = CONNECT_TIMEOUT_S) -> extensions.connection:
    """A new connection in autocommit mode, made of `options` alone; raises ConnectorError.

    Nothing of the process's surroundings is consulted: no PG* variable, password file, service or
    certificate in the home folder.
    """
    check_options(options)
    with ExitStack() as stack:
        roots = stack.enter_context(_root_certificates(options))
        stack.enter_context(_no_pg_environment())
        try:
            connection = psycopg2.connect(
                host=options.host,
                port=int(options.port),
                dbname=options.dbname,
                user=options.user,
                password=options.password,
                passfile=_NO_FILE,
                sslmode=sslmode(options),
                sslrootcert=roots,
                sslcrl=_NO_FILE,
                sslcertmode="disable",
                gssencmode="disable",
                application_name=APPLICATION,
                client_encoding="UTF8",
                connect_timeout=max(2, round(timeout_s)),
                keepalives=1,
                keepalives_idle=15,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=30_000,
            )
        except psycopg2.Error as error:
            raise errors.connect_error(error, options) from error
    connection.autocommit = True
    extras.register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
    return connection


def check_options(options: PostgresOptions) -> None:
    """Raise ConnectorError for values that libpq would take for something else, such as a socket's folder."""
    if not _HOST.fullmatch(options.host):
        raise ConnectorError(
            f"{options.host!r} is not a host name or address.",
            hint="Give one name or address, without scheme, port, slash or comma.",
            code="invalid_host",
            field="host",
        )
    if not str(options.port).isdecimal() or not 0 < int(options.port) < 65536:
        raise ConnectorError(f"{options.port!r} is not a port.", code="invalid_port", field="port")
    for name in ("dbname", "user", "password"):
        if "\0" in getattr(options, name):
            raise ConnectorError(f"The {name} contains a NUL character.", code="invalid_option", field=name)
    if options.sslrootcert.strip():
        try:
            ssl.create_default_context(cadata=options.sslrootcert)
        except (ssl.SSLError, ValueError) as error:
            raise ConnectorError(
                "The root certificate cannot be read.",
                hint="Paste PEM text: it begins with -----BEGIN CERTIFICATE-----.",
                code="invalid_certificate",
                field="sslrootcert",
            ) from error
    if options.sslmode not in ("", "verify-full", "verify-ca", "require", "prefer", "disable"):
        raise ConnectorError(f"{options.sslmode!r} is not a TLS mode.", code="invalid_option", field="sslmode")


def is_local(host: str) -> bool:
    """Whether `host` is this machine by its loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def sslmode(options: PostgresOptions) -> str:
    return options.sslmode or ("prefer" if is_local(options.host) else "verify-full")


@contextmanager
def _root_certificates(options: PostgresOptions) -> Iterator[str]:
    if options.sslrootcert.strip():
        # Made with mode 0600, gone when connected.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(options.sslrootcert)
            file.flush()
            yield file.name
    elif sslmode(options).startswith("verify"):
        trusted = (ssl.get_default_verify_paths().cafile, *_SYSTEM_ROOTS)
        yield next((path for path in trusted if path and Path(path).is_file()), "system")
    else:
        yield _NO_FILE


@contextmanager
def _no_pg_environment() -> Iterator[None]:
    """Hide PG* variables while libpq connects: it reads some of them whatever it is told."""
    with _ENVIRONMENT:
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
        try:
            yield
        finally:
            os.environ.update(hidden)


class Session:
    """One connection whose transactions are written out: BEGIN travels with the first statement.

    Settings are made with SET LOCAL only, so that a pooler in transaction mode may stand between.
    Statements are either text with parameters, or composed with literals and without parameters (a
    `%` in an identifier is then just that).
    """

    def __init__(self, options: PostgresOptions, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self.options = options
        self._timeout_s = timeout_s
        self.made_at = time.monotonic()
        self.was_cancelled = False
        # With the next run of this process, once this one is done; one that ran people's SQL is not.
        self.is_shared = True
        self._powers: tuple[str, ...] | None = None
        self.connection = connect(options, timeout_s=timeout_s)

    @property
    def role(self) -> str:
        return self.options.user

    @property
    def server_version(self) -> int:
        """As PostgreSQL counts: 180003 is 18.3."""
        return int(self.connection.server_version)

    def powers(self) -> tuple[str, ...]:
        """What the role may do beyond writing rows: be superuser, run programs or use files on the server."""
        if self._powers is None:
            row = self.one(
                """
                SELECT ARRAY(SELECT 'superuser' FROM pg_roles WHERE rolname = current_user AND rolsuper
                             UNION ALL SELECT rolname FROM pg_roles
                             WHERE rolname IN ('pg_execute_server_program', 'pg_write_server_files',
                                               'pg_read_server_files') AND pg_has_role(oid, 'MEMBER'))
                """
            )
            self._powers = tuple(row[0]) if row else ()
        return self._powers

    def execute(self, query: str | sql.Composable, parameters: Any = None) -> Cursor:
        cursor = self.connection.cursor()
        cursor.execute(query, parameters)
        return cursor

    def one(self, query: str | sql.Composable, parameters: Any = None) -> tuple[Any, ...] | None:
        """The first row of the last statement, or None."""
        return self.execute(query, parameters).fetchone()

    def commit(self) -> None:
        """Raises OutcomeUnknown if the connection broke while the commit was on its way."""
        try:
            cursor = self.execute("COMMIT")
        except psycopg2.Error as error:
            if errors.is_lost(error, self.connection):
                raise OutcomeUnknown(
                    "The connection to PostgreSQL broke while the commit was on its way.",
                    hint="The next attempt asks the destination what happened.",
                ) from error
            raise
        if cursor.statusmessage != "COMMIT":
            # A transaction that failed before is rolled back by COMMIT without an error.
            raise TransientError("PostgreSQL rolled the transaction back.", code="rolled_back")

    def rollback(self) -> None:
        """End the transaction, if there is one; a connection that is in no state to do so is closed."""
        status = self.connection.info.transaction_status
        if self.connection.closed or status == extensions.TRANSACTION_STATUS_IDLE:
            return
        if status in (extensions.TRANSACTION_STATUS_INTRANS, extensions.TRANSACTION_STATUS_INERROR):
            # Locks of the session outlive the transaction; in one message, or a pooler would ask another session.
            end = "ROLLBACK" if self.is_shared else "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()"
            with suppress(psycopg2.Error):  # a lost connection has been rolled back already
                self.execute(end)
                return
        self.close()

    def cancel(self) -> None:
        """Break the statement that runs now, from any thread and without waiting.

        libpq asks over a second connection and has no time limit for it, hence the thread. As the
        request may arrive late, such a session is not for anyone else.
        """
        self.was_cancelled = True

        def ask() -> None:
            with suppress(psycopg2.Error):  # nobody there: then nothing runs either
                self.connection.cancel()

        threading.Thread(target=ask, name="postgres-cancel", daemon=True).start()

    def reconnect(self) -> None:
        self.close()
        self.connection = connect(self.options, timeout_s=self._timeout_s)

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def explained(self, target: Target | None = None) -> Iterator[None]:
        """Turn psycopg2's errors into ours."""
        try:
            yield
        except psycopg2.Error as error:
            raise errors.statement_error(error, self.connection, self.options, target) from error
