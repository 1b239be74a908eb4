"""Parameters travel beside a query, never in its text."""

from __future__ import annotations

import pytest

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.bigquery.query import job_id
from connectors.errors import ConnectorError
from connectors.parameters import Parameter
from connectors.reading import ReadRequest
from tests.connectors.bigquery.conftest import read_all
from tests.connectors.bigquery.test_query_jobs import Jobs

EACH = {
    "STRING": ("it's '@x' -- \n", "it's '@x' -- \n"),
    "INT64": (2**62, str(2**62)),
    "FLOAT64": (0.5, "0.5"),
    "NUMERIC": ("19.99", "19.99"),
    "BOOL": (True, "true"),
    "DATE": ("2026-01-31", "2026-01-31"),
    "DATETIME": ("2026-01-31 06:00:00", "2026-01-31 06:00:00"),
    "TIMESTAMP": ("2026-01-31 06:00:00+00:00", "2026-01-31 06:00:00+00"),
}


@pytest.mark.parametrize("type_", EACH)
def test_a_value_of_each_type_arrives_as_it_was_given(source, type_):
    value, text = EACH[type_]
    request = ReadRequest(query="SELECT CAST(@given AS STRING) AS v", parameters=(Parameter("given", type_, value),))
    assert [column.type for column in source.describe(request).columns] == ["STRING"]
    plan = source.plan(request)
    assert read_all(source, plan.parts) == [{"v": text}]
    preview = source.preview(request)
    assert preview.rows == ((text,),)


@pytest.mark.parametrize("type_", EACH)
def test_null_of_each_type(source, type_):
    request = ReadRequest(query="SELECT @given IS NULL AS v", parameters=(Parameter("given", type_, None),))
    assert read_all(source, source.plan(request).parts) == [{"v": True}]


@pytest.mark.parametrize("values", [["a", "it's"], []])
def test_a_list_arrives(source, values):
    request = ReadRequest(
        query="SELECT COUNT(*) AS n FROM UNNEST(@given) AS v WHERE v IN ('a', \"it's\")",
        parameters=(Parameter("given", "STRING", values, repeated=True),),
    )
    assert read_all(source, source.plan(request).parts) == [{"n": len(values)}]


def test_what_the_query_does_not_name_stays_here(source):
    request = ReadRequest(query="SELECT 1 AS v", parameters=(Parameter("other", "DATE", "2026-01-31"),))
    assert read_all(source, source.plan(request).parts) == [{"v": 1}]


def test_a_name_that_nobody_declared_is_refused(source):
    with pytest.raises(ConnectorError) as refused:
        source.describe(ReadRequest(query="SELECT @missing AS v"))
    assert refused.value.code == "invalid_query"  # in BigQuery's own words, which name it


def test_the_text_of_a_job_is_the_same_whatever_the_values(rest, connect):
    jobs = Jobs(rest)
    source = connect(Endpoints(rest.url), project="acme")
    names = []
    for value in ("2026-01-31", "2026-02-01"):
        query = "SELECT @day AS id"
        request = ReadRequest(query=query, job_key="run-1", parameters=(Parameter("day", "DATE", value),))
        source.plan(request, stop=NeverStop())
        sent = jobs.body["configuration"]["query"]
        assert sent["query"] == query
        assert sent["queryParameters"] == [
            {"name": "day", "parameterType": {"type": "DATE"}, "parameterValue": {"value": value}}
        ]
        names.append(jobs.name)
    assert names[0] != names[1]


def test_the_same_values_make_the_same_job():
    day = (Parameter("day", "DATE", "2026-01-31"),)
    assert job_id("run-1", "SELECT @day", day) == job_id("run-1", "SELECT @day", day)
    assert job_id("run-1", "SELECT 1") == job_id("run-1", "SELECT 1", ())
