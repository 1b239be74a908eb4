"""Every write to channels and rules, and what stands against one before it is tried."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import IntegrityError, transaction

from pipelines import alert_urls
from pipelines.models import AlertChannel, AlertKind, AlertRule, Pipeline
from pipelines.objections import PipelineRefused
from pipelines.schedules.clocks import zone_of
from pipelines.schedules.errors import RuleError

log = logging.getLogger(__name__)


@contextmanager
def _name_is_free(what: str) -> Iterator[None]:
    """Nothing else is unique."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        raise PipelineRefused(
            "name_taken", f"Another alert {what} has this name.", "Choose a name that is free.", "name"
        ) from error


# In the order of forms and files, however they were chosen.
KINDS = [kind.value for kind in AlertKind]


def against_channel(channel: AlertChannel, url: str | None) -> list[PipelineRefused]:
    """What stands against a channel with this address; None: it keeps what it has."""
    found = []
    if url is None and not channel.secrets and not channel.has_lost_secrets:
        found.append(PipelineRefused("required", "A channel needs an address.", alert_urls.HELP, "url"))
    if url is not None and (objection := alert_urls.objection(url)):
        found.append(PipelineRefused(objection.code, objection.message, objection.hint, "url"))
    try:
        zone_of(channel.quiet_zone)
    except RuleError as error:
        found.append(PipelineRefused(error.code, error.message, error.hint, "quiet_zone"))
    begins, ends = channel.quiet_from, channel.quiet_until
    if (begins is None) != (ends is None) or (begins is not None and begins == ends):
        message = "Quiet hours need a beginning and another time as their end."
        found.append(PipelineRefused("quiet_hours_incomplete", message, "Fill in both, or neither.", "quiet_until"))
    return found


def save_channel(channel: AlertChannel, url: str | None, *, by: Any) -> AlertChannel:
    """Save a channel; without `url` it keeps the address that it has. Raises PipelineRefused."""
    url = url.strip() if url else None
    for refused in against_channel(channel, url):
        raise refused
    if url:
        channel.secrets, channel.scheme = {"url": url}, alert_urls.scheme_of(url)
    with _name_is_free("channel"):
        channel.save()
    log.info("Alert channel %s saved by %s", channel.name, by or "a command")
    return channel


def delete_channel(channel: AlertChannel) -> None:
    """Delete a channel that no rule tells; raises PipelineRefused."""
    if names := [rule.name for rule in channel.rules.order_by("name")]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise PipelineRefused(
            "channel_in_use",
            f"Rules tell {channel.name}: {', '.join(names[:3])}{more}.",
            "Let them tell another channel first.",
        )
    channel.delete()


def against_rule(
    rule: AlertRule, channels: Collection[AlertChannel], pipelines: Collection[Pipeline]
) -> list[PipelineRefused]:
    found = []
    if not rule.kinds:
        found.append(PipelineRefused("tells_nothing", "Choose at least one thing to tell.", field="kinds"))
    if unknown := [kind for kind in rule.kinds if kind not in KINDS]:
        message = f"{unknown[0]} is nothing that can be told."
        found.append(PipelineRefused("invalid_choice", message, f"There are: {', '.join(KINDS)}.", "kinds"))
    if not channels:
        found.append(PipelineRefused("tells_nobody", "Choose at least one channel.", field="channels"))
    if not rule.every_pipeline and not pipelines:
        message = "Choose the pipelines that the rule is about, or all."
        found.append(PipelineRefused("watches_nothing", message, field="pipelines"))
    return found


def save_rule(rule: AlertRule, *, channels: Iterable[AlertChannel], pipelines: Iterable[Pipeline]) -> AlertRule:
    """Save a rule with its channels, and with its pipelines unless it is about all. Raises PipelineRefused."""
    channels, pipelines = list(channels), [] if rule.every_pipeline else list(pipelines)
    for refused in against_rule(rule, channels, pipelines):
        raise refused
    rule.kinds = [kind for kind in KINDS if kind in rule.kinds]
    with transaction.atomic():
        with _name_is_free("rule"):
            rule.save()
        rule.channels.set(channels)
        rule.pipelines.set(pipelines)
    return rule
