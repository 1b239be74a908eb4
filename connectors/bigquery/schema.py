"""Table names and schemas: BigQuery's forms in, ours out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from google.cloud import bigquery

from connectors.column import Column
from connectors.errors import ConnectorError

# The API answers with the names of legacy SQL.
_STANDARD = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
# https://cloud.google.com/resource-manager/docs/creating-managing-projects, with the older domain-scoped form
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{2,61}[a-z0-9]")
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
# https://cloud.google.com/bigquery/docs/tables#table_naming: letters, marks, digits, connectors, dashes, spaces
_TABLE = re.compile(r"[\w\u0300-\u036f -]+\*?")
_TABLE_BYTES = 1024


@dataclass(frozen=True)
class TableRef:
    """A table's full name; its parts hold nothing that would need quoting between backticks."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def sql(self) -> str:
        return f"`{self}`"

    @property
    def path(self) -> str:
        """As the Storage Read API and REST address it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"

    @property
    def is_wildcard(self) -> bool:
        return self.table.endswith("*")

    @property
    def reference(self) -> bigquery.TableReference:
        return bigquery.TableReference(bigquery.DatasetReference(self.project, self.dataset), self.table)


def parse_table(text: str, default_project: str) -> TableRef:
    """Read `project.dataset.table` or `dataset.table`; raises ConnectorError with code table_name."""
    parts = text.strip().strip("`").rsplit(".", 2)
    if len(parts) == 2:
        parts = [default_project, *parts]
    if len(parts) != 3:
        raise _bad_name(text, "write it as dataset.table or project.dataset.table")
    project, dataset, table = parts
    if not _PROJECT.fullmatch(project):
        raise _bad_name(text, f"{project!r} is not a project's ID")
    if not _DATASET.fullmatch(dataset):
        raise _bad_name(text, f"{dataset!r} is not a dataset's name")
    if "$" in table:
        raise _bad_name(text, "a single partition is read with a query")
    if not _TABLE.fullmatch(table) or len(table.encode()) > _TABLE_BYTES:
        raise _bad_name(text, f"{table!r} is not a table's name")
    return TableRef(project, dataset, table)


def check_project(project: str) -> None:
    """Raise ConnectorError with code project_name if `project` cannot be a project's ID."""
    if not _PROJECT.fullmatch(project):
        raise ConnectorError(
            f"{project!r} is not a project's ID.",
            hint="It looks like acme-analytics-123: lowercase letters, digits and dashes.",
            code="project_name",
            field="project",
        )


def columns_of(fields: Iterable[bigquery.SchemaField]) -> tuple[Column, ...]:
    return tuple(_column(f) for f in fields)


def _column(field: bigquery.SchemaField) -> Column:
    kind = field.field_type.upper()
    element = field.range_element_type
    return Column(
        name=field.name,
        type=_STANDARD.get(kind, kind),
        repeated=field.mode == "REPEATED",
        required=field.mode == "REQUIRED",
        precision=field.precision,
        scale=field.scale,
        max_length=field.max_length,
        element=element.element_type.upper() if element is not None else "",
        columns=columns_of(field.fields),
        description=field.description or "",
    )


def _bad_name(text: str, why: str) -> ConnectorError:
    return ConnectorError(f"{text.strip()!r} does not name a table: {why}.", code="table_name", field="table")
