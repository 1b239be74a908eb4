"""The suite tells what goes wrong in itself: a lane that ends, a storm that hits little, bells nobody doubled."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import __main__ as suite
from tests.chaos import bells, cases, evidence
from tests.chaos.cases import Case
from tests.chaos.points import Armoury
from tests.chaos.results import Results
from tests.chaos.storm import Storm


class Lane:
    name = "append direct"

    def warm_up(self) -> list[Any]:
        raise AssertionError("the target changed although the run is held")


@pytest.fixture(autouse=True)
def _keeps_no_evidence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evidence, "keep", lambda *_: tmp_path)


def test_a_lane_that_ends_with_an_error_is_told_with_all_that_was_not_struck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cases, "connection", SimpleNamespace(close=lambda: None))
    lane: Any = Lane()
    its_cases = [Case("fence.before"), Case("part.taken", skip=1)]
    results = Results()
    cases.strike_all(None, lane, its_cases, results)  # type: ignore[arg-type]
    cases.refuse_missing({lane: its_cases}, results)
    assert results.failures == [
        "kill at fence.before, append direct: AssertionError: the target changed although the run is held",
        "append direct was never struck by: kill at fence.before, kill at 2nd part.taken",
    ]


def test_cases_that_have_a_line_are_not_missing() -> None:
    lane: Any = Lane()
    results = Results()
    results.tried(Case("fence.before").at(lane), hit=False)
    cases.refuse_missing({lane: [Case("fence.before")]}, results)
    assert results.is_good


def test_a_storm_that_hit_little_in_its_time_fails() -> None:
    told: list[str] = []
    results = Results()
    Storm(None, [], [], results, 7).rage(kills=1, limit_s=0, every_s=1, say=told.append)  # type: ignore[arg-type]
    assert told == ["storm 7: 0 of 1 strikes hit in 0 minutes"]
    assert results.failures == ["storm 7: 0 of 1 strikes hit in 0 minutes, which are too few"]


def test_a_storm_that_hit_most_of_what_was_asked_for_only_says_so() -> None:
    told: list[str] = []
    results = Results()
    storm = Storm(None, [], [], results, 7)  # type: ignore[arg-type]
    storm._hits = [None] * 5  # type: ignore[list-item]
    storm._tell_how_many(10, 60, told.append)
    assert results.is_good
    assert told == ["storm 7: 5 of 10 strikes hit in 1 minutes"]
    storm._tell_how_many(11, 60, None)
    assert not results.is_good


def test_a_process_that_was_killed_is_no_success() -> None:
    ended = -signal.SIGKILL
    assert suite.worst([0, ended]) != 0
    assert suite.worst([0, 0]) == 0


def test_a_strike_is_dated_by_a_clock_that_is_right(tmp_path: Path) -> None:
    """Whoever is struck may have another clock: the file says when."""
    armoury = Armoury(tmp_path)
    code = (
        "import sys, uuid, pathlib; from types import SimpleNamespace as S; from tests.chaos import struck;"
        "struck.time = S(time=lambda: 0.0, monotonic=struck.time.monotonic, sleep=struck.time.sleep);"
        "points = struck.Points(pathlib.Path(sys.argv[1]));"
        "points.claimed = S(pipeline=uuid.UUID(int=1), run=uuid.UUID(int=2), attempt=3, number=4);"
        "points.at('part.taken')"
    )
    pipeline = uuid.UUID(int=1)
    armoury.arm("part.taken", "kill", pipeline)
    began = time.time()
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    strike = armoury.taken("part.taken", pipeline)
    assert strike is not None
    assert armoury.taken("part.taken", pipeline) is None
    assert (strike.attempt, strike.part) == (3, 4)
    assert began - 1 < strike.at < time.time() + 1


@pytest.mark.parametrize(
    ("role", "how", "rung"),
    [
        (bells.WORKER, "", [1, 1, 1]),
        (bells.WORKER, bells.LOST, []),
        (bells.BEAT, bells.LOST, [1]),
        (bells.ASKER, bells.DOUBLED, [bells.TIMES] * 3),
        (bells.WORKER, bells.LATE, []),
    ],
)
def test_bells_go_by_the_switch(tmp_path: Path, role: str, how: str, rung: list[int]) -> None:
    switch = bells.Switch(tmp_path)
    heard: list[int] = []
    ring = bells.Bells(tmp_path, role, lambda times: not heard.append(times)).ring_now
    if how:
        switch.turn_to(how)
    assert all(ring() for _ in range(3))
    assert heard == rung
    assert switch.rung()[role] == (0 if not how else 2 if role == bells.BEAT else 3)
    switch.turn_off()
    ring()
    assert heard[-1:] == [1]


def test_a_bell_that_the_broker_did_not_take_was_not_doubled(tmp_path: Path) -> None:
    switch = bells.Switch(tmp_path)
    switch.turn_to(bells.DOUBLED)
    assert not bells.Bells(tmp_path, bells.ASKER, lambda times: False).ring_now()
    assert not switch.rung()


def test_a_lane_that_is_not_there_is_refused_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "end_after", lambda limit_s: None)
    monkeypatch.setattr(suite, "with_short_leases", lambda chosen, seed, groups: suite.refuse_unknown(chosen.lanes))
    results = tmp_path / "chaos.json"
    assert suite.main(["features", "--lanes", "undo", "udno", "--results", str(results)]) == 2
    assert "No lane's name begins with 'udno'" in capsys.readouterr().out
    assert not results.exists()
    suite.refuse_unknown(["undo", "all"])


def test_what_is_wrong_or_was_not_shown_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suite, "end_after", lambda limit_s: None)
    results = Results(all_must_hit=True)

    def strike(chosen: Any, seed: int, groups: dict[str, Results]) -> None:
        groups["points"] = results

    monkeypatch.setattr(suite, "with_short_leases", strike)
    told = ["points", "--results", str(tmp_path / "chaos.json")]
    results.tried("kill", hit=True)
    assert suite.main(told) == 0
    results.tried("stop", hit=False)
    assert suite.main(told) == 1
