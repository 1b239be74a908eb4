"""Data directories for stacks of a test's own, and a look at what they leave running."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from datamantri.embedded.stack import EmbeddedStack

SERVER_VARIABLES = ("DATABASE_URL", "BROKER_URL", "SECRET_KEY", "ENCRYPTION_KEYS", "PUBLIC_URL", "PORT", "WORKERS")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder with a space in its name and a path too long for a socket's name."""
    top = Path(tempfile.mkdtemp(prefix="datamantri-"))
    yield top / "a checkout in a folder" / ("whose path is longer than a socket name may be " * 2).strip() / "data"
    shutil.rmtree(top)


@pytest.fixture
def make_stack(data_dir: Path) -> Iterator[Callable[..., EmbeddedStack]]:
    """Makes stacks, not started, that are stopped after the test."""
    made: list[EmbeddedStack] = []

    def make(folder: Path = data_dir, **options: bool) -> EmbeddedStack:
        made.append(EmbeddedStack(folder, **{"durable": False, **options}))
        return made[-1]

    yield make
    for stack in made:
        stack.stop()


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """The environment of somebody who set nothing of ours."""
    ours = ("BIGQUERY_", "DATAMANTRI_", "PYTEST_", "DJANGO_")
    return {
        name: value for name, value in os.environ.items() if name not in SERVER_VARIABLES and not name.startswith(ours)
    }


class Seen(NamedTuple):
    """A process as it was when it was seen: it may have ended since."""

    name: str
    command_line: str
    uid: int


def processes_in(folder: Path) -> list[Seen]:
    """The processes that work in `folder` or name it on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            seen = Seen(process.name(), " ".join(process.cmdline()), process.uids().real)
            if str(folder) in seen.command_line or process.cwd().startswith(str(folder)):
                found.append(seen)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_until(happened: Callable[[], object], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
