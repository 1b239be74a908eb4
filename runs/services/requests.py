"""What people and programs ask for: a run, its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from pipelines.models import Pipeline, PipelineState
from runs import doorbell, giving, intervals, live, priorities
from runs.intervals import Interval
from runs.models import Decision, Run, RunAction, Trigger
from runs.services.begun_anew import as_asked
from runs.services.deciding import decide
from runs.services.errors import KeyReused, RunRefused
from runs.services.histories import refuse_unconfirmed
from runs.services.journal import Line, write_lines
from runs.services.loaded import refuse_twice
from runs.services.parts import go_to_publish
from runs.services.undecided import refuse_beside_held
from runs.states import TERMINAL, UNOWNED, RunStatus

# What other systems start, as often as they like: it is no person who waits.
OUTSIDE = (Trigger.WEBHOOK, Trigger.SOURCE, Trigger.REALTIME)


def request_run(
    pipeline: Pipeline,
    *,
    trigger: str,
    by: Any,
    action: str = RunAction.LOAD,
    options: Mapping[str, Any] | None = None,
    interval: Interval | None = None,
    force: bool = False,
    idempotency_key: str | None = None,
    request_digest: str = "",
) -> tuple[Run, bool]:
    """Queue a run of the pipeline's current revision that does `action`; says whether it is new.

    `interval` is the data interval; not given, and needed, it is that of the last tick. One that an append has
    loaded is refused, and so is what makes rows go that nobody may expect to (`refuse_unconfirmed`), but with `force`.

    A repeated `idempotency_key` gives the run it made the first time. Raises RunRefused, or KeyReused
    when the key came with another request.
    """
    if idempotency_key and (run := requested_before(by, idempotency_key, request_digest)):
        return run, False
    if pipeline.state == PipelineState.ARCHIVED:
        raise RunRefused("pipeline_archived", f"{pipeline.name} is archived.", "Restore it before you run it.")
    if pipeline.revision_id is None:
        raise RunRefused("no_revision", f"{pipeline.name} was never saved as a whole.", "Open it and save it once.")
    if action == RunAction.SET_WATERMARK:
        refuse_beside_held(pipeline.pk)
    start, end = interval or intervals.of_a_run_by_hand(pipeline, action)
    try:
        with transaction.atomic():
            if not force:
                refuse_unconfirmed(pipeline, action)
                refuse_twice(pipeline, action, options or {}, (start, end))
            run = Run.objects.create(
                pipeline=pipeline,
                revision_id=pipeline.revision_id,
                trigger=trigger,
                action=action,
                action_options=dict(options or {}),
                data_interval_start=start,
                data_interval_end=end,
                requested_by=by,
                priority=priorities.scheduled(pipeline) if trigger in OUTSIDE else priorities.asked_for(pipeline),
                idempotency_key=idempotency_key or None,
                request_digest=request_digest,
            )
            transaction.on_commit(doorbell.ring)
            transaction.on_commit(lambda: live.push_board(run.id, pipeline.id, RunStatus.QUEUED))
    except IntegrityError:
        # The same key came twice at once and the other one was first.
        if idempotency_key and (earlier := requested_before(by, idempotency_key, request_digest)):
            return earlier, False
        raise
    return run, True


def requested_before(by: Any, key: str, digest: str) -> Run | None:
    """The run that this key made for the same request; raises KeyReused where it came with another."""
    run = Run.objects.filter(requested_by=by, idempotency_key=key).select_related("pipeline").first()
    if run and run.request_digest != digest:
        raise KeyReused(
            "idempotency_key_reused",
            "This Idempotency-Key was used before, for another request.",
            "Use a new key for a new request.",
        )
    return run


def run_again(run: Run, *, by: Any) -> Run:
    """Queue a new run that does the same, with the pipeline's definition as it is now."""
    if run.action == RunAction.BACKFILL:
        message = "A slice of a backfill is not run again by itself."
        raise RunRefused("run_not_cleared", message, "Try again what failed, on the backfill's page.")
    if run.action == RunAction.UNDO:
        message = "An undo is not run again by itself."
        raise RunRefused("run_not_cleared", message, "Look at what is kept now, and ask for it anew.")
    start, end = intervals.of(run) or intervals.NONE
    action, options = as_asked(run)
    asked = giving.check(run.pipeline, action, options.get("parameters") or {}, start, end)
    for error in asked.errors.values():
        raise RunRefused(error.code, error.message, error.hint)
    again, _ = request_run(
        run.pipeline,
        trigger=Trigger.MANUAL,
        by=by,
        action=action,
        # A person asked for it, whatever a micro-batch was asked for because of.
        options={name: value for name, value in options.items() if name != "because"},
        interval=asked.interval,
    )
    return again


def cancel_run(run: Run, *, by: Any) -> Run:
    """Cancel what waits at once; ask the owner of what runs to stop. Cancelling twice changes nothing.
    A held run is discarded.

    What is resolving ends as the destination says: the wish makes somebody ask it now.
    """
    who = by.get_username() if by is not None else "someone"
    with transaction.atomic():
        # Under the row's lock: an owner may be about to let go of it.
        now = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
        if now.status == RunStatus.HELD:
            return decide(now, Decision.DISCARD, by=by)
        if now.status in UNOWNED and not now.decision and not now.step:
            ended = {"status": RunStatus.CANCELLED, "finished_at": Now(), "phase": ""}
            Run.objects.filter(pk=run.pk).update(cancel_requested=True, cancelled_by=by, **ended)
            write_lines(run.pk, [Line("warning", f"Cancelled by {who} before it ran again.")], attempt=now.attempt)
            transaction.on_commit(doorbell.ring)  # the pipeline's next run may be free now
        elif now.status not in TERMINAL and not now.cancel_requested:
            Run.objects.filter(pk=run.pk).update(cancel_requested=True, cancelled_by=by)
            write_lines(run.pk, [Line("warning", f"{who} asked to cancel this run.")], attempt=now.attempt)
            if now.lease_until is None:
                Run.objects.filter(pk=run.pk).update(due=Now())
                go_to_publish(run.pk)  # of a run in parts: who takes its last step sees the wish
                transaction.on_commit(doorbell.ring)
    run.refresh_from_db()
    live.push_run(run.pk)
    live.push_board(run.pk, run.pipeline_id, run.status)
    return run
