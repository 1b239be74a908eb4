"""Deliveries of webhooks that were accepted, until nobody can repeat them."""

from __future__ import annotations

from django.db import models

from pipelines.models import Webhook


class Delivery(models.Model):
    """The id of a delivery that made a run: a second one of this id is a repetition."""

    id = models.BigAutoField(primary_key=True)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=200)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["webhook", "key"], name="delivery_once")]
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return self.key
