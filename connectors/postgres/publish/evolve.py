"""A table that stays gets new columns and wider types: found before a row is read, and again under the lock.

Only what the catalog alone can hold is done: a column that may be NULL, a longer varchar, a numeric of more digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg2 import sql

from connectors import column_rules, drift
from connectors.base import Reporter
from connectors.column import Column
from connectors.drift import ChangeKind
from connectors.errors import ConnectorError
from connectors.modes import Refresh, WriteMode
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.control import Head
from connectors.postgres.ddl import CatalogColumn, expected_catalog
from connectors.postgres.names import postgres_name
from connectors.postgres.publish import marks
from connectors.postgres.publish.existing import Existing
from connectors.reading import ReadRequest
from connectors.request import TransferRequest
from connectors.target_columns import Known, Memory, as_declared, named
from connectors.writing import Fence, Owner, Target


@dataclass(frozen=True)
class Found:
    """A column as it stands; only one that `may_be_null` can be left out of a row."""

    type: str
    may_be_null: bool


@dataclass(frozen=True)
class Widening:
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Alterations:
    """What the target lacks, by names in PostgreSQL; `refusal` is what keeps it from being given all of it."""

    added: tuple[CatalogColumn, ...] = ()
    widened: tuple[Widening, ...] = ()
    refusal: ConnectorError | None = None

    def __bool__(self) -> bool:
        return bool(self.added or self.widened)

    @property
    def names(self) -> frozenset[str]:
        return frozenset([column.name for column in self.added] + [each.name for each in self.widened])

    def __str__(self) -> str:
        told = [f"new column {column.name} ({column.type})" for column in self.added]
        told += [f"column {each.name} from {each.before} to {each.after}" for each in self.widened]
        return ", ".join(told)


class Evolution:
    """What a publish makes of the target's columns, given those of the source and what the head remembers.

    `kept` are columns that the source dropped and a table that is written anew has all the same, as NULL.
    """

    def __init__(self, fence: Fence, request: TransferRequest, columns: Sequence[Column], key: Sequence[str]) -> None:
        self._fence = fence
        self._request = request
        self._columns = columns
        self._key = frozenset(name.lower() for name in key)
        self._memory = Memory.from_json(fence.columns)
        self._dropped = drift.dropped(self._memory, request, columns)
        self._forgotten: tuple[Known, ...] = ()
        self._owner, self._is_ours = "", False
        self.alterations = Alterations()
        self.kept: tuple[Column, ...] = ()

    def look(self, session: Session, target: Target, *, owner: str, is_ours: bool) -> None:
        """Find what a table that stands there lacks; where the head knows of no difference nothing is asked.

        A table that is only now taken over is a person's: it is not changed.
        """
        self._owner, self._is_ours = owner, is_ours
        if self._fence.last_run is None or not (self._dropped or self._may_differ()):
            return
        catalog = _catalog(session, target)
        self._forgotten = self._left_over(catalog)
        self.kept = tuple(
            Column(k.column.name, k.column.type, target_name=k.name, target_type=catalog[k.name].type)
            for k in (*self._dropped, *self._forgotten)
            if k.name in catalog and catalog[k.name].may_be_null
        )
        found = self._find(catalog)
        refusal = found.refusal
        if found.widened and refusal is None:
            refusal = self._refuse_tied(session, target, found)
        if found and refusal is None and not is_ours:
            refusal = errors.missing_grant(
                f"{target} belongs to {owner}, and only its owner can change it: {found}.",
                f"GRANT {errors.quoted(owner)} TO {errors.quoted(session.role)};",
                field="table",
            )
        self.alterations = Alterations(found.added, found.widened, refusal)

    @property
    def is_needed(self) -> bool:
        """Whether the target gets other columns: nobody may be kept from it while rows are copied."""
        return bool(self.alterations)

    @property
    def lock(self) -> str:
        """What `apply` needs, empty where there is nothing to do: nobody may read a table while its columns change."""
        return "ACCESS EXCLUSIVE" if self.is_needed else ""

    def apply(self, session: Session, target: Target, reporter: Reporter) -> None:
        """Change the table as it was found to need; the caller holds `lock`, so that it is looked at again."""
        if not self.alterations:
            return
        before = self.alterations
        self.look(session, target, owner=self._owner, is_ours=self._is_ours)
        if self.alterations.refusal is not None:
            raise self.alterations.refusal
        self._alter(session, target)
        if self.alterations:
            reporter.log("info", f"{target} was changed: {self.alterations}.")
        self.alterations = before  # what the lock was taken for

    def _alter(self, session: Session, target: Target) -> None:
        changes = [
            sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(column.name), sql.SQL(column.type))
            for column in self.alterations.added
        ]
        changes += [
            sql.SQL("ALTER COLUMN {} TYPE {}").format(sql.Identifier(each.name), sql.SQL(each.after))
            for each in self.alterations.widened
        ]
        if changes:
            name = sql.Identifier(target.schema, target.table)
            session.execute(sql.SQL("ALTER TABLE {} {}").format(name, sql.SQL(", ").join(changes)))

    def remembered(self, method: str, changes: Sequence[Mapping[str, str]]) -> Memory:
        """What the head is to know once this is published; of ignored columns nothing is told again."""
        is_new = method in ("rename", "create")
        stay = [column.target_name for column in self.kept_by(method)] if is_new else [k.name for k in self._dropped]
        ignored = [each["column"] for each in changes if each["change"] == ChangeKind.IGNORED]
        gone = (*self._dropped, *self._forgotten)
        return drift.remembered(self._fence, self._request, self._columns, gone, stay, ignored)

    def news(self, method: str, changes: Sequence[Mapping[str, str]]) -> Mapping[str, Any] | None:
        """The same as the head keeps it; None where it knows that already."""
        memory = self.remembered(method, changes)
        return None if memory.says_the_same_as(self._memory) else memory.to_json()

    def kept_by(self, method: str) -> tuple[Column, ...]:
        """The dropped columns that a new table, or the staging table of a replace in place, has as NULL."""
        if method == "in_place":
            forgotten = {known.name for known in self._forgotten}  # they keep their values: they may be a person's
            return tuple(column for column in self.kept if column.target_name not in forgotten)
        return self.kept if method == "rename" and self._request.refresh is not Refresh.FULL else ()

    @property
    def left_over(self) -> tuple[str, ...]:
        """Of those, names of columns that were the source's before the head knew its columns."""
        return tuple(known.name for known in self._forgotten)

    def _may_differ(self) -> bool:
        here = {known.name: known.type for known in self._memory.columns if not known.is_gone}
        return any(here.get(column.name) != column.type for column in expected_catalog(self._columns))

    def _left_over(self, catalog: Mapping[str, Found]) -> tuple[Known, ...]:
        """What a table of this definition has and its source has not, where the head does not know its columns yet.

        A version that knew nothing of dropped columns wrote it: they were the source's when it did.
        """
        if self._memory.columns or self._fence.fingerprint != self._request.fingerprint:
            return ()
        known = {postgres_name(column.name): column for column in self._request.expected}
        skipped = {postgres_name(name) for name in column_rules.skipped(self._request.rules)}
        here = {column.name for column in expected_catalog(self._columns)} | skipped | marks.NAMES
        return tuple(
            Known(as_declared(known.get(name) or Column(name, "STRING")), name, found.type)
            for name, found in catalog.items()
            if name not in here
        )

    def _find(self, catalog: Mapping[str, Found]) -> Alterations:
        made = self._made_by_runs()
        added, widened, against = [], [], []
        types = {known.name: known.type for known in self._memory.columns}
        for column, wanted in zip(self._columns, expected_catalog(self._columns), strict=True):
            here = catalog.get(wanted.name)
            if here is None:
                if wanted.name not in made and column.name.lower() not in self._key:
                    added.append(wanted)
            elif here.type == wanted.type or types.get(wanted.name, here.type) != here.type:
                continue  # as it should be, or changed by a person
            elif is_in_the_catalog_alone(here.type, wanted.type):
                widened.append(Widening(wanted.name, here.type, wanted.type))
            elif wanted.name in made:
                against.append(f"column {wanted.name} is {here.type}, and is to be {wanted.type}")
        refusal = drift.incompatible(self._request, "; ".join(against)) if against else None
        return Alterations(tuple(added), tuple(widened), refusal)

    def _made_by_runs(self) -> frozenset[str]:
        """Columns that the target had by the last run: one that is no longer there was dropped by a person."""
        if self._request.refresh is Refresh.FULL:
            return frozenset()
        if self._memory.columns:
            return frozenset(known.name for known in self._memory.columns if not known.is_gone)
        known = {column.name.lower() for column in self._request.expected}
        columns = zip(self._columns, expected_catalog(self._columns), strict=True)
        return frozenset(here.name for column, here in columns if column.name.lower() in known)

    def _refuse_tied(self, session: Session, target: Target, found: Alterations) -> ConnectorError | None:
        """Why PostgreSQL would not let these columns have another type, or would read the whole table for it."""
        names = [each.name for each in found.widened]
        rows = session.execute(_TIED, {"schema": target.schema, "table": target.table, "names": names}).fetchall()
        if not rows:
            return None
        ties = ", ".join(f"{what} uses column {name}" for name, what in rows)
        return drift.incompatible(self._request, f"{found}, but {ties}")


def foreseen(
    session: Session,
    target: Target,
    columns: tuple[Column, ...],
    mode: WriteMode,
    head: Head | None,
    here: Existing | None,
) -> tuple[tuple[Column, ...], Alterations]:
    """The columns under their names, and what a run of a definition would change of the table that is there."""
    known = (head.columns if head else None) or {}
    columns = named(columns, Memory.from_json(known))
    if head is None or here is None or not columns:
        return columns, Alterations()
    fence = Fence(
        target, Owner(head.installation, head.pipeline, UUID(int=0), 0), 0, head.last_run, "", None, columns=known
    )
    request = TransferRequest(fence.owner, ReadRequest(), target, mode)
    evolution = Evolution(fence, request, columns, mode.key)
    evolution.look(session, target, owner=here.owner, is_ours=here.is_ours)
    return columns, evolution.alterations


_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_VARCHAR = re.compile(r"character varying(?:\((\d+)\))?")


def is_in_the_catalog_alone(before: str, after: str) -> bool:
    """Whether PostgreSQL changes this type to that without a look at the rows, their values staying as they are."""
    old, new = _VARCHAR.fullmatch(before), _VARCHAR.fullmatch(after)
    if old is not None:
        if after == "text" or (new is not None and new[1] is None):
            return True
        return new is not None and old[1] is not None and int(new[1]) >= int(old[1])
    if before.endswith("[]"):
        # Elements are looked at one by one, unless they may have any number of digits.
        return after == "numeric[]" and _NUMERIC.fullmatch(before[:-2]) is not None
    digits, more = _NUMERIC.fullmatch(before), _NUMERIC.fullmatch(after)
    if digits is None:
        return False
    return after == "numeric" or (more is not None and more[2] == digits[2] and int(more[1]) >= int(digits[1]))


_CATALOG = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod),
       NOT a.attnotnull AND a.attgenerated = '' AND a.attidentity = ''
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


def _catalog(session: Session, target: Target) -> dict[str, Found]:
    rows = session.execute(_CATALOG, (target.schema, target.table)).fetchall()
    return {name: Found(type_, may_be_null) for name, type_, may_be_null in rows}


# Indexes, keys, statistics and the column's own default follow a type by the catalog alone. A CHECK would have all
# rows read; views, policies, triggers, rules and generated columns make PostgreSQL refuse, and so does a partition key.
_TIED = """
WITH c AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = %(schema)s AND c.relname = %(table)s),
tree AS (SELECT oid FROM c UNION SELECT relid FROM c, pg_partition_tree(c.oid))
SELECT DISTINCT a.attname::text,
       CASE WHEN rule.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, rule.ev_class, 0)
            WHEN d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM tree) THEN 'the partition key'
            ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
FROM tree JOIN pg_attribute a ON a.attrelid = tree.oid AND a.attname = ANY(%(names)s::name[])
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = tree.oid AND d.refobjsubid = a.attnum
LEFT JOIN pg_rewrite rule ON d.classid = 'pg_rewrite'::regclass AND rule.oid = d.objid
LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
LEFT JOIN pg_class x ON d.classid = 'pg_class'::regclass AND x.oid = d.objid
LEFT JOIN pg_attrdef def ON d.classid = 'pg_attrdef'::regclass AND def.oid = d.objid
WHERE coalesce(x.relkind NOT IN ('i', 'I'), true) AND coalesce(k.contype NOT IN ('p', 'u', 'n'), true)
  AND d.classid <> 'pg_statistic_ext'::regclass
  AND NOT coalesce(def.adrelid = tree.oid AND def.adnum = a.attnum AND a.attgenerated = '', false)
ORDER BY 1, 2
"""
