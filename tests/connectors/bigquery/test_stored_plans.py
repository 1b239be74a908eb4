"""A plan that is written down by one process and read by another: each row once, wherever reading begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.bigquery.source import BigQuerySource
from connectors.column import Column
from connectors.cursor import CursorRead
from connectors.errors import TransientError
from connectors.reading import Part, ReadPlan, ReadRequest
from tests.connectors.bigquery.conftest import PROJECT, read_all
from tests.emulator_tables import EVERY_TYPE, every_type_rows

ROWS, FEW = 200_000, 12_000
SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("text", "STRING")]
Elsewhere = Callable[[ReadPlan], tuple[BigQuerySource, ReadPlan]]


@pytest.fixture(scope="module")
def many(tables, dataset) -> str:
    return made(tables, f"{dataset}.stored", ROWS)


@pytest.fixture(scope="module")
def few(tables, dataset) -> str:
    return made(tables, f"{dataset}.stored_few", FEW)


def made(tables, name: str, rows: int) -> str:
    tables.make(name, SCHEMA, pa.table({"id": range(rows), "text": [f"row {i}" for i in range(rows)]}))
    return name


@pytest.fixture(params=["streams", "pages"])
def reached(request, endpoints) -> Endpoints:
    return endpoints if request.param == "streams" else Endpoints(endpoints.rest)


@pytest.fixture
def elsewhere(connect, reached) -> Elsewhere:
    """What another process has of a plan: its own source, and the plan from the JSON it was stored as."""

    def take(plan: ReadPlan) -> tuple[BigQuerySource, ReadPlan]:
        again = ReadPlan.from_json(json.loads(json.dumps(plan.to_json())))
        source = connect(reached)
        source.resume(again)
        return source, again

    return take


def ids(source: BigQuerySource, part: Part, start: int = 0) -> list[int]:
    return [i for batch in source.read(part, start=start, stop=NeverStop()) for i in batch.column("id").to_pylist()]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda table: ReadRequest(table=table),
        lambda table: ReadRequest(
            table=table, cursor=CursorRead("id", watermark="199000", settles=True), skip=("TEXT",)
        ),
        lambda table: ReadRequest(query=f"SELECT id FROM {table} WHERE id < 100000"),
    ],
)
def test_a_plan_comes_back_from_json_as_it_was(connect, reached, elsewhere, many, request_of):
    plan = connect(reached).plan(request_of(many), max_parts=3, spread=True)
    _, again = elsewhere(plan)
    assert again == plan
    assert again.parts


def test_rules_for_columns_stay_with_a_plan():
    inner = (Column("x", "INT64", required=True), Column("y", "NUMERIC", precision=10, scale=2))
    columns = (Column("s", "STRUCT", repeated=True, columns=inner), Column("t", "DATETIME", zone="Europe/Paris"))
    plan = ReadPlan(
        columns, (), datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), warnings=("mind",), facts={"jobs": ["a", "b"]}
    )
    assert ReadPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_another_process_reads_every_row_once_from_any_start(connect, reached, elsewhere, many, few):
    table, rows = (many, ROWS) if reached.storage else (few, FEW)  # several streams, and several pages
    plan = connect(reached).plan(ReadRequest(table=table), max_parts=3)
    source, again = elsewhere(plan)
    found = []
    for part in again.parts:
        opened = source.open_part(part, stop=NeverStop())
        assert opened == part
        whole = ids(source, opened)
        found += whole
        for start in (1, 4_096, len(whole) // 2 + 1, len(whole) - 1, len(whole)):
            assert ids(elsewhere(plan)[0], part, start) == whole[start:]
    assert sorted(found) == list(range(rows))
    assert source.count(ReadRequest(table=table), again, stop=NeverStop()) == rows


def test_geography_and_skipped_columns_are_the_same_elsewhere(connect, reached, elsewhere, tables, dataset):
    tables.make(f"{dataset}.stored_types", EVERY_TYPE, every_type_rows())
    source = connect(reached)
    plan = source.plan(ReadRequest(table=f"{dataset}.stored_types", skip=("interval", "json")))
    here = read_all(source, plan.parts)
    other, again = elsewhere(plan)
    assert read_all(other, again.parts) == here
    assert isinstance(here[0]["geography"], str)
    assert not {"interval", "json"} & here[0].keys()


def test_a_session_that_nobody_knows_says_so(source):
    with pytest.raises(TransientError) as lost:
        ids(source, Part(f"projects/{PROJECT}/locations/us/sessions/none/streams/0"), 5)
    assert lost.value.code == "session_lost"


def test_a_query_result_that_is_gone_says_so(connect, endpoints):
    with pytest.raises(TransientError) as lost:
        ids(connect(Endpoints(endpoints.rest)), Part(f"job|{PROJECT}|forgotten|US"), 5)
    assert lost.value.code == "session_lost"


def test_pages_of_a_table_that_changed_since_the_plan_are_refused(connect, endpoints, tables, dataset):
    rows = pa.table({"id": range(10), "text": ["x"] * 10})
    tables.make(f"{dataset}.stored_changing", SCHEMA, rows)
    source = connect(Endpoints(endpoints.rest))
    (part,) = source.plan(ReadRequest(table=f"{dataset}.stored_changing")).parts
    assert ids(source, part, 4) == list(range(4, 10))
    tables.append(f"{dataset}.stored_changing", rows)
    with pytest.raises(TransientError) as changed:
        ids(source, part, 4)
    assert changed.value.code == "source_changed"
