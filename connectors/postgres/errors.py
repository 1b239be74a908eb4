"""PostgreSQL's errors in plain words, by SQLSTATE; the type says whether another try is worth it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import extensions

from connectors.errors import ConnectorError, TransientError, Unreachable
from connectors.postgres.options import PostgresOptions
from connectors.writing import Target

CONTROL_SCHEMA = "_datamantri"

# admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped, idle_session_timeout,
# idle_in_transaction_session_timeout, transaction_timeout
_ENDED = {"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"}


@dataclass(frozen=True)
class _Saying:
    """What we make of an error: `{message}` is PostgreSQL's own first line."""

    code: str
    message: str
    hint: str = ""
    transient: bool = False
    field: str = ""

    def error(self, message: str = "", **names: str) -> ConnectorError:
        kind = TransientError if self.transient else ConnectorError
        words = {"message": message, **names}
        return kind(_fill(self.message, words).strip(), hint=_fill(self.hint, words), code=self.code, field=self.field)


def _fill(template: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        template = template.replace("{" + name + "}", value)
    return template


# What libpq and the server say before a session exists carries no SQLSTATE, only text.
_CONNECT: tuple[tuple[str, _Saying], ...] = (
    (
        r"password authentication failed|no password supplied|pam authentication failed|no such user"
        r"|SASL authentication failed|authentication failed|server login failed: .*password",
        _Saying(
            "authentication_failed",
            "PostgreSQL refused the password of {user}.",
            "Check user and password.",
            field="password",
        ),
    ),
    (
        r'role ".*" does not exist|role ".*" is not permitted to log in',
        _Saying("authentication_failed", "PostgreSQL does not let {user} log in.", "Check the user.", field="user"),
    ),
    (
        r"no pg_hba.conf entry|pg_hba.conf rejects",
        _Saying(
            "access_refused",
            "The server's pg_hba.conf does not let {user} into {dbname} from here.",
            "Ask its administrator to allow this machine, or try another TLS mode.",
            field="host",
        ),
    ),
    (
        r'database ".*" does not exist|no such database',
        _Saying("database_missing", "There is no database {dbname} on {host}.", "Check its name.", field="dbname"),
    ),
    (
        r"permission denied for database",
        _Saying(
            "missing_grant",
            "{user} may not connect to {dbname}.",
            'GRANT CONNECT ON DATABASE "{dbname}" TO "{user}";',
            field="dbname",
        ),
    ),
    (
        r"too many clients|remaining connection slots|too many connections|no more connections allowed",
        _Saying(
            "too_many_connections",
            "{host} takes no more connections now.",
            "Raise max_connections, or use a pooler.",
            transient=True,
        ),
    ),
    (
        r"is starting up|is shutting down|in recovery mode|not accepting connections|not yet accepting",
        _Saying("server_starting", "PostgreSQL on {host} is starting or shutting down.", transient=True),
    ),
    (
        r"certificate verify failed|root certificate file|could not read root certificate|server certificate for"
        r"|no start line|bad base64|PEM lib",
        _Saying(
            "tls_untrusted",
            "The certificate of {host} could not be verified.",
            "Give the root certificate of its authority, and the host name that the certificate was made for.",
            field="sslrootcert",
        ),
    ),
    (
        r"server does not support SSL|SSL error|SSL connection",
        _Saying("tls_failed", "No TLS session with {host}: {message}", "Check the TLS mode.", field="sslmode"),
    ),
)

_NO_HOST = re.compile(r"could not translate host name|Name or service not known|nodename nor servname")


def connect_error(error: psycopg2.Error, options: PostgresOptions) -> ConnectorError:
    """Why no session came about; libpq's text never holds the password."""
    text = str(error)
    names = {"user": options.user, "dbname": options.dbname, "host": options.host}
    for pattern, saying in _CONNECT:
        if re.search(pattern, text, re.IGNORECASE):
            return saying.error(_first_line(text), **names)
    if _NO_HOST.search(text):
        return Unreachable(f"There is no host called {options.host}.", hint="Check its name.", field="host")
    return Unreachable(
        f"PostgreSQL does not answer on {options.host}, port {options.port}: {_first_line(text)}.",
        hint="Check host and port, and that a firewall lets this machine through.",
        field="host",
    )


_BY_STATE = {
    "25006": _Saying(
        "read_only",
        "{dbname} on {host} is read-only.",
        "It may be a standby, or set to read-only: connect to the primary.",
        field="host",
    ),
    "3D000": _Saying("database_missing", "{message}.", field="dbname"),
    "3F000": _Saying(
        "schema_missing", "There is no schema {schema}.", 'CREATE SCHEMA "{schema}", or choose another.', field="schema"
    ),
    "42P01": _Saying("table_missing", "{message}.", field="table"),
    "42P07": _Saying("name_taken", "{message}.", "Choose another name for the table.", field="table"),
    "2BP01": _Saying(
        "replace_would_break",
        "{message}.",
        "Use append, or drop what depends on the table.",
        field="table",
    ),
    "53100": _Saying("disk_full", "The disk of the PostgreSQL server is full.", "Free some space there."),
    "53200": _Saying("server_out_of_memory", "The PostgreSQL server ran out of memory.", transient=True),
    "53300": _Saying("too_many_connections", "The server takes no more connections now.", transient=True),
    "55P03": _Saying("target_locked", "Another session holds a lock on {target}.", transient=True),
    "57014": _Saying("query_cancelled", "The statement was cancelled at the server: {message}.", transient=True),
    "58030": _Saying("server_io_error", "The PostgreSQL server could not read or write its files.", transient=True),
    "22003": _Saying("value_out_of_range", "A value does not fit{column}: {message}.", "{filter}"),
    "22001": _Saying("value_too_long", "A value is too long{column}: {message}.", "{filter}"),
    "22008": _Saying("value_out_of_range", "A date or time does not fit{column}: {message}.", "{filter}"),
    "22021": _Saying("bad_text", "A text cannot be stored{column}: {message}.", "{filter}"),
    "22P05": _Saying("bad_text", "A text cannot be stored{column}: {message}.", "{filter}"),
    "23502": _Saying("null_not_allowed", "A NULL was refused{column}.", "{filter}"),
    "23505": _Saying("duplicate_key", "A row would be there twice: {message}.", "{filter}"),
    "23P01": _Saying("duplicate_key", "A row would be there twice: {message}.", "{filter}"),
    "23514": _Saying("check_violated", "A row was refused: {message}.", "{filter}"),
    "23503": _Saying("foreign_key_violated", "A row was refused: {message}.", "{filter}"),
    "23001": _Saying("foreign_key_violated", "A row was refused: {message}.", "{filter}"),
    "42501": _Saying("missing_grant", "{message}.", "{grant}"),
}
_BY_CLASS = {
    "22": _Saying("bad_value", "A value was refused{column}: {message}.", "{filter}"),
    "40": _Saying("serialization", "PostgreSQL gave up on the transaction: {message}.", transient=True),
    "53": _Saying("server_resources", "The PostgreSQL server is short of something: {message}.", transient=True),
}
_LOST = _Saying(
    "connection_lost",
    "The connection to PostgreSQL was lost: {message}.",
    "Nothing was published; the next attempt starts over.",
    transient=True,
)
_OTHER = _Saying("postgres_{state}", "PostgreSQL refused: {message}.")
_FUNCTION = _Saying("trigger_failed", "A trigger or function of {target} failed: {message}.", "Correct it there.")
_IN_FUNCTION = re.compile(r"^(PL/\w+|SQL) function (?!inline_code_block)", re.MULTILINE)
_FILTER = "Correct the value at the source, or leave it out with a query."


def is_lost(error: psycopg2.Error, connection: extensions.connection) -> bool:
    """Whether the session is gone, rather than one statement refused."""
    state = error.pgcode or ""
    return bool(connection.closed) or state in _ENDED or state.startswith("08")


def statement_error(
    error: psycopg2.Error, connection: extensions.connection, options: PostgresOptions, target: Target | None = None
) -> ConnectorError:
    """What a statement's failure means, naming the column or the missing grant where PostgreSQL tells."""
    state = error.pgcode or ""
    message = (error.diag.message_primary or _first_line(str(error))).rstrip(".")
    if is_lost(error, connection):
        return _LOST.error(message)
    saying = _BY_STATE.get(state) or _BY_CLASS.get(state[:2]) or _OTHER
    # What a function refuses as a constraint would is told as such.
    if not saying.transient and state[:2] not in ("23", "53") and _IN_FUNCTION.search(error.diag.context or ""):
        saying = _FUNCTION
    column = _column(error.diag)
    found = saying.error(
        message,
        dbname=options.dbname,
        host=options.host,
        schema=target.schema if target else CONTROL_SCHEMA,
        target=str(target) if target else "a table",
        column=f" in column {column}" if column else "",
        filter=_FILTER,
        grant=_grant(message, options, target),
    )
    found.code = found.code.replace("{state}", state or "unknown")
    if column and not found.field:
        found.field = column
    return found


_COPY_CONTEXT = re.compile(r"^COPY .+, \S+ \d+, \S+ (?P<column>.+?)(?:: .*)?$", re.MULTILINE)


def _column(diagnostics: Any) -> str:
    """The column that an error is about, from its own field or from COPY's context line."""
    if diagnostics.column_name:
        return str(diagnostics.column_name)
    found = _COPY_CONTEXT.search(diagnostics.context or "")
    return found["column"] if found else ""


def quoted(*names: str) -> str:
    """Names as SQL spells them, joined by dots."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


CONTROL_TABLES = ("meta", "head", "plan", "checkpoint", "applied", "quarantine")


def control_grants(role: str) -> str:
    return (
        f"GRANT USAGE ON SCHEMA {CONTROL_SCHEMA} TO {quoted(role)};"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {CONTROL_SCHEMA} TO {quoted(role)};"
    )


def missing_grant(message: str, grant: str, *, field: str = "") -> ConnectorError:
    return ConnectorError(message, hint=f"Let an administrator run: {grant}", code="missing_grant", field=field)


_DENIED = re.compile(r"permission denied for (\w+) (.+)")


def _grant(message: str, options: PostgresOptions, target: Target | None) -> str:
    """The GRANT that a refusal asks for, as far as its words tell."""
    denied = _DENIED.fullmatch(message)
    if denied is None:
        return "Ask an administrator for the right, or to do it."
    kind, name = denied[1], denied[2]
    role = quoted(options.user)
    if kind == "database":
        statement = f"GRANT CREATE ON DATABASE {quoted(options.dbname)} TO {role};"
    elif (kind, name) == ("schema", CONTROL_SCHEMA) or target is None:
        statement = control_grants(options.user)
    elif kind == "schema":
        statement = f"GRANT USAGE, CREATE ON SCHEMA {quoted(name)} TO {role};"
    elif kind == "table" and name in CONTROL_TABLES and name != target.table:
        statement = control_grants(options.user)
    else:
        statement = f"GRANT INSERT ON TABLE {quoted(target.schema, target.table)} TO {role};"
    return f"Let an administrator run: {statement}"


_PREFIX = re.compile(r"(connection to server .* failed: )?((FATAL|ERROR|PANIC): +)?")


def _first_line(text: str) -> str:
    """What libpq says first, without where it says so: the lines below guess at reasons."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    return _PREFIX.sub("", line, count=1).rstrip(".")
