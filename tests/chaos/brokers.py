"""What carries bells fails: a broker that is away, for a moment or a minute, and bells doubled, lost or late."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

from bench.place import percentile
from pipelines import services as definitions
from pipelines.models import Missed, Overlap
from pipelines.specs import ScheduleSpec
from runs.models import Run
from runs.states import TERMINAL
from tests.acceptance.product import wait_for
from tests.chaos import bells, ticking
from tests.chaos.cases import seconds_until_going
from tests.chaos.feeds import AppendAll
from tests.chaos.lanes import Lane, Outcome
from tests.chaos.points import STAGED
from tests.chaos.scenes import Skipped, Stage
from tests.chaos.stack import insist
from tests.rabbitmq import IS_INSTALLED, RabbitMQ

AWAY_S, LONG_AWAY_S = 8.0, 60.0
# After the broker is back: until somebody runs again, and until all is made up for.
SOON_S, CAUGHT_UP_S = 10.0, 180.0
TICK_S = 5
BEFORE_S, AFTER_S = 12.0, 15.0


class Broker(Protocol):
    def start(self) -> None: ...

    def kill(self) -> None: ...


def broker_down(stage: Stage) -> None:
    """No message passes for a while; all that was asked for meanwhile runs soon after."""
    for lane in stage.lanes():
        _ask_without(stage, lane, _valkey(stage), "broker down", AWAY_S)


def _valkey(stage: Stage) -> Broker:
    assert stage.stack.main.valkey is not None
    return stage.stack.main.valkey


def _ask_without(stage: Stage, lane: Lane, broker: Broker, fault: str, away_s: float) -> None:
    """A run that is asked for while the broker is away: nobody hears of it until it is back."""
    back: list[float] = []

    def fall_silent(run: Run) -> None:
        time.sleep(away_s)
        broker.start()
        back.append(time.time())

    broker.kill()
    outcome = lane.turn(fall_silent)
    had_to_wait = not _began_before(outcome.run, back[0])
    stage.note(fault, outcome, hit=had_to_wait, recovery_s=seconds_until_going(outcome.run, 0, back[0]))


def _began_before(run: Run, at: float) -> bool:
    return run.attempts.filter(started_at__lt=datetime.fromtimestamp(at, UTC)).exists()


def rabbitmq(stage: Stage) -> None:
    """RabbitMQ for a broker: away when a run is asked for, and killed in the middle of one."""
    with _on_rabbitmq(stage) as broker:
        for lane in stage.lanes():
            _ask_without(stage, lane, broker, "RabbitMQ down", 1.0)
            struck: list[float] = []

            def kill(run: Run, struck: list[float] = struck) -> None:
                wait_for(partial(_is_going, run), every_s=0.02, saying="rows are being loaded")
                struck.append(time.time())
                broker.kill()
                run.refresh_from_db()
                if run.status in TERMINAL:
                    struck.clear()
                time.sleep(1)
                broker.start()

            outcome = lane.turn(kill)
            # In parts its publish needs another bell.
            again = seconds_until_going(outcome.run, 1, struck[0]) if struck and lane.way == STAGED else None
            stage.note("SIGKILL RabbitMQ in the middle of a run", outcome, hit=bool(struck), recovery_s=again)


def _is_going(run: Run) -> bool:
    run.refresh_from_db()
    return run.phase == "loading" or run.status in TERMINAL


@contextmanager
def _on_rabbitmq(stage: Stage) -> Iterator[RabbitMQ]:
    """A worker and a beat whose broker is RabbitMQ, in place of the usual ones."""
    if not IS_INSTALLED:
        raise Skipped("rabbitmq-server is not installed")
    crew = stage.stack.crew
    with RabbitMQ() as broker:
        crew.rest("beat-0")
        stage.stack.start_beat("beat-x", BROKER_URL=broker.url)
        try:
            with stage.stack.other_workers(BROKER_URL=broker.url):
                yield broker
        finally:
            crew.stop("beat-x")
            crew.wake("beat-0")


def away_for_a_minute(stage: Stage) -> None:
    """Valkey is away for a minute while schedules tick."""
    _tick_without(stage, "Valkey", _valkey(stage))


def rabbitmq_away_for_a_minute(stage: Stage) -> None:
    with _on_rabbitmq(stage) as broker:
        _tick_without(stage, "RabbitMQ", broker)


class _Few(AppendAll):
    ROWS, MORE = 40, 0


class _TickingLane(Lane):
    FEEDS = {"ticking": _Few}


def _tick_without(stage: Stage, name: str, broker: Broker) -> None:
    """Schedules tick before, while the broker is away, and after: each due tick has one run, the first one soon."""
    fault = f"{name} away for {LONG_AWAY_S:g} s, schedules ticking"
    lanes = [_TickingLane(stage.stack, "ticking", way, **stage.ends) for way in stage.ways]
    for lane in lanes:
        lane.feed.begin(lane.rows)
        lane.feed.make()
        lane.pipeline.overlap, lane.pipeline.missed = Overlap.QUEUE, Missed.ALL
        definitions.save_pipeline(lane.pipeline, schedules=[ScheduleSpec("interval", every_s=TICK_S)], by=None)
    time.sleep(BEFORE_S)
    broker.kill()
    gone = time.time()
    time.sleep(LONG_AWAY_S)
    broker.start()
    back = time.time()
    time.sleep(AFTER_S)
    definitions.pause([lane.pipeline for lane in lanes], by=None)
    for lane in lanes:
        wait_for(partial(ticking.has_ended, lane.pipeline), limit_s=CAUGHT_UP_S, saying="all runs end")
        runs: list[Run] = insist(lambda lane=lane: list(lane.pipeline.runs.order_by("scheduled_for")))
        outcome = Outcome(runs[-1], ticking.verdict(stage.stack, lane, runs, every=timedelta(seconds=TICK_S)))
        missed = [run for run in runs if gone < _at(run.scheduled_for) < back]
        started = [_at(run.started_at) for run in runs]
        first = min((at - back for at in started if at >= back), default=float("inf"))
        if first > SOON_S:
            outcome.verdict.told.append(f"the first run began {first:.1f} s after {name} was back")
        stage.note(fault, outcome, hit=any(_at(run.started_at) >= back for run in missed), recovery_s=first)
        late = [(run.started_at - run.scheduled_for).total_seconds() for run in runs]
        stage.results.measured(
            f"{fault}, {lane.way}",
            ticks=len(runs),
            ticks_meanwhile=len(missed),
            first_start_s=first,
            late_p50_s=percentile(late, 0.5),
            late_max_s=max(late),
            caught_up_s=max(_at(run.finished_at) for run in missed) - back if missed else 0.0,
        )


def _at(moment: datetime | None) -> float:
    assert moment is not None
    return moment.timestamp()


def messages(stage: Stage) -> None:
    """Bells of whoever asks, of workers and of the ticker are doubled, lost, or come when all is over."""
    switch = stage.stack.bells
    for lane in stage.lanes():
        for how in (bells.DOUBLED, bells.LOST, bells.LATE):
            at = time.time()
            switch.turn_to(how)
            try:
                outcome = lane.turn()
            finally:
                switch.turn_off()
            rung = switch.rung()
            stage.note(
                f"bells {how}",
                outcome,
                hit=_rang_all(rung, how, lane.way),
                recovery_s=seconds_until_going(outcome.run, 0, at),
            )
            if how == bells.LATE:
                time.sleep(bells.LATE_S + 0.5)
                stage.check("bells late, all come", lane.judge_again(outcome.run))


def _rang_all(rung: Counter[str], how: str, way: str) -> bool:
    """Whether the bells that such a run needs became of what was to become of them."""
    needed = {bells.ASKER}
    if way == STAGED:
        needed.add(bells.WORKER)
    if how != bells.DOUBLED:
        # Nobody else rings for what waits without a bell.
        needed.add(bells.BEAT)
    return needed <= set(rung)


SCENES: dict[str, Callable[[Stage], None]] = {
    "broker": broker_down,
    "minute": away_for_a_minute,
    "messages": messages,
    "rabbitmq": rabbitmq,
    "rabbitmq-minute": rabbitmq_away_for_a_minute,
}
