"""What a pipeline asks of its target's form beyond columns: a key, indexes, partitions, statistics.

Nothing heavy is imported: web and beat read this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from connectors.errors import ConnectorError

MAX_COLUMNS = 32  # PostgreSQL's INDEX_MAX_KEYS
MAX_INDEXES = 20


class PartitionUnit(StrEnum):
    """How much time one partition holds."""

    DAY = "day"
    MONTH = "month"
    YEAR = "year"


class Analyze(StrEnum):
    """How statistics are taken before rows are published."""

    QUICK = "quick"
    FULL = "full"
    OFF = "off"


@dataclass(frozen=True)
class Index:
    columns: tuple[str, ...]
    unique: bool = False


@dataclass(frozen=True)
class TargetOptions:
    """The target's form as a person asks for it; columns are the source's, in any case.

    An empty `partition_column` means a plain table.
    """

    primary_key: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    partition_column: str = ""
    partition_unit: PartitionUnit = PartitionUnit.MONTH
    analyze: Analyze = Analyze.QUICK

    def to_json(self) -> dict[str, Any]:
        return {
            "primary_key": list(self.primary_key),
            "indexes": [{"columns": list(index.columns), "unique": index.unique} for index in self.indexes],
            "partition_column": self.partition_column,
            "partition_unit": str(self.partition_unit),
            "analyze": str(self.analyze),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TargetOptions:
        """The options in `values`; what a definition from before lacks has its default."""
        return cls(
            tuple(values.get("primary_key", ())),
            tuple(Index(tuple(index["columns"]), bool(index.get("unique"))) for index in values.get("indexes", ())),
            values.get("partition_column", ""),
            PartitionUnit(values.get("partition_unit", PartitionUnit.MONTH)),
            Analyze(values.get("analyze", Analyze.QUICK)),
        )

    def renamed(self, name: Callable[[str], str]) -> TargetOptions:
        """The same options with other names for the columns."""
        return replace(
            self,
            primary_key=tuple(map(name, self.primary_key)),
            indexes=tuple(replace(index, columns=tuple(map(name, index.columns))) for index in self.indexes),
            partition_column=self.partition_column and name(self.partition_column),
        )


def objections(options: TargetOptions, merge_key: Sequence[str] = ()) -> Iterator[ConnectorError]:
    """What cannot be, whatever the columns are: each error names its field. `merge_key` is empty but for a merge."""
    lists = [("primary_key", "The primary key", options.primary_key)] if options.primary_key else []
    lists += [("indexes", f"The index on {', '.join(index.columns)}", index.columns) for index in options.indexes]
    for field, what, columns in lists:
        if not 1 <= len({column.lower() for column in columns}) == len(columns) <= MAX_COLUMNS:
            yield ConnectorError(
                f"{what} must have 1 to {MAX_COLUMNS} different columns.", code="index_columns", field=field
            )
    if len(options.indexes) > MAX_INDEXES:
        yield ConnectorError(
            f"A table gets at most {MAX_INDEXES} indexes, not {len(options.indexes)}.",
            hint="Each index makes every load slower.",
            code="too_many_indexes",
            field="indexes",
        )
    seen: set[tuple[str, ...]] = set()
    for index in options.indexes:
        columns = tuple(column.lower() for column in index.columns)
        if columns in seen or (columns == _lower(options.primary_key)):
            yield ConnectorError(
                f"There would be two indexes on {', '.join(index.columns)}.",
                hint="A primary key is an index already." if columns == _lower(options.primary_key) else "",
                code="index_twice",
                field="indexes",
            )
        seen.add(columns)
    if options.partition_column:
        yield from _outside_keys(options, merge_key)


def _outside_keys(options: TargetOptions, merge_key: Sequence[str]) -> Iterator[ConnectorError]:
    by = options.partition_column
    keys = [("primary_key", "the primary key", options.primary_key), ("merge_key", "the merge key", merge_key)]
    unique = [index.columns for index in options.indexes if index.unique]
    keys += [("indexes", f"the unique index on {', '.join(columns)}", columns) for columns in unique]
    for field, what, columns in keys:
        if columns and by.lower() not in _lower(columns):
            yield ConnectorError(
                f"The table is to be partitioned by {by}, which is not in {what}.",
                hint="PostgreSQL needs the partition column in every unique index: add it, or take the partitions out.",
                code="partition_not_in_key",
                field=field,
            )


def _lower(columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(column.lower() for column in columns)
