"""Looking at source tables: which are due, what was seen, and the one run that a change asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from connectors.errors import ConnectorError
from connectors.watching import TableState
from pipelines.models import Pipeline, PipelineState
from runs.models import Run, Trigger, Watch, WatchedTable
from runs.services.asking_once import ask_once
from runs.services.journal import storable

AT_ONCE = 10
LEASE_S = 150
# A table that cannot be looked at is looked at less often, at least once an hour.
LONGEST_WAIT_S = 3600

_WATCHES = "p.watch_every_s IS NOT NULL AND p.state = 'active' AND p.source_table <> ''"
_DUE = f"""
FROM runs_watchedtable w CROSS JOIN LATERAL (
    SELECT min(p.watch_every_s) AS every_s FROM pipelines_pipeline p
    WHERE p.source_id = w.connection_id AND p.source_table = w.table AND {_WATCHES}) p
WHERE p.every_s IS NOT NULL
  AND (w.looked_at IS NULL OR w.looked_at <= statement_timestamp() - interval '1 second'
       * CASE w.failures WHEN 0 THEN p.every_s
         ELSE greatest(p.every_s, least({LONGEST_WAIT_S}, p.every_s * power(2, least(w.failures, 6)))) END)
  AND (w.lease_until IS NULL OR w.lease_until < statement_timestamp())
"""
_ANY_DUE = f"""
SELECT EXISTS (SELECT {_DUE}) OR EXISTS (
    SELECT FROM pipelines_pipeline p WHERE {_WATCHES} AND NOT EXISTS (
        SELECT FROM runs_watchedtable w WHERE w.connection_id = p.source_id AND w.table = p.source_table))
"""
_ADD = f"""
INSERT INTO runs_watchedtable
    (connection_id, "table", fingerprint, is_streaming, failures, error_code, error_message, error_hint)
SELECT DISTINCT p.source_id, p.source_table, '', false, 0, '', '', '' FROM pipelines_pipeline p WHERE {_WATCHES}
ON CONFLICT DO NOTHING
"""
_TAKE = f"""
UPDATE runs_watchedtable t SET lease_until = clock_timestamp() + %(lease)s * interval '1 second'
FROM (SELECT w.id {_DUE} ORDER BY w.looked_at NULLS FIRST LIMIT %(most)s FOR UPDATE OF w SKIP LOCKED) due
WHERE t.id = due.id
RETURNING t.id, t.connection_id, t.table, t.lease_until
"""


@dataclass(frozen=True)
class Look:
    """A table to look at; whoever has it writes what was seen until the lease ends."""

    id: int
    connection: UUID
    table: str
    lease_until: datetime


def is_look_due() -> bool:
    """Whether some table is to be looked at now; asked by beat, which looks at none."""
    with connection.cursor() as cursor:
        cursor.execute(_ANY_DUE)
        return bool(cursor.fetchone()[0])


@transaction.atomic
def take_looks() -> Sequence[Look]:
    """Take some tables that are due, each for one taker; forget those that nobody watches any more."""
    watching = Pipeline.objects.filter(
        source=OuterRef("connection"),
        source_table=OuterRef("table"),
        watch_every_s__isnull=False,
        state=PipelineState.ACTIVE,
    )
    WatchedTable.objects.filter(~Exists(watching)).delete()
    with connection.cursor() as cursor:
        cursor.execute(_ADD)
        cursor.execute(_TAKE, {"lease": LEASE_S, "most": AT_ONCE})
        return [Look(*row) for row in cursor.fetchall()]


def look_failed(look: Look, error: ConnectorError) -> None:
    """Write down why a table could not be looked at; it is looked at again, less often."""
    found = WatchedTable.objects.filter(pk=look.id, lease_until=look.lease_until).first()
    if found is not None:
        WatchedTable.objects.filter(pk=look.id, lease_until=look.lease_until).update(
            lease_until=None,
            looked_at=Now(),
            failures=found.failures + 1,
            error_code=error.code,
            error_message=storable(error.message),
            error_hint=storable(error.hint),
        )


@transaction.atomic
def looked(look: Look, state: TableState) -> list[Run]:
    """Write down what was seen, and ask for a run of each pipeline for which it is new; returns those.

    Nothing is done by a taker whose lease another one has meanwhile: what it saw may be older.
    """
    changed = WatchedTable.objects.filter(pk=look.id, lease_until=look.lease_until).update(
        lease_until=None,
        looked_at=Now(),
        fingerprint=state.fingerprint,
        modified=state.modified,
        rows=state.rows,
        is_streaming=bool(state.streaming),
        failures=0,
        error_code="",
        error_message="",
        error_hint="",
    )
    if not changed:
        return []
    watching = Pipeline.objects.select_for_update(no_key=True, of=("self",)).filter(
        source=look.connection,
        source_table=look.table,
        watch_every_s__isnull=False,
        state=PipelineState.ACTIVE,
    )
    pipelines = {pipeline.pk: pipeline for pipeline in watching.select_related("revision").order_by("pk")}
    known = Watch.objects.in_bulk(list(pipelines))
    runs = [_see(pipeline, known.get(pk), look, state) for pk, pipeline in pipelines.items()]
    return [run for run in runs if run is not None]


def _see(pipeline: Pipeline, watch: Watch | None, look: Look, state: TableState) -> Run | None:
    """Compare with what the pipeline saw before. The first look, also after a pause, only says how things are."""
    if watch is None or watch.watched_id != look.id or watch.since != pipeline.active_from:
        first = {"watched_id": look.id, "fingerprint": state.fingerprint, "since": pipeline.active_from}
        Watch.objects.update_or_create(pipeline=pipeline, defaults=first)
        return None
    seen = Watch.objects.filter(pk=watch.pk, fingerprint=watch.fingerprint).exclude(fingerprint=state.fingerprint)
    if not seen.update(fingerprint=state.fingerprint, changed_at=Now()):
        return None
    run, is_new, refusal = ask_once(pipeline, Trigger.SOURCE)
    Watch.objects.filter(pk=watch.pk).update(run=run, refusal=refusal)
    return run if is_new else None
