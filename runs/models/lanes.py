"""The lines in which runs wait for slots."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from pipelines.models import Connection, Pool


class Lane(models.Model):
    """The connections and the pool whose slots a run takes: runs that have these in common wait in one line.

    Triggers give every run its lane, and another one when its pipeline changes.
    """

    id = models.AutoField(primary_key=True)
    source = models.ForeignKey(
        Connection, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    destination = models.ForeignKey(
        Connection, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    pool = models.ForeignKey(
        Pool, on_delete=models.DO_NOTHING, null=True, related_name="+", db_constraint=False, db_index=False
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["source", "destination", "pool"], name="lane_once"),
            models.UniqueConstraint(
                fields=["source", "destination"], condition=Q(pool__isnull=True), name="lane_without_pool_once"
            ),
        ]

    def __str__(self) -> str:
        return f"lane {self.pk}"
