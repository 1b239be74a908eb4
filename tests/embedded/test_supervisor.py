"""Children are kept running, stopped in order, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamantri.embedded import guard
from datamantri.embedded.stack import EmbeddedStack
from datamantri.embedded.supervisor import PROCESS, SERVER, ChildSpec, Supervisor
from tests.embedded.conftest import processes_in, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "logs", say=said.append)
    yield supervisor
    supervisor.stop()


def python(name: str, code: str, folder: Path, **options: object) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-u", "-c", textwrap.dedent(code)), cwd=folder, **options)


def logged(supervisor: Supervisor, name: str) -> list[str]:
    return supervisor.log(name).read_text().splitlines()


ENDS_LATE = """
    import signal, sys, time
    def end(*_):
        time.sleep(0.3)
        print(time.monotonic())
        sys.exit()
    signal.signal(signal.SIGTERM, end)
    sys.stdout.write("ready\\n")  # print would write the line's end apart, and a signal may come between
    time.sleep(60)
"""


def test_processes_end_before_the_servers_they_use(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(python("server", ENDS_LATE, tmp_path, stage=SERVER))
    supervisor.start(python("worker", ENDS_LATE, tmp_path, stage=PROCESS))
    supervisor.start(python("web", ENDS_LATE, tmp_path, stage=PROCESS))
    wait_until(lambda: all(logged(supervisor, name) == ["ready"] for name in ("server", "worker", "web")))
    began = time.monotonic()
    supervisor.stop()
    ends = {name: float(logged(supervisor, name)[1]) for name in ("server", "worker", "web")}
    assert max(ends["worker"], ends["web"]) < ends["server"]
    assert time.monotonic() - began < 9  # after ten seconds they would have been killed


def test_a_child_deaf_to_sigterm_is_killed_with_its_own_children(supervisor: Supervisor, tmp_path: Path) -> None:
    code = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
        time.sleep(60)
    """
    spec = python("deaf", code, tmp_path, stop=((signal.SIGTERM, 0.3), (signal.SIGKILL, 5)))
    child = supervisor.start(spec)
    wait_until(lambda: logged(supervisor, "deaf"))
    grandchild = int(logged(supervisor, "deaf")[0])
    assert guard.is_running(grandchild)
    supervisor.stop("deaf")
    assert child.process.returncode == -signal.SIGKILL
    wait_until(lambda: not guard.is_running(grandchild))


def test_a_crashed_child_starts_again_and_it_is_said(supervisor: Supervisor, tmp_path: Path, said: list[str]) -> None:
    supervisor.start(python("worker", "import os, time; print(os.getpid()); time.sleep(60)", tmp_path))
    stopping = threading.Event()
    watching = threading.Thread(target=supervisor.watch, args=(stopping,))
    watching.start()
    try:
        wait_until(lambda: logged(supervisor, "worker"))
        os.kill(int(logged(supervisor, "worker")[0]), signal.SIGKILL)
        wait_until(lambda: len(logged(supervisor, "worker")) == 2)
    finally:
        stopping.set()
        watching.join()
    [sentence] = said
    assert sentence.startswith("worker ended (SIGKILL); it starts again in 0.5 s.")
    assert guard.is_running(int(logged(supervisor, "worker")[1]))


PARENT = """
    import sys, time
    from pathlib import Path
    from datamantri.embedded.stack import EmbeddedStack
    from datamantri.embedded.supervisor import ChildSpec
    stack = EmbeddedStack(Path(sys.argv[1]), durable=False)
    stack.start()
    sleeps = "import time; time.sleep(600)"
    stack.supervisor.start(ChildSpec("worker", (sys.executable, "-c", sleeps, sys.argv[1])))
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def parent(data_dir: Path, clean_environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that runs a stack and a worker."""
    argv = [sys.executable, "-c", textwrap.dedent(PARENT), str(data_dir)]
    with subprocess.Popen(argv, cwd=CHECKOUT, env=clean_environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()
    wait_until(lambda: not processes_in(data_dir))


def test_nothing_outlives_a_parent_killed_outright(parent: subprocess.Popen[str], data_dir: Path) -> None:
    names = {process.name for process in processes_in(data_dir)}
    assert names >= {"postgres", "valkey-server"}
    parent.kill()
    # Started at once: it waits for what the former one left to end, then uses the same data.
    with EmbeddedStack(data_dir, durable=False) as stack:
        assert stack.environment()["DATABASE_URL"]
        assert parent.wait() == -signal.SIGKILL


def test_a_new_guard_takes_over_from_one_that_was_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    first = supervisor.start(python("a", "import time; time.sleep(60)", tmp_path))
    watcher = supervisor._guard
    assert watcher is not None
    watcher.kill()
    watcher.wait(20)
    second = supervisor.start(python("b", "import time; time.sleep(60)", tmp_path))
    assert supervisor._guard is not None
    assert supervisor._guard.pid != watcher.pid
    supervisor._guard.stdin.close()  # what the end of this process would do
    wait_until(lambda: not guard.is_running(first.pid) and not guard.is_running(second.pid))
    supervisor._guard.wait()
    supervisor._guard = None
