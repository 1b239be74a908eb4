"""Targets partitioned by time: which partition holds what, and partitions made as rows need them.

There is no default partition: while it stands, each further partition can only be attached under a lock
that shuts readers out of it. Hence a NULL in the partition column has no place, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from psycopg2 import sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.names import free_name, names_by_source, shorten
from connectors.postgres.publish.indexes import MARK, missing_column
from connectors.target_options import PartitionUnit, TargetOptions
from connectors.writing import Target

FIELD = "partition_column"
# Each partition, its indexes and its TOAST table take a place of the server's table of locks, old ones and new
# ones at once; with its usual settings that has room for a few thousand.
MAX_PARTITIONS = 500

_MIDNIGHT = {"DATE": "", "DATETIME": " 00:00:00", "TIMESTAMP": " 00:00:00+00"}


@dataclass(frozen=True)
class Partitioning:
    """How a target is divided: `source` and `column` name the column there and here, `type` is the source's."""

    source: str
    column: str
    type: str
    unit: PartitionUnit

    @classmethod
    def of(cls, options: TargetOptions, columns: Sequence[Column]) -> Partitioning | None:
        """What `options` ask for; raises ConnectorError if the column cannot partition a table."""
        asked = options.partition_column
        if not asked:
            return None
        found = next((column for column in columns if column.name.lower() == asked.lower()), None)
        if found is None:
            raise missing_column(asked, columns, FIELD)
        if found.repeated or found.type not in _MIDNIGHT:
            type_ = f"ARRAY<{found.type}>" if found.repeated else found.type
            raise ConnectorError(
                f"Column {asked} ({type_}) cannot partition the table: it must be a date or a time.",
                hint=f"Choose a column of one of the types {', '.join(_MIDNIGHT)}.",
                code="partition_type",
                field=FIELD,
            )
        if found.target_type:
            raise ConnectorError(
                f"Column {asked} is stored as {found.target_type}; what a table is partitioned by keeps its type.",
                hint="Remove its rule, or partition by another column.",
                code="partition_type",
                field=FIELD,
            )
        return cls(found.name, names_by_source(columns)[found.name], found.type, options.partition_unit)

    def ending(self, start: date) -> str:
        """What follows the table's name in the name of the partition that begins on `start`: p2026, p202601, …"""
        year, month, day = f"{start.year:04}", f"{start.month:02}", f"{start.day:02}"
        return "p" + {"year": year, "month": year + month, "day": year + month + day}[self.unit]

    def end(self, start: date) -> date | None:
        """Where the partition that begins on `start` ends; None after the last day that BigQuery knows."""
        try:
            if self.unit is PartitionUnit.DAY:
                return start + timedelta(days=1)
            if self.unit is PartitionUnit.YEAR:
                return start.replace(year=start.year + 1)
            return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
        except (OverflowError, ValueError):
            return None

    def values(self, start: date) -> sql.Composable:
        """FOR VALUES of that partition; times are those of UTC, as BigQuery's own partitions."""
        end = self.end(start)
        midnight = _MIDNIGHT[self.type]
        until = sql.SQL("MAXVALUE") if end is None else sql.Literal(f"{end.isoformat()}{midnight}")
        return sql.SQL("FOR VALUES FROM ({}) TO ({})").format(sql.Literal(f"{start.isoformat()}{midnight}"), until)

    def start_of(self, column: sql.Composable) -> sql.Composable:
        """SQL for the day on which a row's partition begins."""
        moment = "{} AT TIME ZONE 'UTC'" if self.type == "TIMESTAMP" else "{}::timestamp"
        return sql.SQL("date_trunc({}, " + moment + ")::date").format(sql.Literal(str(self.unit)), column)

    def refuse_nulls(self, nulls: int) -> None:
        if nulls:
            rows = "1 row has" if nulls == 1 else f"{nulls} rows have"
            raise ConnectorError(
                f"{rows} NULL in {self.source}, by which the table is partitioned: no partition holds them.",
                hint="Leave these rows out or give them a value with a query, or partition by another column.",
                code="null_partition",
                field=FIELD,
            )

    def refuse_number(self, number: int) -> None:
        if number > MAX_PARTITIONS:
            larger = "a larger unit" if self.unit is not PartitionUnit.YEAR else "another column"
            raise ConnectorError(
                f"{self.source} has values in more than {MAX_PARTITIONS} {self.unit}s; a table gets one partition"
                f" for each, and at most {MAX_PARTITIONS}.",
                hint=f"Choose {larger}.",
                code="too_many_partitions",
                field=FIELD,
            )


class NewTree:
    """A partitioned table that nobody sees yet: a partition is made when its first row comes."""

    def __init__(self, session: Session, table: Target, by: Partitioning) -> None:
        self._session = session
        self._table = table
        self.by = by
        self._made: dict[date, sql.Composable] = {}

    def partition(self, start: date) -> sql.Composable:
        """The partition that begins on `start`; raises ConnectorError if there would be too many."""
        made = self._made.get(start)
        if made is None:
            self.by.refuse_number(len(self._made) + 1)
            name = shorten(f"{self._table.table}_{self.by.ending(start)}")
            made = self._made[start] = sql.Identifier(self._table.schema, name)
            self._session.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} {}; COMMENT ON TABLE {} IS {}").format(
                    made, relation(self._table), self.by.values(start), made, sql.Literal(MARK)
                )
            )
        return made


@dataclass(frozen=True)
class Tree:
    """How an existing table is partitioned: by these columns ("" for an expression); `bounds` by partition."""

    strategy: str
    columns: tuple[str, ...]
    bounds: Mapping[str, str]

    @property
    def has_default(self) -> bool:
        return "DEFAULT" in self.bounds.values()

    def is_by(self, by: Partitioning) -> bool:
        return self.strategy == "r" and self.columns == (by.column,)


# Bounds are printed as the session's settings say: times must be UTC's.
_TREE = """
SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD';
SELECT p.partstrat::text,
       ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(p.partattrs::int2[]) WITH ORDINALITY AS k (number, place)
             LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number AND k.number > 0 ORDER BY place),
       (SELECT json_object_agg(x.relname, pg_get_expr(x.relpartbound, x.oid))
        FROM pg_inherits i JOIN pg_class x ON x.oid = i.inhrelid WHERE i.inhparent = c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_partitioned_table p ON p.partrelid = c.oid
WHERE n.nspname = %s AND c.relname = %s
"""


def tree_of(session: Session, target: Target) -> Tree | None:
    """How `target` is partitioned; None if it is a plain table."""
    row = session.one(_TREE, (target.schema, target.table))
    return None if row is None else Tree(row[0], tuple(row[1]), row[2] or {})


def refuse(target: Target, by: Partitioning, tree: Tree | None, *, is_ours: bool, role: str) -> ConnectorError | None:
    """Why the partitions of `by` cannot be made in a table that stays."""
    if tree is None or not tree.is_by(by):
        how = f"partitioned by {', '.join(c or 'an expression' for c in tree.columns)}" if tree else "a plain table"
        return ConnectorError(
            f"{target} is {how} and stays; it cannot be made partitioned by {by.source} any more.",
            hint="Load into another table, replace one that nothing depends on, or clear the partition column.",
            code="target_not_partitioned",
            field=FIELD,
        )
    if not is_ours and not tree.has_default:
        return ConnectorError(
            f"Only the owner of {target} can give it partitions, which {role} is not.",
            hint="Load with the owner, or clear the partition column and make the partitions yourself.",
            code="missing_grant",
            field=FIELD,
        )
    return None


def starts(session: Session, target: Target, staging: Target, by: Partitioning) -> list[date]:
    """The days on which the partitions begin that the rows of `staging` fall into; before any lock.

    Raises ConnectorError, code null_partition, if rows have no place in `target`.
    """
    rows = session.execute(
        sql.SQL("SELECT {start}, count(*) FROM {staging} GROUP BY 1 ORDER BY 1").format(
            start=by.start_of(sql.Identifier(by.column)), staging=relation(staging)
        )
    ).fetchall()
    tree = tree_of(session, target)
    if tree is None or not tree.has_default:
        by.refuse_nulls(sum(count for start, count in rows if start is None))
    return [start for start, _ in rows if start is not None]


def ensure(session: Session, target: Target, by: Partitioning, wanted: Sequence[date]) -> list[str]:
    """Make the partitions of `wanted` days that `target` lacks; returns their names.

    Readers and writers of the table pass: a partition is made apart and then attached. Where a part of its
    time has a partition already, or a default one takes every row, nothing is made.
    """
    tree = tree_of(session, target)
    if tree is None or tree.has_default:
        return []
    there = [_range(bounds) for bounds in tree.bounds.values()]
    needed = [start for start in wanted if not any(_meet(by, start, *taken) for taken in there)]
    by.refuse_number(len(there) + len(needed))
    return [_attach(session, target, by, start) for start in needed]


def _attach(session: Session, target: Target, by: Partitioning, start: date) -> str:
    name = free_name(session, target.schema, f"{target.table}_{by.ending(start)}")
    session.execute(
        sql.SQL(
            "CREATE TABLE {part} (LIKE {whole} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED"
            " INCLUDING STORAGE INCLUDING COMPRESSION); COMMENT ON TABLE {part} IS {mark};"
            " ALTER TABLE {whole} ATTACH PARTITION {part} {values}"
        ).format(
            part=sql.Identifier(target.schema, name),
            whole=relation(target),
            mark=sql.Literal(MARK),
            values=by.values(start),
        )
    )
    return name


_BOUNDS = re.compile(r"FOR VALUES FROM \((.+?)\) TO \((.+?)\)")


def _range(bounds: str) -> tuple[datetime, datetime]:
    """Where a partition begins and ends, in UTC; what no calendar of ours has is as far away as can be."""
    found = _BOUNDS.fullmatch(bounds)
    if found is None:
        return datetime.min, datetime.max
    return _moment(found[1], datetime.min), _moment(found[2], datetime.max)


def _moment(text: str, otherwise: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip("'"))
    except ValueError:
        return otherwise
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _meet(by: Partitioning, start: date, begins: datetime, ends: datetime) -> bool:
    """Whether the partition that begins on `start` has time in common with one that is there."""
    end = by.end(start)
    mine_ends = datetime.max if end is None else datetime.combine(end, datetime.min.time())
    return datetime.combine(start, datetime.min.time()) < ends and begins < mine_ends


def relation(table: Target) -> sql.Composable:
    return sql.Identifier(table.schema, table.table)
