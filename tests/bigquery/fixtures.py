"""The fixture `bigquery`: `from tests.bigquery.fixtures import bigquery, bigquery_tables` in a conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bigquery.proxy import BehavingBigQuery
from tests.emulator_tables import EmulatorTables


@pytest.fixture
def bigquery(emulator: dict[str, str]) -> Iterator[BehavingBigQuery]:
    """A BigQuery that behaves, of this test's own, over the session's emulator."""
    with BehavingBigQuery(**emulator, with_relays=True) as proxy:
        yield proxy


@pytest.fixture
def bigquery_tables(bigquery: BehavingBigQuery) -> Iterator[EmulatorTables]:
    """Makes, changes and queries tables through the proxy, which sees every change."""
    tables = EmulatorTables(bigquery.endpoints.rest)
    yield tables
    tables.close()
