"""Runs that are loaded in parts: planned by one worker, loaded by several, published once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from django.db import OperationalError
from django.db.models.functions import Now

from connectors.column import declared_to_json
from connectors.errors import ConnectorError, TransientError
from connectors.postgres import staging
from pipelines.models import LoadMethod, Pipeline
from runs import ends, executor, services
from runs.models import Attempt, LogLine, PartLoad, Process, Run, Trigger
from runs.services import PartClaim
from runs.states import PartStatus, RunStatus, Step
from runs.waiting import why_waiting
from tests.connectors.memory import ID_NAME
from tests.runs.memory import Script, nothing, raising

Moving = Callable[..., Pipeline]
RowsOf = Callable[[Pipeline], "int | None"]


@pytest.fixture
def parted(moving: Moving, script: Script) -> Pipeline:
    """A pipeline whose runs have four parts of 2,500 rows; what waits for another try waits until `work` is called."""
    script.rows, script.parts = 10_000, 4
    return moving(load_method=LoadMethod.STAGED, write_disposition="replace", retry_delay_s=3600)


def start(pipeline: Pipeline) -> Run:
    run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)
    return run


def plan(run: Run) -> None:
    """The first step only, as a worker that then turns to something else."""
    claimed = services.claim(process="", worker="planner:1", task_id="plan")
    assert claimed is not None
    assert claimed.run == run.pk
    executor.execute(claimed, granted=time.monotonic(), process="")
    run.refresh_from_db()


def take_part(worker: str = "worker@b:1:7", task_id: str = "part", process: str = "worker@b:1") -> PartClaim | None:
    return services.claim_part(process=process, worker=worker, task_id=task_id)


def work(process: str = "") -> int:
    Run.objects.filter(due__gt=Now()).update(due=Now())
    PartLoad.objects.filter(due__gt=Now()).update(due=Now())
    return executor.work_on(process=process, task_id="task-1")


def log_of(run: Run) -> str:
    return "\n".join(LogLine.objects.filter(run=run).order_by("seq").values_list("message", flat=True))


def statuses(run: Run) -> list[str]:
    return list(PartLoad.objects.filter(run=run).values_list("status", flat=True))


def staging_tables(cursor: Any, run: Run) -> int:
    cursor.execute("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE %s", (f"%{run.pk.hex}%",))
    return int(cursor.fetchone()[0])


def test_one_worker_plans_loads_the_parts_and_publishes(parted: Pipeline, rows_of: RowsOf) -> None:
    run = start(parted)
    assert work() == 6
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == run.rows == run.receipt["rows"] == 10_000
    assert statuses(run) == ["done"] * 4
    assert list(Attempt.objects.filter(run=run).values_list("outcome", flat=True)) == ["divided", "succeeded"]
    told = log_of(run)
    assert "divided into 4 parts" in told
    assert "Part 2 of 4: all of its rows are staged, 2,500." in told
    seqs = list(LogLine.objects.filter(run=run).order_by("seq").values_list("seq", flat=True))
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_run_in_parts_has_no_owner_between_its_plan_and_its_publish(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    assert (run.status, run.step, run.lease_until, run.worker) == (RunStatus.RUNNING, Step.PARTS, None, "")
    assert services.claim(process="", worker="w:1", task_id="t") is None
    assert statuses(run) == ["waiting"] * 4
    claims = [take_part() for _ in range(4)]
    assert sorted(claimed.number for claimed in claims if claimed) == [0, 1, 2, 3]
    assert take_part() is None


@pytest.mark.parametrize("disposition", ["append", "replace", "merge"])
def test_every_disposition_can_be_loaded_in_parts(
    moving: Moving, script: Script, rows_of: RowsOf, disposition: str
) -> None:
    script.rows, script.parts = 4000, 3
    key = ["id"] if disposition == "merge" else []
    pipeline = moving(load_method=LoadMethod.STAGED, write_disposition=disposition, merge_key=key)
    for runs in (1, 2):
        run = start(pipeline)
        work()
        run.refresh_from_db()
        assert run.status == RunStatus.SUCCEEDED, log_of(run)
        assert rows_of(pipeline) == (4000 * runs if disposition == "append" else 4000)


def test_an_empty_source_is_loaded_in_one_go(moving: Moving, script: Script, rows_of: RowsOf) -> None:
    script.rows, script.parts = 0, 1
    pipeline = moving(load_method=LoadMethod.STAGED)
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(pipeline) == 0


def test_a_part_that_fails_passingly_goes_on_and_the_others_keep_what_they_have(
    parted: Pipeline, rows_of: RowsOf, script: Script
) -> None:
    script.on_read = [nothing, raising(TransientError("The stream broke.")), nothing]
    run = start(parted)
    work()
    run.refresh_from_db()
    assert (run.status, run.step) == (RunStatus.RUNNING, Step.PARTS)
    assert sorted(statuses(run)) == ["done", "done", "done", "waiting"]
    assert "Waiting" in why_waiting(run)
    assert "The stream broke. Going on behind 0 rows" in log_of(run)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 10_000
    assert script.reads == 5


def test_a_part_that_cannot_be_loaded_fails_the_run_and_leaves_nothing(
    parted: Pipeline, rows_of: RowsOf, script: Script, warehouse_cursor: Any
) -> None:
    script.on_read = [nothing, raising(ConnectorError("The stream is bad.", code="bad_answer", hint="Mend it."))]
    run = start(parted)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "bad_answer"), log_of(run)
    assert "The stream is bad." in run.error_message
    assert rows_of(parted) is None
    assert staging_tables(warehouse_cursor, run) == 0


def test_a_part_without_tries_left_fails_the_run(moving: Moving, script: Script) -> None:
    script.rows, script.parts = 4000, 2
    pipeline = moving(load_method=LoadMethod.STAGED, retries=1)
    script.on_read = [raising(TransientError("The stream broke.", code="source_silent"))]
    run = start(pipeline)
    for _ in range(4):
        work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "source_silent"), log_of(run)


def test_a_lost_session_makes_a_new_plan(parted: Pipeline, rows_of: RowsOf, script: Script) -> None:
    lost = TransientError("The session expired.", code="session_lost")
    script.on_read = [nothing, raising(lost), nothing]
    run = start(parted)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.RETRYING, log_of(run)
    assert run.step == Step.WHOLE
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 10_000
    assert run.receipt["source"]["generation"] == 3


def test_a_lost_part_goes_to_another_worker(parted: Pipeline, rows_of: RowsOf) -> None:
    run = start(parted)
    plan(run)
    lost = take_part()
    assert lost is not None
    PartLoad.objects.filter(pk=lost.part).update(lease_until=Now() - timedelta(seconds=1))
    assert services.sweep() == 1
    assert not lost.renew(process="").owned
    assert "worker worker@b:1:7 stopped answering" in log_of(run)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 10_000
    assert run.losses == 0


def test_a_dead_childs_part_is_free_at_once(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    taken = take_part(task_id="the task")
    assert taken is not None
    assert services.give_back_lease("the task", process="worker@a:1") == 0
    assert services.give_back_lease("the task", process="worker@b:1") == 1
    assert statuses(run) == ["waiting"] * 4


def test_the_parts_of_a_child_that_is_gone_are_free_at_once(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    for pid in (7, 70):
        assert take_part(worker=f"worker@b:1:{pid}") is not None
    assert services.give_back_leases("worker@b:1:7") == 1
    assert sorted(statuses(run)) == ["running", "waiting", "waiting", "waiting"]


def test_a_part_whose_worker_is_lost_again_and_again_fails_the_run(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    PartLoad.objects.filter(run=run).update(losses=10)
    taken = take_part(task_id="the task")
    assert taken is not None
    services.give_back_lease("the task")
    run.refresh_from_db()
    assert run.step == Step.PUBLISH
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "worker_lost")


def test_a_former_owner_of_a_part_writes_nothing(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    former = take_part(task_id="a")
    assert former is not None
    services.give_back_lease("a")
    with pytest.raises(services.StaleToken):
        services.finish_part(former, rows=1, bytes=1)
    with pytest.raises(services.StaleToken):
        former.write_lines([services.Line("info", "I am late")], services.Progress(rows=5))
    newer = take_part(task_id="b")
    assert newer is not None
    with pytest.raises(services.StaleToken):
        services.release_part(former, rows=1, bytes=1)
    assert "I am late" not in log_of(run)


def test_cancelling_ends_a_run_whose_parts_wait_or_load(
    parted: Pipeline, rows_of: RowsOf, warehouse_cursor: Any
) -> None:
    run = start(parted)
    plan(run)
    taken = take_part()
    assert taken is not None
    services.cancel_run(run, by=None)
    assert not taken.renew(process="").owned
    assert take_part() is None
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED, log_of(run)
    assert rows_of(parted) is None
    assert staging_tables(warehouse_cursor, run) == 0


def test_parts_that_take_longer_than_the_runs_time_limit_end_it(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    Run.objects.filter(pk=run.pk).update(parts_until=Now() - timedelta(seconds=1))
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "time_limit"), log_of(run)


def test_a_worker_that_shuts_down_commits_what_it_has_and_another_goes_on(
    parted: Pipeline, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from connectors import staged
    from runs import parts
    from runs.lease import Lease

    monkeypatch.setattr(staged, "BATCH_BYTES", 1)
    run = start(parted)
    plan(run)
    Process.objects.create(name="worker@a:1", kind=Process.Kind.WORKER, slots=1)
    part = take_part(process="worker@a:1", worker="worker@a:1:5")
    assert part is not None
    leases: list[Lease] = []
    note = parts.Committed.note

    class Noted(Lease):
        def __init__(self, *args: Any, **values: Any) -> None:
            super().__init__(*args, **values)
            leases.append(self)

    def shut_down_behind_the_first_commit(committed: parts.Committed, rows: int, bytes: int, done: bool) -> None:
        note(committed, rows, bytes, done)
        if rows == 1000:
            services.drain_process("worker@a:1")
            deadline = time.monotonic() + 20
            while not leases[0].is_winding_up():
                assert time.monotonic() < deadline
                time.sleep(0.01)

    with monkeypatch.context() as patched:
        patched.setattr(executor, "Lease", Noted)
        patched.setattr(parts.Committed, "note", shut_down_behind_the_first_commit)
        executor.execute_part(part, granted=time.monotonic(), process="worker@a:1")
    assert statuses(run) == ["waiting"] * 4
    assert PartLoad.objects.get(pk=part.part).rows == 1000
    assert "The worker is shutting down: another one goes on behind 1,000 rows." in log_of(run)
    assert take_part(process="worker@a:1") is None
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 10_000
    assert "Going on behind 1,000 rows committed already." in log_of(run)


def test_a_plan_that_is_lost_after_its_commit_is_made_again(
    parted: Pipeline, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(parted)
    claimed = services.claim(process="", worker="planner:1", task_id="plan")
    assert claimed is not None
    with monkeypatch.context() as patched:
        patched.setattr(services, "spread", raising(services.StaleToken(run.pk, 1)))
        executor.execute(claimed, granted=time.monotonic(), process="")
    Run.objects.filter(pk=run.pk).update(lease_until=Now() - timedelta(seconds=1))
    assert services.sweep() == 1
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 10_000


def test_a_worker_that_is_lost_while_it_publishes_is_followed_by_one_that_asks_first(
    parted: Pipeline, rows_of: RowsOf
) -> None:
    run = start(parted)
    plan(run)
    while (part := take_part()) is not None:
        executor.execute_part(part, granted=time.monotonic(), process="")
    publisher = services.claim(process="", worker="publisher:1", task_id="p")
    assert publisher is not None
    assert publisher.step == Step.PUBLISH
    Run.objects.filter(pk=run.pk).update(lease_until=Now() - timedelta(seconds=1))
    services.sweep()
    run.refresh_from_db()
    assert (run.status, run.step) == (RunStatus.RESOLVING, Step.PUBLISH)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 10_000


def test_parts_that_only_seemed_to_be_done_are_loaded_again(
    parted: Pipeline, rows_of: RowsOf, warehouse_cursor: Any
) -> None:
    run = start(parted)
    plan(run)
    PartLoad.objects.filter(run=run, number__in=[1, 2]).update(status=PartStatus.DONE)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert "2 parts are not whole" in log_of(run)
    assert rows_of(parted) == 10_000


def test_a_guard_holds_a_run_in_parts_until_a_person_approves(
    parted: Pipeline, rows_of: RowsOf, script: Script, operator: Any
) -> None:
    start(parted)
    work()
    script.rows = 100
    run = start(parted)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.HELD, log_of(run)
    assert rows_of(parted) == 10_000
    services.decide(run, "publish", by=operator)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 100


def test_parts_of_a_run_with_fewer_parts_under_way_come_first(moving: Moving, script: Script) -> None:
    script.rows, script.parts = 400, 4
    second, first = (start(moving(load_method=LoadMethod.STAGED)) for _ in range(2))
    Run.objects.filter(pk=first.pk).update(due=Now() - timedelta(minutes=1))
    plan(first)
    # It is not planned before the parts of the one that is due first, which has no slot yet.
    assert services.claim(process="", worker="planner:1", task_id="plan") is None
    Run.objects.filter(pk=second.pk).update(due=Now() - timedelta(minutes=2))
    plan(second)
    Run.objects.filter(pk=second.pk).update(due=Now())
    order = [claimed.run for claimed in (take_part() for _ in range(4)) if claimed]
    assert order == [first.pk, second.pk, first.pk, second.pk]


def test_progress_counts_committed_rows_when_parts_are_let_go(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    one, two = take_part(), take_part()
    assert one is not None
    assert two is not None
    one.write_lines([], services.Progress(rows=700, bytes=7000))
    two.write_lines([], services.Progress(rows=300, bytes=3000))
    run.refresh_from_db()
    assert (run.rows, run.bytes) == (1000, 10_000)
    services.release_part(one, rows=500, bytes=5000)
    run.refresh_from_db()
    assert (run.rows, run.bytes) == (800, 8000)


def test_a_small_table_is_loaded_in_one_go_unless_told_otherwise(moving: Moving, rows_of: RowsOf) -> None:
    pipeline = moving()
    run = start(pipeline)
    work()
    assert not PartLoad.objects.filter(run=run).exists()


def test_a_large_table_is_loaded_in_parts_by_itself(
    moving: Moving, script: Script, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from connectors import staged

    monkeypatch.setattr(staged, "LARGE_ROWS", 5000)
    script.rows, script.parts = 6000, 3
    pipeline = moving()
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert statuses(run) == ["done"] * 3
    assert rows_of(pipeline) == 6000


GIB = 1 << 30
INCREMENTAL = {"incremental": True, "cursor_column": "id", "source_columns": [*map(declared_to_json, ID_NAME)]}


@pytest.mark.parametrize(("size", "is_divided"), [(2 * GIB - 1, False), (2 * GIB, True)])
def test_a_table_is_loaded_in_parts_from_two_gibibytes_on(
    moving: Moving, script: Script, rows_of: RowsOf, size: int, is_divided: bool
) -> None:
    script.rows, script.parts, script.planned_bytes = 3000, 3, size
    pipeline = moving()
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert statuses(run) == ["done"] * (3 if is_divided else 0)
    # The plan for parts is another one: the first was for one worker.
    assert script.asked_parts == [0, 8][: 1 + is_divided]
    assert ("So large a read is divided" in log_of(run)) is is_divided
    assert rows_of(pipeline) == 3000


@pytest.mark.parametrize(
    ("table", "increment", "asked", "is_divided"),
    [
        (2 * GIB, 2 * GIB, 8, True),
        (2 * GIB, 2 * GIB - 1, 8, False),
        (2 * GIB - 1, 2 * GIB - 1, 0, False),
        (None, None, 0, False),
    ],
    ids=["large", "large table, small increment", "small", "unknown"],
)
def test_only_new_rows_are_loaded_in_parts_where_table_and_increment_are_large(
    moving: Moving,
    script: Script,
    rows_of: RowsOf,
    table: int | None,
    increment: int | None,
    asked: int,
    is_divided: bool,
) -> None:
    """It is planned once: a second plan would be billed for the cursor's bounds again."""
    script.rows, script.parts = 3000, 3
    script.described_bytes, script.planned_bytes = table, increment
    pipeline = moving(**INCREMENTAL)
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert script.asked_parts == [asked]
    assert statuses(run) == ["done"] * (3 if is_divided else 0)
    assert rows_of(pipeline) == 3000


@pytest.mark.parametrize(("method", "asked"), [(LoadMethod.STAGED, 8), (LoadMethod.DIRECT, 0)])
def test_what_a_pipeline_says_is_not_asked_of_the_size(moving: Moving, script: Script, method: str, asked: int) -> None:
    script.parts = 3
    script.planned_bytes = script.described_bytes = 1 if method == LoadMethod.STAGED else 9 * GIB
    run = start(moving(load_method=method))
    work()
    assert script.asked_parts == [asked]
    assert len(statuses(run)) == (3 if asked else 0)


def test_a_former_owner_that_raises_the_fence_late_costs_no_try(
    parted: Pipeline, rows_of: RowsOf, warehouse_cursor: Any
) -> None:
    """It was paused before its statement: by then the run was planned by somebody else."""
    run = start(parted)
    plan(run)
    first = take_part()
    assert first is not None
    executor.execute_part(first, granted=time.monotonic(), process="")
    warehouse_cursor.execute("UPDATE _datamantri.head SET token = token + 1")
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert "has raised the fence" in log_of(run)
    assert not PartLoad.objects.filter(run=run, failures__gt=0).exists()
    assert rows_of(parted) == 10_000


def test_what_is_held_outlives_a_run_in_parts_that_fails(
    parted: Pipeline, rows_of: RowsOf, script: Script, operator: Any
) -> None:
    start(parted)
    work()
    script.rows = 100
    held = start(parted)
    work()
    held.refresh_from_db()
    assert held.status == RunStatus.HELD, log_of(held)
    script.on_read = [raising(ConnectorError("The stream is bad.", code="bad_answer"))]
    failing = start(parted)
    work()
    failing.refresh_from_db()
    assert failing.status == RunStatus.FAILED, log_of(failing)
    services.decide(held, "publish", by=operator)
    work()
    held.refresh_from_db()
    assert held.status == RunStatus.SUCCEEDED, log_of(held)
    assert rows_of(parted) == 100


def test_a_control_database_that_is_away_for_a_moment_fails_no_part(
    parted: Pipeline, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(parted)
    plan(run)
    part = take_part()
    assert part is not None
    with monkeypatch.context() as patched:
        patched.setattr(ends, "connections", raising(OperationalError("away")))
        executor.execute_part(part, granted=time.monotonic(), process="")
    assert statuses(run) == ["waiting"] * 4
    assert not PartLoad.objects.filter(run=run, failures__gt=0).exists()
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(parted) == 10_000


def test_parts_that_wait_past_the_time_limit_end_the_run_although_nobody_takes_them(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    Run.objects.filter(pk=run.pk).update(parts_until=Now() - timedelta(seconds=1))
    PartLoad.objects.filter(run=run).update(due=Now() + timedelta(hours=1))
    services.sweep()
    run.refresh_from_db()
    assert run.step == Step.PUBLISH
    executor.work_on(process="", task_id="task")
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "time_limit"), log_of(run)


def test_a_part_that_gets_on_may_break_more_often_than_a_run_may_fail(
    moving: Moving, script: Script, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.connectors.memory import PartedSource

    script.rows, script.parts = 6000, 1
    pipeline = moving(load_method=LoadMethod.STAGED, retries=1, retry_delay_s=3600)
    read = PartedSource.read

    def one_batch_at_a_time(self: Any, part: Any, *, start: int = 0, stop: Any) -> Any:
        yield next(read(self, part, start=start, stop=stop))
        raise TransientError("The stream broke.")

    monkeypatch.setattr(PartedSource, "read", one_batch_at_a_time)
    run = start(pipeline)
    for _ in range(5):
        work()
    monkeypatch.setattr(PartedSource, "read", read)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert log_of(run).count("The stream broke.") == 5
    assert rows_of(pipeline) == 6000


def test_parts_that_this_database_does_not_know_make_a_new_plan(
    parted: Pipeline, rows_of: RowsOf, warehouse_cursor: Any
) -> None:
    run = start(parted)
    plan(run)
    PartLoad.objects.filter(run=run, number__gt=0).delete()
    work()
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert "not those that this run knows" in log_of(run) or run.receipt["source"]["generation"] > 1
    assert rows_of(parted) == 10_000


def test_a_part_that_was_taken_as_its_run_went_on_is_no_loss(parted: Pipeline) -> None:
    run = start(parted)
    plan(run)
    assert take_part() is not None
    Run.objects.filter(pk=run.pk).update(step=Step.PUBLISH)
    PartLoad.objects.filter(run=run, status=PartStatus.RUNNING).update(lease_until=Now() - timedelta(seconds=1))
    services.sweep()
    assert "stopped answering" not in log_of(run)
    assert not PartLoad.objects.filter(run=run, losses__gt=0).exists()


def test_a_cancel_that_cannot_take_the_staged_rows_away_says_so_and_ends(
    parted: Pipeline, warehouse: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LOCK_TIMEOUT_MS", 300)
    run = start(parted)
    plan(run)
    with closing(psycopg2.connect(**warehouse)) as dump:
        dump.cursor().execute(f'LOCK TABLE public."_datamantri_new_{run.pk.hex}_1" IN ACCESS SHARE MODE')
        services.cancel_run(run, by=None)
        work()
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED, log_of(run)
    assert "could not be taken away" in log_of(run)


def test_a_cancel_while_the_destination_is_away_ends_and_a_later_run_takes_away_what_was_staged(
    parted: Pipeline, script: Script, warehouse_cursor: Any
) -> None:
    def is_away() -> None:
        raise TransientError("The server starts.", code="server_starting")

    run = start(parted)
    plan(run)
    script.on_fence = [is_away]
    services.cancel_run(run, by=None)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED, log_of(run)
    assert "A later run takes away what was staged." in log_of(run)
    warehouse_cursor.execute("SELECT to_regclass(%s)", (f'public."_datamantri_new_{run.pk.hex}_1"',))
    assert warehouse_cursor.fetchone() != (None,)
    script.on_fence = []
    for _ in range(2):  # the first that is published makes it out of date
        again = start(parted)
        while work():
            pass
        again.refresh_from_db()
        assert again.status == RunStatus.SUCCEEDED, log_of(again)
    warehouse_cursor.execute("SELECT to_regclass(%s)", (f'public."_datamantri_new_{run.pk.hex}_1"',))
    assert warehouse_cursor.fetchone() == (None,)
