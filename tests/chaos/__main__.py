"""`python -m tests.chaos`: strike the product in every way there is, and see that no row is lost or doubled.

Exit status 0 only if nothing went wrong. See docs/chaos.md.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from tests.chaos import arguments
from tests.chaos import results as outcome
from tests.chaos import stack as stacks
from tests.chaos.results import Results

SHORT_LEASE_S, SHORT_HEARTBEAT_S = 4.0, 1.0
LEASE_KILLS = 30
# A lease of 30 s that ran out, and what it takes to notice and to go on.
RECOVERY_P95_S = 45.0
REFUSED = 2
WAITS_MOST_S = 2.0
LANES_AT_ONCE = 7
# Of each stream.
BYTES_PER_S = 150_000.0


class UnknownLane(Exception):
    """No lane of a feature has such a name."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def strike_points(stack: stacks.Stack, *, short: bool, results: Results) -> None:
    """Every named point in every lane; in short, each point in one lane."""
    from tests.chaos import cases, features, lanes, points

    ends = lanes.connections(stack)
    kinds = ("append", "replace", "merge")
    chosen: dict[lanes.Lane, list[cases.Case]] = {}
    for way in points.WAYS:
        every = [cases.Case(point) for point in points.names(way) if point != points.HELD]
        # Of the same engine, where the worker's parent or all of it goes, and what comes again.
        others = [
            cases.Case(at, do) for do in ("parent", "host") for at in (points.MIDDLE[way], "publish.before_commit")
        ]
        others += [cases.Case(at, skip=skip) for at, skip in points.AGAIN[way]]
        for number, kind in enumerate(kinds):
            lane = lanes.Lane(stack, kind, way, **ends)
            chosen[lane] = every[number :: len(kinds)] if short else every + others
        lasts = [point for point in points.names(way) if point.startswith("publish.") and not short]
        chosen[lanes.Lane(stack, "held", way, **ends)] = [cases.Case(point) for point in lasts or [points.HELD]]
    if not short:
        chosen[features.make(stack, "undo direct", **ends)] = [cases.Case(point) for point in points.names(points.UNDO)]
    threads = [
        threading.Thread(target=cases.strike_all, args=(stack, lane, its_cases, results), daemon=True)
        for lane, its_cases in chosen.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cases.refuse_missing(chosen, results)


def strike_features(stack: stacks.Stack, results: Results, names: list[str]) -> None:
    """Every named point in each of these lanes, some of them at a time."""
    from tests.chaos import cases, features, lanes, points

    ends = lanes.connections(stack)
    stack.start_pollers()
    chosen: dict[lanes.Lane, list[cases.Case]] = {}

    def strike(name: str) -> None:
        lane = features.make(stack, name, **ends)
        way = points.UNDO if lane.kind.startswith(points.UNDO) else lane.way
        chosen[lane] = [cases.Case(point) for point in points.names(way) if point != points.HELD]
        cases.strike_all(stack, lane, chosen[lane], results)

    with ThreadPoolExecutor(LANES_AT_ONCE) as pool:
        for struck in [pool.submit(strike, name) for name in features.chosen(names)]:
            struck.result()
    cases.refuse_missing(chosen, results)
    # Not every feature passes every point; one that passes none shows nothing.
    for lane, its_cases in chosen.items():
        if not any(case.at(lane) in results.lines and results.lines[case.at(lane)].hit for case in its_cases):
            results.failed(f"{lane.name} was struck nowhere")


def rage(
    stack: stacks.Stack, results: Results, *, short: bool, kills: int, minutes: float, seed: int, every_s: float
) -> None:
    """Several pipelines at once, and faults at random."""
    from tests.chaos import faults, lanes, points
    from tests.chaos.storm import Storm

    ends = lanes.connections(stack)
    made = [lanes.Lane(stack, kind, way, **ends) for way in points.WAYS for kind in ("append", "replace", "merge")]
    made.append(lanes.Lane(stack, "append_all", **ends))
    for lane in made:
        lane.waits_most_s = WAITS_MOST_S
    chance = random.Random(seed)
    chosen = [fault(stack, chance) for fault in (faults.QUICK if short else faults.RANDOM)]
    certain = [faults.KillWarehouse(stack, chance)] if short else []
    Storm(stack, made, chosen, results, seed, certain=certain).rage(
        kills=kills, limit_s=minutes * 60, every_s=every_s, say=say
    )


def rage_over_features(
    stack: stacks.Stack, results: Results, *, names: list[str], kills: int, minutes: float, seed: int, every_s: float
) -> None:
    """Pipelines that use what there is beyond moving rows, some of them at a time, and faults at random."""
    from tests.chaos import faults, features, lanes
    from tests.chaos.storm import Storm

    stack.start_pollers()
    stack.stand_between()
    ends = lanes.connections(stack, {"port": stack.warehouse_options()["port"]})
    made = [features.make(stack, name, **ends) for name in features.chosen(names)]
    for lane in made:
        lane.waits_most_s = WAITS_MOST_S
    chance = random.Random(seed)
    chance.shuffle(made)
    all_faults = [fault(stack, chance) for fault in faults.LIVE]
    storm = Storm(stack, made, all_faults, results, seed, at_once=LANES_AT_ONCE)
    storm.rage(kills=kills, limit_s=minutes * 60, every_s=every_s, say=say)


def play(stack: stacks.Stack, results: Results, wanted: Callable[[str], bool]) -> None:
    """What needs a stage of its own."""
    from tests.chaos import brokers, commits, places, scenes

    every = {**commits.SCENES, **scenes.SCENES, **brokers.SCENES, **places.SCENES}
    names = arguments.SCENE_NAMES if wanted(arguments.SCENES) else filter(wanted, arguments.SCENE_NAMES)
    scenes.play(scenes.Stage(stack, results), {name: every[name] for name in names}, say)


def end_after(limit_s: float) -> None:
    """Give up in order, with all that was started ended, when it is asked for or takes too long."""

    def give_up(number: int, _: object) -> None:
        faulthandler.dump_traceback(all_threads=True)
        raise SystemExit(f"Given up: {signal.Signals(number).name}.")

    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(max(1, round(limit_s)))


def with_short_leases(chosen: argparse.Namespace, seed: int, groups: dict[str, Results]) -> None:
    """Points, scenes and storm: what a lost worker held is soon taken up."""
    with ready(lease_s=SHORT_LEASE_S, heartbeat_s=SHORT_HEARTBEAT_S) as stack:
        refuse_unknown(chosen.lanes)
        stack.throttle(BYTES_PER_S * 3 if chosen.short else BYTES_PER_S)
        if wanted(chosen, "points") and chosen.lanes:
            strike_features(stack, groups.setdefault("points of features", Results()), chosen.lanes)
        elif wanted(chosen, "points"):
            told = groups.setdefault("points", Results(all_must_hit=True))
            with beside(stack, told) if chosen.short else nullcontext():
                strike_points(stack, short=chosen.short, results=told)
        if {arguments.SCENES, *arguments.SCENE_NAMES} & set(chosen.parts):
            play(stack, groups.setdefault("scenes", Results(all_must_hit=True)), partial(wanted, chosen))
        if wanted(chosen, "storm"):
            limits = {"kills": chosen.kills, "minutes": chosen.minutes, "every_s": chosen.every}
            rage(stack, groups.setdefault("random", Results()), short=chosen.short, seed=seed, **limits)
        if wanted(chosen, "features"):
            limits = {"kills": chosen.kills, "minutes": chosen.minutes, "every_s": chosen.every}
            told = groups.setdefault("features", Results())
            rage_over_features(stack, told, names=chosen.lanes, seed=seed, **limits)


def beside(stack: stacks.Stack, results: Results) -> AbstractContextManager[None]:
    from tests.chaos import shortly

    return shortly.struck_beside(stack, results)


def refuse_unknown(wishes: list[str]) -> None:
    from tests.chaos import features

    unknown = [wish for wish in wishes if not features.chosen([wish])]
    if unknown:
        known = ", ".join(features.names())
        raise UnknownLane(f"No lane's name begins with {', '.join(map(repr, unknown))}; there are {known}.")


def with_default_leases(chosen: argparse.Namespace, seed: int, groups: dict[str, Results]) -> None:
    """How long runs wait for a lost worker where nothing was set."""
    groups |= {"default leases": Results(), "paused for two minutes": Results(all_must_hit=True)}
    with ready(lease_s=30, heartbeat_s=5) as stack:
        from tests.chaos import leases

        stack.throttle(BYTES_PER_S)
        leases.lose_workers(stack, groups["default leases"], kills=LEASE_KILLS, seed=seed, say=say)
        groups["default leases"].require(hits=LEASE_KILLS, recovery_p95_s=RECOVERY_P95_S)
        leases.pause_for_minutes(stack, groups["paused for two minutes"])


@contextmanager
def ready(**leases: float) -> Iterator[stacks.Stack]:
    """A stack that works, on whose runs somebody keeps an eye."""
    began = time.monotonic()
    with stacks.running(workers={"worker-a": 2, "worker-b": 2}, **leases) as stack:
        from tests.chaos import history

        history.keep()
        stack.start_processes()
        stack.crew.keep_running()
        say(f"Started after {time.monotonic() - began:.0f} s.")
        yield stack


def wanted(chosen: argparse.Namespace, part: str) -> bool:
    return part in chosen.parts


def run_in_turn(commands: list[list[str]]) -> int:
    """The worst status of these; nothing more is run where something is refused."""
    statuses = []
    for command in commands:
        statuses.append(subprocess.run([sys.executable, "-m", "tests.chaos", *command], check=False).returncode)
        if statuses[-1] == REFUSED:
            break
    return worst(statuses)


def worst(statuses: list[int]) -> int:
    """One that was killed by a signal, which is below zero, did not end well either."""
    return max(abs(status) for status in statuses)


def main(told: list[str]) -> int:
    chosen = arguments.options(told)
    if commands := arguments.in_turn(chosen):
        return run_in_turn(commands)
    end_after(chosen.limit)
    seed = chosen.seed or random.SystemRandom().randrange(1, 1 << 31)
    say(f"Seed {seed}.")
    began = time.monotonic()
    groups: dict[str, Results] = {}
    try:
        (with_default_leases if wanted(chosen, arguments.LEASES) else with_short_leases)(chosen, seed, groups)
    except UnknownLane as refused:
        say(str(refused))
        return REFUSED
    except (Exception, SystemExit) as failed:  # noqa: BLE001 - what was found until then is kept
        groups.setdefault("broken off", Results()).failed(traceback.format_exc())
        say(f"Broken off: {failed}")
    outcome.write(chosen.results, groups, seed=seed, add=chosen.add)
    for name, results in groups.items():
        say("\n" + results.table(name))
        for figures in results.figures.items():
            say("{}: {}".format(*figures))
        for complaint in results.complaints:
            say(f"WRONG: {complaint}")
    say(f"\n{time.monotonic() - began:.0f} s. Written to {chosen.results}")
    return 0 if all(results.is_good for results in groups.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
