"""The main job on real processes: web, worker, beat, PostgreSQL, Valkey, the emulator."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from django.utils import timezone

from datamantri import processes
from pipelines.specs import ScheduleSpec
from runs import doorbell, services
from runs.models import LogLine, Process, Skip
from runs.states import RunStatus
from tests.acceptance.conftest import SLOW, caught_loading, ended, make_quick, numbers
from tests.acceptance.product import wait_for

ROWS = 1000


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_run_now_moves_every_row(make_pipeline, source_table, run_now, warehouse_cursor):
    pipeline = make_pipeline(source_table(numbers(ROWS)))
    run = ended(run_now(pipeline))
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    warehouse_cursor.execute(f"SELECT count(*), sum(id), count(DISTINCT name) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (ROWS, ROWS * (ROWS - 1) // 2, ROWS)
    assert run.rows == ROWS
    assert run.receipt["rows"] == ROWS


def test_the_log_counts_from_one_without_gaps(make_pipeline, source_table, run_now):
    run = ended(run_now(make_pipeline(source_table(numbers(ROWS)))))
    seqs = list(LogLine.objects.filter(run=run).order_by("seq").values_list("seq", flat=True))
    assert seqs == list(range(1, run.last_seq + 1))
    assert len(seqs) >= 3


def test_a_second_replace_leaves_one_copy(make_pipeline, source_table, run_now, warehouse_cursor):
    pipeline = make_pipeline(source_table(numbers(ROWS)))
    assert ended(run_now(pipeline)).status == ended(run_now(pipeline)).status == RunStatus.SUCCEEDED
    warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (ROWS,)


def test_append_adds_the_rows_of_every_run(make_pipeline, source_table, run_now, warehouse_cursor):
    pipeline = make_pipeline(source_table(numbers(ROWS)), write_disposition="append")
    assert ended(run_now(pipeline)).status == ended(run_now(pipeline)).status == RunStatus.SUCCEEDED
    warehouse_cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (2 * ROWS, ROWS)


def test_a_query_is_read_like_a_table(make_pipeline, source_table, run_now, warehouse_cursor):
    table = source_table(numbers(ROWS))
    pipeline = make_pipeline(source_query=f"SELECT id, id * 2 AS twice FROM `acceptance.{table}` WHERE id < 10")
    run = ended(run_now(pipeline))
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    warehouse_cursor.execute(f"SELECT sum(twice) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (90,)


def test_a_schedule_runs_on_time(make_pipeline, source_table):
    pipeline = make_pipeline(source_table(numbers(10)), schedules=[ScheduleSpec("interval", every_s=2)])
    wait_for(lambda: pipeline.runs.filter(status=RunStatus.SUCCEEDED).count() >= 3, saying="three runs succeed")
    pipeline.schedules.update(ends_at=timezone.now())
    lateness = [
        run.created_at - run.scheduled_for for run in pipeline.runs.filter(scheduled_for__isnull=False).order_by("due")
    ]
    assert min(lateness) >= timedelta(0)
    assert sorted(lateness)[len(lateness) // 2] < timedelta(seconds=5)
    ticks = {run.scheduled_for for run in pipeline.runs.all()}
    skipped = sum(Skip.objects.filter(pipeline=pipeline).values_list("ticks", flat=True))
    # Every tick has one run or one recorded skip.
    span = (max(ticks) - min(ticks)).total_seconds() / 2 + 1
    assert len(ticks) + skipped >= span


def test_the_api_triggers_a_run_and_follows_its_log(api, make_pipeline, source_table):
    pipeline = make_pipeline(source_table(numbers(10)))
    status, run = api("POST", f"pipelines/{pipeline.pk}/runs/", {}, {"Idempotency-Key": "one"})
    assert status == 201
    assert api("POST", f"pipelines/{pipeline.pk}/runs/", {}, {"Idempotency-Key": "one"})[0] == 200
    wait_for(lambda: api("GET", f"runs/{run['id']}/")[1]["status"] == "succeeded", saying="the run succeeds")
    _, log = api("GET", f"runs/{run['id']}/log/?after=0")
    lines = log["lines"] if "lines" in log else log["results"]
    assert any("Succeeded" in line["message"] for line in lines)


def test_doubled_messages_change_nothing(make_pipeline, source_table, run_now):
    pipeline = make_pipeline(source_table(numbers(10)), write_disposition="append")
    run = run_now(pipeline)
    doorbell.ring(20)
    assert ended(run).status == RunStatus.SUCCEEDED
    assert run.attempts.count() == 1


def test_a_lost_message_costs_little_time(make_pipeline, source_table, operator, monkeypatch):
    monkeypatch.setattr(doorbell, "ring", lambda times=1: True)
    run, _ = services.request_run(make_pipeline(source_table(numbers(10))), trigger="manual", by=operator)
    began = time.monotonic()
    assert ended(run).status == RunStatus.SUCCEEDED
    assert time.monotonic() - began < 20


def test_a_second_beat_and_a_second_worker_change_nothing(product, make_pipeline, source_table):
    product.start(processes.beat("beat-two"))
    product.start(processes.worker(1, "worker-two"))
    try:
        pipeline = make_pipeline(
            source_table(numbers(10)), schedules=[ScheduleSpec("interval", every_s=1)], overlap="queue"
        )
        wait_for(lambda: pipeline.runs.filter(status=RunStatus.SUCCEEDED).count() >= 5, saying="five runs succeed")
        pipeline.schedules.update(ends_at=timezone.now())
        ticks = list(pipeline.runs.values_list("scheduled_for", flat=True))
        assert len(ticks) == len(set(ticks))
        wait_for(
            lambda: not pipeline.runs.exclude(status__in=["succeeded", "failed", "cancelled"]).exists(),
            saying="all runs end",
        )
        assert not pipeline.runs.exclude(status=RunStatus.SUCCEEDED).exists()
    finally:
        product.stop("beat-two")
        product.stop("worker-two")


@pytest.mark.parametrize("who", ["the child at work", "what children are copies of"])
def test_a_worker_killed_in_the_middle_ends_right(
    product, make_pipeline, large_table, run_now, slow_target, warehouse_cursor, who
):
    pipeline = slow_target(make_pipeline(large_table, **SLOW))
    run = caught_loading(run_now(pipeline))
    pid = int(run.worker.rsplit(":", 1)[1])
    [child] = [child for child in product.children() if child.pid == pid]
    killed = timezone.now()
    within = timedelta(seconds=15)  # the lease is 30 s
    (child if who == "the child at work" else child.parent()).kill()
    try:
        # The killed load holds its lock until PostgreSQL notices; the next owner of the fence ends it.
        wait_for(lambda: run.attempts.filter(outcome="lost").exists(), limit_s=60, saying="the loss is noticed")
    finally:
        if who != "the child at work":
            # The worker ends with it, and whoever keeps it running starts another.
            product.wait_for_exit("worker")
            product.start(processes.worker(2))
            # It signed off, whatever broke down, and gave back all that its children held.
            assert not Process.objects.filter(name=run.worker.rpartition(":")[0]).exists()
    make_quick(warehouse_cursor, pipeline.target_table)
    ended(run)
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    lost, second = run.attempts.order_by("number")[:2]
    assert lost.outcome == "lost"
    assert lost.ended_at - killed < within
    if who == "the child at work":
        assert second.started_at - killed < within
    warehouse_cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (3_000_000, 3_000_000)


def test_a_workers_children_share_what_they_loaded(product, make_pipeline, source_table, run_now):
    assert ended(run_now(make_pipeline(source_table(numbers(10))))).status == RunStatus.SUCCEEDED
    assert len(product.children()) == 2
    for child in product.children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        shared_kb = next(int(line.split()[1]) for line in lines if line.startswith("Shared_Dirty:"))
        # What Python makes of Django, Celery, Arrow and Google's clients when it loads them.
        assert shared_kb > 50_000


@pytest.mark.parametrize("who", ["worker", "parent of its children"])
def test_no_process_of_a_worker_outlives_it(product, who):
    product.start(processes.worker(1, "worker-two"))
    try:
        worker = product.process("worker-two")
        family = [worker, *worker.children(recursive=True)]
        [child] = product.children("worker-two")
        (worker if who == "worker" else child.parent()).kill()
        # The worker ends as well: whoever watches it starts it again.
        wait_for(lambda: not any(map(lives, family)), saying="all have ended")
    finally:
        product.stop("worker-two")


def test_cancel_stops_a_load_and_publishes_nothing(
    make_pipeline, large_table, run_now, operator, slow_target, warehouse_cursor
):
    pipeline = slow_target(make_pipeline(large_table, **SLOW))
    run = caught_loading(run_now(pipeline))
    asked = time.monotonic()
    services.cancel_run(run, by=operator)
    assert ended(run).status == RunStatus.CANCELLED
    assert time.monotonic() - asked < 15
    warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (0,)


def test_a_destination_that_drops_the_connection_is_tried_again(
    make_pipeline, large_table, run_now, slow_target, warehouse_cursor
):
    pipeline = slow_target(make_pipeline(large_table, **SLOW))
    run = caught_loading(run_now(pipeline))
    warehouse_cursor.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
    )
    make_quick(warehouse_cursor, pipeline.target_table)  # before the next attempt has the table
    wait_for(lambda: run.attempts.exclude(outcome="").exists(), saying="the loss is noticed")
    assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    assert run.attempt >= 2
    warehouse_cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (3_000_000, 3_000_000)


def test_a_missing_source_table_fails_at_once_in_plain_words(make_pipeline, run_now):
    run = ended(run_now(make_pipeline("shop.nowhere")))
    assert run.status == RunStatus.FAILED
    assert "nowhere" in run.error_message
    assert run.error_hint
    assert run.attempt == 1
