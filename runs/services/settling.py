"""What a person does about a run that ended without its rows: try the same run again, or call it done."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from pipelines import queries
from pipelines.models import Dependency, PipelineState
from runs import doorbell, giving, intervals, live, priorities
from runs.models import (
    MARKED_DONE,
    NO_NEWS,
    AlertEvent,
    CheckResult,
    CostApproval,
    DoneMark,
    PartLoad,
    Prerequisite,
    Run,
    RunAction,
    UpstreamSuccess,
)
from runs.services.begun_anew import as_asked
from runs.services.errors import RunRefused
from runs.services.histories import refuse_unconfirmed
from runs.services.journal import Line, storable, write_lines
from runs.services.loaded import refuse_twice
from runs.states import RunStatus, Step, may_become

LONGEST_NOTE = 500
# What would do something else by now than it would have done then.
NOT_CLEARED = {
    RunAction.BACKFILL: ("A slice of a backfill is not cleared.", "Try again what failed, on the backfill's page."),
    RunAction.REPLAY: (
        "A replay is not cleared.",
        "Look at what is in quarantine now, and replay it anew.",
    ),
    RunAction.UNDO: ("An undo is not cleared.", "Look at what is kept now, and ask for it anew."),
    RunAction.SET_WATERMARK: ("Setting the watermark is not cleared.", "Set it again, if that is still right."),
}
USUAL_WAIT_HOURS = 24


def clear_run(run: Run, *, by: Any, note: str = "") -> Run:
    """Queue a failed or cancelled run once more, as the same run: of the same tick, over the same data interval.

    It goes by the pipeline's definition as it is now, with all its retries. Raises RunRefused.
    """
    note = _tidy(note)
    with transaction.atomic():
        now = _ended(run, "cleared")
        pipeline = now.pipeline
        if now.action in NOT_CLEARED:
            raise RunRefused("run_not_cleared", *NOT_CLEARED[RunAction(now.action)])
        if pipeline.state == PipelineState.ARCHIVED:
            raise RunRefused("pipeline_archived", f"{pipeline.name} is archived.", "Restore it before you run it.")
        start, end = intervals.of(now) or intervals.NONE
        # It may not have to become what it became then.
        action, options = as_asked(now)
        asked = giving.check(pipeline, action, options.get("parameters") or {}, start, end)
        for error in asked.errors.values():
            raise RunRefused(error.code, error.message, error.hint)
        start, end = asked.interval or intervals.NONE
        refuse_twice(pipeline, action, options, (start, end))
        if now.revision_id != pipeline.revision_id:
            refuse_unconfirmed(pipeline, action)  # what was confirmed is another definition's
        to = RunStatus.BLOCKED if _waits_again(now) else RunStatus.QUEUED
        changed = Run.objects.filter(pk=run.pk, status__in=may_become(to)).update(
            status=to,
            action=action,
            action_options=options,
            revision=pipeline.revision_id,
            priority=priorities.asked_for(pipeline),
            lane=None,  # a trigger gives it the one that its pipeline has now
            data_interval_start=start,
            data_interval_end=end,
            due=Now(),
            started_at=None,
            finished_at=None,
            failures=0,
            losses=0,
            cancel_requested=False,
            cancelled_by=None,
            # It was never published: what was planned, staged or decided before is over.
            step=Step.WHOLE,
            generation=0,
            parts_until=None,
            decision="",
            approved_code="",
            decided_by=None,
            decided_at=None,
            decision_note="",
            held_until=None,
            receipt=None,
            rows=0,
            bytes=0,
            estimated_rows=None,
            estimated_bytes=None,
            phase="",
            error_code="",
            error_message="",
            error_hint="",
        )
        assert changed, "its row is locked"  # noqa: S101
        PartLoad.objects.filter(run=run.pk).delete()
        # Somebody approved the cost of what it was to do then; the ledger keeps who did.
        CostApproval.objects.filter(run=run.pk).update(run=None)
        DoneMark.objects.filter(run=run.pk).delete()
        # They are of the definition that the run had before.
        CheckResult.objects.filter(run=run.pk).delete()
        UpstreamSuccess.objects.filter(run=run.pk).delete()
        told = f"{_name(by)} cleared this run: it is tried again, with revision {pipeline.revision.number}."
        write_lines(run.pk, [Line("warning", _because(told, note))], attempt=now.attempt)
        transaction.on_commit(doorbell.ring)
        _push(now, to)
    run.refresh_from_db()
    return run


def mark_done(run: Run, *, by: Any, note: str) -> Run:
    """Say that a failed or cancelled run needs nothing more, and why. Raises RunRefused."""
    note = _tidy(note)
    if not note:
        raise RunRefused("note_missing", "A run is marked as done with a note.", "Write why it needs nothing more.")
    with transaction.atomic():
        now = _ended(run, "marked as done")
        _, is_new = DoneMark.objects.update_or_create(run=now, defaults={"by": by, "at": Now(), "note": note})
        if is_new and now.moves_rows:
            # What was told of its failure is over.
            AlertEvent.objects.create(run=now, pipeline=now.pipeline, status=MARKED_DONE)
        told = f"{_name(by)} marked this run as done: nothing of it was published."
        write_lines(run.pk, [Line("warning", _because(told, note))], attempt=now.attempt)
        if is_new and now.action not in NO_NEWS and Dependency.objects.filter(upstream=now.pipeline).exists():
            # What waits for it goes on as if it had succeeded.
            UpstreamSuccess.objects.get_or_create(run=now)
        _push(now, RunStatus(now.status))
    run.refresh_from_db()
    return run


def _waits_again(run: Run) -> bool:
    """Whether it gave up waiting for upstreams: then it waits for them anew, if they have not succeeded by now."""
    unmet = list(run.prerequisites.filter(met_at__isnull=True).select_related("dependency"))
    for each in unmet:
        hours = each.dependency.give_up_hours if each.dependency else USUAL_WAIT_HOURS
        each.is_checked, each.give_up_at = False, queries.database_now() + timedelta(hours=hours)
    Prerequisite.objects.bulk_update(unmet, ["is_checked", "give_up_at"])
    return bool(unmet)


def _ended(run: Run, what: str) -> Run:
    """The run under its lock; raises RunRefused unless it failed or was cancelled."""
    now = Run.objects.select_for_update(no_key=True, of=("self",)).select_related("pipeline__revision").get(pk=run.pk)
    if now.status == RunStatus.SUCCEEDED:
        message = f"This run succeeded and cannot be {what}: its rows are published."
        raise RunRefused("run_succeeded", message, "Run the pipeline again for a new run.")
    if now.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        message = f"This run has not ended and cannot be {what}."
        raise RunRefused("run_not_ended", message, "Cancel it first, or wait for its end.")
    return now


def _push(run: Run, status: RunStatus) -> None:
    transaction.on_commit(partial(live.push_run, run.pk))
    transaction.on_commit(partial(live.push_board, run.pk, run.pipeline_id, status))


def _tidy(note: str) -> str:
    return storable(note.strip())[:LONGEST_NOTE]


def _because(told: str, note: str) -> str:
    return f"{told} Because: {note}" if note else told


def _name(by: Any) -> str:
    return by.get_username() if by is not None else "Someone"
