"""What a new revision of a pipeline means for its runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Q, QuerySet

from pipelines.given import NAMES
from pipelines.models import Pipeline, Revision
from runs import giving, intervals
from runs.intervals import Interval
from runs.models import OVER_BUDGET, CostApproval, Run, RunAction, Trigger
from runs.services.begun_anew import as_asked, is_load
from runs.services.errors import RunRefused
from runs.services.loaded import refuse_twice
from runs.states import RunStatus

# What waits for its cost follows at once only where its dry run told all of it: what is approved is a limit then, and
# whatever the next dry run says beyond is asked about. All else follows when it goes on (`catch_up`).
_WAITS = Q(status__in=(RunStatus.QUEUED, RunStatus.BLOCKED)) | Q(
    status=RunStatus.HELD,
    error_code=OVER_BUDGET,
    estimated_query_bytes__isnull=False,
    estimated_storage_bytes__isnull=False,
)
_OF_A_SCHEDULE = (Trigger.SCHEDULE, Trigger.UPSTREAM)


def follow(*, pipeline: Pipeline, **_: Any) -> None:
    """Let loads that have read nothing go by the new revision: what it masks or leaves out is not moved by the old one.

    Those that wait for their cost have a new dry run before they go on, and what is approved is no more than was told.
    Each is judged by the revision that it is of, the one before or an older one. What was given values or an interval
    that would not be let through now stays as it was asked for.
    """
    waiting = pipeline.runs.filter(_WAITS, action=RunAction.LOAD)
    behind = Revision.objects.filter(pk__in=waiting.values("revision")).exclude(pk=pipeline.revision_id).in_bulk()
    alike = [pk for pk, each in behind.items() if _judged_by(each) == _judged_by(pipeline.revision)]
    if alike:
        waiting.filter(revision__in=alike).update(revision=pipeline.revision_id)
    others = {pk: each for pk, each in behind.items() if pk not in alike}
    if others:
        _follow_each(pipeline, waiting.filter(revision__in=others), others)


def _follow_each(pipeline: Pipeline, waiting: QuerySet[Run], revisions: Mapping[int, Revision]) -> None:
    """Let those follow that would be let through if they were asked for now."""
    as_they_are = []
    for run in waiting.order_by("created_at"):
        run.revision = revisions[run.revision_id]  # one for many runs, and large
        interval = _interval_by(pipeline, run)
        if interval == _interval_of(run):
            as_they_are.append(run.pk)
        elif interval is not None:
            _move(waiting.filter(pk=run.pk), pipeline, interval)
    waiting.filter(pk__in=as_they_are).update(revision=pipeline.revision_id)


def catch_up(run: Run) -> bool:
    """Before a run that waits for its cost goes on: let a load go by its pipeline's revision of today.

    Says whether that is another one: what its dry run told, and what was approved, is of no use then. Raises
    RunRefused where a load cannot follow, and for anything else if its rows would be of another definition.
    """
    pipeline = Pipeline.objects.select_related("revision").get(pk=run.pipeline_id)
    if pipeline.revision is None or run.revision_id == pipeline.revision_id:
        return False
    if is_load(run.action, run.action_options):
        # One that became a full refresh, as the pipeline said then, is a load again: what it says now may be otherwise.
        run.action, run.action_options = as_asked(run)
        interval = _interval_by(pipeline, run)
        if interval is not None:
            told_nothing = {"estimated_query_bytes": None, "estimated_storage_bytes": None}
            asked = {"action": run.action, "action_options": run.action_options}
            _move(Run.objects.filter(pk=run.pk), pipeline, interval, **asked, **told_nothing)
            CostApproval.objects.filter(run=run.pk).update(run=None)  # the ledger keeps who did
            return True
    elif run.revision.fingerprint == pipeline.revision.fingerprint:
        return False
    raise RunRefused(
        "definition_changed",
        f"This run is of revision {run.revision.number}, and since then it is defined otherwise which rows go into the"
        " table, or how.",
        "Discard it, and ask for another: that goes by the new definition.",
    )


def _move(runs: QuerySet[Run], pipeline: Pipeline, interval: Interval, **more: Any) -> None:
    start, end = interval
    runs.update(revision=pipeline.revision_id, data_interval_start=start, data_interval_end=end, **more)


def _judged_by(revision: Revision | None) -> tuple[Any, ...]:
    """What of a definition decides whether a run may have the values and the interval that it has."""
    assert revision is not None, "a pipeline with runs has one"  # noqa: S101
    definition: Mapping[str, Any] = revision.definition
    return (
        definition["source"]["query"],
        definition.get("parameters") or {},
        *(definition["destination"][name] for name in NAMES),
        definition["write_disposition"],
        definition["incremental"],
        definition.get("deletes"),
    )


def _interval_of(run: Run) -> Interval:
    return intervals.of(run) or intervals.NONE


def _interval_by(pipeline: Pipeline, run: Run) -> Interval | None:
    """The interval by which a load may go by its pipeline's revision of today, None where it may not."""
    interval = _interval_of(run)
    if _judged_by(run.revision) == _judged_by(pipeline.revision):
        return interval
    values = run.action_options.get("parameters") or {}
    # A tick's run goes by the defaults, and has the interval that it is to have.
    if values or run.trigger not in _OF_A_SCHEDULE or interval == intervals.NONE:
        asked = giving.check(pipeline, run.action, values, *interval)
        if asked.errors or asked.values != values:
            return None
        interval = asked.interval or intervals.NONE
    try:
        refuse_twice(pipeline, run.action, run.action_options, interval, but=run.pk)
    except RunRefused:
        return None
    return interval
