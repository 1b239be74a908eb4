"""Backfills: asked for, moved on slice by slice, paused, cancelled, and what failed tried again.

A slice gets its run when it is its turn, and no earlier: so a backfill of a thousand slices has one run in line, behind
every live one, and a pause or a cancel has nothing to take back but that.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, F, OuterRef, QuerySet, Value
from django.db.models.functions import Now

from pipelines.locks import AdvisoryLock
from pipelines.models import PipelineState
from runs import doorbell, live, priorities
from runs.models import Run, RunAction, Trigger
from runs.models.backfills import Backfill, BackfillKind, BackfillSlice, BackfillState, SliceStatus
from runs.services.errors import RunRefused
from runs.services.requests import cancel_run
from runs.states import RunStatus

if TYPE_CHECKING:
    from runs.backfill_plans import Plan

# So many failures one after another, and nobody wants the next.
FAILURES_MOST = 3
# A slice that is tried again no sooner than this leaves its turn to another backfill's.
WAITS_LONG = timedelta(minutes=10)
_OPEN = (BackfillState.RUNNING, BackfillState.PAUSED)


def start_backfill(pipeline: Any, plan: Plan, *, by: Any) -> Backfill:
    """Begin a backfill; raises RunRefused if the pipeline has one that has not ended."""
    try:
        with transaction.atomic():
            backfill = Backfill.objects.create(
                pipeline=pipeline,
                kind=plan.kind,
                low=plan.low,
                high=plan.high,
                step=str(plan.step),
                zone=plan.zone,
                parameters=dict(plan.parameters),
                created_by=by,
            )
            BackfillSlice.objects.bulk_create(
                BackfillSlice(backfill=backfill, number=number, low=low, high=high)
                for number, (low, high) in enumerate(plan.slices)
            )
    except IntegrityError as error:
        diag = getattr(error.__cause__, "diag", None)
        if getattr(diag, "constraint_name", "") != "backfill_one_at_a_time":
            raise
        raise RunRefused(
            "backfill_in_progress",
            f"{pipeline.name} has a backfill that has not ended.",
            "Wait for it, or cancel it.",
        ) from error
    advance_backfills()
    return backfill


def pause_backfill(backfill: Backfill, *, by: Any) -> None:
    """Start no more slices; one that runs goes on, one that only waits in line goes back."""
    with transaction.atomic():
        now = _locked(backfill)
        if now.state == BackfillState.RUNNING:
            Backfill.objects.filter(pk=now.pk).update(state=BackfillState.PAUSED, reason="")
            _take_back(now, by)


def resume_backfill(backfill: Backfill, *, by: Any) -> None:
    """Go on where it was paused."""
    with transaction.atomic():
        now = _locked(backfill)
        if now.state not in _OPEN:
            raise RunRefused("backfill_ended", "This backfill has ended.", "Try again what failed, or start another.")
        Backfill.objects.filter(pk=now.pk).update(state=BackfillState.RUNNING, reason="")
    advance_backfills()


def cancel_backfill(backfill: Backfill, *, by: Any) -> None:
    """End it; the slice that runs is asked to stop, and what was published stays."""
    with transaction.atomic():
        now = _locked(backfill)
        if now.state not in _OPEN:
            return
        Backfill.objects.filter(pk=now.pk).update(state=BackfillState.CANCELLED, ended_at=Now(), reason="")
        _take_back(now, by)
        for slice_ in now.slices.filter(status=SliceStatus.RUNNING).select_related("run"):
            if slice_.run is not None:
                cancel_run(slice_.run, by=by)
        _settle()


def retry_backfill(backfill: Backfill, *, by: Any) -> int:
    """Let slices that failed or were cancelled have another run, and go on; says how many."""
    with transaction.atomic():
        now = _locked(backfill)
        again = now.slices.filter(status__in=[SliceStatus.FAILED, SliceStatus.CANCELLED])
        count = again.update(status=SliceStatus.WAITING, run=None, error_code="", finished_at=None)
        if not count and not (now.state == BackfillState.CANCELLED and _has_left(now)):
            raise RunRefused(
                "backfill_nothing_failed", "No slice of this backfill failed.", "There is nothing to try again."
            )
        try:
            with transaction.atomic():
                Backfill.objects.filter(pk=now.pk).update(state=BackfillState.RUNNING, ended_at=None, reason="")
        except IntegrityError as error:
            raise RunRefused(
                "backfill_in_progress",
                "The pipeline has another backfill that has not ended.",
                "Wait for it, or cancel it.",
            ) from error
    advance_backfills()
    return count


def _has_left(backfill: Backfill) -> bool:
    return backfill.slices.filter(status=SliceStatus.WAITING).exists()


def _locked(backfill: Backfill) -> Backfill:
    _one_at_a_time()
    return Backfill.objects.select_for_update(of=("self",)).get(pk=backfill.pk)


def _one_at_a_time() -> None:
    """Whoever moves backfills on sees what the one before did: so no slice gets two runs, and limits hold."""
    with connection.cursor() as cursor_:
        cursor_.execute("SELECT pg_advisory_xact_lock(%s)", [AdvisoryLock.BACKFILLS])


def _take_back(backfill: Backfill, by: Any) -> None:
    """Cancel the run that only waits in line: its slice waits again."""
    waits = backfill.slices.filter(status=SliceStatus.RUNNING, run__status__in=[RunStatus.QUEUED, RunStatus.BLOCKED])
    for slice_ in waits.select_related("run"):
        run = cancel_run(slice_.run, by=by)
        if run.status == RunStatus.CANCELLED:
            BackfillSlice.objects.filter(pk=slice_.pk).update(status=SliceStatus.WAITING, run=None)


# Moving on ------------------------------------------------------------------------------------


def advance_backfills(*, look_closely: bool = False) -> int:
    """Take note of slices that ended, and queue the next run of each backfill that may have one; says how many.

    With `look_closely` also where no backfill is open: a run of one that has ended may have been tried again.
    """
    if not look_closely and not Backfill.objects.filter(state__in=_OPEN).exists() and not _unsettled().exists():
        return 0
    with transaction.atomic():
        _one_at_a_time()
        _settle()
        _pause_with_their_pipelines()
        queued = _queue()
    return queued


def _unsettled() -> Any:
    return BackfillSlice.objects.filter(status=SliceStatus.RUNNING)


def _settle() -> None:
    """Write down how the runs of slices ended, and end or pause their backfills."""
    with connection.cursor() as cursor_:
        cursor_.execute(
            """
            UPDATE runs_backfillslice s SET
                status = r.status, rows = r.rows, error_code = r.error_code, finished_at = r.finished_at,
                seconds = extract(epoch FROM r.finished_at - coalesce(r.started_at, r.finished_at))
            FROM runs_run r
            WHERE r.id = s.run_id AND (
                (s.status = 'running' AND r.status IN ('succeeded', 'failed', 'cancelled'))
                -- A person had the same run try again.
                OR (s.status IN ('failed', 'cancelled') AND r.status = 'succeeded'))
            RETURNING s.backfill_id
            """
        )
        touched = {row[0] for row in cursor_.fetchall()}
    # Somebody took its run away.
    _unsettled().filter(run__isnull=True).update(status=SliceStatus.WAITING)
    for backfill in Backfill.objects.filter(pk__in=touched, state__in=_OPEN):
        _end_or_pause(backfill)


def _end_or_pause(backfill: Backfill) -> None:
    if not backfill.slices.filter(status__in=[SliceStatus.WAITING, SliceStatus.RUNNING]).exists():
        Backfill.objects.filter(pk=backfill.pk).update(state=BackfillState.ENDED, ended_at=Now(), reason="")
        return
    last = backfill.slices.filter(finished_at__isnull=False).order_by("-finished_at")
    outcomes = list(last.values_list("status", flat=True)[:FAILURES_MOST])
    if outcomes == [SliceStatus.FAILED] * FAILURES_MOST and backfill.state == BackfillState.RUNNING:
        reason = f"{FAILURES_MOST} slices failed one after another."
        Backfill.objects.filter(pk=backfill.pk).update(state=BackfillState.PAUSED, reason=reason)


def _pause_with_their_pipelines() -> None:
    """Whoever pauses a pipeline, for a maintenance perhaps, wants nothing of it to begin."""
    paused = Backfill.objects.filter(state=BackfillState.RUNNING, pipeline__state=PipelineState.PAUSED)
    for backfill in paused.select_related("pipeline"):
        reason = f"{backfill.pipeline.name} is paused. Resume it, and then this."
        Backfill.objects.filter(pk=backfill.pk).update(state=BackfillState.PAUSED, reason=reason)
        _take_back(backfill, None)


def _under_way() -> Any:
    """Slices that others wait for: none that waits itself, for a person or for a try that is far away."""
    held = _undecided().filter(pipeline=OuterRef("backfill__pipeline"))
    slices = _unsettled().exclude(run__status=RunStatus.HELD)
    slices = slices.exclude(Exists(held), run__status=RunStatus.QUEUED)
    return slices.exclude(run__status=RunStatus.RETRYING, run__due__gt=Now() + Value(WAITS_LONG))


def _queue() -> int:
    """Give runs to the backfills that have waited longest, as many as may be under way at once."""
    free = settings.BACKFILL_MAX_RUNNING - _under_way().count()
    if free <= 0:
        return 0
    held = _undecided().filter(pipeline=OuterRef("pipeline"))
    busy = BackfillSlice.objects.filter(backfill=OuterRef("pk"), status=SliceStatus.RUNNING)
    waiting = BackfillSlice.objects.filter(backfill=OuterRef("pk"), status=SliceStatus.WAITING)
    # A publish would put the rows of a held run out of date: it waits for the person who decides.
    may = Backfill.objects.filter(~Exists(busy), ~Exists(held), Exists(waiting), state=BackfillState.RUNNING)
    chosen = may.select_related("pipeline", "pipeline__revision").order_by(
        F("queued_at").asc(nulls_first=True), "created_at"
    )
    # One whose pipeline is being saved has its turn later: a save may take a minute, and beat must not wait for it.
    chosen = chosen.select_for_update(of=("pipeline",), no_key=True, skip_locked=True)
    runs = [_queue_next(backfill) for backfill in chosen[:free]]
    queued = [run for run in runs if run is not None]
    if queued:
        transaction.on_commit(doorbell.ring)
    return len(queued)


def _undecided() -> QuerySet[Run]:
    """Held runs whose rows a slice would put out of date; of a comparison nothing is staged."""
    return Run.objects.filter(status=RunStatus.HELD).exclude(action=RunAction.COMPARE)


def _queue_next(backfill: Backfill) -> Run | None:
    pipeline = backfill.pipeline
    if pipeline.state == PipelineState.ARCHIVED or pipeline.revision_id is None:
        reason = f"{pipeline.name} was archived."
        Backfill.objects.filter(pk=backfill.pk).update(state=BackfillState.CANCELLED, ended_at=Now(), reason=reason)
        return None
    slice_ = backfill.slices.filter(status=SliceStatus.WAITING).order_by("number").first()
    if slice_ is None:
        return None
    if reason := _objection(backfill):
        Backfill.objects.filter(pk=backfill.pk).update(state=BackfillState.PAUSED, reason=reason)
        return None
    start, end = interval_of(slice_.low, slice_.high)
    run = Run.objects.create(
        pipeline=pipeline,
        revision_id=pipeline.revision_id,
        trigger=Trigger.BACKFILL,
        action=RunAction.BACKFILL,
        action_options=_options(backfill, slice_),
        data_interval_start=start,
        data_interval_end=end,
        requested_by=backfill.created_by,
        priority=priorities.backfill(pipeline),
    )
    changed = {"status": SliceStatus.RUNNING, "run": run, "tries": F("tries") + 1, "rows": None, "seconds": None}
    BackfillSlice.objects.filter(pk=slice_.pk).update(**changed)
    Backfill.objects.filter(pk=backfill.pk).update(queued_at=Now())
    pk, pipeline_id = run.pk, pipeline.pk
    transaction.on_commit(lambda: live.push_board(pk, pipeline_id, RunStatus.QUEUED))
    return run


def _objection(backfill: Backfill) -> str:
    """What stands against another slice since the pipeline was looked at; empty if nothing does."""
    from runs.backfill_plans import objection  # asks giving, which the services ask, too

    before = (
        backfill.slices.filter(run__isnull=False).order_by("-run__created_at").values_list("run__revision", flat=True)
    )
    # Names are told apart once for each definition: there may be a thousand.
    is_new = before.first() != backfill.pipeline.revision_id
    slices = list(backfill.slices.order_by("number").values_list("low", "high")) if is_new else []
    return objection(backfill, backfill.pipeline, slices)


def _options(backfill: Backfill, slice_: BackfillSlice) -> dict[str, Any]:
    told: dict[str, Any] = {"backfill": str(backfill.pk), "slice": slice_.number}
    if backfill.parameters:
        told["parameters"] = backfill.parameters
    if backfill.kind == BackfillKind.CURSOR:
        told["span"] = {"low": slice_.low, "high": slice_.high}
    return told


def interval_of(low: str, high: str) -> tuple[datetime | None, datetime | None]:
    """The data interval of a slice: its ends, if they are times; without a zone they are UTC's."""
    if low.lstrip("-").isdigit():
        return None, None  # whole numbers, which may look like a day
    try:
        ends = [datetime.fromisoformat(text) for text in (low, high)]
    except ValueError:
        return None, None
    start, end = (end if end.tzinfo else end.replace(tzinfo=UTC) for end in ends)
    return start, end
