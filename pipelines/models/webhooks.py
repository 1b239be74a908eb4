"""The address that lets somebody else's event start a pipeline."""

from __future__ import annotations

import uuid

from django.db import models

from pipelines.fields import EncryptedJSONField
from pipelines.models.pipelines import Pipeline


class Webhook(models.Model):
    """Lets whoever has its secret start a run. `secrets` holds the one of `now` and, for a while, the one `before`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pipeline = models.OneToOneField(Pipeline, on_delete=models.CASCADE, related_name="webhook")
    secrets = EncryptedJSONField(default=dict, editable=False)
    # Until when the secret that was replaced still counts.
    before_until = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    rotated_at = models.DateTimeField(auto_now_add=True)
    used_at = models.DateTimeField(null=True, editable=False)
    # What was refused for its signature in the minute that began then.
    refused = models.PositiveIntegerField(default=0, editable=False)
    refused_since = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"the webhook of {self.pipeline}"
