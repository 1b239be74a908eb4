"""Starts child processes, keeps them running, and leaves none behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datamantri.embedded import guard

LOG_LIMIT_BYTES = 10 * 1024 * 1024
BACKOFF_S = (0.5, 1, 2, 5, 10, 30)
STEADY_S = 60  # a child that ran this long starts again without delay
POLL_S = 0.25

# Stages: what uses a server stops before it.
PROCESS, SERVER, DATABASE = range(3)
GENTLE = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))


@dataclass(frozen=True)
class ChildSpec:
    """A process to run: its command, its whole environment, and how it is stopped."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    stage: int = PROCESS
    stop: tuple[tuple[int, float], ...] = GENTLE
    uid: int | None = None  # to run as, when this process is root
    gid: int | None = None
    foreground: bool = False  # writes where this process writes, not into a log


@dataclass
class Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0
    restart_at: float | None = None
    watched: bool = True

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def target(self) -> guard.Target:
        return guard.Target(self.pid, self.spec.stage, tuple((int(number), s) for number, s in self.spec.stop))

    def is_running(self) -> bool:
        return self.process.returncode is None and guard.is_running(self.pid)


class Supervisor:
    """Children in sessions of their own, so that a terminal's Ctrl-C reaches only the supervisor.

    A small guard process holds the other end of a pipe: when this process dies, even by SIGKILL, the guard stops
    the children in the same order. It inherits `hold`, a file descriptor (a lock) that thus outlives the children.
    """

    def __init__(self, logs: Path, *, hold: int | None = None, say: Callable[[str], None] | None = None) -> None:
        self._logs = logs
        self._hold = hold
        self._say = say or (lambda text: None)
        self._children: dict[str, Child] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._echoed: dict[Path, int] | None = None
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, spec: ChildSpec, *, watched: bool = True) -> Child:
        """Start a process; `watched` ones are started again by `watch` when they end."""
        with self._lock:
            if self._guard is None:
                self._start_guard()
            child = Child(spec, self._launch(spec), time.monotonic(), watched=watched)
            self._children[spec.name] = child
            self._tell_guard(guard.dump(child.target))
            return child

    def stop(self, *names: str) -> None:
        """Stop the named children in the order of their stages; without names, all of them and the guard."""
        with self._lock:
            chosen = [child for name, child in self._children.items() if not names or name in names]
            for child in chosen:
                child.watched = False
        guard.stop(child.target for child in chosen if child.process.returncode is None)
        with self._lock:
            for child in chosen:
                self._reap(child)
                if self._children.get(child.spec.name) is child:
                    del self._children[child.spec.name]
            if not names and self._guard is not None:
                self._stop_guard()

    def kill(self, name: str) -> None:
        """End a child and its process group with SIGKILL, as a crash would."""
        with self._lock:
            child = self._children.pop(name)
        guard.send(child.pid, signal.SIGKILL)
        self._reap(child)

    def child(self, name: str) -> Child | None:
        return self._children.get(name)

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def last_words(self, name: str, lines: int = 8) -> str:
        path = self.log(name)
        if not path.exists():
            return ""
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def watch(self, until: threading.Event, *, echo: IO[str] | None = None) -> None:
        """Keep the watched children running until the event is set; copy their logs to `echo` as they grow."""
        if echo is not None:
            self._echoed = {path: path.stat().st_size for path in self._logs.glob("*.log")}
        while not until.wait(POLL_S):
            with self._lock:
                children = list(self._children.values())
            for child in children:
                self._keep_running(child)
            if echo is not None:
                self._echo(echo)

    def _keep_running(self, child: Child) -> None:
        name, now = child.spec.name, time.monotonic()
        with self._lock:
            if not child.watched or self._children.get(name) is not child:
                return
            if child.restart_at is None and not child.is_running():
                steady = now - child.started > STEADY_S
                child.failures = 1 if steady else child.failures + 1
                delay = BACKOFF_S[min(child.failures, len(BACKOFF_S)) - 1]
                child.restart_at = now + delay
                self._reap(child)
                how = _ending(child.process.returncode)
                self._say(f"{name} ended ({how}); it starts again in {delay:g} s. See {self.log(name)}")
            elif child.restart_at is not None and now >= child.restart_at:
                successor = self.start(child.spec)
                successor.failures = child.failures

    def _launch(self, spec: ChildSpec) -> subprocess.Popen[bytes]:
        path = self.log(spec.name)
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        with nullcontext() if spec.foreground else path.open("ab") as log:
            return subprocess.Popen(
                spec.argv,
                env=None if spec.env is None else dict(spec.env),
                cwd=spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                start_new_session=True,
                user=spec.uid,
                group=spec.gid,
                extra_groups=None if spec.uid is None else [],
            )

    def _reap(self, child: Child) -> None:
        """Take note of a child's end, and end what it left behind in its process group."""
        if child.process.returncode is None:
            while guard.is_running(child.pid):
                time.sleep(guard.POLL_S)
            guard.send(child.pid, signal.SIGKILL)
            child.process.wait()
        self._tell_guard(json.dumps({"remove": child.pid}))

    def _start_guard(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            bufsize=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if self._hold is None else (self._hold,),
            cwd="/",
        )

    def _tell_guard(self, line: str) -> None:
        with self._lock:
            if self._guard is None:
                return
            try:
                self._write_to_guard([line])
            except BrokenPipeError:  # somebody ended it: a new one learns of everyone
                self._stop_guard()
                self._start_guard()
                running = [child for child in self._children.values() if child.restart_at is None]
                self._write_to_guard(guard.dump(child.target) for child in running)

    def _write_to_guard(self, lines: Iterable[str]) -> None:
        assert self._guard is not None  # noqa: S101
        assert self._guard.stdin is not None  # noqa: S101
        for line in lines:
            self._guard.stdin.write(line.encode() + b"\n")

    def _stop_guard(self) -> None:
        assert self._guard is not None  # noqa: S101
        assert self._guard.stdin is not None  # noqa: S101
        self._guard.stdin.close()
        self._guard.wait(timeout=60)
        self._guard = None

    def _echo(self, out: IO[str]) -> None:
        assert self._echoed is not None  # noqa: S101
        for path in sorted(self._logs.glob("*.log")):
            done, size = self._echoed.get(path, 0), path.stat().st_size
            if size < done:  # a new file after the old one was put aside
                done = 0
            if size > done:
                with path.open("rb") as log:
                    log.seek(done)
                    out.write(log.read(size - done).decode(errors="replace"))
                out.flush()
            self._echoed[path] = size


def _ending(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit status {returncode}"
