"""Merge on the desk: its key and cursor are typed, checked and kept."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from pipelines.models import Pipeline
from tests.emulator_tables import EmulatorTables
from tests.pipelines.test_admin_pipelines import ADD, again, change_url, findings, form_errors, typed

__all__ = ["findings"]

MERGE = {"write_disposition": "merge", "merge_key": " order_id, `line` ", "cursor_column": "updated_at"}


def test_key_and_cursor_are_kept_and_shown_again(admin_client, source, destination, findings):
    assert admin_client.post(ADD, typed(source, destination, **MERGE)).status_code == 302
    pipeline = Pipeline.objects.get()
    assert (pipeline.merge_key, pipeline.cursor_column) == (["order_id", "line"], "updated_at")
    page = admin_client.get(change_url(pipeline)).content.decode()
    assert 'value="order_id,line"' in page
    answer = admin_client.post(change_url(pipeline), again(pipeline, **MERGE))
    assert answer.status_code == 302
    assert pipeline.revisions.count() == 1


def test_a_merge_without_a_key_is_refused(admin_client, source, destination, findings):
    answer = admin_client.post(ADD, typed(source, destination, **MERGE, **{}) | {"merge_key": ""})
    assert form_errors(answer) == {
        "merge_key": ["Merge needs to know which rows are the same. Name the columns that identify a row."]
    }


def test_key_and_cursor_mean_nothing_to_another_mode(admin_client, source, destination, findings):
    answer = admin_client.post(ADD, typed(source, destination, **{**MERGE, "write_disposition": "append"}))
    assert set(form_errors(answer)) == {"merge_key", "cursor_column"}


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
def test_the_live_systems_say_what_the_key_cannot_be(admin_client, source, living_destination, emulator):
    tables = EmulatorTables(emulator["rest"], source.options["project"])
    fields = [SchemaField("id", "INT64"), SchemaField("price", "FLOAT64"), SchemaField("name", "STRING")]
    tables.make("desk_merge.orders", fields, pa.table({"id": [1], "price": [1.5], "name": ["a"]}))

    def save(key: str, cursor: str = "") -> dict[str, list[str]]:
        typed_in = {"source_table": "desk_merge.orders", "write_disposition": "merge"}
        data = typed(source, living_destination, **typed_in, merge_key=key, cursor_column=cursor)
        answer = admin_client.post(ADD, data)
        return {} if answer.status_code == 302 else form_errors(answer)

    assert list(save("nowhere")) == ["merge_key"]
    assert "FLOAT64" in save("price")["merge_key"][0]
    assert list(save("id", "name")) == ["cursor_column"]
    assert save("ID") == {}
    tables.close()
