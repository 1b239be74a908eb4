"""Replace by rename: a new table, filled where nobody sees it, takes the name of the old one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError, TransientError
from connectors.postgres.client import Session
from connectors.postgres.ddl import create_table
from connectors.postgres.names import column_names
from connectors.postgres.publish.existing import Existing, Grant, Look, look, refuse_replace
from connectors.postgres.publish.final_names import parts, renames
from connectors.postgres.publish.indexes import Wanted
from connectors.postgres.publish.lock import with_lock
from connectors.postgres.publish.partitions import Partitioning
from connectors.writing import Target

MODE = "ACCESS EXCLUSIVE"
# A client that stalls while it holds the exclusive lock is ended by the server after this long.
STALL_LIMIT_MS = 10_000


def new_table(target: Target, run: UUID) -> Target:
    """Where a run's rows wait for the rename; no other session ever sees this name."""
    return Target(target.schema, f"_datamantri_new_{run.hex}")


def create(
    session: Session,
    new: Target,
    columns: Sequence[Column],
    old: Existing | None,
    *,
    unlogged: bool = False,
    by: Partitioning | None = None,
) -> None:
    """Make the empty new table, in the old one's tablespace; `unlogged` if it goes before the commit."""
    divided = sql.SQL(" PARTITION BY RANGE ({})").format(sql.Identifier(by.column)) if by else sql.SQL("")
    session.execute(
        sql.SQL("SET LOCAL default_tablespace = {}; {}{}").format(
            sql.Literal(old.tablespace if old else ""),
            create_table(sql.Identifier(new.schema, new.table), columns, unlogged=unlogged),
            divided,
        )
    )


def lock_old(session: Session, target: Target, new: Target, *, reporter: Reporter, stop: StopSignal) -> Look:
    """Lock the old table against everyone, and look at it and at the new one, now that nothing can change."""

    def ask(lock: str) -> Look:
        stall = f"SET LOCAL idle_in_transaction_session_timeout = {STALL_LIMIT_MS}; "
        return look(session, target, new.table, before=lock + stall)

    try:
        return with_lock(session, target, MODE, ask, reporter=reporter, stop=stop)
    except psycopg2.Error as error:
        if error.pgcode in (errorcodes.UNDEFINED_TABLE, errorcodes.INSUFFICIENT_PRIVILEGE):
            raise _changed(target) from error
        raise


def swap(
    session: Session,
    target: Target,
    new: Target,
    columns: Sequence[Column],
    seen: Look,
    expected: Existing | None,
    asked: Sequence[Wanted] = (),
    *,
    away: Callable[[Existing], Sequence[sql.Composable]],
) -> list[str]:
    """Put the new table in the old one's place, with its owner, grants, comments and settings.

    `asked` was made on the new table, and gets its names here; `away` gives the statements that take the old one out of
    the way. Returns remarks for the log. Raises
    an error if something has come to depend on the old table, or another table stands in its place,
    since it was looked at before the load.
    """
    fresh, old = seen.relations[new.table], seen.relations.get(target.table)
    if (old and (old.oid, old.form)) != (expected and (expected.oid, expected.form)):
        raise _changed(target)
    statements: list[sql.Composable] = []
    remarks: list[str] = []
    if old is not None:
        refusal = refuse_replace(target, seen, session.role)
        if refusal is not None:
            raise _leaned_on(refusal) if refusal.code == "replace_would_break" else refusal
        statements += away(old)
        if old.owner != fresh.owner:  # ALTER TABLE … OWNER leaves partitions out
            statements += [
                sql.SQL("ALTER TABLE {} OWNER TO {}").format(
                    sql.Identifier(new.schema, part), sql.Identifier(old.owner)
                )
                for part in parts(session, fresh.oid)
            ]
    final = []
    if asked or fresh.kind == "p":
        final = renames(session, target, new, asked, new_oid=fresh.oid, old_oid=old.oid if old else None)
    statements.append(sql.SQL("ALTER TABLE {} RENAME TO {}").format(_name(new), sql.Identifier(target.table)))
    statements += final
    if old is not None:
        there = {*column_names(columns), *fresh.column_comments}  # what runs keep for themselves has a comment
        statements += carry_over(_name(target), old, fresh, there)
        gone = sorted((set(old.column_grants) | set(old.column_comments)) - there)
        if gone:
            remarks.append(f"Grants and comments of columns that are gone went with them: {', '.join(gone)}.")
        if old.settings and fresh.kind == "p":
            remarks.append(f"A partitioned table has no storage settings: {', '.join(old.settings)} went.")
    session.execute(sql.SQL("; ").join(statements))
    return remarks


def _leaned_on(refusal: ConnectorError) -> TransientError:
    """What came to depend on the table since it was looked at is no harm to the next attempt."""
    return TransientError(
        refusal.message, hint="The next attempt replaces the rows in place.", code="target_changed", field="table"
    )


_OTHERWISE = "was made, dropped, replaced or given other columns by someone else"


def changed_meanwhile(target: Target) -> str:
    """What the log says where rows that were staged before replace a table that is another one by now."""
    return f"{target} {_OTHERWISE} since these rows were staged. It is replaced as it is now."


def _changed(target: Target) -> TransientError:
    return TransientError(
        f"{target} {_OTHERWISE} during the load.",
        hint="The next attempt looks again.",
        code="target_changed",
        field="table",
    )


def carry_over(table: sql.Composable, old: Existing, fresh: Existing, columns: set[str]) -> list[sql.Composable]:
    """Statements that give a table that takes the old one's name its owner, rights, comments and settings."""
    statements: list[sql.Composable] = []
    if old.owner != fresh.owner:
        statements.append(sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, sql.Identifier(old.owner)))
    if old.settings and fresh.kind != "p":
        settings = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.SQL(name), sql.Literal(value))
            for name, _, value in (setting.partition("=") for setting in old.settings)
        )
        statements.append(sql.SQL("ALTER TABLE {} SET ({})").format(table, settings))
    # The new table's grants are its creator's defaults: only where they differ is anything to do.
    if _of(old.grants, old.owner) != _of(fresh.grants, fresh.owner):
        grantees = {old.owner if name == fresh.owner else name for name, _, _ in fresh.grants} | {old.owner}
        statements += [
            sql.SQL("REVOKE ALL ON TABLE {} FROM {}").format(table, _role(grantee)) for grantee in sorted(grantees)
        ]
        statements += _grant(table, old.grants)
    for name, grants in old.column_grants.items():
        if name in columns:
            statements += _grant(table, grants, name)
    if old.comment is not None:
        statements.append(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(old.comment)))
    statements += [
        sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table, sql.Identifier(name), sql.Literal(comment))
        for name, comment in old.column_comments.items()
        if name in columns
    ]
    return statements


def _grant(table: sql.Composable, grants: Sequence[Grant], column: str = "") -> list[sql.Composable]:
    only = sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL("")
    return [
        sql.SQL("GRANT {}{} ON TABLE {} TO {}{}").format(
            sql.SQL(privilege), only, table, _role(grantee), sql.SQL(" WITH GRANT OPTION" if grantable else "")
        )
        for grantee, privilege, grantable in grants
    ]


def _of(grants: Sequence[Grant], owner: str) -> set[tuple[str | None, str, bool]]:
    """Grants to compare between tables of different owners: the owner's own stand under None."""
    return {(None if grantee == owner else grantee, privilege, grantable) for grantee, privilege, grantable in grants}


def _role(grantee: str) -> sql.Composable:
    return sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")


def _name(table: Target) -> sql.Composable:
    return sql.Identifier(table.schema, table.table)
