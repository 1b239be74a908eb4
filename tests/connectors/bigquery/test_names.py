from __future__ import annotations

import pytest
from google.cloud.bigquery import SchemaField

from connectors.bigquery.schema import columns_of, parse_table
from connectors.column import Column
from connectors.errors import ConnectorError


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("sales.orders", "acme.sales.orders"),
        ("other-project.sales.orders", "other-project.sales.orders"),
        ("`other-project.sales.orders`", "other-project.sales.orders"),
        ("example.com:legacy.sales.orders", "example.com:legacy.sales.orders"),
        ("sales.events_*", "acme.sales.events_*"),
        ("sales.Bestellungen größer 2024-01", "acme.sales.Bestellungen größer 2024-01"),
    ],
)
def test_a_table_is_named_with_or_without_its_project(text, full):
    assert str(parse_table(text, "acme")) == full


@pytest.mark.parametrize(
    "text",
    [
        "orders",
        "",
        "sales.",
        "a.b.c.d.e",
        "sales.orders$20240101",
        "sales.or`ders",
        "sales.orders; DROP TABLE x",
        "sa-les.orders",
        "x" * 1025 + ".orders",
        "sales." + "x" * 1025,
        "sales.*orders",
    ],
)
def test_what_names_no_table_is_refused_before_anyone_is_asked(text):
    with pytest.raises(ConnectorError) as refusal:
        parse_table(text, "acme")
    assert (refusal.value.code, refusal.value.field) == ("table_name", "table")


def test_names_of_legacy_sql_become_standard_ones():
    fields = [
        SchemaField("i", "INTEGER", "REQUIRED", description="the key"),
        SchemaField("f", "FLOAT"),
        SchemaField("b", "BOOLEAN"),
        SchemaField("n", "NUMERIC", precision=10, scale=2),
        SchemaField("s", "STRING", max_length=5),
        SchemaField("r", "RANGE", range_element_type="DATE"),
        SchemaField("rec", "RECORD", "REPEATED", fields=[SchemaField("x", "INTEGER")]),
    ]
    assert columns_of(fields) == (
        Column("i", "INT64", required=True, description="the key"),
        Column("f", "FLOAT64"),
        Column("b", "BOOL"),
        Column("n", "NUMERIC", precision=10, scale=2),
        Column("s", "STRING", max_length=5),
        Column("r", "RANGE", element="DATE"),
        Column("rec", "STRUCT", repeated=True, columns=(Column("x", "INT64"),)),
    )
