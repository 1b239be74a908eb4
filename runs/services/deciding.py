"""What becomes of a run that a guard holds."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from runs import doorbell, live
from runs.models import OVER_BUDGET, Decision, Run
from runs.services.approving import discard_cost, not_held
from runs.services.errors import RunRefused
from runs.services.journal import Line, storable, write_lines
from runs.states import ACTIVE, RunStatus

EXPIRED = "Nobody decided in time."
AT_ONCE = 100


def decide(run: Run, decision: str, *, by: Any, note: str = "", attempt: int | None = None) -> Run:
    """Let a worker publish what a held run staged, or take it away.

    `attempt` is the one whose hold somebody has seen; not given, that of `run`. Raises RunRefused if the run is not
    held (any more), or for another reason by now, or another run of its pipeline is under way; to publish, also if its
    rows are of another definition than the pipeline has by now.
    """
    who = by.get_username() if by is not None else ""
    told = {
        Decision.PUBLISH: f"{who} approved this run: its rows are published as they were staged.",
        Decision.DISCARD: f"{who} discarded this run." if who else f"{EXPIRED} The run is discarded.",
    }[Decision(decision)]
    note = storable(note.strip())
    if run.error_code == OVER_BUDGET:
        return _decide_on_cost(run, decision, by, note, attempt)
    try:
        with transaction.atomic():
            if decision == Decision.PUBLISH:
                _refuse_redefined(run)
            seen = {"attempt": run.attempt if attempt is None else attempt, "error_code": run.error_code}
            changed = Run.objects.filter(pk=run.pk, status=RunStatus.HELD, **seen).update(
                status=RunStatus.RETRYING,
                decision=decision,
                decided_by=by,
                decided_at=Now(),
                decision_note=note,
                approved_code=F("error_code"),
                failures=0,
                due=Now(),
            )
            if not changed:
                raise not_held()
            line = Line("warning", f"{told} Because: {note}" if note else told)
            write_lines(run.pk, [line], attempt=run.attempt)
            transaction.on_commit(doorbell.ring)
            transaction.on_commit(partial(live.push_run, run.pk))
            transaction.on_commit(partial(live.push_board, run.pk, run.pipeline_id, RunStatus.RETRYING))
    except IntegrityError as error:
        raise RunRefused(
            "pipeline_busy",
            "Another run of this pipeline is under way.",
            "Decide when it has ended: should it publish its rows, this run is out of date.",
        ) from error
    run.refresh_from_db()
    return run


def _refuse_redefined(run: Run) -> None:
    """Raise RunRefused for rows that may be neither masked nor filtered as somebody wants them to be since."""
    staged = Run.objects.select_related("revision", "pipeline__revision").get(pk=run.pk)
    now = staged.pipeline.revision
    if now is not None and now.fingerprint != staged.revision.fingerprint:
        raise RunRefused(
            "definition_changed",
            f"These rows are of revision {staged.revision.number}, and since then it is defined otherwise which rows go"
            " into the table, or how.",
            "Discard this run, and run the pipeline by its new definition.",
        )


def _decide_on_cost(run: Run, decision: str, by: Any, note: str, attempt: int | None) -> Run:
    """Of a run that waits because of what it would cost nothing is staged: it can only end here."""
    if decision == Decision.PUBLISH:
        raise RunRefused("nothing_staged", "Nothing of this run was read yet.", "Approve what it costs.")
    who = f"{by.get_username()} discarded this run." if by is not None else f"{EXPIRED} The run is discarded."
    text = f"{who} Nothing of it was read."
    with transaction.atomic():
        told = f"{text} Because: {note}" if note else text
        discard_cost(run, told, attempt, decision=decision, decided_by=by, decided_at=Now(), decision_note=note)
    run.refresh_from_db()
    return run


def discard_expired() -> int:
    """Discard held runs that nobody decided on in time; says how many."""
    discarded = 0
    busy = Run.objects.filter(pipeline=OuterRef("pipeline"), status__in=sorted(ACTIVE))
    due = Run.objects.filter(status=RunStatus.HELD, held_until__lt=Now())
    # A busy pipeline's staged rows wait, and hold up no others.
    due = due.filter(Q(error_code=OVER_BUDGET) | ~Exists(busy))
    for run in due.order_by("held_until")[:AT_ONCE]:
        try:
            decide(run, Decision.DISCARD, by=None)
        except RunRefused:
            continue  # its pipeline is busy, or somebody has just decided: the next look is soon
        discarded += 1
    return discarded
