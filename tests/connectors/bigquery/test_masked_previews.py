"""The first rows by rules: as a target would have them, and nothing of what a rule hides."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.column_rules import ColumnRule
from connectors.errors import ConnectorError
from connectors.reading import ReadRequest

SCHEMA = [
    SchemaField("id", "INT64"),
    SchemaField("email", "STRING"),
    SchemaField("who", "RECORD", fields=[SchemaField("name", "STRING"), SchemaField("age", "INT64")]),
]


@pytest.fixture(scope="module")
def people(tables, dataset) -> str:
    name = f"{dataset}.masked_people"
    who = pa.array([{"name": "Ada", "age": 36}, None], pa.struct([("name", pa.string()), ("age", pa.int64())]))
    tables.make(name, SCHEMA, pa.table({"id": [1, 2], "email": ["ada@b.org", None], "who": who}))
    return name


@pytest.mark.parametrize("kind", ["table", "query"])
def test_what_is_masked_or_skipped_is_not_shown(source, people, kind):
    read = ReadRequest(table=people) if kind == "table" else ReadRequest(query=f"SELECT * FROM {people}")
    rules = {
        "id": ColumnRule(skip=True),
        "EMAIL": ColumnRule(mask="keep_last", keep=4, name="mail"),
        "who.name": ColumnRule(mask="redact"),
    }
    shown = source.preview(read, rules=rules)
    assert [column.target_name or column.name for column in shown.columns] == ["mail", "who"]
    assert sorted(shown.rows, key=str)[0] == ("****.org", '{"name": "***", "age": 36}')
    assert "Ada" not in str(shown)


def test_a_hmac_is_not_that_of_any_key_in_use(source, people):
    first, second = (source.preview(ReadRequest(table=people), rules={"email": ColumnRule(mask="hmac")}) for _ in "ab")
    assert first.rows != second.rows


def test_rules_that_cannot_be_show_nothing(source, people):
    with pytest.raises(ConnectorError, match="no field"):
        source.preview(ReadRequest(table=people), rules={"who.nam": ColumnRule(mask="redact")})
