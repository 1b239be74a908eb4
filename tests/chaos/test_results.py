"""What the suite found is added up over runs, and nothing that was not shown counts as shown."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import results as outcome
from tests.chaos.feeds import Verdict
from tests.chaos.results import Results


def found(*, wrong: bool = False, **how: Any) -> Results:
    """Two strikes, one of which hit, and a run that one of them struck."""
    results = Results(**how)
    results.tried("kill", hit=True, recovery_s=2.0)
    results.tried("kill", hit=False)
    verdict = Verdict(lost=1, doubled=2, told=["a word"]) if wrong else Verdict()
    run = SimpleNamespace(pk=1, status="succeeded")
    is_wrong = SimpleNamespace(run=run, verdict=verdict, is_wrong_success=wrong, is_failed_with_rows=False)
    results.judged(is_wrong, ["kill"], "a storm")  # type: ignore[arg-type]
    results.turned("append direct")
    results.measured("away", late_max_s=1.234)
    return results


def written(path: Path, results: Results, *, add: bool = False, group: str = "points", seed: int = 1) -> dict[str, Any]:
    outcome.write(path, {group: results}, seed=seed, add=add)
    told: dict[str, Any] = json.loads(path.read_text())
    return told


def test_results_are_added_to_those_of_the_run_before(tmp_path: Path) -> None:
    path = tmp_path / "results" / "chaos.json"
    written(path, found(wrong=True))
    later = found(all_must_hit=True)
    later.skipped["disk"] = "no root"
    told = written(path, later, add=True, seed=2)
    assert {name: told[name] for name in ("kills", "vacuous", "runs", "lost", "doubled", "wrong", "wrong_success")} == {
        **{"kills": 2, "vacuous": 2, "runs": 2, "lost": 1, "doubled": 2, "wrong": 1, "wrong_success": 1}
    }
    assert told["seeds"] == [1, 2]
    group = told["groups"]["points"]
    assert group["faults"]["kill"] == {
        **{"times": 4, "hit": 2, "lost": 1, "doubled": 2, "wrong": 1, "vacuous": 2, "recovery_s": [2.0, 2.0]}
    }
    assert group["turns"] == {"append direct": 2}
    assert group["skipped"] == {"disk": "no root"}
    assert group["figures"] == {"away": {"late_max_s": 1.23}}
    assert group["all_must_hit"]
    # What was wrong before is wrong still.
    assert len(group["failures"]) == 1
    assert not later.is_good


def test_without_adding_the_results_of_the_run_before_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    written(path, found(wrong=True))
    told = written(path, found(), group="scenes")
    assert list(told["groups"]) == ["scenes"]
    assert (told["lost"], told["kills"], told["seeds"]) == (0, 1, [1])


def test_a_group_of_the_run_before_stays_and_counts_in_all_figures(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    written(path, found(wrong=True), group="default leases")
    groups = {"points": found()}
    outcome.write(path, groups, seed=3, add=True)
    told = json.loads(path.read_text())
    assert sorted(told["groups"]) == ["default leases", "points"]
    assert told["recovery_max_s"] == {"kill": 2.0}
    assert not groups["default leases"].is_good


def test_a_file_of_a_former_version_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    written(path, found())
    old = json.loads(path.read_text())
    for name in ("turns", "figures", "all_must_hit", "never_hit"):
        del old["groups"]["points"][name]
    path.write_text(json.dumps(old))
    assert written(path, found(), add=True)["kills"] == 2


def test_what_never_hit_is_a_failure_where_all_must_hit() -> None:
    results = found(all_must_hit=True)
    assert results.is_good
    results.tried("kill at fence.before, append direct", hit=False)
    assert results.complaints == ["kill at fence.before, append direct: hit nothing in 1 tries"]
    assert not results.is_good
    loose = found()
    loose.tried("SIGKILL beat", hit=False)
    assert loose.is_good
    assert loose.told()["never_hit"] == ["SIGKILL beat"]


@pytest.mark.parametrize(("hits", "limit_s", "is_good"), [(1, 2.0, True), (2, 2.0, False), (1, 1.9, False)])
def test_too_few_hits_and_too_long_a_wait_are_failures(hits: int, limit_s: float, is_good: bool) -> None:
    results = found()
    results.require(hits=hits, recovery_p95_s=limit_s)
    assert results.is_good == is_good


def test_where_no_wait_was_measured_none_was_short_enough() -> None:
    results = Results()
    results.tried("kill", hit=True)
    results.require(hits=1, recovery_p95_s=45)
    assert not results.is_good
