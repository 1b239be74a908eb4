"""What blocked runs wait for, for many at once: upstreams, how they stand, and since when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from django.db import connection

from pipelines import dependencies
from pipelines.models import PipelineState
from runs.models import CHAIN, NO_NEWS, Prerequisite, Run
from runs.shortage import Holder
from runs.states import RunStatus

SHOWN = 3  # upstreams that a sentence tells of


@dataclass(frozen=True)
class OpenOne:
    """An upstream that a run waits for, and its newest run that matters."""

    upstream: UUID
    name: str
    state: str
    until: datetime | None
    run: UUID | None
    status: str
    ended_at: datetime | None
    error: str

    def __str__(self) -> str:
        if self.status == RunStatus.FAILED:
            return f"because upstream {self.name} failed at {_time(self.ended_at)}: {self.error}".removesuffix(": ")
        if self.status == RunStatus.CANCELLED:
            return f"because the run of upstream {self.name} was cancelled at {_time(self.ended_at)}"
        if self.status and self.status != RunStatus.SUCCEEDED:
            return f"for upstream {self.name}, whose run is {RunStatus(self.status).label.lower()}"
        if self.state != PipelineState.ACTIVE:
            return f"for upstream {self.name}, which is {PipelineState(self.state).label.lower()}"
        if self.until:
            return f"for upstream {self.name} to succeed for the data up to {_time(self.until)}"
        return f"for upstream {self.name} to succeed"

    @property
    def is_broken(self) -> bool:
        return self.status in (RunStatus.FAILED, RunStatus.CANCELLED)


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else "?"


def open_ones(runs: Iterable[UUID]) -> dict[UUID, list[OpenOne]]:
    """What each of these runs still waits for, what failed first."""
    found: dict[UUID, list[OpenOne]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_OPEN, {"runs": list(runs), "nothing": list(NO_NEWS)})
        for run, *rest in cursor.fetchall():
            found[run].append(OpenOne(*rest))
    for its in found.values():
        its.sort(key=lambda each: (not each.is_broken, each.name))
    return found


# Of the upstream's runs for what is waited for: one that did not succeed, or else the newest.
_OPEN = """
SELECT p.run_id, p.upstream_id, u.name, u.state, p.interval_end, n.id, coalesce(n.status, ''), n.finished_at,
       coalesce(n.error_message, '')
FROM runs_prerequisite p JOIN pipelines_pipeline u ON u.id = p.upstream_id
LEFT JOIN LATERAL (
    SELECT x.id, x.status, x.finished_at, x.error_message FROM runs_run x
    WHERE x.pipeline_id = p.upstream_id AND x.action <> ALL(%(nothing)s) AND CASE
        WHEN p.interval_end IS NULL THEN x.created_at >= coalesce(p.since, '-infinity')
        ELSE x.created_at >= coalesce(p.interval_start, p.interval_end) - interval '1 day'
            AND (x.data_interval_end IS NULL
                 OR x.data_interval_end > coalesce(p.interval_start, p.interval_end - interval '1 microsecond')
                    AND coalesce(x.data_interval_start, '-infinity') < p.interval_end) END
    ORDER BY x.status <> 'succeeded' DESC, x.created_at DESC LIMIT 1) n ON true
WHERE p.run_id = ANY(%(runs)s::uuid[]) AND p.met_at IS NULL
ORDER BY p.id
"""


def reasons(runs: Iterable[UUID]) -> dict[UUID, tuple[str, list[Holder]]]:
    """Why each of these runs is blocked, in one sentence, and the upstreams' runs to look at."""
    return {run: (_sentence(its), _looked_at(its)) for run, its in open_ones(runs).items()}


def _sentence(its: Sequence[OpenOne]) -> str:
    shown = [str(each).rstrip(".") for each in its[:SHOWN]]
    if len(its) > SHOWN:
        shown.append(f"for {len(its) - SHOWN} more")
    return f"Waiting {'; and '.join(shown)}."


def _looked_at(its: Sequence[OpenOne]) -> list[Holder]:
    return [Holder(each.run, each.name, 0) for each in its[:SHOWN] if each.run]


@dataclass(frozen=True)
class Shown:
    """A prerequisite as a run's page and the API show it."""

    upstream: UUID
    name: str
    words: str
    is_met: bool
    met_by: UUID | None
    at: datetime | None
    gives_up_at: datetime
    on_give_up: str


def prerequisites_of(run: Run) -> list[Shown]:
    """All that a run waits for or waited for; none for a run that started by itself."""
    found = Prerequisite.objects.filter(run=run).select_related("upstream", "dependency").order_by("pk")
    there = set(
        Run.objects.filter(pk__in=[each.met_by_id for each in found if each.met_by_id]).values_list("pk", flat=True)
    )
    return [
        Shown(
            each.upstream_id,
            each.upstream.name,
            _in_words(each),
            each.met_at is not None,
            each.met_by_id if each.met_by_id in there else None,
            each.met_at,
            each.give_up_at,
            each.get_on_give_up_display().lower(),
        )
        for each in found
    ]


def _in_words(each: Prerequisite) -> str:
    if each.interval_end:
        start = f"from {_time(each.interval_start)} " if each.interval_start else ""
        return f"has succeeded for the data {start}until {_time(each.interval_end)}"
    if each.rule == CHAIN:
        return "has succeeded, as its part of a run from a pipeline down"
    return dependencies.in_words(each.rule, None) if each.since else "has succeeded"
