"""“What will a run do?”: asked of the live systems, by the form as it is typed and by a saved pipeline."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from pipelines.models import Pipeline
from tests.emulator_tables import EmulatorTables
from tests.pipelines.test_admin_pipelines import DESK, typed

URL = f"{DESK}forecast/"


@pytest.fixture(scope="module")
def orders(emulator):
    tables = EmulatorTables(emulator["rest"])
    fields = [SchemaField("id", "INT64"), SchemaField("day", "DATE")]
    tables.make("forecast.orders", fields, pa.table({"id": [1], "day": pa.array([0], pa.date32())}))
    yield "forecast.orders"
    tables.close()


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
class TestLive:
    def test_the_form_is_answered_as_it_is_typed_and_nothing_is_saved(
        self, admin_client, source, living_destination, warehouse_cursor, orders
    ):
        table = {"source_table": orders, "target_table": "forecast_orders", "adopt_target": "on"}
        form = {"primary_key": "id, day", "partition_column": "day"}
        told = admin_client.post(URL, typed(source, living_destination, **table, **form)).json()
        assert told["findings"] == []
        assert told["forecast"]["method"] == "create"
        assert told["forecast"]["makes"] == [
            "primary key on id, day",
            "partitions, one for each month of day that has rows",
        ]
        warehouse_cursor.execute(
            "CREATE TABLE forecast_orders (id bigint, day date); CREATE VIEW forecast_late AS TABLE forecast_orders;"
            f" GRANT ALL ON forecast_orders TO {living_destination.options['user']}"
        )
        try:
            told = admin_client.post(URL, typed(source, living_destination, **table)).json()
            assert told["forecast"]["method"] == "in_place"
            assert told["forecast"]["dependents"] == ["view forecast_late"]
        finally:
            warehouse_cursor.execute("DROP TABLE forecast_orders CASCADE")
        assert Pipeline.objects.count() == 0

    def test_what_stands_against_a_run_is_told_instead(self, admin_client, source, living_destination, orders):
        data = typed(source, living_destination, source_table=orders, target_table="forecast_x", primary_key="gone")
        told = admin_client.post(URL, data).json()
        assert told["forecast"] is None
        assert [(finding["field"], finding["code"]) for finding in told["findings"]] == [
            ("primary_key", "option_column_missing")
        ]

    def test_a_saved_pipeline_is_answered_in_the_api(
        self, client, admin_user, make_pipeline, living_destination, orders
    ):
        pipeline = make_pipeline("Later", source_table=orders, target_table="forecast_later")
        pipeline.destination = living_destination
        pipeline.save()
        client.force_login(admin_user)
        answer = client.get(f"/api/v1/pipelines/{pipeline.pk}/forecast/")
        assert answer.status_code == 200
        told = answer.json()
        assert (told["findings"], told["forecast"]["method"]) == ([], "create")
        assert told["forecast"]["waits"] == ["Nobody waits: the table is there once its rows are in it."]
        assert told["forecast"]["last_lock"] is None


def test_a_form_that_is_not_whole_says_what_to_mend(admin_client, source, destination):
    answer = admin_client.post(URL, typed(source, destination, primary_key="id, id"))
    assert answer.status_code == 422
    assert "primary_key" in answer.json()["error"]["hint"]


def test_only_those_who_define_pipelines_may_ask(client, operator, source, destination):
    client.force_login(operator)
    operator.is_staff = True
    operator.save()
    assert client.post(URL, typed(source, destination)).status_code == 403
    assert client.get(URL).status_code in (403, 405)
