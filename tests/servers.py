"""A pytest plugin: the real servers of one test session, started before Django reads its settings.

The session's first process starts PostgreSQL, Valkey and the BigQuery emulator; xdist's workers find
them through the environment, each with a test database and a broker number of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WAREHOUSE = "DATAMANTRI_TEST_WAREHOUSE"
_stack = None


def _start() -> None:
    global _stack
    from datamantri.embedded.stack import EmbeddedStack

    folder = tempfile.mkdtemp(prefix="datamantri-tests-")
    _stack = EmbeddedStack(Path(folder), emulator=True, durable=False)
    os.environ.update(_stack.start())
    os.environ[_WAREHOUSE] = json.dumps(_stack.warehouse())
    os.environ.setdefault("PUBLIC_URL", "http://localhost:8000")


def _choose_broker_number() -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    base = os.environ["BROKER_URL"].rsplit("/", 1)[0]
    os.environ["BROKER_URL"] = f"{base}/{int(worker.removeprefix('gw')) % 16}"


if "PYTEST_XDIST_WORKER" not in os.environ and not {"--help", "-h", "--version"} & set(sys.argv):
    _start()
if "BROKER_URL" in os.environ:
    _choose_broker_number()


def pytest_unconfigure() -> None:
    if _stack is not None:
        _stack.stop()
        shutil.rmtree(_stack.data_dir, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was skipped before the run's last line does how many."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    for line in in_words(reasons):
        terminalreporter.write_line(line)


def in_words(reasons: Iterable[str]) -> list[str]:
    """How many tests were skipped for each of these reasons."""
    counts = Counter(reason.removeprefix("Skipped: ") for reason in reasons)
    return [f"Skipped {count}: {reason}" for reason, count in sorted(counts.items())]


def warehouse_options() -> dict[str, object]:
    """Options of a PostgreSQL connection to the destination server of this session."""
    return json.loads(os.environ[_WAREHOUSE])
