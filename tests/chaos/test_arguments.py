"""What `python -m tests.chaos` does not know it refuses, and what needs settings of its own runs apart."""

from __future__ import annotations

import pytest

from tests.chaos import arguments, brokers, commits, places, scenes


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["pionts"], "no part 'pionts'"),
        (["points", "minutes"], "no part 'minutes'"),
        (["storm", "--lanes", "undo"], "name points or features"),
    ],
)
def test_what_nobody_knows_is_refused_with_a_sentence(
    told: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.options(told)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_every_scene_can_be_named() -> None:
    every = {**commits.SCENES, **scenes.SCENES, **brokers.SCENES, **places.SCENES}
    assert sorted(every) == sorted(arguments.SCENE_NAMES)


@pytest.mark.parametrize("parts", [["points"], ["leases"], ["disk", "storm"]])
def test_what_has_the_same_leases_runs_in_one_process(parts: list[str]) -> None:
    assert arguments.in_turn(arguments.options(parts)) == []


@pytest.mark.parametrize(
    ("parts", "first"),
    [
        ([], ["points", "scenes", "storm", "features"]),
        (["leases", "disk"], ["disk"]),
        (["points", "leases", "storm"], ["points", "storm"]),
    ],
)
def test_leases_run_apart_and_are_added_to_the_rest(parts: list[str], first: list[str]) -> None:
    told = [*parts, "--kills", "7", "--minutes", "0.5", "--seed=3", "--results", "there.json"]
    commands = [arguments.options(command) for command in arguments.in_turn(arguments.options(told))]
    assert [command.parts for command in commands] == [first, ["leases"]]
    assert [command.add for command in commands] == [False, True]
    for command in commands:
        assert (command.kills, command.minutes, command.seed, str(command.results)) == (7, 0.5, 3, "there.json")


def test_lanes_are_passed_on() -> None:
    chosen = arguments.options(["features", "leases", "--lanes", "undo", "sql", "--add"])
    first = arguments.options(arguments.in_turn(chosen)[0])
    assert (first.parts, first.lanes, first.add) == (["features"], ["undo", "sql"], True)
