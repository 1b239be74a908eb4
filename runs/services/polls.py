"""Near real time in the control database: who polls what, and the one micro-batch that a change asks for.

Pollers share the pipelines: each says every other second that it lives, and takes its part of a fixed number of shares,
first of those that nobody alive has. Should two poll the same for a moment, only one of them can ask for a micro-batch:
what was asked for has a version, and whoever decided by an older one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from connectors.errors import ConnectorError
from connectors.watching import SourceState
from pipelines.models import Mode, Pipeline, PipelineState
from runs.models import OVER_BUDGET, Because, Poll, PollShare, Run, Trigger
from runs.services.asking_once import ask_once
from runs.services.begun_anew import IS_LOAD
from runs.services.journal import storable
from runs.services.processes import end_process
from runs.states import RunStatus

SHARES = 16
# A poller that was silent for so long has lost its shares.
SILENT_AFTER = timedelta(seconds=6)
LONGEST_CODE = 60

# Which share a pipeline is in: those that read the same table through the same connection are in one.
_SHARE = f"""
((hashtextextended(p.source_id::text || CASE p.source_table WHEN '' THEN p.id::text ELSE p.source_table END, 0)
  & 9223372036854775807) %% {SHARES})
"""
# It lives, and takes and gives up shares: of those that are its own, or nobody's who lives, as many as are its due. A
# row that somebody else has changed meanwhile is left alone. `slots` tells a poller that polls from one that waits.
_TAKE = """
WITH me AS (
    INSERT INTO runs_process (name, kind, slots, draining) VALUES (%(me)s, 'poller', 1, false)
    ON CONFLICT (name) DO UPDATE SET seen_at = statement_timestamp(), slots = 1
), others AS MATERIALIZED (
    SELECT name FROM runs_process
    WHERE kind = 'poller' AND slots > 0 AND name <> %(me)s
      AND seen_at BETWEEN statement_timestamp() - %(silent)s AND statement_timestamp() + %(silent)s
), ranked AS (
    SELECT number, poller, row_number() OVER (ORDER BY (poller = %(me)s) DESC, number) AS place
    FROM runs_pollshare s WHERE NOT EXISTS (SELECT FROM others o WHERE o.name = s.poller)
), decided AS (
    SELECT number, poller,
           CASE WHEN place <= ceil(%(shares)s::numeric / (1 + (SELECT count(*) FROM others)))
                THEN %(me)s ELSE '' END AS to_whom
    FROM ranked
)
UPDATE runs_pollshare s SET poller = d.to_whom FROM decided d
WHERE s.number = d.number AND s.poller = d.poller AND s.poller <> d.to_whom
"""
_ASSIGNED = f"""
SELECT p.id, p.revision_id, p.active_from, c.updated_at, o.version, e.run_id, e.status
FROM pipelines_pipeline p
JOIN runs_pollshare s ON s.number = {_SHARE} AND s.poller = %s
JOIN pipelines_connection c ON c.id = p.source_id
LEFT JOIN runs_poll o ON o.pipeline_id = p.id
LEFT JOIN runs_lastend e ON e.pipeline_id = p.id
WHERE p.mode = 'realtime' AND p.state = 'active' AND p.revision_id IS NOT NULL
"""


@dataclass(frozen=True)
class Assigned:
    """A pipeline that this poller polls, and all that may change about it; `last` is how its newest load ended."""

    pipeline: UUID
    revision: int
    active_from: datetime
    source_changed: datetime
    version: int
    last_run: UUID | None
    last: str | None


@dataclass(frozen=True)
class Asked:
    """What became of a decision. `is_obsolete`: somebody else has asked meanwhile, or changes the pipeline."""

    run: Run | None = None
    is_new: bool = False
    is_obsolete: bool = False
    # Why there is no run, and will be none for a while.
    refusal: str = ""


def take_shares(me: str) -> None:
    """Say that this poller lives, and take its part of the shares."""
    values = {"me": me, "silent": SILENT_AFTER, "shares": SHARES}
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, values)


def make_shares() -> None:
    PollShare.objects.bulk_create([PollShare(number=number) for number in range(SHARES)], ignore_conflicts=True)


def leave_shares(me: str) -> None:
    """This poller ends: others may go on at once."""
    PollShare.objects.filter(poller=me).update(poller="")
    end_process(me)


def assigned(me: str) -> list[Assigned]:
    """All that this poller polls now, in one statement, however much it is."""
    with connection.cursor() as cursor:
        cursor.execute(_ASSIGNED, [me])
        return [
            Assigned(pipeline, revision, since, changed, version or 0, run, status)
            for pipeline, revision, since, changed, version, run, status in cursor.fetchall()
        ]


def has_realtime() -> bool:
    """Whether anything is to be polled, by whomever."""
    return Pipeline.objects.filter(mode=Mode.REALTIME, state=PipelineState.ACTIVE).exists()


@transaction.atomic
def ask(pipeline_id: UUID, *, revision: int, version: int, state: SourceState, because: Because) -> Asked:
    """Ask for the micro-batch that reads what `state` tells of, once, however many pollers decided so.

    While a run of the pipeline is held for a person there is none: it would read the same rows again.
    """
    pipeline = (
        # Who saves it now may take a while, and all others are polled by the one who asks here.
        Pipeline.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
        .select_related("revision")
        .filter(pk=pipeline_id, mode=Mode.REALTIME, state=PipelineState.ACTIVE, revision=revision)
        .first()
    )
    if pipeline is None:
        return Asked(is_obsolete=True)
    poll, _ = Poll.objects.get_or_create(pipeline=pipeline)
    if poll.version != version:
        return Asked(is_obsolete=True)
    held = pipeline.runs.filter(status=RunStatus.HELD)
    # What waits for its cost to be approved has read nothing: only of loads would a micro-batch be the same.
    held = held.exclude(~IS_LOAD, error_code=OVER_BUDGET).order_by().first()
    if held is not None:
        return _refused(poll, "A run is held: nothing is read until a person has decided about it.")
    run, is_new, refusal = ask_once(pipeline, Trigger.REALTIME, {"because": because.value})
    if run is None:
        return _refused(poll, refusal)
    Poll.objects.filter(pk=poll.pk).update(
        version=F("version") + 1,
        revision=revision,
        since=pipeline.active_from,
        record=state.record,
        streaming=state.streaming,
        asked_at=Now(),
        run=run,
        refusal="",
    )
    return Asked(run, is_new)


def _refused(poll: Poll, why: str) -> Asked:
    if poll.refusal != why:
        Poll.objects.filter(pk=poll.pk).update(refusal=why)
    return Asked(refusal=why)


def write_seen(pipelines: Sequence[UUID]) -> None:
    """The sources of these answered; what was wrong with them is over."""
    good = {"failures": 0, "error_code": "", "error_message": "", "error_hint": ""}
    polls = Poll.objects.filter(pipeline__in=pipelines)
    polls.update(seen_at=Now(), **good)


def write_unseen(pipelines: Iterable[UUID], unseen: Sequence[str]) -> None:
    """Of these tables behind the pipelines' sources no record tells when their rows change."""
    rows = [Poll(pipeline_id=pipeline, unseen="\n".join(unseen)) for pipeline in pipelines]
    Poll.objects.bulk_create(rows, update_conflicts=True, unique_fields=["pipeline"], update_fields=["unseen"])


def write_failure(pipelines: Iterable[UUID], failures: int, error: ConnectorError) -> None:
    """Why these cannot be polled now."""
    told = {
        "failures": failures,
        "error_code": storable(error.code)[:LONGEST_CODE],
        "error_message": storable(error.message),
        "error_hint": storable(error.hint),
    }
    rows = [Poll(pipeline_id=pipeline, **told) for pipeline in pipelines]
    Poll.objects.bulk_create(rows, update_conflicts=True, unique_fields=["pipeline"], update_fields=list(told))
