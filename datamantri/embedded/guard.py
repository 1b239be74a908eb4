"""Stops processes in order, and stops those of a supervisor that died without doing so.

As a script it stands on the standard library alone (`python -I -S guard.py`), to stay small. It reads one JSON
object per line: {"add": target}, {"remove": pid}. At the end of its input it stops whatever was not removed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

POLL_S = 0.02


@dataclass(frozen=True)
class Target:
    """A process, leader of its own session, and how to stop it.

    `stage`: targets of a lower stage are stopped first. `steps`: signals for the leader, each with the seconds to
    wait for its end; SIGKILL goes to the whole process group.
    """

    pid: int
    stage: int
    steps: tuple[tuple[int, float], ...]


def is_running(pid: int) -> bool:
    """Whether the process exists and is not merely waiting for its parent to take note of its end."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def stop(targets: Iterable[Target]) -> None:
    """Stop all targets, stage by stage; within a stage side by side."""
    remaining = list(targets)
    for stage in sorted({target.stage for target in remaining}):
        _stop_together([target for target in remaining if target.stage == stage])


def _stop_together(targets: list[Target]) -> None:
    waiting = {target: iter(target.steps) for target in targets}
    deadlines = dict.fromkeys(targets, 0.0)
    while waiting:
        for target in list(waiting):
            if not is_running(target.pid):
                del waiting[target]
                send(target.pid, signal.SIGKILL)  # what its leader left behind
            elif time.monotonic() >= deadlines[target]:
                step = next(waiting[target], None)
                if step is None:
                    del waiting[target]
                    continue
                send(target.pid, step[0])
                deadlines[target] = time.monotonic() + step[1]
        if waiting:
            time.sleep(POLL_S)


def send(pid: int, number: int) -> None:
    """Signal a leader, or with SIGKILL its whole group; one that is gone already is no error."""
    try:
        if number == signal.SIGKILL:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return


def dump(target: Target) -> str:
    return json.dumps({"add": asdict(target)})


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    targets: dict[int, Target] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "add" in message:
            fields = message["add"]
            steps = tuple((number, grace) for number, grace in fields["steps"])
            targets[fields["pid"]] = Target(fields["pid"], fields["stage"], steps)
        else:
            targets.pop(message["remove"], None)
    stop(targets.values())


if __name__ == "__main__":
    main()
