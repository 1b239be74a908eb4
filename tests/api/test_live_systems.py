"""Making a pipeline through the API asks a real worker, which asks real systems."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from pipelines.models import Pipeline
from tests.emulator_tables import EmulatorTables

pytestmark = [pytest.mark.usefixtures("lookups_worker"), pytest.mark.xdist_group("lookups")]


@pytest.fixture
def orders(emulator: dict[str, str]) -> str:
    tables = EmulatorTables(emulator["rest"])
    tables.make("api_shop.orders", [SchemaField("id", "INT64")], pa.table({"id": pa.array([1], pa.int64())}))
    tables.close()
    return "api_shop.orders"


def test_the_live_systems_decide(api, source, living_destination, orders):
    body = {
        "name": "Orders",
        "source": str(source.pk),
        "source_table": f"{orders}_of_nobody",
        "destination": str(living_destination.pk),
        "target_schema": "no_such_schema",
        "target_table": "api_orders",
    }
    refused = api.post("/api/v1/pipelines/", body)
    assert refused.status_code == 400
    assert {name: found[0]["code"] for name, found in refused.json()["fields"].items()} == {
        "source_table": "table_not_found",
        "target_schema": "schema_missing",
    }
    made = api.post("/api/v1/pipelines/", {**body, "source_table": orders, "target_schema": "public"})
    assert (made.status_code, made.json()["warnings"]) == (201, [])
    assert Pipeline.objects.get().name == "Orders"


def test_a_destination_that_is_down_only_warns(api, source, destination, orders):
    made = api.post(
        "/api/v1/pipelines/",
        {
            "name": "Orders", "source": str(source.pk), "source_table": orders, "destination": str(destination.pk),
            "target_table": "api_orders",
        },
    )  # fmt: skip
    assert made.status_code == 201
    assert [warning["field"] for warning in made.json()["warnings"]] == ["destination"]
