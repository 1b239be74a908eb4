"""Changes of the source's columns through real runs: what is written down, shown, expected from then on, and told."""

from __future__ import annotations

import pyarrow as pa
import pytest

from connectors.billing import Estimate
from connectors.column import Column
from pipelines import lookups
from pipelines import services as definitions
from pipelines.objections import against
from runs import services
from runs.models import Run, SchemaChange, Trigger
from runs.states import RunStatus
from tests.connectors.memory import ID_NAME
from tests.runs.test_executor import log_of

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


def change(pipeline, **changes):
    for name, value in changes.items():
        setattr(pipeline, name, value)
    definitions.save_pipeline(pipeline, schedules=None, by=None)


NEW_ONLY = {
    **{"write_disposition": "append", "incremental": True, "cursor_column": "id"},
    **{"source_columns": [*seen(*ID_NAME), {**seen(PRICE)[0], "precision": 10, "scale": 2}]},
}
WIDER = Column("price", "NUMERIC", precision=12, scale=4)


@pytest.mark.parametrize("load_method", ["direct", "staged"])
@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_a_load_whose_target_cannot_follow_becomes_a_full_refresh_where_that_is_the_policy(
    moving, columns, run_now, warehouse_cursor, client, admin_user, disposition, load_method
):
    how = NEW_ONLY if disposition == "append" else {"write_disposition": "merge", "merge_key": ["id"]}
    pipeline = moving(schema_policy="refresh", load_method=load_method, undo_depth=1, **how)
    columns(*ID_NAME, PRICE)
    run_now(pipeline)
    columns(*ID_NAME, WIDER)
    run = run_now(pipeline)
    assert (run.status, run.action, run.receipt["drift"][0]["change"]) == ("succeeded", "full_refresh", "retyped")
    assert "the run becomes a full refresh: all rows are read" in log_of(run)
    warehouse_cursor.execute(
        f"SELECT count(*), (SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'price'"
        f" AND attrelid = 'public.{pipeline.target_table}'::regclass) FROM public.{pipeline.target_table}"
    )
    assert warehouse_cursor.fetchone() == (3, "numeric(12,4)")
    assert run_now(pipeline).action == "load"
    client.force_login(admin_user)
    listed = client.get(f"/api/v1/schema-changes/?pipeline={pipeline.pk}").json()["results"]
    assert [(each["run"], each["changes"][0]["after"]) for each in listed] == [(str(run.pk), "NUMERIC(12, 4)")]
    assert {each["column"]: each["type"] for each in listed[0]["columns"]}["price"] == "numeric(12,4)"


def test_such_a_refresh_beyond_the_budget_waits_once_and_is_a_load_again_for_who_tries_it_again(
    moving, columns, run_now, work, script, rows_of, operator
):
    pipeline = moving(
        schema_policy="refresh", write_disposition="merge", merge_key=["id"], retries=0, run_budget_bytes=10
    )
    script.estimates = [Estimate(0, 0)]
    columns(*ID_NAME, PRICE)
    run_now(pipeline)
    columns(*ID_NAME, WIDER)
    waiting = []
    for _ in range(2):
        script.estimates = [Estimate(0, 0), Estimate(0, 20)]
        waiting.append(run_now(pipeline, action_options={"because": "changed"}))
    older, newer = waiting
    assert (newer.status, newer.error_code, newer.action) == ("held", "over_budget", "full_refresh")
    older.refresh_from_db()
    assert older.status == "cancelled"
    services.cancel_run(newer, by=operator)
    change(pipeline, schema_policy="evolve")
    again = services.run_again(newer, by=operator)
    assert (again.action, again.action_options) == ("load", {})
    services.cancel_run(again, by=operator)
    services.clear_run(newer, by=operator)
    assert (newer.action, newer.action_options) == ("load", {"because": "changed"})
    script.estimates = [Estimate(0, 0)]
    work()
    newer.refresh_from_db()
    assert (newer.status, newer.action, newer.error_code) == ("failed", "load", "schema_incompatible")
    assert rows_of(pipeline) == 3


def test_what_somebody_asked_for_stays_a_full_refresh_for_who_tries_it_again(moving, columns, run_now, operator):
    columns(*ID_NAME)
    run = run_now(moving(), action="full_refresh", cancel_requested=True)
    assert run.status == "cancelled"
    assert services.run_again(run, by=operator).action == "full_refresh"
    services.clear_run(run, by=operator)
    assert run.action == "full_refresh"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"schema_policy": "evolve"}, {}),
        ({"write_disposition": "append", "merge_key": []}, {}),
        (
            {"source_query": "SELECT @n", "source_table": "", "parameters": {"n": {"type": "INT64", "default": 1}}},
            {"n": 2},
        ),
    ],
    ids=["another policy", "the sum of its runs", "values of its own"],
)
def test_what_does_not_read_every_row_or_was_not_to_refresh_stops_with_the_difference(
    moving, columns, run_now, rows_of, changes, options
):
    pipeline = moving(schema_policy="refresh", retries=0, write_disposition="merge", merge_key=["id"])
    change(pipeline, **changes)
    columns(*ID_NAME, PRICE)
    run_now(pipeline)
    columns(*ID_NAME, WIDER)
    run = run_now(pipeline, action_options={"parameters": options} if options else {})
    assert (run.status, run.action, run.error_code, rows_of(pipeline)) == ("failed", "load", "schema_incompatible", 3)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"write_disposition": "history"}, "refresh_forgets"),
        ({"write_disposition": "append", "merge_key": []}, "refresh_forgets"),
        ({"source_table": "", "source_query": "SELECT @data_interval_start"}, "refresh_unseen"),
    ],
)
def test_a_refresh_that_would_take_away_what_it_does_not_bring_is_no_policy(moving, changes, code):
    pipeline = moving(schema_policy="refresh", write_disposition="merge", merge_key=["id"])
    assert against(pipeline) == []
    assert against(moving(schema_policy="refresh", **NEW_ONLY)) == []
    for name, value in changes.items():
        setattr(pipeline, name, value)
    assert [(each.code, each.field) for each in against(pipeline)] == [(code, "schema_policy")]


def test_what_the_policy_will_follow_does_not_stand_against_a_save(moving, monkeypatch):
    finding = {"field": "target_table", "code": "schema_incompatible", "message": "m", "hint": "h"}
    answer = {"findings": [finding], "columns": None, "forecast": None}
    monkeypatch.setattr(lookups, "_ask", lambda what, **details: answer)
    assert [each.code for each in lookups.validate_pipeline(moving())] == ["schema_incompatible"]
    assert lookups.validate_pipeline(moving(schema_policy="refresh")) == []
