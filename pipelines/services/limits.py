"""Priorities, pools and limits: how pipelines are run, not what they load."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.db import transaction
from django.db.models import ProtectedError, QuerySet
from django.utils import timezone

from pipelines.models import Connection, Pipeline, Pool
from pipelines.objections import PipelineRefused, constraints_in_words


def set_limits(pipelines: QuerySet[Pipeline], *, priority: int | None, pool: Pool | bool | None, by: Any) -> int:
    """Give pipelines a priority (None: as it is) and a pool (None: no pool, False: as it is); says how many."""
    changes: dict[str, Any] = {} if priority is None else {"priority": priority}
    if pool is not False:
        changes["pool"] = pool
    if not changes:
        return 0
    with transaction.atomic():
        chosen = Pipeline.objects.select_for_update(no_key=True).filter(pk__in=pipelines.values("pk")).order_by("pk")
        pks = list(chosen.values_list("pk", flat=True))
        Pipeline.objects.filter(pk__in=pks).update(**changes)
        if by is not None and by.is_authenticated and pks:
            LogEntry.objects.log_actions(by.pk, Pipeline.objects.filter(pk__in=pks), CHANGE, "Set priority and pool.")
    return len(pks)


def save_pool(pool: Pool) -> None:
    """Save a pool; its slots count at once, for what waits already. Raises PipelineRefused if its name is taken."""
    with constraints_in_words():
        pool.save()


def delete_pool(pool: Pool) -> None:
    """Delete a pool that no pipeline is in; raises PipelineRefused."""
    try:
        with transaction.atomic():
            pool.delete()
    except ProtectedError as error:
        names = sorted(str(pipeline) for pipeline in error.protected_objects)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise PipelineRefused(
            "pool_in_use",
            f"Pool {pool.name} has pipelines: {', '.join(names[:3])}{more}.",
            "Move them to another pool, or out of it.",
        ) from error


def limit_connection(connection: Connection, max_running: int | None) -> None:
    """Set how many steps may use a connection at once; None for the default."""
    Connection.objects.filter(pk=connection.pk).update(max_running=max_running, updated_at=timezone.now())
