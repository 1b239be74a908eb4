"""What reading a past range would take is told without reading it, and without asking for a watermark."""

from __future__ import annotations

import pytest

from connectors.cursor import CursorRead, Span
from connectors.parameters import Parameter
from connectors.reading import ReadRequest


@pytest.mark.parametrize("by", ["table", "query"])
def test_a_range_is_described(source, tables, dataset, by):
    import pyarrow as pa
    from google.cloud.bigquery import SchemaField

    name = f"{dataset}.told_{by}"
    tables.make(name, (SchemaField("n", "INT64"),), pa.table({"n": [1, 2, 3]}))
    cursor = CursorRead("N", span=Span("N", "1", "3"))
    query = f"SELECT n FROM {name} WHERE n > @least -- a comment at its end"
    request = ReadRequest(table=name, cursor=cursor)
    if by == "query":
        request = ReadRequest(query=query, parameters=(Parameter("least", "INT64", 0),), cursor=cursor)
    assert [column.name for column in source.describe(request).columns] == ["n"]
