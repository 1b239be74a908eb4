"""Reads of the dashboard and the monitor: a constant number of queries, cheap enough to repeat every second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.core.cache import cache
from django.db.models import Case, Count, IntegerField, Q, Sum, Value, When
from django.db.models.functions import Now
from django.utils import timezone

from connectors import registry
from pipelines.models import Connection, Mode, Pipeline, PipelineState
from runs.alerts.queries import to_look_at
from runs.capacity import PROCESS_SEEN_WITHIN
from runs.models import MOVE_NOTHING, Alert, LastEnd, PartLoad, Process, Run, Trigger
from runs.page_queries import Card, cards, find_pipelines, listed
from runs.part_queries import Counts, counts_of, process_of
from runs.states import ACTIVE, TERMINAL, RunStatus
from runs.waiting import NO_WAIT, reasons_to_wait

CARDS = 24
RECENT = 12
SHOWN = 100
NAMED = 8  # how many of a kind "needs attention" names
TODAY_MAX_AGE_S = 10
_IN_REALTIME = Count("pk", filter=Q(mode=Mode.REALTIME))
UNFINISHED = (*sorted(ACTIVE), RunStatus.QUEUED, RunStatus.BLOCKED, RunStatus.HELD)


@dataclass(frozen=True)
class Workforce:
    """The processes that said they live, and since when silence means that they do not."""

    processes: Sequence[Process]
    alive_after: datetime
    in_use: Mapping[str, int] = field(default_factory=dict)

    def alive(self, kind: Process.Kind) -> list[Process]:
        return [process for process in self.processes if process.kind == kind and process.seen_at >= self.alive_after]

    @property
    def workers(self) -> list[Process]:
        return self.alive(Process.Kind.WORKER)

    @property
    def beats(self) -> list[Process]:
        return self.alive(Process.Kind.BEAT)

    @property
    def silent(self) -> list[Process]:
        return [process for process in self.processes if process.seen_at < self.alive_after]

    @property
    def slots(self) -> int:
        return sum(worker.slots for worker in self.workers if not worker.draining)

    @property
    def slots_in_use(self) -> int:
        return sum(self.in_use.get(worker.name, 0) for worker in self.workers if not worker.draining)

    @property
    def shown(self) -> list[tuple[Process, int]]:
        """Each process with the slots of it that are in use."""
        return [(process, self.in_use.get(process.name, 0)) for process in self.processes]


@dataclass(frozen=True)
class Attention:
    """What a person should look at; lists may hold one more than `NAMED`."""

    failed: Sequence[Run]
    held: Sequence[Run]
    lost_keys: Sequence[Connection]
    alerts: Sequence[Alert]
    no_worker: bool
    no_beat: bool
    no_poller: bool = False

    @property
    def is_needed(self) -> bool:
        return bool(self.failed or self.held or self.alerts or self.lost_keys or self._lacks_a_process)

    @property
    def _lacks_a_process(self) -> bool:
        return self.no_worker or self.no_beat or self.no_poller


@dataclass(frozen=True)
class FirstSteps:
    """How far a newcomer got."""

    has_source: bool
    has_destination: bool
    has_pipeline: bool


@dataclass(frozen=True)
class Dashboard:
    cards: Sequence[Card]
    pipelines: Mapping[str, int]
    recent: Sequence[Run]
    attention: Attention
    workforce: Workforce
    today: Mapping[str, int]
    unfinished: Mapping[str, int]
    steps: FirstSteps
    # Some pipeline is in near real time, whose micro-batches are not among the recent runs.
    is_polled: bool = False

    @property
    def hidden(self) -> int:
        """Pipelines that have no card here."""
        return self.pipelines["active"] + self.pipelines["paused"] - len(self.cards)


@dataclass(frozen=True)
class Monitor:
    """What is going on now; runs that wait come with the reason, in the order in which workers take them."""

    running: Sequence[tuple[Run, str, Counts | None]]
    waiting: Sequence[tuple[Run, str]]
    blocked: Sequence[tuple[Run, str]]
    held: Sequence[Run]
    unfinished: Mapping[str, int]
    workforce: Workforce


def dashboard() -> Dashboard:
    """Cards come in the order of their names, after those whose last run failed: they keep their places."""
    order = Case(
        When(state=PipelineState.PAUSED, then=Value(2)),
        When(last_end__status=RunStatus.FAILED, then=Value(0)),
        default=Value(1),
        output_field=IntegerField(),
    )
    shown = find_pipelines().order_by(order, "name")
    states = Pipeline.objects.order_by().values_list("state").annotate(Count("pk"), realtime=_IN_REALTIME)
    states = list(states)
    pipelines = {**dict.fromkeys(PipelineState.values, 0), **{state: count for state, count, _ in states}}
    is_polled = any(realtime for state, _, realtime in states if state == PipelineState.ACTIVE)
    connections = list(Connection.objects.all())
    force = workforce()
    return Dashboard(
        cards=cards(list(shown[:CARDS])),
        pipelines=pipelines,
        recent=recent_runs(),
        attention=attention(force, connections, is_polled=is_polled),
        workforce=force,
        today=runs_of_today(),
        unfinished=unfinished_counts(),
        steps=FirstSteps(
            has_source=any(registry.get(connection.kind).source for connection in connections),
            has_destination=any(registry.get(connection.kind).destination for connection in connections),
            has_pipeline=any(pipelines.values()),
        ),
        is_polled=is_polled,
    )


def monitor() -> Monitor:
    runs = Run.objects.select_related("pipeline").defer("receipt")
    running = list(runs.filter(status__in=sorted(ACTIVE)).order_by("started_at")[:SHOWN])
    waiting = list(runs.filter(status=RunStatus.QUEUED).order_by("priority", "due", "pk")[:SHOWN])
    blocked = list(runs.filter(status=RunStatus.BLOCKED).order_by("created_at", "pk")[:SHOWN])
    reasons = reasons_to_wait([*running, *waiting, *blocked])
    parts = counts_of(running)
    return Monitor(
        running=[(run, reasons.get(run.pk, NO_WAIT).why, parts.get(run.pk)) for run in running],
        waiting=[(run, reasons.get(run.pk, NO_WAIT).why) for run in waiting],
        blocked=[(run, reasons.get(run.pk, NO_WAIT).why) for run in blocked],
        held=list(runs.filter(status=RunStatus.HELD)[:SHOWN]),
        unfinished=unfinished_counts(),
        workforce=workforce(slots_in_use()),
    )


def slots_in_use() -> dict[str, int]:
    """How many slots each worker fills now, with runs or with parts of runs."""
    held = Q(lease_until__gt=Now())
    runs = Run.objects.filter(held).order_by().values_list("worker")
    parts = PartLoad.objects.filter(held).order_by().values_list("worker")
    return dict(Counter(process_of(worker) for (worker,) in runs.union(parts, all=True)))


def workforce(in_use: Mapping[str, int] | None = None) -> Workforce:
    return Workforce(list(Process.objects.all()), timezone.now() - PROCESS_SEEN_WITHIN, in_use or {})


def attention(force: Workforce, connections: Sequence[Connection], *, is_polled: bool = False) -> Attention:
    """With `is_polled`, pipelines in near real time are missing what they need if no poller lives."""
    failed = LastEnd.objects.filter(
        status=RunStatus.FAILED,
        pipeline__state=PipelineState.ACTIVE,
        # Neither cleared nor marked as done since.
        run__status=RunStatus.FAILED,
        run__done_mark__isnull=True,
    )
    newest_failed = failed.order_by("-finished_at").select_related("run__pipeline")
    held = Run.objects.filter(status=RunStatus.HELD).select_related("pipeline")
    return Attention(
        failed=[end.run for end in newest_failed[: NAMED + 1]],
        held=list(held[: NAMED + 1]),
        alerts=to_look_at(NAMED + 1),
        lost_keys=[connection for connection in connections if connection.has_lost_secrets],
        no_worker=not force.workers,
        no_beat=not force.beats,
        no_poller=is_polled and not force.alive(Process.Kind.POLLER),
    )


def recent_runs() -> list[Run]:
    """Without micro-batches: one pipeline in near real time would leave no room for all others."""
    return list(listed(Run.objects.select_related("pipeline").exclude(trigger=Trigger.REALTIME))[:RECENT])


def unfinished_counts() -> dict[str, int]:
    counted = dict(Run.objects.filter(status__in=UNFINISHED).order_by().values_list("status").annotate(Count("pk")))
    return {
        "running": sum(counted.get(status, 0) for status in ACTIVE),
        "queued": counted.get(RunStatus.QUEUED, 0),
        "blocked": counted.get(RunStatus.BLOCKED, 0),
        "held": counted.get(RunStatus.HELD, 0),
    }


def runs_of_today() -> dict[str, int]:
    """Runs that ended, of those asked for in the last 24 hours, and the rows they moved; some seconds old."""
    return cache.get_or_set("runs.today", _count_runs_of_today, TODAY_MAX_AGE_S)


def _count_runs_of_today() -> dict[str, int]:
    since = timezone.now() - timedelta(hours=24)
    ended = Run.objects.filter(status__in=sorted(TERMINAL), created_at__gte=since).exclude(action__in=MOVE_NOTHING)
    counted = {
        status: (runs, rows)
        for status, runs, rows in ended.order_by().values_list("status").annotate(Count("pk"), Sum("rows"))
    }
    runs = {status.value: counted.get(status, (0, 0))[0] for status in TERMINAL}
    return {**runs, "rows": counted.get(RunStatus.SUCCEEDED, (0, 0))[1]}
