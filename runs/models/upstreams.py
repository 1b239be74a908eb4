"""What runs wait for of other pipelines, and upstreams' successes that nobody has acted on yet."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from pipelines.models import Dependency, GiveUp, Pipeline
from runs.models.runs import Run

# The rule of a run that was asked for together with those above it; all others are a dependency's.
CHAIN = "chain"


class Prerequisite(models.Model):
    """One thing that a blocked run waits for: a success of `upstream`.

    For the data interval given, which is the upstream's own; or of a run that ended after `since` (rule new_data) or
    was asked for since then (rule chain). What a run waits for is fixed when the run is made.
    """

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="prerequisites", db_index=False)
    upstream = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="+", db_index=False)
    # Gone with the dependency: then nobody waits for it any more.
    dependency = models.ForeignKey(Dependency, on_delete=models.SET_NULL, null=True, related_name="+")
    rule = models.CharField(max_length=20)
    interval_start = models.DateTimeField(null=True)
    interval_end = models.DateTimeField(null=True)
    since = models.DateTimeField(null=True)
    # Of a chain: the run that it begins with.
    head = models.ForeignKey(Run, on_delete=models.CASCADE, null=True, related_name="+", db_index=False)
    give_up_at = models.DateTimeField()
    on_give_up = models.CharField(max_length=10, choices=GiveUp, default=GiveUp.FAIL)
    # Whether it was held against what had happened when it was committed: from then on, new successes tell.
    is_checked = models.BooleanField(default=False)
    met_at = models.DateTimeField(null=True)
    # Empty where a person let the run start without it; the run may be gone by now.
    met_by = models.ForeignKey(
        Run, on_delete=models.DO_NOTHING, null=True, related_name="+", db_constraint=False, db_index=False
    )

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["run", "upstream"], name="prerequisite_once")]
        indexes = [
            models.Index(fields=["id"], condition=Q(is_checked=False), name="prerequisite_unchecked"),
            models.Index(fields=["upstream"], condition=Q(met_at__isnull=True), name="prerequisite_open"),
            models.Index(fields=["give_up_at"], condition=Q(met_at__isnull=True), name="prerequisite_gives_up"),
            models.Index(fields=["head"], condition=Q(head__isnull=False), name="prerequisite_of_chain"),
        ]

    def __str__(self) -> str:
        return f"{self.run_id} after {self.upstream_id}"


class UpstreamSuccess(models.Model):
    """A success that downstreams have not been told of yet. A trigger on runs writes it as the run ends."""

    id = models.BigAutoField(primary_key=True)
    run = models.OneToOneField(Run, on_delete=models.CASCADE, related_name="+")

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return str(self.run_id)
