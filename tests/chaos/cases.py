"""Every named point of a run, struck on purpose: one case after another in each lane."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection

from runs.models import Run
from tests.chaos import evidence, history
from tests.chaos.lanes import Lane, Outcome, Stuck
from tests.chaos.points import NOBODYS, Strike
from tests.chaos.results import Results
from tests.chaos.stack import Stack, insist

_nobodys = threading.Lock()


_TIMES = ("", "2nd ", "3rd ", "4th ")


@dataclass(frozen=True)
class Case:
    """What is done to the process that comes to `point`, after `skip` others passed it."""

    point: str
    do: str = "kill"
    skip: int = 0

    def __str__(self) -> str:
        return f"{self.do} at {_TIMES[self.skip]}{self.point}"

    def at(self, lane: Lane) -> str:
        """Its line in the table."""
        return f"{self}, {lane.name}"


def strike_all(stack: Stack, lane: Lane, cases: Sequence[Case], results: Results) -> None:
    """Strike one lane at each point in turn; whatever goes wrong is told, and ends the lane."""
    for case in cases:
        how = case.at(lane)
        try:
            if case.point in NOBODYS:
                with _nobodys:
                    _strike(stack, lane, case, results, how)
            else:
                _strike(stack, lane, case, results, how)
        except Stuck as stuck:
            results.failed(f"{how}: {stuck}")
            evidence.keep(stack, how, [str(stuck), *evidence.of_run(stuck.run)])
            break
        except Exception as failed:  # noqa: BLE001 - it is told, and what was not struck because of it as well
            results.failed(f"{how}: {type(failed).__name__}: {failed}")
            evidence.keep(stack, how, [traceback.format_exc()])
            break
    connection.close()


def refuse_missing(chosen: Mapping[Lane, Sequence[Case]], results: Results) -> None:
    """Fail for every case that has no line, whyever its lane ended before it."""
    for lane, cases in chosen.items():
        missing = [str(case) for case in cases if case.at(lane) not in results.lines]
        if missing:
            results.failed(f"{lane.name} was never struck by: {', '.join(missing)}")


def _strike(stack: Stack, lane: Lane, case: Case, results: Results, how: str) -> None:
    for before in lane.warm_up():
        results.judged(before, [], how)
    whose = None if case.point in NOBODYS else lane.prepare()
    stack.armoury.arm(case.point, case.do, whose, skip=case.skip)
    outcome = lane.turn()
    struck = stack.armoury.taken(case.point, whose)
    recovery_s = None if struck is None else recovery(outcome.run, struck)
    results.tried(how, hit=struck is not None, recovery_s=recovery_s)
    results.judged(outcome, [how], how)
    evidence.keep_if_wrong(stack, how, outcome)


def recovery(run: Run, struck: Strike) -> float | None:
    """Seconds from the strike until the run was going again; None if nothing of it was left to do."""
    attempt, part = (struck.attempt, struck.part) if struck.run == run.pk.hex else (0, None)
    return seconds_until_going(run, attempt, struck.at, part)


def seconds_until_going(run: Run, attempt: int, at: float, part: int | None = None) -> float | None:
    since = datetime.fromtimestamp(at, UTC)
    again = insist(lambda: history.going_again(run, attempt, part, since))
    return (again - since).total_seconds() if again else None


__all__ = ["Case", "Outcome", "recovery", "refuse_missing", "seconds_until_going", "strike_all"]
