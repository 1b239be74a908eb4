"""The short form of the suite: each named point once, a few strikes more, and no row lost or doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.chaos import points

LIMIT_S = 420
# One process of its own for all of them.
pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(LIMIT_S + 30)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make chaos` finds in its short form; a process of its own, for it kills its servers."""
    results = tmp_path_factory.mktemp("chaos") / "chaos.json"
    limits = ["--limit", str(LIMIT_S), "--results", str(results)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "points", "storm", "--short", *limits],
        cwd=points.CHECKOUT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S + 20,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    told: dict[str, Any] = json.loads(results.read_text())
    return told


def test_no_row_is_lost_or_doubled_whatever_is_struck(found: dict[str, Any]) -> None:
    counts = ("lost", "doubled", "wrong", "wrong_success", "failed_with_rows")
    assert {name: found[name] for name in counts} == dict.fromkeys(counts, 0)
    assert found["groups"]["random"]["kills"] >= 3


@pytest.mark.parametrize(
    ("group", "fault"),
    [
        ("points", "SIGSTOP at checkpoint.before_commit"),
        ("points", "COMMIT of publish cut, its answer is lost"),
        ("random", "SIGKILL destination PostgreSQL"),
    ],
)
def test_what_most_likely_loses_rows_was_struck(found: dict[str, Any], group: str, fault: str) -> None:
    assert found["groups"][group]["faults"][fault]["hit"] >= 1


# An undo's own points are struck in tests/connectors/postgres/test_undo.py.
@pytest.mark.parametrize("point", [point for point in points.names() if point not in points.names(points.UNDO)])
def test_each_named_point_was_struck(found: dict[str, Any], point: str) -> None:
    faults = found["groups"]["points"]["faults"]
    assert any(told["hit"] for name, told in faults.items() if f" {point}," in name), "vacuous"
