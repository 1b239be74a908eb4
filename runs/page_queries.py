"""Reads of the pages about pipelines, runs and logs: the number of queries does not grow with what they find."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.core.paginator import Page, Paginator
from django.db.models import BooleanField, Prefetch, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.fields.json import KT

from pipelines import schedules, upcoming
from pipelines.models import Connection, Pipeline, PipelineState, Revision, Schedule
from pipelines.realtime import is_realtime
from pipelines.specs import ScheduleSpec
from runs.models import MOVE_NOTHING, LogLine, Run, Skip, Trigger, Watch, WatchedTable
from runs.realtime_queries import Freshness, freshness_of
from runs.states import RunStatus
from runs.words import span

BARS = 14
CHART = 60
PER_PAGE = 50
KEPT_LOOKED_AT = 200  # runs


@dataclass(frozen=True)
class Card:
    """A pipeline as lists show it: `runs` are its newest runs, oldest first."""

    pipeline: Pipeline
    runs: Sequence[Run]
    schedules: Sequence[str]
    next_due: datetime | None
    freshness: Freshness | None = None

    @property
    def shown_run(self) -> Run | None:
        """The run that says how the pipeline is: what runs now, else the newest."""
        return next((run for run in self.runs if run.is_active), self.runs[-1] if self.runs else None)

    @property
    def last_success(self) -> Run | None:
        return next((run for run in reversed(self.runs) if run.status == RunStatus.SUCCEEDED), None)


@dataclass(frozen=True)
class ScheduleView:
    """A schedule in words, and its next times in its own zone, with what clocks and calendars do to them."""

    words: str
    zone: str
    next_times: Sequence[schedules.Upcoming]


@dataclass(frozen=True)
class Change:
    """A revision and the names of what differs from the one before."""

    revision: Revision
    changed: Sequence[str]


@dataclass(frozen=True)
class RunsPage:
    """One page of runs, newest first; `older` and `newer` are positions for links, empty at the ends.

    `is_one_by_one`: somebody asked for micro-batches, and none of them is hidden in a line for many.
    """

    runs: Sequence[Run]
    older: str
    newer: str
    without_micro_batches: bool = False
    is_one_by_one: bool = False


# Pipelines ------------------------------------------------------------------------------------


def current_schedules() -> Prefetch:
    current = Schedule.objects.filter(ends_at__isnull=True).select_related("calendar")
    return Prefetch("schedules", current, to_attr="current_schedules")


def newest_runs(pipelines: Iterable[UUID], count: int) -> dict[UUID, list[Run]]:
    """The last `count` runs that move rows, of each pipeline, oldest first: an index look-up each, in one statement."""
    found: dict[UUID, list[Run]] = defaultdict(list)
    rows = Run.objects.raw(
        """
        SELECT run.id, run.pipeline_id, run.status, run.trigger, run.rows, run.bytes, run.estimated_rows, run.phase,
               run.created_at, run.started_at, run.finished_at, run.decision, run.error_code, run.error_message,
               run.cancel_requested
        FROM unnest(%s::uuid[]) AS wanted (id)
        CROSS JOIN LATERAL (
            SELECT * FROM runs_run WHERE pipeline_id = wanted.id AND action <> ALL(%s) ORDER BY created_at DESC LIMIT %s
        ) AS run
        ORDER BY run.created_at
        """,
        [list(pipelines), [action.value for action in MOVE_NOTHING], count],
    )
    for run in rows:
        found[run.pipeline_id].append(run)
    return found


def cards(pipelines: Sequence[Pipeline]) -> list[Card]:
    """Cards of pipelines that were read with `current_schedules`."""
    runs = newest_runs([pipeline.pk for pipeline in pipelines], BARS)
    fresh = freshness_of(pipelines)
    return [Card(p, runs.get(p.pk, []), schedule_words(p), next_due(p), fresh.get(p.pk)) for p in pipelines]


def schedule_words(pipeline: Pipeline) -> list[str]:
    words = [ScheduleSpec.of(schedule).words for schedule in pipeline.current_schedules]
    return [f"Near real time, every {span(pipeline.poll_every_s)}", *words] if is_realtime(pipeline) else words


def next_due(pipeline: Pipeline) -> datetime | None:
    """When the pipeline runs next by itself."""
    if pipeline.state != PipelineState.ACTIVE:
        return None
    found = upcoming.next_of(pipeline.current_schedules)
    return found[0] if found else None


def find_pipelines(
    *, text: str = "", state: str = "", connection: Connection | None = None, last: str = ""
) -> QuerySet[Pipeline]:
    """Pipelines by words in their names and tables, state, either connection, and how their last run ended."""
    found = Pipeline.objects.select_related("source", "destination").prefetch_related(current_schedules())
    found = found.filter(state=state) if state else found.exclude(state=PipelineState.ARCHIVED)
    for word in text.split():
        places = ("name", "source_table", "target_schema", "target_table")
        found = found.filter(Q(*((f"{place}__icontains", word) for place in places), _connector=Q.OR))
    if connection:
        found = found.filter(Q(source=connection) | Q(destination=connection))
    if last:
        found = found.filter(last_end__status=last)
    return found.order_by("name")


def pipelines_page(number: str, **filters: Any) -> tuple[Page[Pipeline], list[Card]]:
    page = Paginator(find_pipelines(**filters), PER_PAGE).get_page(number)
    return page, cards(list(page.object_list))


@dataclass(frozen=True)
class Lookout:
    """How a pipeline's source table was when it was last looked at; `next_look` while it is."""

    every_s: int
    table: WatchedTable | None
    watch: Watch | None
    next_look: datetime | None


def lookout_of(pipeline: Pipeline) -> Lookout | None:
    """What is known of a source that is looked at for changes; None if it is not."""
    if pipeline.watch_every_s is None or not pipeline.source_table:
        return None
    table = WatchedTable.objects.filter(connection=pipeline.source_id, table=pipeline.source_table).first()
    watch = Watch.objects.select_related("run").filter(pipeline=pipeline, watched=table).first() if table else None
    looked_at = table.looked_at if table else None
    next_look = looked_at + timedelta(seconds=pipeline.watch_every_s) if looked_at else None
    return Lookout(pipeline.watch_every_s, table, watch, next_look if pipeline.state == PipelineState.ACTIVE else None)


def schedule_views(pipeline: Pipeline, *, count: int = 5) -> list[ScheduleView]:
    current = pipeline.schedules.filter(ends_at__isnull=True).select_related("calendar")
    return [
        ScheduleView(ScheduleSpec.of(schedule).words, schedule.zone, upcoming.times_of(schedule, count))
        for schedule in current
    ]


def runs_of(pipeline: Pipeline, *, count: int = CHART) -> list[Run]:
    """The newest runs, newest first."""
    return list(listed(pipeline.runs.select_related("requested_by"))[:count])


def listed(runs: QuerySet[Run]) -> QuerySet[Run]:
    """For lists: without receipts, but for what a comparison found (`agrees`: "true", "false", or None)."""
    return runs.defer("receipt").annotate(agrees=KT("receipt__agrees"))


def watermark_of(pipeline: Pipeline) -> str:
    """The watermark as the newest published run left it; the destination has the one that counts."""
    published = pipeline.runs.filter(status=RunStatus.SUCCEEDED, receipt__watermark_after__isnull=False)
    receipt = published.order_by("-created_at").values_list("receipt", flat=True).first()
    return (receipt or {}).get("watermark_after") or ""


def kept_of(pipeline: Pipeline) -> dict[str, int]:
    """How many former states are kept for an undo, and their bytes, as the newest published run left them."""
    # Every load says so; where none has yet, not all receipts are read.
    newest = pipeline.runs.filter(status=RunStatus.SUCCEEDED).order_by("-created_at").values("pk")[:KEPT_LOOKED_AT]
    published = pipeline.runs.filter(pk__in=newest, receipt__kept__tables__isnull=False)
    receipt = published.order_by("-created_at").values_list("receipt", flat=True).first()
    return (receipt or {}).get("kept") or {"tables": 0, "bytes": 0}


def revisions_of(pipeline: Pipeline, *, count: int = 10) -> list[Change]:
    """The newest revisions, each with the names of what it changed."""
    revisions = list(pipeline.revisions.select_related("created_by")[: count + 1])
    older = [revision.definition for revision in revisions[1:]]
    if len(revisions) <= count:
        older.append({})  # the first revision of all changed nothing
    return [
        Change(revision, _changed(before, revision.definition))
        for revision, before in zip(revisions, older, strict=False)
    ]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is as usual may be missing on either side."""
    return [key for key in {**before, **now} if now.get(key) != before.get(key)] if before else []


def skips_of(pipeline: Pipeline, *, count: int = 10) -> list[Skip]:
    return list(pipeline.skips.select_related("run")[:count])


# Runs -----------------------------------------------------------------------------------------


def runs_page(
    *,
    text: str = "",
    status: str = "",
    trigger: str = "",
    action: str = "",
    pipeline: Pipeline | None = None,
    before: str = "",
    after: str = "",
) -> RunsPage:
    """One page of runs, found by position instead of number: page 1,000 costs what page 1 costs.

    Of all pipelines, and whatever their status, micro-batches are left out unless they are asked for.
    """
    runs = listed(Run.objects.select_related("pipeline", "requested_by"))
    is_without = not (status or trigger or pipeline)
    if is_without:
        runs = runs.exclude(trigger=Trigger.REALTIME)
    told = (is_without and _has_micro_batches(), trigger == Trigger.REALTIME)
    wanted = {"status": status, "pipeline": pipeline, "trigger": trigger, "action": action}
    runs = runs.filter(**{name: value for name, value in wanted.items() if value})
    if text:
        named = list(Pipeline.objects.filter(name__icontains=text).values_list("pk", flat=True))
        # With their keys at hand the planner knows whether to look into each one's runs or through all of them, and
        # as one array even thousands of keys are sent in no time.
        runs = runs.filter(RawSQL("runs_run.pipeline_id = ANY(%s)", [named], output_field=BooleanField()))
    start, end = _place(before), _place(after)
    if start:
        # The first condition follows from the second; it is the one that an index can serve.
        at, pk = start
        runs = runs.filter(created_at__lte=at).filter(Q(created_at__lt=at) | Q(created_at=at, pk__lt=pk))
    elif end:
        at, pk = end
        runs = runs.filter(created_at__gte=at).filter(Q(created_at__gt=at) | Q(created_at=at, pk__gt=pk))
        found = list(runs.order_by("created_at", "pk")[: PER_PAGE + 1])
        more = len(found) > PER_PAGE
        shown = found[:PER_PAGE][::-1]
        return RunsPage(shown, _position(shown[-1]) if shown else "", _position(shown[0]) if more else "", *told)
    found = list(runs.order_by("-created_at", "-pk")[: PER_PAGE + 1])
    shown = found[:PER_PAGE]
    older = _position(shown[-1]) if len(found) > PER_PAGE else ""
    return RunsPage(shown, older, _position(shown[0]) if start and shown else "", *told)


def _has_micro_batches() -> bool:
    return Run.objects.filter(trigger=Trigger.REALTIME).exists()


def _position(run: Run) -> str:
    return f"{run.created_at.isoformat()}_{run.pk}"


def _place(position: str) -> tuple[datetime, UUID] | None:
    """What a position says; None when it is not one (it comes from an address that anyone can type)."""
    at, _, pk = position.partition("_")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), UUID(pk)
    except (ValueError, OverflowError):
        return None


# Logs -----------------------------------------------------------------------------------------


def log_lines_before(run: UUID, before: int | None = None, *, count: int) -> list[LogLine]:
    """The `count` lines that end just before a line, or at the end of the log; in order."""
    lines = LogLine.objects.filter(run_id=run)
    if before is not None:
        lines = lines.filter(seq__lt=before)
    return list(lines.order_by("-seq")[:count])[::-1]


def line_data(line: LogLine) -> dict[str, Any]:
    """A log line as sockets and scripts know it."""
    return {
        "seq": line.seq,
        "at": line.at.isoformat(),
        "level": line.level,
        "message": line.message,
        "attempt": line.attempt,
    }
