"""The commands that `up`, the tests and compose share."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from datamantri import processes

ALL = [processes.web(), processes.worker(), processes.lookups(), processes.beat(), processes.poller()]


@pytest.mark.parametrize("spec", ALL)
def test_every_process_runs_an_installed_module_with_this_python(spec: processes.ProcessSpec) -> None:
    python, flag, module, *_ = spec.argv
    assert (python, flag) == (sys.executable, "-m")
    assert importlib.util.find_spec(module)
    assert spec.env["DJANGO_SETTINGS_MODULE"] == "datamantri.settings"


def test_lookups_and_alerts_never_wait_behind_transfers() -> None:
    queues = {
        spec.name: spec.argv[spec.argv.index("--queues") + 1] for spec in (processes.worker(), processes.lookups())
    }
    assert queues == {"worker": "transfers", "lookups": "lookups,control"}


def test_the_container_becomes_the_named_process(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, ...]] = []
    monkeypatch.setattr(processes.os, "execve", lambda path, argv, env: became.append(argv))
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("WORKERS", "5")
    processes.main(["web"])
    processes.main(["worker"])
    assert became == [processes.web("0.0.0.0", 9000).argv, processes.worker(5).argv]


def test_an_unknown_process_is_refused_with_the_names_there_are() -> None:
    argv = [sys.executable, "-m", "datamantri.processes", "cron"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "usage: python -m datamantri.processes web|worker|lookups|beat|poller\n",
    )
