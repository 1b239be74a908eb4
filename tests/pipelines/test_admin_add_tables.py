"""Add tables: one template, one pipeline for each ticked table, errors row by row."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud.bigquery import SchemaField

from pipelines import lookups, queries
from pipelines.admin import add_tables
from pipelines.lookups import Finding, LookupFailed
from pipelines.models import Connection, Pipeline
from pipelines.specs import ScheduleSpec
from tests.emulator_tables import EmulatorTables

URL = "/admin/pipelines/pipeline/add-tables/"


def table(name: str, rows: int | None = 10) -> dict[str, Any]:
    return {"dataset": "sales", "name": name, "kind": "TABLE", "rows": rows, "bytes": 1000, "modified": None}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Finding]]:
    """What the live systems say against a pipeline, by its target table; stands for those systems."""
    against: dict[str, list[Finding]] = {}
    monkeypatch.setattr(lookups, "datasets", lambda connection: ["sales", "hr"])
    monkeypatch.setattr(
        lookups, "tables", lambda connection, dataset: [table("orders"), table("items"), table("views")]
    )
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: against.get(pipeline.target_table, []))
    return against


def where(source: Connection, dataset: str = "sales") -> str:
    return f"{URL}?source={source.pk}&dataset={dataset}"


def template(destination: Connection, *tables: str, **changes: Any) -> dict[str, Any]:
    return {
        "tables": tables, "destination": destination.pk, "target_schema": "public", "name_prefix": "sales ",
        "write_disposition": "append", "state": "paused",
        "schedule-kind": "cron", "schedule-cron": "", "schedule-zone": "UTC", "schedule-every_s": "",
    } | changes  # fmt: skip


def test_the_page_goes_from_connection_to_dataset_to_tables(admin_client, source, destination, said):
    assert "Lake" in admin_client.get(URL).content.decode()
    page = admin_client.get(URL, {"source": source.pk}).content.decode()
    assert 'value="hr"' in page
    page = admin_client.get(where(source)).content.decode()
    assert 'value="orders"' in page
    assert "Make pipelines" in page
    # Each table has a key of its own, so there is no merge to speak of.
    assert "Append:" in page
    assert "Merge" not in page


def test_each_ticked_table_becomes_a_pipeline(admin_client, source, destination, said):
    rule = {"schedule-cron": "0 6 * * *", "schedule-zone": "Europe/Berlin"}
    answer = admin_client.post(where(source), template(destination, "orders", "items", **rule))
    assert answer.status_code == 302
    made = Pipeline.objects.order_by("name")
    assert [p.name for p in made] == ["sales items", "sales orders"]
    first = made[0]
    assert (first.source_table, first.target_schema, first.target_table) == ("sales.items", "public", "items")
    assert (first.write_disposition, first.state, first.revision.number) == ("append", "paused", 1)
    for pipeline in made:
        specs = {ScheduleSpec.of(s) for s in queries.current_schedules().filter(pipeline=pipeline)}
        assert specs == {ScheduleSpec("cron", "0 6 * * *", "Europe/Berlin")}


def test_a_table_that_cannot_have_a_pipeline_does_not_hold_up_the_others(admin_client, source, destination, said):
    said["items"] = [Finding("target_table", "exists", "The table items exists already.")]
    answer = admin_client.post(where(source), template(destination, "orders", "items"))
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "The table items exists already." in page
    assert [p.name for p in Pipeline.objects.all()] == ["sales orders"]
    ticked = {row.name for row in answer.context["page"].rows if row.ticked}
    assert ticked == {"items"}


def test_a_taken_target_or_name_is_an_error_of_its_row(admin_client, source, destination, make_pipeline, said):
    make_pipeline("Old", target_table="orders")
    make_pipeline("sales items", target_table="elsewhere")
    page = admin_client.post(where(source), template(destination, "orders", "items")).content.decode()
    assert "The pipeline Old writes to this table already." in page
    assert "Pipeline with this Name already exists." in page
    assert Pipeline.objects.count() == 2


def test_names_too_long_for_the_target_are_errors_of_their_rows(admin_client, source, destination, said, monkeypatch):
    monkeypatch.setattr(lookups, "tables", lambda connection, dataset: [table("x" * 64), table("short")])
    answer = admin_client.post(where(source), template(destination, "x" * 64, "short"))
    assert "63" in answer.content.decode()
    assert [p.name for p in Pipeline.objects.all()] == ["sales short"]


def test_a_table_that_was_not_listed_gets_no_pipeline(admin_client, source, destination, said):
    page = admin_client.post(where(source), template(destination, "orders", "secrets")).content.decode()
    assert "not in the dataset any more" in page
    assert [p.name for p in Pipeline.objects.all()] == ["sales orders"]


def test_nothing_ticked_and_a_bad_schedule_are_said(admin_client, source, destination, said):
    assert "Tick at least one table." in admin_client.post(where(source), template(destination)).content.decode()
    wrong = template(destination, "orders", **{"schedule-cron": "0 99 * * *"})
    assert "Hours go from 0 to 23" in admin_client.post(where(source), wrong).content.decode()
    assert not Pipeline.objects.exists()


def test_unreachable_systems_warn_once_and_pipelines_are_made(admin_client, source, destination, said, monkeypatch):
    def silent(pipeline: Pipeline) -> list[Finding]:
        raise LookupFailed("no_worker", "No worker took up the question.")

    monkeypatch.setattr(lookups, "validate_pipeline", silent)
    page = admin_client.post(where(source), template(destination, "orders", "items"), follow=True).content.decode()
    assert page.count("No worker took up the question.") == 1
    assert Pipeline.objects.count() == 2


def test_checking_ends_in_time(admin_client, source, destination, said, monkeypatch):
    monkeypatch.setattr(add_tables, "CHECKING_LIMIT_S", -1)
    page = admin_client.post(where(source), template(destination, "orders"), follow=True).content.decode()
    assert "Not all tables were checked" in page
    assert Pipeline.objects.count() == 1


def test_a_source_that_does_not_answer_is_said(admin_client, source, monkeypatch):
    def fails(connection: Connection) -> list[str]:
        raise LookupFailed("unreachable", "Nobody answers.", "Try later.")

    monkeypatch.setattr(lookups, "datasets", fails)
    page = admin_client.get(where(source)).content.decode()
    assert "Nobody answers. Try later." in page
    assert admin_client.get(f"{URL}?source=nonsense&dataset=x").status_code == 200


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
def test_real_tables_become_pipelines(admin_client, source, living_destination, emulator):
    tables = EmulatorTables(emulator["rest"])
    for name in ("tills", "shops"):
        tables.make(f"retail.{name}", [SchemaField("id", "INT64")])
    tables.close()
    page = admin_client.get(where(source, "retail")).content.decode()
    assert 'value="tills"' in page
    answer = admin_client.post(where(source, "retail"), template(living_destination, "tills", "shops"), follow=True)
    assert "2 pipelines made." in answer.content.decode()
    assert "Not checked" not in answer.content.decode()
