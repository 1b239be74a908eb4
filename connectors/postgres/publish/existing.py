"""What stands at the target's name, as the catalogs tell: its rights, its remarks, and what leans on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connectors.errors import ConnectorError
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.publish.indexes import MARK
from connectors.writing import Target

# grantee ("" is PUBLIC), privilege, with grant option
Grant = tuple[str, str, bool]

_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "i": "index",
    "I": "index",
    "S": "sequence",
    "c": "composite type",
}


@dataclass(frozen=True)
class Schema:
    """What we may do in the target's schema."""

    may_use: bool
    may_create: bool


@dataclass(frozen=True)
class Existing:
    """A relation as it stands; grants are complete, PostgreSQL's silent defaults written out.

    `dependents` leave out what runs made themselves: keys, indexes and, if `is_our_tree`, partitions. Two looks with
    another `form` between them saw other columns.
    """

    oid: int
    kind: str
    owner: str
    is_ours: bool
    owner_may_create: bool
    may_insert: bool
    tablespace: str
    settings: tuple[str, ...]
    grants: tuple[Grant, ...]
    column_grants: Mapping[str, tuple[Grant, ...]]
    comment: str | None
    column_comments: Mapping[str, str]
    dependents: tuple[str, ...]
    is_our_tree: bool = False
    form: str = ""


@dataclass(frozen=True)
class Look:
    """The schema, and the relations found by the names asked for.

    `answered_at` is the monotonic time of the catalogs' answer: a lock taken by the same message is held since.
    """

    schema: Schema
    relations: Mapping[str, Existing] = field(default_factory=dict)
    answered_at: float = 0.0


# What ALTER COLUMN sets. Servers write options of their own into attoptions, as 15.20 does for every
# column: only those that people can give count.
_COLUMN_SETTINGS = """
(coalesce(a.attstattarget, -1) <> -1 OR a.attcompression <> '' OR a.attstorage <> ty.typstorage
 OR a.attoptions::text LIKE '%%n_distinct%%')
"""

# Whether anything at all leans on a table: cheap to ask on every run.
_LEANED_ON = f"""
c.relrowsecurity OR c.relforcerowsecurity OR c.reloftype <> 0 OR c.relreplident NOT IN ('d', 'n') OR c.relispartition
OR EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = c.oid AND deptype IN ('n', 'a'))
OR EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_type'::regclass AND refobjid IN (c.reltype, t.typarray)
           AND deptype IN ('n', 'a'))
OR EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
           AND refclassid IN ('pg_class'::regclass, 'pg_extension'::regclass))
OR EXISTS (SELECT FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = c.oid)
OR EXISTS (SELECT FROM pg_attribute a JOIN pg_type ty ON ty.oid = a.atttypid
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND (a.attnotnull OR a.attidentity <> '' OR {_COLUMN_SETTINGS}))
"""

# What a run made, and nobody changed since: it is made anew with the table. Indexes of partitions follow
# the one that they are a part of.
_OURS = f"""
tree AS (SELECT x.*, x.oid <> of.root AS is_part
         FROM (SELECT oid, oid AS root FROM c UNION SELECT relid, oid FROM c, pg_partition_tree(c.oid)) AS of
         JOIN pg_class x ON x.oid = of.oid),
ours AS (SELECT i.indexrelid AS oid, i.indrelid AS of, CASE WHEN i.indisprimary THEN i.indkey::int2[] END AS not_null
         FROM tree JOIN pg_index i ON i.indrelid = tree.oid JOIN pg_class x ON x.oid = i.indexrelid
         WHERE obj_description(coalesce(pg_partition_root(x.oid), x.oid), 'pg_class') = '{MARK}'
           AND x.reloptions IS NULL AND NOT i.indisclustered AND NOT i.indisreplident
         UNION SELECT tree.oid, tree.oid, NULL FROM tree WHERE is_part AND obj_description(oid, 'pg_class') = '{MARK}')
"""

# Everything that would not follow a new table to the old one's name. pg_depend knows every object
# that leans on a table, its columns or its row type: views, foreign keys, indexes, constraints,
# triggers, rules, policies, publications, statistics, defaults, functions, children. What is part of
# the table itself (NOT NULL, identity, row security, settings of columns) is added by hand. Partitions are
# looked at like the table; what they have from it is told once, of the table.
_DEPENDENTS = f"""
WITH c AS (SELECT * FROM pg_class WHERE oid = %s), {_OURS}
SELECT CASE WHEN rule.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, rule.ev_class, 0)
            ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
FROM tree c JOIN pg_type t ON t.oid = c.reltype
CROSS JOIN LATERAL (SELECT * FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = c.oid
                    UNION ALL SELECT * FROM pg_depend
                              WHERE refclassid = 'pg_type'::regclass AND refobjid IN (c.reltype, t.typarray)) AS d
LEFT JOIN pg_rewrite rule ON d.classid = 'pg_rewrite'::regclass AND rule.oid = d.objid
LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
LEFT JOIN pg_class x ON d.classid = 'pg_class'::regclass AND x.oid = d.objid
LEFT JOIN ours ON ours.oid = CASE WHEN k.contype IN ('p', 'u', 'x') THEN k.conindid ELSE x.oid END
WHERE ours.oid IS NULL AND d.deptype IN ('n', 'a') AND k.contype IS DISTINCT FROM 'n'
  AND NOT (d.classid = 'pg_class'::regclass AND d.objid = c.oid)
  AND NOT (c.is_part AND (coalesce(k.conparentid, 0) <> 0 OR coalesce(g.tgparentid, 0) <> 0
                          OR coalesce(x.relkind IN ('i', 'I') AND x.relispartition, false)))
UNION SELECT pg_describe_object(d.refclassid, d.refobjid, 0) FROM tree c, pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass
UNION SELECT 'parent table ' || inhparent::regclass::text FROM c, pg_inherits WHERE inhrelid = c.oid
UNION SELECT 'row-level security' FROM tree WHERE relrowsecurity OR relforcerowsecurity
UNION SELECT 'type ' || c.reloftype::regtype::text FROM c WHERE c.reloftype <> 0
UNION SELECT 'replica identity' FROM tree WHERE relkind = 'r' AND relreplident NOT IN ('d', 'n')
UNION SELECT 'security label' FROM tree, pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = tree.oid
UNION SELECT 'settings of table ' || oid::regclass::text FROM tree WHERE is_part AND reloptions IS NOT NULL
-- Default privileges may be where a partition has its own from.
UNION SELECT 'grants on table ' || oid::regclass::text FROM tree
      WHERE is_part AND relacl IS NOT NULL AND NOT EXISTS (SELECT FROM pg_default_acl WHERE defaclobjtype = 'r')
UNION SELECT what || a.attname
      FROM tree c, pg_attribute a JOIN pg_type ty ON ty.oid = a.atttypid
      CROSS JOIN LATERAL (VALUES
        ('NOT NULL on column ', a.attnotnull AND a.attidentity = ''
          AND NOT EXISTS (SELECT FROM ours WHERE ours.of = a.attrelid AND a.attnum = ANY(ours.not_null))),
        ('identity of column ', a.attidentity <> ''),
        ('settings of column ', {_COLUMN_SETTINGS})
      ) AS has(what, is_so)
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND has.is_so
ORDER BY 1
"""

_GRANTS = """
SELECT json_agg(json_build_array(CASE acl.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(acl.grantee) END,
                                 acl.privilege_type, acl.is_grantable))
FROM aclexplode({acl}) AS acl
"""

_LOOK = f"""
SELECT has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'), c.relname, c.oid, c.relkind::text,
       pg_get_userbyid(c.relowner),
       pg_has_role(c.relowner, 'USAGE') AND pg_has_role(
         c.relowner, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END),
       has_schema_privilege(c.relowner, n.oid, 'CREATE'),
       has_table_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'INSERT'),
       coalesce((SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace), ''), c.reloptions,
       ({_GRANTS.format(acl="coalesce(c.relacl, acldefault('r', c.relowner))")}),
       (SELECT json_object_agg(attname, ({_GRANTS.format(acl="attacl")}))
        FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL AND NOT attisdropped),
       obj_description(c.oid, 'pg_class'),
       (SELECT json_object_agg(a.attname, s.description) FROM pg_description s
        JOIN pg_attribute a ON a.attrelid = s.objoid AND a.attnum = s.objsubid
        WHERE s.objoid = c.oid AND s.classoid = 'pg_class'::regclass AND s.objsubid > 0),
       {_LEANED_ON},
       EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid AND c.relkind = 'p'
                 AND obj_description(inhrelid, 'pg_class') = '{MARK}'),
       (SELECT md5(string_agg(format('%%s %%s %%s', attname, atttypid, atttypmod), ',' ORDER BY attnum))
        FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
FROM pg_namespace n
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = ANY(%(names)s)
LEFT JOIN pg_type t ON t.oid = c.reltype
WHERE n.nspname = %(schema)s
"""


def look(session: Session, target: Target, *others: str, before: str = "") -> Look:
    """The schema, and what is called like the target or like one of `others` in it.

    `before` is SQL sent in the same message. Raises ConnectorError if the schema is missing.
    """
    parameters = {"schema": target.schema, "names": [target.table, *others]}
    rows = session.execute(before.replace("%", "%%") + _LOOK, parameters).fetchall()
    answered_at = time.monotonic()
    if not rows:
        raise ConnectorError(
            f"There is no schema {target.schema}.",
            hint=f"CREATE SCHEMA {errors.quoted(target.schema)}, or choose another.",
            code="schema_missing",
            field="schema",
        )
    found = {row[2]: _existing(session, row[3:], leans=row[2] == target.table) for row in rows if row[2] is not None}
    return Look(Schema(*rows[0][:2]), found, answered_at)


def _existing(session: Session, row: tuple[Any, ...], *, leans: bool) -> Existing:
    """What stands there; with `leans`, also what depends on it."""
    oid, kind, owner, is_ours, owner_may_create, may_insert, tablespace, settings, grants, *remarks = row
    columns, comment, comments, leaned_on, is_our_tree, form = remarks
    dependents = session.execute(_DEPENDENTS, (oid,)).fetchall() if leaned_on and leans else ()
    return Existing(
        oid=oid,
        kind=kind,
        owner=owner,
        is_ours=is_ours,
        owner_may_create=owner_may_create,
        may_insert=may_insert,
        tablespace=tablespace,
        settings=tuple(settings or ()),
        grants=_grants(grants),
        column_grants={name: _grants(found) for name, found in (columns or {}).items()},
        comment=comment,
        column_comments=comments or {},
        dependents=tuple(name for (name,) in dependents),
        is_our_tree=is_our_tree,
        form=form or "",
    )


def _grants(rows: list[list[Any]] | None) -> tuple[Grant, ...]:
    return tuple((grantee, privilege, grantable) for grantee, privilege, grantable in rows or ())


def refuse_create(target: Target, schema: Schema, role: str) -> ConnectorError | None:
    """Why `role` cannot make a table in the target's schema."""
    if schema.may_use and schema.may_create:
        return None
    return errors.missing_grant(
        f"{role} may not create tables in the schema {target.schema}.",
        f"GRANT USAGE, CREATE ON SCHEMA {errors.quoted(target.schema)} TO {errors.quoted(role)};",
        field="schema",
    )


def refuse_append(target: Target, look: Look, role: str) -> ConnectorError | None:
    """Why `role` cannot append to what stands at the target's name."""
    table = look.relations[target.table]
    if table.kind not in ("r", "p"):
        return _not_a_table(target, table)
    if not look.schema.may_use:
        return errors.missing_grant(
            f"{role} may not use the schema {target.schema}.",
            f"GRANT USAGE ON SCHEMA {errors.quoted(target.schema)} TO {errors.quoted(role)};",
            field="schema",
        )
    if not table.may_insert:
        return errors.missing_grant(
            f"{role} may not insert into {target}.",
            f"GRANT INSERT ON TABLE {errors.quoted(target.schema, target.table)} TO {errors.quoted(role)};",
            field="table",
        )
    return None


def refuse_replace(target: Target, look: Look, role: str) -> ConnectorError | None:
    """Why a new table cannot take the place of what stands at the target's name."""
    table = look.relations[target.table]
    if table.kind not in ("r", "p"):
        return _not_a_table(target, table)
    if not table.is_ours:
        return errors.missing_grant(
            f"{target} belongs to {table.owner}, and only its owner can replace it.",
            f"GRANT {errors.quoted(table.owner)} TO {errors.quoted(role)};",
            field="table",
        )
    refusal = refuse_create(target, look.schema, role)
    if refusal is not None:
        return refusal
    if not table.owner_may_create:
        return errors.missing_grant(
            f"{table.owner}, the owner of {target}, may not create tables in the schema {target.schema}.",
            f"GRANT CREATE ON SCHEMA {errors.quoted(target.schema)} TO {errors.quoted(table.owner)};",
            field="schema",
        )
    leaning = (*(["partitions"] if table.kind == "p" and not table.is_our_tree else []), *table.dependents)
    if leaning:
        return ConnectorError(
            f"Replacing {target} would break or lose: {', '.join(leaning)}.",
            hint="Use append, or drop what depends on the table and make it again on top of a view of your own.",
            code="replace_would_break",
            field="table",
        )
    return None


def refuse_rights(target: Target, lacking: Sequence[str], role: str, doing: str) -> ConnectorError | None:
    """Why `role`, which lacks rights on the target, cannot do what `doing` says (a merge, …)."""
    if not lacking:
        return None
    rights = ", ".join(lacking)
    return errors.missing_grant(
        f"{role or 'The role'} may not {rights} on {target}, which {doing} needs.",
        f"GRANT {rights} ON TABLE {errors.quoted(target.schema, target.table)} TO {errors.quoted(role)};",
        field="table",
    )


def _not_a_table(target: Target, found: Existing) -> ConnectorError:
    return ConnectorError(
        f"{target} is not a table but a {_KINDS.get(found.kind, 'relation of another kind')}.",
        hint="Choose another name.",
        code="target_not_a_table",
        field="table",
    )
