"""This installation, and its processes that live."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Now


class Installation(models.Model):
    """One row: the id under which destinations know this control database."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    only = models.BooleanField(default=True, unique=True, editable=False)

    def __str__(self) -> str:
        return str(self.id)


class Process(models.Model):
    """A worker, beat or poller process that lives, as it says itself every heartbeat."""

    class Kind(models.TextChoices):
        WORKER = "worker", "Worker"
        BEAT = "beat", "Beat"
        POLLER = "poller", "Poller"

    name = models.CharField(max_length=200, primary_key=True)
    kind = models.CharField(max_length=10, choices=Kind)
    slots = models.PositiveIntegerField(default=0)
    draining = models.BooleanField(default=False)
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["kind", "name"]
        verbose_name_plural = "processes"

    def __str__(self) -> str:
        return self.name
