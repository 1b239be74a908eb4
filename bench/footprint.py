"""How soon the product is ready, and how much memory it holds when idle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.place import median, say
from datamantri.embedded.product import CHECKOUT

STARTS = 3
IDLE_S = 15


def measure() -> dict[str, float]:
    """`manage.py up` on a warm data directory: seconds to ready, and PSS of every process once idle."""
    folder = Path(tempfile.mkdtemp(prefix="datamantri-bench-"))
    # A fresh environment, as an operator has it.
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    try:
        _start(folder, env, idle_s=0)
        starts = [_start(folder, env, idle_s=IDLE_S if number == 0 else 0) for number in range(STARTS)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ready = median([seconds for seconds, _ in starts])
    pss = starts[0][1]
    say(f"up: ready in {ready:.1f} s on a warm data directory; idle: {pss:.0f} MB PSS")
    return {"up_ready_s": ready, "idle_pss_mb": pss}


def _start(folder: Path, env: dict[str, str], *, idle_s: float) -> tuple[float, float]:
    began = time.perf_counter()
    up = subprocess.Popen(
        [sys.executable, "manage.py", "up", "--data-dir", str(folder), "--port", "8710"],
        cwd=CHECKOUT,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        for line in up.stdout:
            if "ready at" in line:
                break
        else:
            raise AssertionError("`up` ended before it was ready")
        ready_s = time.perf_counter() - began
        time.sleep(idle_s)
        return ready_s, _pss_mb(up.pid) if idle_s else 0.0
    finally:
        up.terminate()
        up.wait(60)


def _pss_mb(pid: int) -> float:
    """Proportional set size of a process and all below it, in MB."""
    top = psutil.Process(pid)
    family = [top, *top.children(recursive=True)]
    total = 0
    for member in family:
        rollup = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
        size = int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
        say(f"  {size / 1024:6.0f} MB  {' '.join(member.cmdline())[-90:]}")
        total += size
    return total / 1024
