"""What a signed delivery does: one run, once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from pipelines.models import PipelineState, Webhook
from pipelines.webhooks import TOLERANCE
from runs.intervals import Interval
from runs.models import Delivery, Run, Trigger
from runs.services.errors import RunRefused
from runs.services.requests import request_run

# Much longer than a repeated delivery could pass for a new one.
REMEMBERED_FOR = timedelta(days=1)
AT_ONCE = 1000


def accept(
    webhook: Webhook, delivery: str, *, options: Mapping[str, Any], interval: Interval | None, now: datetime
) -> Run:
    """Queue the run that a delivery asks for. Raises RunRefused; a delivery that came before is refused."""
    pipeline = webhook.pipeline
    if pipeline.state == PipelineState.PAUSED:
        raise RunRefused("pipeline_paused", f"{pipeline.name} is paused.", "Resume it, or start it by hand.")
    with transaction.atomic():
        key = Delivery(webhook=webhook, key=delivery, expires_at=now + max(REMEMBERED_FOR, 2 * TOLERANCE))
        # Two at once: the second one waits here for the first, and then finds it.
        Delivery.objects.bulk_create([key], ignore_conflicts=True)
        if not Delivery.objects.filter(webhook=webhook, key=delivery, expires_at=key.expires_at).exists():
            raise RunRefused(
                "webhook_replayed", "A delivery with this id came before.", "Give each event an id of its own."
            )
        run, _ = request_run(pipeline, trigger=Trigger.WEBHOOK, by=None, options=options, interval=interval)
        Webhook.objects.filter(pk=webhook.pk).update(used_at=Now())
    return run


def forget_deliveries() -> int:
    """Forget ids that expired; says how many."""
    old = Delivery.objects.filter(expires_at__lt=Now()).order_by("expires_at").values_list("pk", flat=True)[:AT_ONCE]
    return Delivery.objects.filter(pk__in=list(old)).delete()[0]
