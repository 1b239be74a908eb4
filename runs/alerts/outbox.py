"""Messages that are to be sent: written where an alert changes, taken by whoever sends, written down how it ended."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import QuerySet, Value
from django.db.models.functions import Now

from pipelines import alert_urls
from pipelines.models import AlertChannel, Quiet
from runs.alerts import wording
from runs.alerts.sending import TIME_LIMIT_S, Message, Outcome
from runs.models import Alert, AlertDelivery, DeliveryEvent, DeliveryState

# Longer than a try can take: then whoever sends is gone.
LEASE = timedelta(seconds=2 * TIME_LIMIT_S + 10)
FIRST_RETRY_S, LONGEST_RETRY_S = 15.0, 1800.0
# About a day, as the waits are.
MOST_ATTEMPTS = 50
# More than these for one channel at once go as one message.
MANY = 10
MERGED_MOST = 200


@dataclass(frozen=True)
class Taken:
    """A delivery that this process sends now; `token` outlaws former tries."""

    id: UUID
    token: int
    url: str
    message: Message
    attempts: int
    event: str


# Writing ----------------------------------------------------------------------------------------


def write(
    text: wording.Text,
    channel: AlertChannel,
    *,
    event: str,
    alert: Alert | None = None,
    number: int = 0,
    urgent: bool = False,
    now: datetime,
    by: Any = None,
) -> AlertDelivery:
    """Put a message into the outbox, in its caller's transaction; quiet hours decide when it goes, or that it does not.

    The same message of one alert is written once, however often it is asked for.
    """
    delivery = AlertDelivery(
        alert=alert,
        channel=channel,
        channel_name=channel.name,
        event=event,
        number=number,
        title=text.title,
        body=text.body,
        severity=text.severity,
        urgent=urgent,
        due=now,
        requested_by=by,
    )
    if event != DeliveryEvent.TEST:
        _mind_the_channel(delivery, channel, now)
    made = AlertDelivery.objects.bulk_create([delivery], ignore_conflicts=True)
    return made[0]


def _mind_the_channel(delivery: AlertDelivery, channel: AlertChannel, now: datetime) -> None:
    if not channel.enabled:
        _drop(delivery, "channel_off", "The channel was switched off.", now)
    elif not delivery.urgent and (until := quiet_until(channel, now)):
        if channel.quiet_mode == Quiet.DROP:
            _drop(delivery, "quiet_hours", "It was in the channel's quiet hours.", now)
        else:
            delivery.due, delivery.deferred = until, True


def _drop(delivery: AlertDelivery, code: str, why: str, now: datetime) -> None:
    delivery.state, delivery.ended_at = DeliveryState.DROPPED, now
    delivery.error_code, delivery.error_message = code, why


def quiet_until(channel: AlertChannel, now: datetime) -> datetime | None:
    """When the quiet hours end that `now` lies in; None outside them."""
    if channel.quiet_from is None or channel.quiet_until is None:
        return None
    zone = ZoneInfo(channel.quiet_zone)
    today = now.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        # Each end by the clock on the wall, whatever happens to it in the night; compared in UTC.
        begins = datetime.combine(day, channel.quiet_from, zone)
        last_day = day if channel.quiet_until > channel.quiet_from else day + timedelta(days=1)
        ends = datetime.combine(last_day, channel.quiet_until, zone)
        if begins.astimezone(UTC) <= now < ends.astimezone(UTC):
            return ends.astimezone(UTC)
    return None


def send_test(channel: AlertChannel, *, by: Any) -> AlertDelivery:
    """Ask for a test message; the caller rings and looks at the delivery to see how it ended."""
    text = wording.test(channel.name, by.get_username())
    return write(text, channel, event=DeliveryEvent.TEST, by=by, now=_now())


def resend(delivery: AlertDelivery, *, by: Any) -> AlertDelivery:
    """A new delivery that says the same to the same channel, at once."""
    return AlertDelivery.objects.create(
        alert_id=delivery.alert_id,
        channel_id=delivery.channel_id,
        channel_name=delivery.channel_name,
        event=delivery.event,
        number=delivery.number,
        title=delivery.title,
        body=delivery.body,
        severity=delivery.severity,
        urgent=True,
        is_resend=True,
        requested_by=by,
    )


def _now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


# Taking -----------------------------------------------------------------------------------------

# What an alert says goes in its order to each channel; tests and what is urgent go before the rest. What is for a
# channel that did not take a message goes last: nobody else is to wait for its time-outs.
_TAKE = """
WITH best AS (
    SELECT d.id FROM runs_alertdelivery d
    WHERE (d.state = 'waiting' AND d.due <= clock_timestamp()
           OR d.state = 'sending' AND d.lease_until < clock_timestamp())
      AND NOT EXISTS (
          SELECT FROM runs_alertdelivery e
          WHERE e.alert_id = d.alert_id AND e.channel_id = d.channel_id AND e.state IN ('waiting', 'sending')
            AND NOT d.is_resend AND (e.created_at, e.id) < (d.created_at, d.id))
    ORDER BY d.alert_id IS NOT NULL, EXISTS (
        SELECT FROM runs_alertdelivery f
        WHERE f.channel_id = d.channel_id AND f.state IN ('waiting', 'sending') AND f.error_code <> ''),
        NOT d.urgent, d.due, d.id
    LIMIT 1 FOR UPDATE OF d SKIP LOCKED
)
UPDATE runs_alertdelivery d SET state = 'sending', attempts = d.attempts + 1, token = d.token + 1,
    lease_until = clock_timestamp() + %s
FROM best WHERE d.id = best.id
RETURNING d.id
"""


def take() -> Taken | None:
    """Take the next message that is due, with all that go with it, or None."""
    while (delivery := _take()) is not None:
        channel = delivery.channel
        if channel is not None and not channel.enabled and _is_told_by_itself(delivery):
            _drop(delivery, "channel_off", "The channel was switched off.", _now())
            delivery.lease_until = None
            delivery.save(update_fields=["state", "ended_at", "error_code", "error_message", "lease_until"])
            continue
        url = "" if channel is None or channel.has_lost_secrets else (channel.secrets or {}).get("url", "")
        body = f"{delivery.body}\nMessage: {delivery.id}"
        key = str(delivery.alert_id or delivery.id)
        message = Message(delivery.title, body, delivery.severity, key)
        return Taken(delivery.pk, delivery.token, url, message, delivery.attempts, delivery.event)
    return None


def _is_told_by_itself(delivery: AlertDelivery) -> bool:
    """No person asked for this very message."""
    return delivery.event != DeliveryEvent.TEST and not delivery.is_resend


def _take() -> AlertDelivery | None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, [LEASE])
            row = cursor.fetchone()
        if row is None:
            return None
        delivery = AlertDelivery.objects.select_related("channel").get(pk=row[0])
        channel = delivery.channel
        if _is_told_by_itself(delivery) and channel is not None and channel.scheme not in alert_urls.KEEPS_INCIDENTS:
            _merge(delivery)
    return delivery


def _merge(delivery: AlertDelivery) -> None:
    """Let what waits for the same channel go with it: what waited for the morning, and what is too much for one by one.

    Nothing joins a message that was tried before: it may have arrived as it was.
    """
    if delivery.attempts > 1:
        return
    waiting = AlertDelivery.objects.select_for_update(skip_locked=True).filter(
        channel=delivery.channel_id, state=DeliveryState.WAITING, due__lte=Now(), is_resend=False, attempts=0
    )
    waiting = waiting.exclude(event=DeliveryEvent.TEST)
    deferred = list(waiting.filter(deferred=True).order_by("created_at")[:MERGED_MOST]) if delivery.deferred else []
    others = deferred or list(waiting.order_by("created_at")[:MERGED_MOST])
    if not others or (not deferred and len(others) < MANY):
        return
    AlertDelivery.objects.filter(pk__in=[other.pk for other in others]).update(
        state=DeliveryState.MERGED, merged_into=delivery, ended_at=Now()
    )
    told = sorted([delivery, *others], key=lambda each: each.created_at)
    why = "from quiet hours" if deferred else "at once"
    text = wording.digest([wording.Text(each.title, each.body, each.severity) for each in told], why)
    delivery.title, delivery.body, delivery.severity = text.title, text.body, text.severity
    delivery.save(update_fields=["title", "body", "severity"])


# How it ended -----------------------------------------------------------------------------------


def write_down(taken: Taken, outcome: Outcome) -> bool:
    """Write how a try ended; False if the delivery has a newer try, which writes it."""
    ours = AlertDelivery.objects.filter(pk=taken.id, token=taken.token, state=DeliveryState.SENDING)
    told = {"error_code": outcome.code, "error_message": f"{outcome.error} {outcome.hint}".strip(), "lease_until": None}
    if outcome.is_sent:
        return bool(ours.update(state=DeliveryState.SENT, ended_at=Now(), **told))
    if outcome.is_final or taken.event == DeliveryEvent.TEST or taken.attempts >= MOST_ATTEMPTS:
        return bool(ours.update(state=DeliveryState.FAILED, ended_at=Now(), **told))
    wait = timedelta(seconds=backoff_s(taken.attempts))
    return bool(ours.update(state=DeliveryState.WAITING, due=Now() + Value(wait), **told))


def backoff_s(attempts: int) -> float:
    """15 s, 30 s, 60 s … at most half an hour, with jitter."""
    usual = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempts - 1, 10))
    return usual * random.uniform(0.75, 1.25)  # noqa: S311 - jitter


def waiting() -> QuerySet[AlertDelivery]:
    return AlertDelivery.objects.filter(state__in=[DeliveryState.WAITING, DeliveryState.SENDING])
