"""The direct way end to end: what it tells, how it stops, and that a killed process does no harm."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from connectors.errors import ConnectorError, Stopped
from connectors.postgres import copy
from connectors.transfer import Receipt
from tests.connectors.memory import Button, MemorySource, batch, in_thread

POINTS = (
    "plan.after",
    "load.begin",
    "load.middle",
    "load.end",
    "publish.checked",
    "publish.before_lock",
    "publish.after_lock",
    "publish.before_commit",
    "publish.after_commit",
)
ROOT = Path(__file__).resolve().parents[3]


def test_progress_log_and_receipt_tell_what_happened(world, admin):
    points: list[str] = []
    source = MemorySource([batch(range(1000)), batch(range(1000, 1500))], warnings=["Read over REST."])
    receipt = world.move(source=source, crash=points.append)
    assert (receipt.rows, receipt.method, receipt.source) == (1500, "create", {"from": "memory"})
    assert receipt.bytes > 1500 * 20
    assert set(receipt.seconds) == {"plan", "load", "publish"}
    assert receipt.snapshot_time.year == 2026
    assert world.recorder.events == ["planned", "publishing"]
    assert world.recorder.totals[-1] == (1500, receipt.bytes)
    assert ("warning", "Read over REST.") in world.recorder.lines
    assert "1,500 rows" in world.recorder.text()
    assert list(dict.fromkeys(points)) == list(POINTS)
    admin.execute("SELECT rows, receipt, published_at FROM _datamantri.applied")
    rows, kept, published_at = admin.fetchone()
    assert rows == 1500
    assert Receipt.from_json(kept).published_at == receipt.published_at == published_at


def test_a_source_without_parts_gives_an_empty_table(world, ids):
    class Partless(MemorySource):
        def plan(self, *args, **options):
            return replace(super().plan(*args, **options), parts=())

    assert world.move(source=Partless([])).rows == 0
    assert ids() == []


def test_what_the_source_raises_is_raised_as_it_is(world, ids):
    world.move([1])

    def fail():
        raise ConnectorError("The table is gone.", code="table_gone")

    with pytest.raises(ConnectorError) as failed:
        world.move(source=MemorySource([batch([2]), batch([3])], between=fail))
    assert failed.value.code == "table_gone"
    assert ids() == [1]
    world.move([4])
    assert ids() == [4]


@pytest.mark.parametrize("point", POINTS[:5])
def test_a_stop_before_the_publish_changes_nothing(world, ids, disposition, point):
    button = Button()
    with pytest.raises(Stopped) as stopped:
        world.move([2], disposition, stop=button, crash=lambda at: button.press() if at == point else None)
    assert stopped.value.code == "cancelled"
    assert ids() == [1]
    world.move([3])
    assert ids() == [3]


def test_a_stop_after_the_commit_comes_too_late(world, ids):
    button = Button()
    world.move([2], stop=button, crash=lambda at: button.press() if at == "publish.after_commit" else None)
    assert ids() == [2]


def test_a_stop_breaks_the_wait_for_a_slow_source(world, ids):
    world.move([1])
    button, waiting, release = Button(), threading.Event(), threading.Event()

    def wait():
        waiting.set()
        release.wait(60)

    source = MemorySource([batch([2]), batch([3])], between=wait)
    thread, results = in_thread(lambda: world.move(source=source, stop=button))
    assert waiting.wait(60)
    began = time.monotonic()
    button.press("time_limit")
    release.set()
    thread.join(60)
    assert time.monotonic() - began < copy.JOIN_S
    assert isinstance(results[0], Stopped)
    assert results[0].code == "time_limit"
    assert ids() == [1]


def test_a_stop_breaks_the_wait_for_a_lock(world, ids, connect, meanwhile):
    world.move([1])
    busy = connect()
    busy.cursor().execute("SELECT * FROM flights")
    button = Button()
    meanwhile("LOCK TABLE", button.press)
    with pytest.raises(Stopped):
        world.move([2], stop=button)
    busy.rollback()
    assert ids() == [1]


# Importing all of it takes longer than the test: a process that has done so divides for each one that is killed.
PARENT = """
import json, os, signal, sys, traceback, uuid
from connectors.base import NeverStop
from connectors.modes import WriteDisposition, WriteMode
from connectors.reading import ReadRequest
from connectors.writing import Owner, Target
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from connectors.transfer import TransferRequest, direct
from tests.connectors.memory import MemorySource, Recorder, batch

def move(told):
    owner = Owner(*(uuid.UUID(told[name]) for name in ("installation", "pipeline", "run")), 1)
    target = Target("public", "flights")
    destination = PostgresDestination(PostgresOptions(**told["options"]))
    fence = destination.raise_fence(target, owner)
    mode = WriteMode(WriteDisposition(told["disposition"]), ("id",) if told["disposition"] == "merge" else ())
    request = TransferRequest(owner, ReadRequest(table="a.b.c"), target, mode, "f")
    end = lambda at: os.kill(os.getpid(), signal.SIGKILL) if at == told["point"] else None
    direct(MemorySource([batch([2, 3])]), destination, fence, request, reporter=Recorder(), stop=NeverStop(), crash=end)

for line in sys.stdin:
    if not (child := os.fork()):
        try:
            move(json.loads(line))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def ended():
    """Moves rows in a process of its own, and says how that ended."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, text=True, **pipes) as process:

        def move(told):
            process.stdin.write(f"{json.dumps(told)}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield move
        process.stdin.close()


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_anywhere_is_followed_by_one_that_publishes_once(world, ids, disposition, point, ended):
    run = uuid.uuid4()
    told = {
        "installation": str(world.installation),
        "pipeline": str(world.pipeline),
        "run": str(run),
        "options": asdict(world.options),
        "disposition": disposition,
        "point": point,
    }
    assert ended(told) == -signal.SIGKILL
    fence = world.fence(run=run)
    assert (fence.applied is not None) == (point == "publish.after_commit")
    world.move([2, 3], disposition, run=run)
    assert ids() == ([1, 2, 3] if disposition != "replace" else [2, 3])
