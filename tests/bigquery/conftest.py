from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from tests.bigquery.fixtures import bigquery, bigquery_tables
from tests.bigquery.proxy import BehavingBigQuery

__all__ = ["bigquery", "bigquery_tables"]
PROJECT = "demo-project"


@pytest.fixture
def source(bigquery: BehavingBigQuery) -> Iterator[BigQuerySource]:
    made = BigQuerySource(BigQueryOptions(PROJECT, "US", ""), endpoints=bigquery.endpoints, timeout_s=10.0)
    yield made
    made.close()


@pytest.fixture
def dataset(worker_id: str) -> str:
    """A dataset name of this test process's own."""
    return f"behaving_{worker_id}"
