"""What could run now, and who could run it."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet, Sum, Value
from django.db.models.functions import Now

from runs.models import PartLoad, Process, Run
from runs.states import ACTIVE, CLAIMABLE, PartStatus, RunStatus, Step

# At least three heartbeats: see the settings.
PROCESS_SEEN_WITHIN = settings.LEASE_TTL


def claimable(*, waited: timedelta = timedelta(0)) -> QuerySet[Run]:
    """Runs that a worker could take now, and could have taken since `waited` ago."""
    others = Run.objects.filter(pipeline=OuterRef("pipeline"), status__in=sorted(ACTIVE))
    due = Now() - Value(waited) if waited else Now()
    ready = Run.objects.filter(status__in=sorted(CLAIMABLE), due__lte=due, lease_until__isnull=True)
    ready = ready.filter(~Q(step=Step.PARTS), ~Q(status=RunStatus.RUNNING) | Q(step=Step.PUBLISH))
    return ready.filter(~Q(status=RunStatus.QUEUED) | ~Exists(others))


def parts_waiting(*, waited: timedelta = timedelta(0)) -> QuerySet[PartLoad]:
    """Parts that a worker could take now, and could have taken since `waited` ago."""
    due = Now() - Value(waited) if waited else Now()
    loading = {"run__step": Step.PARTS, "run__status": RunStatus.RUNNING, "run__cancel_requested": False}
    return PartLoad.objects.filter(status=PartStatus.WAITING, due__lte=due, **loading)


def claimable_count(*, waited: timedelta = timedelta(0), most: int = 1000) -> int:
    """How many runs and parts a worker could take now."""
    runs = claimable(waited=waited).order_by()[:most].count()
    return runs + parts_waiting(waited=waited).order_by()[:most].count()


def _alive(kind: Process.Kind) -> QuerySet[Process]:
    return Process.objects.filter(kind=kind, seen_at__gt=Now() - Value(PROCESS_SEEN_WITHIN))


def workers_alive() -> QuerySet[Process]:
    return _alive(Process.Kind.WORKER).filter(draining=False)


def beats_alive() -> QuerySet[Process]:
    return _alive(Process.Kind.BEAT)


def total_slots() -> int:
    return workers_alive().aggregate(total=Sum("slots"))["total"] or 0


def free_slots() -> int:
    """Slots of living workers without a run: what a dead or ending worker still holds takes none of them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT coalesce(sum(greatest(0, p.slots - (
                SELECT count(*) FROM (
                    SELECT worker FROM runs_run WHERE lease_until > statement_timestamp()
                    UNION ALL SELECT worker FROM runs_partload WHERE lease_until > statement_timestamp()) held
                WHERE starts_with(held.worker, p.name || ':')))), 0)::integer
            FROM runs_process p WHERE p.kind = %s AND NOT p.draining AND p.seen_at > statement_timestamp() - %s
            """,
            [Process.Kind.WORKER, PROCESS_SEEN_WITHIN],
        )
        (free,) = cursor.fetchone()
    return free
