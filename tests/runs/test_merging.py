"""A pipeline that merges, from its definition to what its run says."""

from __future__ import annotations

from pipelines import services as definitions
from runs import services
from runs.models import Decision, RunAction, Trigger
from tests.runs.test_executor import log_of, start

MERGE = {"write_disposition": "merge", "merge_key": ["id"]}


def test_a_merge_is_the_same_however_often_it_runs(moving, work, rows_of):
    pipeline = moving(**MERGE)
    runs = [start(pipeline), start(pipeline)]
    assert work() == 2
    assert rows_of(pipeline) == 3
    for run in runs:
        run.refresh_from_db()
    first, second = (run.receipt["changes"] for run in runs)
    assert (first["inserted"], first["unchanged"]) == (3, 0)
    assert (second["inserted"], second["updated"], second["unchanged"]) == (0, 0, 3)
    assert "0 rows added, 0 updated; 3 were the same already." in log_of(runs[1])


def test_another_key_is_another_definition(moving, work, rows_of):
    def moved(action: RunAction = RunAction.LOAD) -> tuple[str, str]:
        run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None, action=action)
        work()
        run.refresh_from_db()
        return run.status, run.error_code

    pipeline = moving(**MERGE)
    assert moved() == ("succeeded", "")
    pipeline.merge_key = ["name"]
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert moved() == ("failed", "definition_changed")
    assert moved(RunAction.FULL_REFRESH) == ("succeeded", "")
    assert (moved(), rows_of(pipeline)) == (("succeeded", ""), 3)


def test_a_key_that_the_source_lost_ends_the_run_before_a_row_is_read(moving, work, script):
    run = start(moving(write_disposition="merge", merge_key=["gone"]))
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == ("failed", "key_column_missing")
    assert "gone" in run.error_message


def test_the_target_gets_the_form_that_its_pipeline_asks_for(moving, work, warehouse_cursor):
    pipeline = moving(primary_key=["id"], indexes=[{"columns": ["name"], "unique": False}])
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == "succeeded"
    warehouse_cursor.execute(
        "SELECT indexname FROM pg_indexes WHERE tablename = %s ORDER BY 1", [pipeline.target_table]
    )
    names = [name for (name,) in warehouse_cursor.fetchall()]
    assert names == [f"{pipeline.target_table}_name_idx", f"{pipeline.target_table}_pkey"]
    assert "primary key on id, index on name" in log_of(run)


def test_a_full_merge_marks_what_is_gone_and_its_receipt_and_log_say_so(moving, work, script, warehouse_cursor):
    pipeline = moving(**MERGE, deletes="soft", guard_shrink_percent=None)
    start(pipeline)
    work()
    script.rows = 2
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.receipt["changes"]["deleted"]) == ("succeeded", 1)
    assert "Gone from the source, and marked as deleted: 1 row." in log_of(run)
    warehouse_cursor.execute(f"SELECT id, _deleted_at FROM public.{pipeline.target_table} ORDER BY id")
    (_, first), (_, second), (_, third) = warehouse_cursor.fetchall()
    assert (first, second) == (None, None)
    assert third.isoformat() == run.receipt["snapshot_time"]


def test_too_many_deletions_are_held_and_made_once_somebody_approves(moving, work, script, rows_of, operator):
    pipeline = moving(**MERGE, deletes="hard")
    start(pipeline)
    work()
    script.rows = 1
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, rows_of(pipeline)) == ("held", "guard_shrink", 3)
    services.decide(run, Decision.PUBLISH, by=operator, note="They are gone.")
    work()
    run.refresh_from_db()
    assert (run.status, run.receipt["changes"]["deleted"], rows_of(pipeline)) == ("succeeded", 2, 1)


def test_a_history_keeps_what_was_and_compares_what_is(moving, work, script, warehouse_cursor):
    pipeline = moving(write_disposition="history", merge_key=["id"], guard_shrink_percent=None)
    start(pipeline)
    work()
    warehouse_cursor.execute(f"UPDATE public.{pipeline.target_table} SET name = 'before' WHERE id = 1")
    script.rows = 2
    run = start(pipeline)
    work()
    run.refresh_from_db()
    changes = run.receipt["changes"]
    assert (run.receipt["method"], changes["inserted"], changes["versions"], changes["deleted"]) == ("history", 1, 1, 1)
    assert "Added 1 version to" in log_of(run)
    warehouse_cursor.execute(
        f"SELECT id, name, _is_current, _valid_to FROM public.{pipeline.target_table} ORDER BY id, _valid_from"
    )
    first, former, now, gone = warehouse_cursor.fetchall()
    assert [row[:3] for row in (first, former, now)] == [(0, "row 0", True), (1, "before", False), (1, "row 1", True)]
    assert former[3].isoformat() == gone[3].isoformat() == run.receipt["snapshot_time"]
    compared, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None, action=RunAction.COMPARE)
    work()
    compared.refresh_from_db()
    assert (compared.receipt["answer"], compared.receipt["counts"]["target"]) == ("equal", 2)
