"""Scenes in which a machine is not as it should be: a full disk, a wrong clock, two tickers."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
from django.utils import timezone

from pipelines import services as definitions
from pipelines.models import Missed, Overlap
from pipelines.specs import ScheduleSpec
from runs.models import Process, Run
from tests.acceptance.product import wait_for
from tests.chaos import ticking
from tests.chaos.cases import recovery
from tests.chaos.lanes import Lane, Outcome
from tests.chaos.points import MIDDLE
from tests.chaos.scenes import KINDS, Skipped, Stage
from tests.chaos.stack import OTHER, Crew

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
DISK_BYTES = 48 << 20
TICKING_S = 3
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
        with stage.stack.other_workers(**env):
            is_off = abs(_clock_of(stage.stack.crew.said(OTHER)) - time.time()) > 3000
            for lane in stage.lanes():
                lane.settles_s = DATES_S
                fault = f"worker's clock {offset}"
                outcome = lane.turn()
                stage.note(fault, outcome, hit=is_off and _was_there(outcome.run))
                whose = lane.prepare()
                stage.stack.armoury.arm(MIDDLE[lane.way], "kill", whose)
                outcome = lane.turn()
                struck = stage.stack.armoury.taken(MIDDLE[lane.way], whose)
                hit = is_off and _was_there(outcome.run) and struck is not None
                again = struck and recovery(outcome.run, struck)
                stage.note(f"{fault}, child killed", outcome, hit=hit, recovery_s=again)
                lane.settles_s = 0.0


def _was_there(run: Run) -> bool:
    """Whether the other worker had it."""
    return run.attempts.filter(worker__startswith=f"{OTHER}@").exists()


def _clock_of(log: str) -> float:
    """The time of the last line that has one."""
    times = re.findall(r"^\[?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", log, re.MULTILINE)
    return datetime.fromisoformat(times[-1]).timestamp()


def two_tickers(stage: Stage) -> None:
    """Two beats, each of which is killed once or twice: each tick has one run."""
    crew = stage.stack.crew
    stage.stack.start_beat("beat-1")
    crew.keep_running("beat-1")
    try:
        for way in stage.ways:
            lane = Lane(stage.stack, "append_all", way, **stage.ends)
            lane.feed.begin(lane.rows)
            lane.feed.make()
            pipeline = lane.pipeline
            pipeline.overlap, pipeline.missed = Overlap.QUEUE, Missed.ALL
            definitions.save_pipeline(pipeline, schedules=[ScheduleSpec("interval", every_s=1)], by=None)
            killed: list[int] = []
            for beat in ("beat-0", "beat-1"):
                time.sleep(TICKING_S)
                wait_for(partial(_has_ticked, crew, beat), limit_s=60, saying=f"{beat} ticks")
                killed.append(crew.kill(beat, with_children=True))
            time.sleep(TICKING_S)
            definitions.pause([pipeline], by=None)
            wait_for(partial(ticking.has_ended, pipeline), limit_s=60, saying="all runs end")
            runs = list(pipeline.runs.order_by("scheduled_for"))
            late = [(run.started_at - run.scheduled_for).total_seconds() for run in runs]
            outcome = Outcome(runs[-1], ticking.verdict(stage.stack, lane, runs, every=timedelta(seconds=1)))
            stage.note("two tickers, each killed", outcome, hit=len(set(killed)) == 2, recovery_s=max(late))
    finally:
        crew.rest("beat-1")


def _has_ticked(crew: Crew, beat: str) -> bool:
    """Whether this beat has said, a moment ago, that it lives."""
    recent = timezone.now() - timedelta(seconds=3)
    with suppress(psutil.NoSuchProcess):
        name = f":{crew.process(beat).pid}"
        return Process.objects.filter(kind="beat", name__endswith=name, seen_at__gt=recent).exists()
    return False


SCENES: dict[str, Callable[[Stage], None]] = {
    "disk": disk_full,
    "clock": clock_off,
    "tickers": two_tickers,
}
