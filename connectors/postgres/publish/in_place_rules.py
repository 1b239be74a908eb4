"""Whether a table's rows can be brought to a new state where they stand, as the catalogs tell before a row is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.publish.append import refuse_other_form
from connectors.postgres.publish.existing import Existing, Look, refuse_replace, refuse_rights
from connectors.writing import Target

KEY_FIELD = "merge_key"

_NO_EQUALITY = frozenset({"JSON", "STRUCT", "GEOGRAPHY"})


@dataclass(frozen=True)
class _Facts:
    """What the catalogs say; all but the first four are descriptions of what stands in the way."""

    kind: str
    may_use: bool
    lacking: Sequence[str]
    hides_rows: bool
    rules: Sequence[str]
    reaching: Sequence[str]
    strangers: Sequence[str]
    unidentified: Sequence[str]


# `tree` is the table and, if it is partitioned, what it is made of. PostgreSQL copies a foreign key to
# the partitions of both its ends: a copy whose original is about our table too is left out.
_FACTS = """
WITH c AS (SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = %s AND c.relname = %s),
tree AS (SELECT oid FROM c UNION SELECT relid FROM c, pg_partition_tree(c.oid)),
published AS (
  SELECT p.pubname FROM c, pg_publication p, pg_publication_tables pt, pg_class x, pg_namespace n
  WHERE pt.pubname = p.pubname AND (p.pubupdate OR p.pubdelete)
    AND n.nspname = pt.schemaname AND x.relname = pt.tablename AND x.relnamespace = n.oid
    AND (x.oid IN (SELECT oid FROM tree) OR x.oid IN (SELECT relid FROM pg_partition_ancestors(c.oid))))
SELECT relkind::text, has_schema_privilege(relnamespace, 'USAGE'),
  ARRAY(SELECT need FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS u (need, place)
        WHERE NOT has_table_privilege(c.oid, need) ORDER BY place),
  row_security_active(c.oid),
  ARRAY(SELECT rulename::text FROM pg_rewrite
        WHERE ev_class IN (SELECT oid FROM tree) AND ev_type <> '1' AND ev_enabled <> 'D' ORDER BY 1),
  ARRAY(SELECT format('constraint %%s on table %%s (ON DELETE %%s)', k.conname, k.conrelid::regclass,
                      CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END)
        FROM pg_constraint k LEFT JOIN pg_constraint original ON original.oid = k.conparentid
        WHERE k.contype = 'f' AND k.confrelid IN (SELECT oid FROM tree) AND k.confdeltype IN ('c', 'n', 'd')
          AND (original.confrelid IS NULL OR original.confrelid NOT IN (SELECT oid FROM tree)) ORDER BY 1),
  ARRAY(SELECT format('%%s %%s', CASE x.relkind WHEN 'f' THEN 'foreign table' ELSE 'table' END, x.oid::regclass)
        FROM pg_inherits i JOIN pg_class x ON x.oid = i.inhrelid
        WHERE i.inhparent IN (SELECT oid FROM tree) AND (c.relkind <> 'p' OR x.relkind = 'f') ORDER BY 1),
  ARRAY(SELECT x.oid::regclass::text FROM pg_class x
        WHERE x.oid IN (SELECT oid FROM tree) AND x.relkind = 'r' AND EXISTS (SELECT FROM published)
          AND (x.relreplident = 'n' OR x.relreplident = 'd'
               AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = x.oid AND indisprimary)) ORDER BY 1)
FROM c
"""


def refuse(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    key: Sequence[str],
    *,
    besides: Collection[str] = (),
) -> ConnectorError | None:
    """Why the rows of `target` cannot be brought to the state of a source with `columns`; None if they can.

    `key` are columns of the source that tell its rows apart, possibly none; `besides` columns that will be mended.
    """
    refusal = refuse_table(session, target) or _refuse_key(columns, key)
    if refusal is not None:
        return refusal
    try:
        refuse_other_form(session, target, columns, besides=besides)
    except ConnectorError as found:
        return found
    return None


def refuse_table(session: Session, target: Target) -> ConnectorError | None:
    """Why rows of `target` cannot be changed as a replace does, whatever the source."""
    row = session.one(_FACTS, (target.schema, target.table))
    if row is None:
        return ConnectorError(f"There is no table {target}.", code="table_missing", field="table")
    facts = _Facts(*row)
    refusal = _refuse_table(target, facts) or _refuse_rights(target, facts, session.role)
    return refusal or _refuse_reach(target, facts)


def choose(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    key: Sequence[str],
    seen: Look,
    *,
    besides: Collection[str] = (),
) -> tuple[str, ConnectorError | None]:
    """How a table that stands there is replaced, rename or in_place, and what is against it.

    Without `columns`, which a source that does not answer cannot tell, nothing is said against in_place.
    """
    refusal = refuse_replace(target, seen, session.role)
    if refusal is None or refusal.code != "replace_would_break":
        return "rename", refusal
    return "in_place", refuse(session, target, columns, key, besides=besides) if columns else None


def describe(target: Target, table: Existing) -> str:
    """Say why `table` stays and its rows change, for the log and the preview."""
    if table.dependents:
        first, *more = table.dependents
        who = f"{first} and {len(more)} more depend" if more else f"{first} depends"
        why = f"{who} on it"
    elif table.kind == "p":
        why = "it is partitioned"
    else:
        why = f"it belongs to {table.owner}"
    return f"{target} is replaced in place, because {why}."


def _refuse_table(target: Target, facts: _Facts) -> ConnectorError | None:
    if facts.kind not in ("r", "p"):
        return ConnectorError(
            f"{target} is not a table whose rows can be changed.",
            hint="Choose another name.",
            code="target_not_a_table",
            field="table",
        )
    if facts.strangers:
        return ConnectorError(
            f"Reading {target} also reads rows of {', '.join(facts.strangers)}, which a replace must not change.",
            hint="Detach these tables, or load into another one.",
            code="replace_would_break",
            field="table",
        )
    if facts.rules:
        return ConnectorError(
            f"{target} has rules that rewrite what is written to it: {', '.join(facts.rules)}.",
            hint="Drop them, or load into another table.",
            code="replace_would_break",
            field="table",
        )
    if facts.unidentified:
        return ConnectorError(
            f"A publication has the changes of {target}, but nothing identifies the rows of"
            f" {', '.join(facts.unidentified)}: PostgreSQL refuses to update or delete them.",
            hint="Give the table a primary key, or ALTER TABLE … REPLICA IDENTITY FULL.",
            code="replica_identity_missing",
            field="table",
        )
    return None


def _refuse_rights(target: Target, facts: _Facts, role: str) -> ConnectorError | None:
    if not facts.may_use:
        return errors.missing_grant(
            f"{role} may not use the schema {target.schema}.",
            f"GRANT USAGE ON SCHEMA {errors.quoted(target.schema)} TO {errors.quoted(role)};",
            field="schema",
        )
    lacking = refuse_rights(target, facts.lacking, role, "a replace in place")
    if lacking is not None:
        return lacking
    if facts.hides_rows:
        return ConnectorError(
            f"Row-level security hides rows of {target} from {role}: a replace could not remove them.",
            hint="Load with the table's owner (without FORCE ROW LEVEL SECURITY) or a role with BYPASSRLS.",
            code="row_security",
            field="table",
        )
    return None


def _refuse_reach(target: Target, facts: _Facts) -> ConnectorError | None:
    if not facts.reaching:
        return None
    return ConnectorError(
        f"Removing rows of {target} would change rows elsewhere, through {', '.join(facts.reaching)}.",
        hint="Make these foreign keys ON DELETE NO ACTION, use append, or load into another table.",
        code="replace_would_break",
        field="table",
    )


def _refuse_key(columns: Sequence[Column], key: Sequence[str]) -> ConnectorError | None:
    found = {column.name: column for column in columns}
    for name in key:
        column = found.get(name)
        if column is None:
            return ConnectorError(
                f"The source has no column {name}, which is in the key.",
                hint=f"It has: {', '.join(found)}.",
                code="key_column_missing",
                field=KEY_FIELD,
            )
        if column.repeated or column.type in _NO_EQUALITY or column.target_type == "json":
            return ConnectorError(
                f"Column {name} ({column.type}{', repeated' if column.repeated else ''}) cannot be in a key.",
                hint="Choose another column, or cast it to STRING in a query.",
                code="key_type",
                field=KEY_FIELD,
            )
    return None


def refuse_columns(target: Target, here: Sequence[tuple[str, str]], former: Sequence[tuple[str, str]]) -> None:
    """Raise ConnectorError, code undo_columns, unless both have the same columns (names with types), in any order."""
    differ = sorted({name for name, _ in set(here) ^ set(former)})
    if differ:
        raise ConnectorError(
            f"{target} stays where it is, as something depends on it, and its columns are not those of the former"
            f" state any more: {', '.join(differ)}.",
            hint="Drop what depends on the table, or start a full refresh.",
            code="undo_columns",
            field="table",
        )
