"""A pipeline that merges, from its definition to what its run says."""

from __future__ import annotations

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
