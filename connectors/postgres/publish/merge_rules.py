"""Whether rows can be merged by a key: what the columns and the target's catalog say before a row is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteMode
from connectors.postgres.client import Session
from connectors.postgres.names import names_by_source
from connectors.postgres.publish.existing import Look, refuse_append, refuse_create, refuse_rights
from connectors.writing import Target

KEY_FIELD = "merge_key"
CURSOR_FIELD = "cursor_column"

MAX_KEY_COLUMNS = 32  # PostgreSQL's INDEX_MAX_KEYS

_CURSOR_TYPES = frozenset({"INT64", "NUMERIC", "BIGNUMERIC", "DATE", "DATETIME", "TIMESTAMP"})
DOCUMENTS = ("json", "jsonb")
_NO_KEY = {
    "STRUCT": "values of this type have no equality in BigQuery",
    "JSON": "values of this type have no equality in BigQuery",
    "GEOGRAPHY": "the same shape can be written in several ways",
    "FLOAT64": "rounding makes two numbers that look the same differ",
    "INTERVAL": "1 month and 30 days are equal to PostgreSQL",
}


@dataclass(frozen=True)
class TableColumn:
    """A column of the target; `collation` is schema and name, `type` is an array's element."""

    type: str
    collation: tuple[str, str] | None
    is_deterministic: bool
    is_computed: bool
    is_identity_always: bool


@dataclass(frozen=True)
class Table:
    """What a merge must know of its target; `lacking` are privileges that the role has not."""

    oid: int
    kind: str
    has_row_security: bool
    lacking: tuple[str, ...]
    partition_columns: tuple[str, ...]
    columns: Mapping[str, TableColumn]


# A partition key's expression stands as "" among the names.
_INSPECT = """
SELECT c.oid, c.relkind::text, row_security_active(c.oid),
       ARRAY(SELECT need FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS need
             WHERE NOT has_table_privilege(c.oid, need)
               AND (need = 'SELECT' OR NOT has_any_column_privilege(c.oid, need))),
       ARRAY(SELECT DISTINCT coalesce(pa.attname::text, '')
             FROM pg_partition_tree(c.oid) tree
             JOIN pg_partitioned_table p ON p.partrelid = tree.relid
             CROSS JOIN unnest(p.partattrs::int2[]) AS number
             LEFT JOIN pg_attribute pa ON pa.attrelid = p.partrelid AND pa.attnum = number AND number > 0
             ORDER BY 1),
       a.attname, coalesce(el.typname, ty.typname), cn.nspname, co.collname, co.collisdeterministic,
       a.attgenerated <> '', a.attidentity = 'a'
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type ty ON ty.oid = a.atttypid
LEFT JOIN pg_type el ON el.oid = ty.typelem AND ty.typcategory = 'A'
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE n.nspname = %s AND c.relname = %s
ORDER BY a.attnum
"""


def inspect(session: Session, target: Target) -> Table | None:
    """The target as the catalogs tell, None if it is not there."""
    rows = session.execute(_INSPECT, (target.schema, target.table)).fetchall()
    if not rows:
        return None
    oid, kind, has_row_security, lacking, partition_columns = rows[0][:5]
    columns = {
        name: TableColumn(type_, (schema, collation) if collation else None, deterministic is not False, *generated)
        for _, _, _, _, _, name, type_, schema, collation, deterministic, *generated in rows
    }
    return Table(oid, kind, has_row_security, tuple(lacking), tuple(partition_columns), columns)


def refuse(
    target: Target, columns: Sequence[Column], key: Sequence[str], cursor: str, table: Table | None, role: str = ""
) -> ConnectorError | None:
    """Why `columns` cannot be merged by `key` and `cursor` into `table`, None for one yet to be made."""
    refusal = _refuse_key(columns, key) or _refuse_cursor(columns, cursor)
    if refusal is not None or table is None:
        return refusal
    keys = named(columns, key)
    outside = [name for name in table.partition_columns if name not in keys]
    if outside:
        by = ", ".join(name or "an expression" for name in outside)
        return ConnectorError(
            f"{target} is partitioned by {by}, which is not in the merge key.",
            hint="ON CONFLICT on a partitioned table needs the partition column in the key, as every unique index"
            " there does: add it to the key, or merge into a plain table.",
            code="partition_not_in_key",
            field=KEY_FIELD,
        )
    if table.has_row_security:
        return ConnectorError(
            f"Row-level security hides rows of {target} from {role or 'the role'}: a merge could not see them.",
            hint="Load with the table's owner or a role with BYPASSRLS.",
            code="row_security",
            field="table",
        )
    lacking = refuse_rights(target, table.lacking, role, "a merge")
    if lacking is not None:
        return lacking
    for source, name in names_by_source(columns).items():
        found = table.columns.get(name)
        if found and (found.is_computed or (found.is_identity_always and name not in keys)):
            return ConnectorError(
                f"Column {name} of {target} is GENERATED ALWAYS and cannot be written.",
                hint="Make it a plain column (an identity: BY DEFAULT), or leave it out of the source with a query.",
                code="target_column_mismatch",
                field=source,
            )
    return None


def refuse_target(
    session: Session, target: Target, columns: Sequence[Column], mode: WriteMode, seen: Look
) -> ConnectorError | None:
    """Why `mode` cannot merge into what stands at the target's name, or into a table made there."""
    here = seen.relations.get(target.table)
    # The staging table is made beside the target.
    refusal = refuse_create(target, seen.schema, session.role)
    if refusal is None and here is not None:
        refusal = refuse_append(target, seen, session.role)
    table = None if here is None else inspect(session, target)
    return refusal or refuse(target, columns, mode.key, mode.cursor, table, session.role)


def in_the_sources_words(mode: WriteMode, columns: Sequence[Column]) -> WriteMode:
    """`mode` with its columns spelled as the source does: BigQuery's names know no case."""
    spelled = {column.name.lower(): column.name for column in columns}

    def spell(name: str) -> str:
        return spelled.get(name.lower(), name)

    return replace(
        mode, key=tuple(map(spell, mode.key)), cursor=spell(mode.cursor), options=mode.options.renamed(spell)
    )


def named(columns: Sequence[Column], chosen: Sequence[str]) -> list[str]:
    """PostgreSQL's names of the chosen source columns; case does not count, as in BigQuery."""
    names = {source.lower(): name for source, name in names_by_source(columns).items()}
    return [names[name.lower()] for name in chosen]


def _refuse_key(columns: Sequence[Column], key: Sequence[str]) -> ConnectorError | None:
    by_name = {column.name.lower(): column for column in columns}
    if not key or len({name.lower() for name in key}) < len(key) or len(key) > MAX_KEY_COLUMNS:
        return ConnectorError(
            f"A merge key has 1 to {MAX_KEY_COLUMNS} different columns, not {', '.join(key) or 'none'}.",
            hint="Name the columns that tell one row from another.",
            code="key_invalid",
            field=KEY_FIELD,
        )
    for name in key:
        column = by_name.get(name.lower())
        if column is None:
            return ConnectorError(
                f"The source has no column {name}, which is in the merge key.",
                hint=f"It has: {', '.join(column.name for column in columns)}.",
                code="key_column_missing",
                field=KEY_FIELD,
            )
        why_not = "values of this type have no equality in BigQuery" if column.repeated else _NO_KEY.get(column.type)
        if column.target_type in DOCUMENTS:
            why_not = f"its rule stores it as {column.target_type}"
        if why_not:
            type_ = f"ARRAY<{column.type}>" if column.repeated else column.type
            return ConnectorError(
                f"Column {name} ({type_}) cannot be in a merge key: {why_not}.",
                hint="Choose another column, or cast it to STRING or NUMERIC in a query.",
                code="key_type",
                field=KEY_FIELD,
            )
    return None


def _refuse_cursor(columns: Sequence[Column], cursor: str) -> ConnectorError | None:
    if not cursor:
        return None
    column = next((column for column in columns if column.name.lower() == cursor.lower()), None)
    if column is None:
        return ConnectorError(
            f"The source has no column {cursor}, which is the cursor.",
            hint=f"It has: {', '.join(column.name for column in columns)}.",
            code="cursor_column_missing",
            field=CURSOR_FIELD,
        )
    if column.repeated or column.type not in _CURSOR_TYPES:
        type_ = f"ARRAY<{column.type}>" if column.repeated else column.type
        return ConnectorError(
            f"Column {cursor} ({type_}) cannot be the cursor: it must be a time, a date or a number that orders rows.",
            hint=f"Choose a column of one of the types {', '.join(sorted(_CURSOR_TYPES))}.",
            code="cursor_type",
            field=CURSOR_FIELD,
        )
    return None


def inspected(session: Session, target: Target) -> Table:
    table = inspect(session, target)
    if table is None:
        raise ConnectorError(f"There is no table {target}.", code="table_missing", field="table")
    return table
