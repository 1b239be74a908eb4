"""Connections, and the pools whose slots pipelines share."""

from __future__ import annotations

import uuid
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from connectors import registry
from connectors.options import build
from pipelines.fields import EncryptedJSONField, KeyLost, LostSecrets


class Pool(models.Model):
    """Slots that pipelines share: no more steps of theirs run at once."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    slots = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="How many steps of the pool's pipelines run at once, on all workers together.",
    )
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="pool_has_a_slot",
                condition=Q(slots__gte=1),
                violation_error_message="A pool has at least one slot.",
            )
        ]

    def __str__(self) -> str:
        return self.name


class Connection(models.Model):
    """Stored options and secrets for one system."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=30, choices=[(k.name, k.label) for k in registry.KINDS.values()])
    options = models.JSONField(default=dict, blank=True)
    secrets = EncryptedJSONField(default=dict, blank=True, editable=False)
    max_running = models.PositiveSmallIntegerField(
        "running at once",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="How many steps may use this connection at once, as source or destination, on all workers together. "
        "Empty: as there are worker slots; a destination leaves one to pipelines of other destinations.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="connection_may_run",
                condition=Q(max_running__isnull=True) | Q(max_running__gte=1),
                violation_error_message="Leave it empty, or let at least one step run.",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def has_lost_secrets(self) -> bool:
        return isinstance(self.secrets, LostSecrets)

    def typed_options(self) -> Any:
        """The connector's options dataclass, secrets included; raises KeyLost or ConnectorError."""
        if self.has_lost_secrets:
            raise KeyLost(f"The secrets of connection {self.name} were encrypted with a key that is no longer set.")
        return build(registry.options_type(self.kind), {**self.options, **(self.secrets or {})})
