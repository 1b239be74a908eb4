"""Scenes in which a machine is not as it should be: a full disk, a wrong clock, two tickers, another broker."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

from django.utils import timezone

from datamantri import processes
from pipelines import services as definitions
from pipelines.models import Missed, Overlap, Pipeline
from pipelines.specs import ScheduleSpec
from runs.models import Process, Run
from runs.states import TERMINAL
from tests.acceptance.product import wait_for
from tests.chaos import history, oracle
from tests.chaos.cases import seconds_until_going
from tests.chaos.feeds import Rows, Verdict, compare
from tests.chaos.lanes import Lane, Outcome
from tests.chaos.scenes import KINDS, Skipped, Stage
from tests.rabbitmq import IS_INSTALLED, RabbitMQ

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
DISK_BYTES = 48 << 20
TICKING_S = 8
# A worker whose clock is off goes by the date of answers, which names whole seconds: as old may its snapshot be.
DATES_S = 2.5


def disk_full(stage: Stage) -> None:
    """The destination's disk is full in the middle of a load; when there is room again, the next run goes well."""
    with _small_disk(stage) as folder:
        for way in stage.ways:
            for kind in KINDS:
                lane = Lane(stage.stack, kind, way, **stage.ends)
                stage.check(f"before the disk is full, {lane.name}", lane.turn())
                _move(stage, lane, "small")
                filler = folder / "filler"
                _fill(filler)
                outcome = lane.turn()
                hit = outcome.run.attempts.filter(error_code="disk_full").exists()
                filler.unlink()
                stage.note("destination disk full", outcome, hit=hit)
                stage.check("destination disk full", lane.turn())
                _move(stage, lane, "pg_default")


@contextmanager
def _small_disk(stage: Stage) -> Iterator[Path]:
    """A disk of its own, with the tablespace `small` on it."""
    postgres = stage.stack.warehouse.postgres
    assert postgres is not None
    # Where the server can reach it, whoever it runs as.
    folder = postgres._way.data.parent / "small"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0711", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        raise Skipped(f"no small disk can be made here: {mounted.stderr.strip()}")
    try:
        place = folder / "tables"
        place.mkdir(mode=0o700)
        postgres._way.own(place)
        with stage.stack.at_warehouse() as cursor:
            cursor.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
            cursor.execute("GRANT CREATE ON TABLESPACE small TO warehouse")
        yield folder
        with stage.stack.at_warehouse() as cursor:
            cursor.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _move(stage: Stage, lane: Lane, tablespace: str) -> None:
    """Runs make their tables where the target lies."""
    with stage.stack.at_warehouse() as cursor:
        cursor.execute("SELECT to_regclass(%s)", (lane.place.key,))
        if cursor.fetchone()[0] is not None:
            cursor.execute(f"ALTER TABLE {lane.place.key} SET TABLESPACE {tablespace}")


def _fill(filler: Path) -> None:
    room = os.statvfs(filler.parent)
    left = room.f_bavail * room.f_frsize - (192 << 10)
    with filler.open("wb") as file:
        file.write(bytes(max(0, left)))


def clock_off(stage: Stage) -> None:
    """A worker's clock is an hour ahead, or behind; some of its children are killed as well."""
    if not FAKETIME:
        raise Skipped("libfaketime is not installed")
    for offset in ("+1h", "-1h"):
        env = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        with other_workers(stage, **env):
            is_off = abs(_clock_of(stage.stack.crew.said("worker-x")) - time.time()) > 3000
            for lane in stage.lanes():
                lane.settles_s = DATES_S
                for fault, meanwhile in (
                    (f"worker's clock {offset}", None),
                    (f"worker's clock {offset}, child killed", partial(_kill_owner, stage)),
                ):
                    at = time.time()
                    outcome = lane.turn(meanwhile)
                    hit = is_off and outcome.run.attempts.filter(worker__startswith="worker-x@").exists()
                    again = seconds_until_going(outcome.run, 1, at) if outcome.run.attempt > 1 else None
                    stage.note(fault, outcome, hit=hit, recovery_s=again)
                lane.settles_s = 0.0


def _clock_of(log: str) -> float:
    """The time of the last line that has one."""
    times = re.findall(r"^\[?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", log, re.MULTILINE)
    return datetime.fromisoformat(times[-1]).timestamp()


def _kill_owner(stage: Stage, run: Run) -> None:
    """End the process that loads this run, once it does."""

    def is_loading() -> bool:
        run.refresh_from_db()
        return run.phase == "loading" or run.status in TERMINAL

    wait_for(is_loading, every_s=0.02, saying="rows are being loaded")
    for child in stage.stack.crew.children("worker-x"):
        if run.worker.endswith(f":{child.pid}"):
            child.kill()


@contextmanager
def other_workers(stage: Stage, **env: str) -> Iterator[None]:
    """In place of the usual workers one with something else in its environment."""
    crew, stack = stage.stack.crew, stage.stack
    usual = dict(stack.workers)
    with ExitStack() as back:
        for name in usual:
            crew.rest(name)
            back.callback(crew.wake, name)
        stack.workers = {"worker-x": 2}
        back.callback(setattr, stack, "workers", usual)
        stack.start_worker("worker-x", **env)
        back.callback(crew.stop, "worker-x")
        yield


def two_tickers(stage: Stage) -> None:
    """Two beats, one of which is killed now and then: each tick has one run."""
    crew = stage.stack.crew
    crew.start(processes.beat("beat-1"))
    crew.keep_running("beat-1")
    try:
        for way in stage.ways:
            lane = Lane(stage.stack, "append_all", way, **stage.ends)
            lane.feed.begin(lane.rows)
            lane.feed.make()
            pipeline = lane.pipeline
            pipeline.overlap, pipeline.missed = Overlap.QUEUE, Missed.ALL
            definitions.save_pipeline(pipeline, schedules=[ScheduleSpec("interval", every_s=1)], by=None)
            alive: set[str] = set()
            for number in range(TICKING_S):
                time.sleep(1)
                recent = timezone.now() - timedelta(seconds=3)
                alive |= set(Process.objects.filter(kind="beat", seen_at__gt=recent).values_list("name", flat=True))
                if number % 3 == 1:
                    crew.kill(f"beat-{number % 2}", with_children=True)
            definitions.pause([pipeline], by=None)
            wait_for(partial(_has_ended, pipeline), limit_s=60, saying="all runs end")
            runs = list(pipeline.runs.order_by("scheduled_for"))
            late = [(run.started_at - run.scheduled_for).total_seconds() for run in runs]
            outcome = Outcome(runs[-1], _of_ticks(stage, lane, runs))
            stage.note("two tickers, one killed", outcome, hit=len(alive) > 2, recovery_s=max(late))
    finally:
        crew.rest("beat-1")


def _has_ended(pipeline: Pipeline) -> bool:
    return not pipeline.runs.exclude(status__in=TERMINAL).exists()


def _of_ticks(stage: Stage, lane: Lane, runs: list[Run]) -> Verdict:
    """Each tick has one run, and each run's rows are there once."""
    with stage.stack.at_warehouse() as cursor:
        found, strange = oracle.rows_of(cursor, lane.place, lane.feed)
        published = oracle.published(cursor, lane.pipeline.pk)
    verdict = compare(found, [Rows({row: len(runs) for row in lane.feed.held[0]})])
    verdict.wrong += strange
    gaps = {later.scheduled_for - earlier.scheduled_for for earlier, later in pairwise(runs)}
    if gaps != {timedelta(seconds=1)}:
        verdict.told.append(f"ticks: {[str(run.scheduled_for) for run in runs]}")
    if published != Counter(str(run.pk) for run in runs):
        verdict.told.append(f"published: {published}")
    for run in runs:
        verdict.told += history.faults(run)
    return verdict


def rabbitmq(stage: Stage) -> None:
    """RabbitMQ for a broker, killed in the middle of runs."""
    if not IS_INSTALLED:
        raise Skipped("rabbitmq-server is not installed")
    with RabbitMQ() as broker:
        crew = stage.stack.crew
        crew.rest("beat-0")
        crew.start(processes.beat("beat-x"), BROKER_URL=broker.url)
        try:
            with other_workers(stage, BROKER_URL=broker.url):
                for lane in stage.lanes():

                    def kill(run: Run) -> None:
                        broker.kill()
                        time.sleep(1)
                        broker.start()

                    at = time.time()
                    outcome = lane.turn(kill)
                    stage.note(
                        "SIGKILL RabbitMQ", outcome, hit=True, recovery_s=seconds_until_going(outcome.run, 0, at)
                    )
        finally:
            crew.stop("beat-x")
            crew.wake("beat-0")


SCENES: dict[str, Callable[[Stage], None]] = {
    "disk": disk_full,
    "clock": clock_off,
    "tickers": two_tickers,
    "rabbitmq": rabbitmq,
}
