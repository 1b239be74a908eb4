"""Who may do what to a table of ours that outlives its transaction under a reserved name: its owner alone.

Default privileges of the schema give every new table to readers, without the target's row policies and column grants.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg2 import sql

from connectors.postgres import control
from connectors.postgres.client import Session
from connectors.writing import Target

# The table and its partitions.
_TREE = """
(SELECT to_regclass(%(table)s)::oid AS oid UNION SELECT relid FROM pg_partition_tree(to_regclass(%(table)s))) t
JOIN pg_class x ON x.oid = t.oid
"""
_ROLE = "CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee) END"
_READERS = f"""
SELECT x.relname, array_agg(DISTINCT {_ROLE}) FROM {_TREE}, aclexplode(x.relacl) a
WHERE a.grantee <> x.relowner GROUP BY 1 ORDER BY 1
"""
_DEFAULTS = f"""
SELECT x.relname, {_ROLE}, a.privilege_type, a.is_grantable
FROM {_TREE} JOIN pg_default_acl d
  ON d.defaclrole = x.relowner AND d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, x.relnamespace)
CROSS JOIN LATERAL aclexplode(d.defaclacl) a WHERE a.grantee <> x.relowner ORDER BY 1, 2, 3
"""


def shut_out(session: Session, table: Target) -> None:
    """Take a table and its partitions from everybody but the owner, whatever default privileges gave."""
    found = session.execute(_READERS, {"table": control.target_key(table)}).fetchall()
    if found:
        session.execute(sql.SQL("; ").join(revoke(Target(table.schema, name), roles) for name, roles in found))


def let_in(session: Session, table: Target) -> None:
    """Give a table that takes its target's place what it would have if it were made now."""
    found = session.execute(_DEFAULTS, {"table": control.target_key(table)}).fetchall()
    if found:
        session.execute(
            sql.SQL("; ").join(
                sql.SQL("GRANT {} ON TABLE {} TO {}{}").format(
                    sql.SQL(privilege),
                    sql.Identifier(table.schema, name),
                    _role(role),
                    sql.SQL(" WITH GRANT OPTION" if grantable else ""),
                )
                for name, role, privilege, grantable in found
            )
        )


def revoke(table: Target, roles: Iterable[str]) -> sql.Composed:
    """The statement that takes a table from `roles`, of which "" is PUBLIC."""
    return sql.SQL("REVOKE ALL ON TABLE {} FROM {} CASCADE").format(
        sql.Identifier(table.schema, table.table), sql.SQL(", ").join(map(_role, roles))
    )


def _role(name: str) -> sql.Composable:
    return sql.Identifier(name) if name else sql.SQL("PUBLIC")
