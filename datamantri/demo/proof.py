"""Does the destination hold what the source holds? Both sides say so themselves, in SQL."""

from __future__ import annotations

from dataclasses import dataclass

from connectors import column_rules, registry
from connectors.base import ReadRequest, Target
from pipelines.models import Pipeline


@dataclass(frozen=True)
class Proof:
    """What a comparison found: the columns that differ, and those whose values have no common text."""

    source_rows: int
    target_rows: int
    differing: tuple[str, ...]
    counted_only: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return self.source_rows == self.target_rows and not self.differing

    def in_words(self) -> str:
        if self.source_rows != self.target_rows:
            return f"DIFFERS: {self.source_rows:,} rows in the source, {self.target_rows:,} in the target"
        if self.differing:
            return f"DIFFERS in {', '.join(self.differing)}"
        counted = f" (counted only: {', '.join(self.counted_only)})" if self.counted_only else ""
        return f"agrees{counted}"


def compare(pipeline: Pipeline) -> Proof:
    """Compare row count, nulls and checksums of every column on both sides, as they are now."""
    source = registry.source_type(pipeline.source.kind)(pipeline.source.typed_options())
    destination = registry.destination_type(pipeline.destination.kind)(pipeline.destination.typed_options())
    try:
        request = ReadRequest(table=pipeline.source_table, query=pipeline.source_query)
        rules, _ = column_rules.from_json(pipeline.column_rules)
        columns = column_rules.apply(source.describe(request).columns, rules)
        there = source.digest(request, columns)
        here = destination.digest(Target(pipeline.target_schema, pipeline.target_table), columns)
    finally:
        source.close()
        destination.close()
    pairs = list(zip(there.columns, here.columns, strict=True))
    return Proof(
        source_rows=there.rows,
        target_rows=here.rows,
        differing=tuple(a.name for a, b in pairs if (a.nulls, a.checksum) != (b.nulls, b.checksum)),
        counted_only=tuple(a.name for a, _ in pairs if a.checksum is None),
    )
