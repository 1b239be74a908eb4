"""Changes of the source's columns through real runs: what is written down, shown, expected from then on, and told."""

from __future__ import annotations

import pyarrow as pa
import pytest

from connectors.column import Column
from pipelines import services as definitions
from runs.models import Run, SchemaChange, Trigger
from runs.states import RunStatus
from tests.connectors.memory import ID_NAME

PRICE = Column("price", "NUMERIC", precision=10, scale=2)


def seen(*columns):
    return [{"name": column.name, "type": column.type, "columns": []} for column in columns]


@pytest.fixture
def columns(monkeypatch):
    """Sets what columns the source has from now on."""
    from tests.runs.memory import ScriptedSource

    plain = ScriptedSource.__init__

    def have(*wanted):
        def start(self, options):
            plain(self, options)
            self.columns = wanted
            self.parts = [[_with(batch, wanted) for batch in part] for part in self.parts]
            self.batches = [batch for part in self.parts for batch in part]

        monkeypatch.setattr(ScriptedSource, "__init__", start)

    return have


def _with(batch, wanted):
    names = set(batch.schema.names)
    made = pa.array([None] * batch.num_rows, pa.decimal128(38, 9))
    return pa.record_batch({c.name: batch.column(c.name) if c.name in names else made for c in wanted})


@pytest.fixture
def run_now(work):
    def run_now(pipeline, **changes):
        pipeline.refresh_from_db()
        run = Run.objects.create(pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.MANUAL, **changes)
        work()
        run.refresh_from_db()
        return run

    return run_now


def test_an_accepted_change_is_written_down_once_expected_from_then_on_and_shown(
    moving, columns, run_now, client, admin_user
):
    pipeline = moving(source_columns=seen(*ID_NAME))
    columns(*ID_NAME)
    assert run_now(pipeline).status == RunStatus.SUCCEEDED
    columns(*ID_NAME, PRICE)
    run = run_now(pipeline)
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    change = SchemaChange.objects.get()
    assert (change.run, change.changes) == (run, run.receipt["drift"])
    assert [each["column"] for each in change.changes] == ["price"]
    assert run.log_lines.filter(message__contains="+ price NUMERIC(10, 2)", level="warning").exists()
    pipeline.refresh_from_db()
    assert [each["name"] for each in pipeline.source_columns] == ["id", "name", "price"]
    assert pipeline.revision.number == 2
    assert pipeline.revision.definition["source"]["columns"] == pipeline.source_columns
    # Nothing is written where nothing changed.
    assert run_now(pipeline).receipt["drift"] == []
    pipeline.refresh_from_db()
    assert (SchemaChange.objects.count(), pipeline.revisions.count()) == (1, 2)
    client.force_login(admin_user)
    for page in (pipeline.get_absolute_url(), run.get_absolute_url()):
        assert "+ price NUMERIC(10, 2)" in client.get(page).content.decode()


def test_a_definition_that_was_saved_meanwhile_keeps_what_the_person_saw(moving, columns, run_now, script):
    pipeline = moving(source_columns=seen(*ID_NAME))
    columns(*ID_NAME)
    run_now(pipeline)
    columns(*ID_NAME, PRICE)
    newer = seen(*ID_NAME, PRICE, Column("later", "DATE"))

    def save():
        pipeline.source_columns = newer
        definitions.save_pipeline(pipeline, schedules=None, by=None)

    script.before_commit.append(save)
    assert run_now(pipeline).status == RunStatus.SUCCEEDED
    pipeline.refresh_from_db()
    assert pipeline.source_columns == newer
    assert SchemaChange.objects.count() == 1


def test_a_frozen_pipeline_shows_the_difference_on_its_page_and_goes_on_once_it_is_saved(
    moving, columns, run_now, client, admin_user
):
    pipeline = moving(source_columns=seen(*ID_NAME), schema_policy="freeze", retries=0)
    columns(*ID_NAME)
    run_now(pipeline)
    columns(*ID_NAME, PRICE)
    run = run_now(pipeline)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "schema_frozen")
    assert not SchemaChange.objects.exists()
    client.force_login(admin_user)
    assert "+ price NUMERIC(10, 2)" in client.get(pipeline.get_absolute_url()).content.decode()
    pipeline.source_columns = seen(*ID_NAME)
    pipeline.source_columns.append({**seen(PRICE)[0], "precision": 10, "scale": 2})
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert run_now(pipeline).status == RunStatus.SUCCEEDED


@pytest.mark.parametrize("load_method", ["direct", "staged"])
def test_names_kept_columns_and_rows_are_right_in_parts_as_well(
    moving, columns, run_now, script, warehouse_cursor, load_method
):
    script.parts = 2
    pipeline = moving(load_method=load_method, write_disposition="merge", merge_key=["id"])
    columns(*ID_NAME)
    run_now(pipeline)
    columns(ID_NAME[0], PRICE)
    assert run_now(pipeline).status == RunStatus.SUCCEEDED
    warehouse_cursor.execute(f"SELECT count(*), count(name), count(price) FROM {pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (3, 3, 0)
    known = SchemaChange.objects.get()
    assert [(k.name, k.is_gone) for k in known.known] == [("id", False), ("price", False), ("name", True)]


def test_a_policy_that_is_not_the_usual_one_is_in_the_definition_and_in_its_copies(moving):
    pipeline = moving(schema_policy="ignore_new")
    assert pipeline.revision.definition["schema_policy"] == "ignore_new"
    assert definitions.duplicate(pipeline, by=None).schema_policy == "ignore_new"
    assert "schema_policy" not in moving().revision.definition


def test_a_column_that_a_replace_no_longer_finds_is_no_longer_expected(moving, columns, run_now):
    pipeline = moving(write_disposition="replace", source_columns=seen(*ID_NAME))
    columns(*ID_NAME)
    run_now(pipeline)
    columns(ID_NAME[0])
    run = run_now(pipeline)
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    pipeline.refresh_from_db()
    assert [each["name"] for each in pipeline.source_columns] == ["id"]
