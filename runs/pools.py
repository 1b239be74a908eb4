"""Pools with what is in use of them and what waits for them."""

from __future__ import annotations

from django.db.models import Count, IntegerField, QuerySet
from django.db.models.expressions import RawSQL

from pipelines.models import Pool
from runs.services import slots


def with_use() -> QuerySet[Pool]:
    """Pools, each with `in_use`, `waiting` (runs that are due) and `used_by` (pipelines), in one statement."""
    return Pool.objects.annotate(
        in_use=RawSQL(_IN_USE, [], output_field=IntegerField()),  # noqa: S611 - our own text
        waiting=RawSQL(_WAITING, [], output_field=IntegerField()),  # noqa: S611 - as above
        used_by=Count("pipelines"),
    )


_IN_USE = f"(SELECT count(*) FROM ({slots.IN_USE}) u WHERE u.pool_id = pipelines_pool.id)"
_WAITING = f"""(
    SELECT count(*) FROM runs_lane l JOIN runs_run r ON r.lane_id = l.id
    WHERE l.pool_id = pipelines_pool.id AND {slots.CLAIMABLE_ONES} AND r.lease_until IS NULL AND r.step <> 'parts'
      AND r.due <= statement_timestamp())
"""
