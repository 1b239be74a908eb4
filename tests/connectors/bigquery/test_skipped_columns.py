"""Columns that a rule skips are not read: from tables, views and queries, by streams and by pages."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.errors import ConnectorError
from connectors.reading import ReadRequest
from tests.connectors.bigquery.conftest import read_all

SCHEMA = [SchemaField("id", "INT64"), SchemaField("email", "STRING"), SchemaField("Place", "STRING")]
SKIP = ("EMAIL", "gone")


@pytest.fixture(scope="module")
def people(tables, dataset) -> str:
    name = f"{dataset}.people"
    tables.make(name, SCHEMA, pa.table({"id": [1, 2], "email": ["a@b", None], "Place": ["Rome", "Oslo"]}))
    tables.run(f"CREATE OR REPLACE VIEW {dataset}.people_view AS SELECT * FROM {name}")
    return name


def requests(people: str) -> list[ReadRequest]:
    view = ReadRequest(table=f"{people}_view", skip=SKIP)
    return [ReadRequest(table=people, skip=SKIP), view, ReadRequest(query=f"SELECT * FROM {people}", skip=SKIP)]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["table", "view", "query"])
@pytest.mark.parametrize("through", ["streams", "pages"])
def test_a_skipped_column_does_not_arrive(connect, endpoints, people, which, through):
    source = connect(endpoints if through == "streams" else Endpoints(endpoints.rest))
    plan = source.plan(requests(people)[which])
    assert [column.name for column in plan.columns] == ["id", "Place"]
    rows = read_all(source, plan.parts)
    assert sorted(rows, key=lambda row: row["id"]) == [{"id": 1, "Place": "Rome"}, {"id": 2, "Place": "Oslo"}]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["table", "view", "query"])
@pytest.mark.parametrize("through", ["streams", "pages"])
def test_where_only_some_are_read_the_others_are_told_and_do_not_arrive(connect, endpoints, people, which, through):
    source = connect(endpoints if through == "streams" else Endpoints(endpoints.rest))
    asked = requests(people)[which]
    plan = source.plan(ReadRequest(table=asked.table, query=asked.query, only=("ID", "place", "dropped")))
    assert [column.name for column in plan.columns] == ["id", "Place"]
    assert [column.name for column in plan.ignored] == ["email"]
    source.resume(type(plan).from_json(plan.to_json()))
    assert all(set(row) == {"id", "Place"} for row in read_all(source, plan.parts))


def test_a_view_is_not_even_asked_for_it(source, tables, dataset, people):
    tables.run(
        f"CREATE OR REPLACE VIEW {dataset}.wild AS SELECT id, IF(id > 0, ERROR('looked at'), '') AS email FROM {people}"
    )
    for asked in ({"skip": ("email",)}, {"only": ("id",)}):
        plan = source.plan(ReadRequest(table=f"{dataset}.wild", **asked))
        assert sorted(row["id"] for row in read_all(source, plan.parts)) == [1, 2]
    with pytest.raises(ConnectorError, match="looked at"):
        source.plan(ReadRequest(table=f"{dataset}.wild"))


@pytest.mark.parametrize("which", [0, 1, 2], ids=["table", "view", "query"])
def test_something_must_be_left(source, people, which):
    request = requests(people)[which]
    with pytest.raises(ConnectorError) as caught:
        source.plan(ReadRequest(table=request.table, query=request.query, skip=("id", "email", "place")))
    assert caught.value.code == "no_columns"


def test_the_next_plan_skips_nothing(connect, endpoints, people):
    source = connect(Endpoints(endpoints.rest))
    source.plan(ReadRequest(table=people, skip=SKIP))
    (part,) = source.plan(ReadRequest(table=people)).parts
    (batch,) = source.read(part, stop=NeverStop())
    assert batch.schema.names == ["id", "email", "Place"]
