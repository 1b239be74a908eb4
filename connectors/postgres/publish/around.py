"""People's SQL in the publishing transaction, kept from all that holds the transaction together.

Each statement is run by EXECUTE within a function of the role that is to run it, made for this one call: PostgreSQL
then refuses transaction control and any change of the role. What else a statement may leave behind, settings and
temporary objects, is put right before a statement of ours follows, and is gone before the commit.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.base import Reporter, StopSignal
from connectors.counts import counted
from connectors.errors import ConnectorError, TransientError
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.control_schema import SCHEMA
from connectors.sql_around import AFTER, BEFORE, SqlAround, first_words
from connectors.writing import Fence

if TYPE_CHECKING:
    from connectors.request import TransferRequest

_PASSING = (
    errorcodes.DEADLOCK_DETECTED,
    errorcodes.SERIALIZATION_FAILURE,
    errorcodes.LOCK_NOT_AVAILABLE,
)

# What makes a role no lesser one. It must be one that we may become, and that may not become us.
_ROLE = f"""
SELECT r.rolname = current_user, r.rolsuper OR r.rolreplication OR r.rolcreaterole OR r.rolbypassrls,
  pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END),
  pg_has_role(r.oid, current_user, 'MEMBER'),
  EXISTS (SELECT FROM pg_roles p WHERE p.rolname IN ('pg_execute_server_program', 'pg_write_server_files',
            'pg_read_server_files') AND pg_has_role(r.oid, p.oid, 'MEMBER')),
  ARRAY(SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = to_regnamespace('{SCHEMA}') AND c.relkind = 'r'
        AND (pg_has_role(r.oid, c.relowner, 'MEMBER')
             OR has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
             OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE')) ORDER BY 1)
  || ARRAY(SELECT 'the schema' FROM pg_namespace n WHERE n.nspname = '{SCHEMA}'
           AND (pg_has_role(r.oid, n.nspowner, 'MEMBER') OR has_schema_privilege(r.oid, n.oid, 'CREATE'))),
  has_database_privilege(r.oid, current_database(), 'TEMPORARY')
FROM pg_roles r WHERE r.rolname = %s
"""

_FUNCTION = """
CREATE FUNCTION pg_temp.{name}(statement text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE done bigint;
BEGIN
  EXECUTE statement;
  GET DIAGNOSTICS done = ROW_COUNT;
  SET CONSTRAINTS ALL IMMEDIATE;
  RETURN done;
END $$
"""
# With these a block would begin something else, so that what is right might be called wrong.
_NOT_IN_A_BLOCK = frozenset({"(", "table", "declare", "fetch", "move", "close", "execute"})
# As they are before people's SQL, but for what only shows: what differs afterwards is put back.
_SETTINGS = """
SELECT name, setting, reset_val FROM pg_catalog.pg_settings
WHERE context IN ('user', 'superuser') AND name NOT IN ('search_path', 'in_hot_standby', 'transaction_deferrable')
"""
# Before PostgreSQL 18 what a trigger puts off to the commit runs there as whoever commits, which is us.
_PUT_OFF = """
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
  JOIN pg_catalog.pg_roles r ON r.rolname = %s
  WHERE t.tgdeferrable AND NOT t.tgisinternal AND pg_catalog.pg_has_role(r.oid, p.proowner, 'MEMBER'))
"""
_RUNS_AS_QUEUED = 180000
_STATE = "SELECT pg_catalog.pg_current_xact_id()::text, current_user::text, session_user::text"
# A pooler gives the server's session to somebody else, however we end ours. Nothing of ours is temporary.
_LEAVE = "DISCARD TEMP; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all()"


class Around:
    """The SQL around one publish; does nothing where there is none. `facts` are for the receipt."""

    def __init__(
        self, session: Session, fence: Fence, request: TransferRequest, reporter: Reporter, stop: StopSignal
    ) -> None:
        self._session = session
        self._fence = fence
        self._sql = request.sql
        self._reporter = reporter
        self._stop = stop
        self.facts: list[dict[str, Any]] = []

    def run(self, when: str) -> bool:
        """Run the statements for `before` or `after` the rows come; says whether there were any.

        What they left in the session goes after the last of them. Raises ConnectorError: sql_role, sql_failed,
        sql_timeout, sql_escaped.
        """
        statements = self._sql.before if when == BEFORE else self._sql.after
        if statements:
            self._run_all(when, statements)
        if when == AFTER:
            self.leave()
        return bool(statements)

    def leave(self) -> None:
        """Take away what statements left in the session, before it may become somebody else's."""
        if self._sql:
            self._session.execute(_LEAVE)

    def _run_all(self, when: str, statements: Sequence[str]) -> None:
        # Whatever a session may keep beyond its transaction is not for the next run.
        self._session.is_shared = False
        if self._sql.role:
            check_role(self._session, self._sql.role)
        before = self._session.one(_STATE)
        path = self._session.one("SELECT current_setting('search_path')") or ("",)
        settings = {name: (now, reset) for name, now, reset in self._session.execute(_SETTINGS).fetchall()}
        self._session.execute(
            "SELECT set_config('datamantri.run', %s, true), set_config('datamantri.target', %s, true)",
            (str(self._fence.owner.run), str(self._fence.target)),
        )
        for number, statement in enumerate(statements, 1):
            self._run(when, number, len(statements), statement)
            # Its function stays until the last: to drop it would be one more thing to be fooled by.
            is_right = self._is_put_right(str(path[0]), settings) and not self._puts_off()
            if not is_right or self._session.one(_STATE) != before:
                raise ConnectorError(
                    f"{_named(when, number)} left the transaction or the role that it was run in, or a setting of the"
                    " transaction.",
                    hint="Nothing was published. Leave such statements out.",
                    code="sql_escaped",
                    field=f"sql_{when}",
                )

    def _run(self, when: str, number: int, count: int, statement: str) -> None:
        self._stop.check()
        session, began = self._session, time.monotonic()
        name = f"datamantri_{secrets.token_hex(8)}"
        make = sql.SQL(_FUNCTION).format(name=sql.Identifier(name))
        full = sql.SQL("{}(text)").format(sql.Identifier("pg_temp", name))
        if self._sql.role:
            session.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(self._sql.role)))
            session.execute(make)
            session.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO PUBLIC; RESET ROLE").format(full))
        else:
            session.execute(make)
        session.execute(f"SET LOCAL statement_timeout = {self._sql.limit_s * 1000}")
        try:
            row = session.one(sql.SQL("SELECT {}(%s)").format(sql.Identifier("pg_temp", name)), (statement,))
        except psycopg2.Error as error:
            raise self._in_words(when, number, error) from error
        # A cursor that outlives its transaction is run at the commit, by then as us.
        session.execute("CLOSE ALL")
        session.execute("SET LOCAL statement_timeout = 0")
        rows, took = row[0] if row else 0, time.monotonic() - began
        self.facts.append({"when": when, "statement": number, "rows": rows, "seconds": round(took, 3)})
        self._reporter.log("info", f"{_named(when, number)} of {count}: {counted(rows)}, {took:.2f} s.")

    def _is_put_right(self, path: str, settings: dict[str, tuple[str, str]]) -> bool:
        """Put settings back, as far as they can be: of a transaction's own some cannot.

        The first words need no name looked up, as it is not known yet what would be found.
        """
        session = self._session
        session.execute("SET SESSION search_path = pg_catalog, pg_temp")
        for name, now, _ in session.execute(_SETTINGS).fetchall():
            was = settings.get(name)
            if was is None or now == was[0]:
                continue
            if name.startswith("transaction_"):
                return False
            put_back = "SELECT set_config(%s, %s, false), set_config(%s, %s, true)"
            session.execute(put_back, (name, was[1], name, was[0]))
        # Temporary tables come last from here on: none stands in the way of a catalog.
        session.execute("RESET search_path")
        last = f"{path}, pg_temp" if path.strip() else "pg_temp"
        session.execute("SELECT set_config('search_path', %s, true)", (last,))
        return True

    def _puts_off(self) -> bool:
        """Whether a trigger of the lesser role could still run at the commit, as us."""
        if not self._sql.role or self._session.connection.server_version >= _RUNS_AS_QUEUED:
            return False
        row = self._session.one(_PUT_OFF, (self._sql.role,))
        return bool(row and row[0])

    def _in_words(self, when: str, number: int, error: psycopg2.Error) -> Exception:
        if errors.is_lost(error, self._session.connection):
            return error
        field, named = f"sql_{when}", _named(when, number)
        if error.pgcode == errorcodes.QUERY_CANCELED:
            self._stop.check()
            return ConnectorError(
                f"{named} took longer than {self._sql.limit_s} s.",
                hint="Nothing was published. Make it faster, or raise the pipeline's limit for such statements.",
                code="sql_timeout",
                field=field,
            )
        said = str(error.diag.message_primary or error).strip()
        kind = TransientError if error.pgcode in _PASSING else ConnectorError
        hint = error.diag.message_hint or "Nothing was published. Correct the statement."
        return kind(f"{named} failed: {said}.", hint=hint, code="sql_failed", field=field)


def check_role(session: Session, role: str) -> None:
    """Raise ConnectorError, code sql_role, unless `role` is one that we may become and that may do less than we."""
    row = session.one(_ROLE, (role,))
    if row is None:
        raise _refused(f"There is no role {role}.", "Make it, or name another.")
    is_us, is_mighty, may_become, may_become_us, may_use_files, writes, may_make_temporary = row
    us, them, here = (errors.quoted(name) for name in (session.role, role, str(session.connection.info.dbname)))
    if is_us:
        raise _refused(f"{role} is the role that loads.", "Leave the field empty, or name a lesser role.")
    if not may_become:
        raise _refused(f"{session.role} may not become {role}.", f"GRANT {them} TO {us};")
    if is_mighty or may_use_files:
        raise _refused(f"{role} may do more than a role for SQL should.", "Name one without such rights.")
    if may_become_us:
        raise _refused(f"{role} is a member of {session.role}: it is no lesser role.", "Name one that is not.")
    if writes:
        raise _refused(f"{role} may write to {SCHEMA} ({', '.join(writes)}).", "Take these rights from it.")
    if not may_make_temporary:
        raise _refused(
            f"{role} may make nothing temporary, as the function that runs its statements is.",
            f"GRANT TEMPORARY ON DATABASE {here} TO {them};",
        )


def validate(session: Session, around: SqlAround) -> list[ConnectorError]:
    """What stands against running these statements, in a transaction that only reads; each with its field."""
    found = []
    if around.role:
        try:
            check_role(session, around.role)
        except ConnectorError as error:
            found.append(error)
    for field, statements in (("sql_before", around.before), ("sql_after", around.after)):
        for number, statement in enumerate(statements, 1):
            said = check_syntax(session, statement)
            if said:
                message = f"Statement {number} is no SQL that PostgreSQL understands: {said}."
                found.append(ConnectorError(message, hint="Correct it.", code="sql_syntax", field=field))
    return found


def check_syntax(session: Session, statement: str) -> str:
    """What PostgreSQL has against a statement as a text, empty if nothing; it is read and not run.

    Within a read-only transaction, under a savepoint: it stands behind a RETURN in a block that PostgreSQL compiles.
    """
    if first_words(statement).split(" ")[0] in _NOT_IN_A_BLOCK:
        return ""
    session.execute("SAVEPOINT syntax")
    try:
        session.execute(sql.SQL("DO {}").format(sql.Literal(f"BEGIN RETURN;\n{statement}\n; END")))
    except psycopg2.Error as error:
        session.execute("ROLLBACK TO SAVEPOINT syntax")
        if error.pgcode != errorcodes.SYNTAX_ERROR:
            return ""
        return str(error.diag.message_primary or error).strip()
    return ""


def _refused(message: str, hint: str) -> ConnectorError:
    return ConnectorError(message, hint=hint, code="sql_role", field="sql_role")


def _named(when: str, number: int) -> str:
    return f"Statement {number} {when} the load"
