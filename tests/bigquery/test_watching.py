"""What BigQuery's record of a table tells of changes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.errors import ConnectorError
from tests.emulator_tables import EmulatorTables

ID = [SchemaField("id", "INT64")]


@pytest.fixture
def source(emulator):
    source = BigQuerySource(
        BigQueryOptions(project="demo-project"), endpoints=Endpoints(emulator["rest"], emulator["storage"])
    )
    yield source
    source.close()


def test_rows_that_are_added_change_the_record(source, emulator):
    tables = EmulatorTables(emulator["rest"])
    tables.make("watching.orders", ID, pa.table({"id": [1, 2]}))
    first, again = source.look("watching.orders"), source.look("demo-project.watching.orders")
    assert first.fingerprint == again.fingerprint
    assert first.rows == 2
    tables.append("watching.orders", pa.table({"id": [3]}))
    later = source.look("watching.orders")
    assert later.rows == 3
    assert later.fingerprint != first.fingerprint


def test_what_is_no_table_is_said_to_tell_nothing(source, emulator):
    tables = EmulatorTables(emulator["rest"])
    tables.make("watching.order1", ID, pa.table({"id": [1]}))
    tables.run("CREATE OR REPLACE VIEW watching.seen AS SELECT id FROM watching.order1")
    for name, kind in (("watching.seen", "a view"), ("watching.order*", "a wildcard")):
        with pytest.raises(ConnectorError, match=kind) as error:
            source.look(name)
        assert error.value.code == "watch_unsupported"


def test_a_table_that_is_gone_is_said_to_be(source, emulator):
    EmulatorTables(emulator["rest"]).make("watching.others", ID)
    with pytest.raises(ConnectorError) as error:
        source.look("watching.nowhere")
    assert error.value.code == "table_not_found"
