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
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.chaos import results as outcome
from tests.chaos import stack as stacks
from tests.chaos.results import RESULTS, Results

SHORT_LEASE_S, SHORT_HEARTBEAT_S = 4.0, 1.0
LEASE_KILLS = 30
WAITS_MOST_S = 2.0
LANES_AT_ONCE = 7
# Of each stream.
BYTES_PER_S = 150_000.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def strike_points(stack: stacks.Stack, *, short: bool, results: Results) -> None:
    """Every named point in every lane; in short, each point in one lane."""
    from tests.chaos import cases, features, lanes, points

    ends = lanes.connections(stack)
    kinds = ("append", "replace", "merge")
    # Of the same engine, where the worker's parent or all of it goes.
    middle = {points.DIRECT: "load.middle", points.STAGED: "part.middle"}
    chosen: dict[lanes.Lane, list[cases.Case]] = {}
    for way in points.WAYS:
        every = [cases.Case(point) for point in points.names(way) if point != points.HELD]
        others = [cases.Case(at, do) for do in ("parent", "host") for at in (middle[way], "publish.before_commit")]
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


def strike_features(stack: stacks.Stack, results: Results, names: list[str]) -> None:
    """Every named point in each of these lanes, some of them at a time."""
    from tests.chaos import cases, features, lanes, points

    ends = lanes.connections(stack)
    stack.start_pollers()

    def strike(name: str) -> None:
        lane = features.make(stack, name, **ends)
        way = points.UNDO if lane.kind.startswith(points.UNDO) else lane.way
        every = [cases.Case(point) for point in points.names(way) if point != points.HELD]
        cases.strike_all(stack, lane, every, results)

    with ThreadPoolExecutor(LANES_AT_ONCE) as pool:
        for struck in [pool.submit(strike, name) for name in features.chosen(names)]:
            struck.result()


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
    Storm(stack, made, chosen, results, seed).rage(kills=kills, limit_s=minutes * 60, every_s=every_s, say=say)


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
    from tests.chaos import places, scenes

    chosen = {**scenes.SCENES, **places.SCENES}
    if not wanted("scenes"):
        chosen = {name: scene for name, scene in chosen.items() if wanted(name)}
    scenes.play(scenes.Stage(stack, results), chosen)


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
        stack.throttle(BYTES_PER_S * 3 if chosen.short else BYTES_PER_S)
        if wanted(chosen, "points") and chosen.lanes:
            strike_features(stack, groups.setdefault("points of features", Results()), chosen.lanes)
        elif wanted(chosen, "points"):
            strike_points(stack, short=chosen.short, results=groups.setdefault("points", Results()))
        if set(chosen.parts) - {"points", "storm", "features"}:
            play(stack, groups.setdefault("scenes", Results()), partial(wanted, chosen))
        if wanted(chosen, "storm"):
            limits = {"kills": chosen.kills, "minutes": chosen.minutes, "every_s": chosen.every}
            rage(stack, groups.setdefault("random", Results()), short=chosen.short, seed=seed, **limits)
        if wanted(chosen, "features"):
            limits = {"kills": chosen.kills, "minutes": chosen.minutes, "every_s": chosen.every}
            told = groups.setdefault("features", Results())
            rage_over_features(stack, told, names=chosen.lanes, seed=seed, **limits)


def with_default_leases(chosen: argparse.Namespace, seed: int, groups: dict[str, Results]) -> None:
    """How long runs wait for a lost worker where nothing was set."""
    groups |= {"default leases": Results(), "paused for two minutes": Results()}
    with ready(lease_s=30, heartbeat_s=5) as stack:
        from tests.chaos import leases

        stack.throttle(BYTES_PER_S)
        leases.lose_workers(stack, groups["default leases"], kills=LEASE_KILLS, seed=seed, say=say)
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


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", help="points, scenes (or some by name), storm, features; or leases; all unless named"
    )
    parser.add_argument("--lanes", nargs="*", default=[], help="those of features, by how their names begin")
    parser.add_argument("--short", action="store_true", help="what is worth a minute")
    parser.add_argument("--kills", type=int, default=100, help="how many random strikes are to hit")
    parser.add_argument("--minutes", type=float, default=10, help="after which no more of them come")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two of them, on average")
    parser.add_argument("--limit", type=float, default=7200, metavar="SECONDS", help="after which to give up")
    parser.add_argument("--seed", type=int, default=0, help="repeat the same choices; 0 chooses a seed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--add", action="store_true", help="add to the results of the run before")
    chosen = parser.parse_args(arguments)
    if chosen.short:
        chosen.kills, chosen.minutes = 6, 0.3
    return chosen


def in_turn(arguments: list[str]) -> int:
    """Everything: what has leases of its own in a process of its own, for settings are read once."""
    commands = [["points", "scenes", "storm", "features", *arguments], ["leases", "--add", *arguments]]
    return max(subprocess.run([sys.executable, "-m", "tests.chaos", *one], check=False).returncode for one in commands)


def main(arguments: list[str]) -> int:
    chosen = options(arguments)
    if not chosen.parts:
        return in_turn(arguments)
    end_after(chosen.limit)
    seed = chosen.seed or random.SystemRandom().randrange(1, 1 << 31)
    say(f"Seed {seed}.")
    began = time.monotonic()
    groups: dict[str, Results] = {}
    try:
        (with_default_leases if chosen.parts == ["leases"] else with_short_leases)(chosen, seed, groups)
    except (Exception, SystemExit) as failed:  # noqa: BLE001 - what was found until then is kept
        groups.setdefault("broken off", Results()).failed(traceback.format_exc())
        say(f"Broken off: {failed}")
    outcome.write(chosen.results, groups, seed=seed, add=chosen.add)
    for name, results in groups.items():
        say("\n" + results.table(name))
        for failure in results.failures:
            say(f"WRONG: {failure}")
    say(f"\n{time.monotonic() - began:.0f} s. Written to {chosen.results}")
    return 0 if all(results.is_good for results in groups.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
