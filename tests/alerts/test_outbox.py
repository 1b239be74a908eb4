"""Messages are sent at least once, tried again while that is of use, and together where they are many."""

from __future__ import annotations

import threading
import time as clock
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from pipelines.models import AlertChannel, AlertKind, Pipeline, Quiet
from runs.alerts import outbox, work
from runs.alerts.outbox import quiet_until
from runs.alerts.sending import Outcome
from runs.models import AlertDelivery, DeliveryState

pytestmark = pytest.mark.django_db
FAILED, RECOVERED = AlertKind.FAILED, AlertKind.RECOVERED
GOOD, BAD = Outcome(), Outcome("not_sent", "The service is down.")


class Sent(list[tuple[str, str]]):
    """What was sent (title, body), in place of the real sender; `outcomes` are given one by one, then all is good."""

    outcomes: list[Outcome]

    @property
    def titles(self) -> list[str]:
        return [title.removeprefix("[DataMantri] ") for title, _ in self]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    sent.outcomes = []

    def send(url: str, message: Any) -> Outcome:
        sent.append((message.title, message.body))
        return sent.outcomes.pop(0) if sent.outcomes else GOOD

    monkeypatch.setattr(work, "send", send)
    return sent


def states() -> list[str]:
    return list(AlertDelivery.objects.order_by("created_at").values_list("state", flat=True))


def make_due() -> None:
    AlertDelivery.objects.filter(state="waiting").update(due=Now() - timedelta(seconds=1))


def test_it_really_arrives_with_an_id_that_stays_the_same(
    make_pipeline, make_channel, make_rule, end, receiver, loopback_allowed
):
    make_rule(FAILED, channel=make_channel(url=receiver.url("hook/tok3n")))
    end(make_pipeline(), "failed")
    assert work.work() == 1
    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.error_code) == ("sent", 1, "")
    (message,) = receiver.messages
    assert message["title"] == "[DataMantri] Orders failed"
    assert "There is no table shop.orders." in message["message"]
    assert message["message"].endswith(f"Message: {delivery.pk}")
    assert work.work() == 0


def test_a_failure_of_the_service_is_tried_again_and_then_given_up(make_pipeline, make_rule, end, sent):
    sent.outcomes = [BAD] * 100
    make_rule(FAILED)
    end(make_pipeline(), "failed")
    before = datetime.now(UTC)
    work.work()
    after = datetime.now(UTC)
    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.error_message) == ("waiting", 1, "The service is down.")
    assert before + timedelta(seconds=11) < delivery.due < after + timedelta(seconds=19)
    assert work.work() == 0
    make_due()
    assert work.work() == 1
    AlertDelivery.objects.update(attempts=outbox.MOST_ATTEMPTS - 1)
    make_due()
    work.work()
    assert states() == ["failed"]
    make_due()
    assert work.work() == 0


def test_waits_grow_from_seconds_to_half_an_hour():
    waits = [outbox.backoff_s(attempts) for attempts in (1, 2, 3, 20)]
    assert 11 < waits[0] < 19
    assert 22 < waits[1] < 38
    assert 45 < waits[2] < 75
    assert 1350 <= waits[3] <= 2250


def test_what_another_try_would_not_mend_is_given_up_at_once(make_pipeline, make_channel, make_rule, end, receiver):
    make_rule(FAILED, channel=make_channel(url=receiver.url()))
    end(make_pipeline(), "failed")
    assert work.work() == 1
    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.error_code) == ("failed", "private_address")
    assert "ALERT_PRIVATE_NETWORKS" in delivery.error_message
    assert receiver.messages == []


def test_no_error_has_a_part_of_the_address(make_pipeline, make_channel, make_rule, end, receiver, loopback_allowed):
    receiver.answers["/hook/Tok3nOfMine?key=An0therOne"] = (500, "")
    url = f"json://someone:P4ssword@127.0.0.1:{receiver.port}/hook/Tok3nOfMine?-key=An0therOne"
    make_rule(FAILED, channel=make_channel(url=url))
    end(make_pipeline(), "failed")
    work.work()
    receiver.server.shutdown()
    receiver.server.server_close()
    make_due()
    work.work()
    delivery = AlertDelivery.objects.get()
    assert delivery.state == "waiting"
    assert "127.0.0.1" in delivery.error_message
    for secret in ("someone", "P4ssword", "Tok3nOfMine", "An0therOne"):
        assert secret not in delivery.error_message


def test_whoever_dies_while_sending_is_followed_and_comes_too_late(make_pipeline, make_rule, end, sent):
    make_rule(FAILED)
    end(make_pipeline(), "failed")
    lost = outbox.take()
    assert lost is not None
    assert work.work() == 0
    AlertDelivery.objects.update(lease_until=Now() - timedelta(seconds=1))
    assert work.work() == 1
    assert outbox.write_down(lost, BAD) is False
    assert states() == ["sent"]


def test_what_an_alert_says_goes_in_its_order(make_pipeline, make_rule, end, sent):
    sent.outcomes = [BAD]
    make_rule(FAILED, RECOVERED)
    pipeline = make_pipeline()
    end(pipeline, "failed")
    work.work()
    end(pipeline, "succeeded")
    assert work.work() == 0, "the end would arrive before the beginning"
    make_due()
    work.work()
    assert sent.titles == ["Orders failed", "Orders failed", "Orders works again"]


def test_another_alert_does_not_wait_for_it(make_pipeline, make_rule, end, sent):
    sent.outcomes = [BAD]
    make_rule(FAILED)
    end(make_pipeline("Orders"), "failed")
    work.work()
    end(make_pipeline("Refunds"), "failed")
    work.work()
    assert sent.titles == ["Orders failed", "Refunds failed"]


def test_a_storm_is_one_message(make_pipeline, make_rule, end, sent):
    make_rule(FAILED)
    for number in range(12):
        end(make_pipeline(f"P {number:02}"), "failed")
    work.work()
    assert sent.titles == ["12 alerts at once"]
    for number in range(12):
        assert f"P {number:02} failed" in sent[0][1]
    assert sorted(states()) == ["merged"] * 11 + ["sent"]


def test_what_opens_and_closes_incidents_gets_each_message_by_itself(make_pipeline, make_channel, make_rule, end, sent):
    make_rule(FAILED, channel=make_channel(url="pagerduty://key@source"))
    for number in range(outbox.MANY + 2):
        end(make_pipeline(f"P{number}"), "failed")
    work.work()
    assert len(sent) == outbox.MANY + 2
    assert set(states()) == {"sent"}


def test_what_is_for_a_channel_that_fails_goes_last(make_pipeline, make_channel, make_rule, end, sent):
    make_rule(FAILED, channel=make_channel("dead"), name="dead", pipelines=[make_pipeline("Dead")])
    make_rule(FAILED, channel=make_channel("good"), name="good", pipelines=[make_pipeline("Good")])
    for name in ("Dead", "Good"):
        end(Pipeline.objects.get(name=name), "failed")
    AlertDelivery.objects.filter(channel_name="dead").update(error_code="not_sent", due=Now() - timedelta(hours=1))
    work.work()
    assert sent.titles == ["Good failed", "Dead failed"]


def test_what_waits_for_a_channel_that_is_switched_off_is_dropped(make_pipeline, make_channel, make_rule, end, sent):
    channel = make_channel()
    make_rule(FAILED, channel=channel)
    end(make_pipeline(), "failed")
    AlertChannel.objects.update(enabled=False)
    work.work()
    assert not sent
    assert states() == ["dropped"]


def test_a_few_are_not(make_pipeline, make_rule, end, sent):
    make_rule(FAILED)
    for number in range(5):
        end(make_pipeline(f"P {number}"), "failed")
    work.work()
    assert len(sent) == 5


# Quiet hours --------------------------------------------------------------------------------------


def at(hour: int, minute: int = 0, day: int = 10, month: int = 6) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def quiet(begins: str, ends: str, zone: str = "UTC") -> AlertChannel:
    return AlertChannel(
        name="x", quiet_from=time.fromisoformat(begins), quiet_until=time.fromisoformat(ends), quiet_zone=zone
    )


@pytest.mark.parametrize(
    ("channel", "now", "until"),
    [
        (quiet("22:00", "07:00"), at(23), at(7, day=11)),
        (quiet("22:00", "07:00"), at(6, 59), at(7)),
        (quiet("22:00", "07:00"), at(7), None),
        (quiet("22:00", "07:00"), at(21, 59), None),
        (quiet("12:00", "13:30"), at(12), at(13, 30)),
        (quiet("12:00", "13:30"), at(14), None),
        (quiet("22:00", "07:00", "Asia/Kolkata"), at(17), at(1, 30, day=11)),
        (quiet("22:00", "07:00", "America/New_York"), at(3), at(11)),
        # The night in which the clock goes forward (29 March, 2:00) and the one in which it goes back (25 October).
        (quiet("22:00", "07:00", "Europe/Berlin"), at(0, 30, day=29, month=3), at(5, day=29, month=3)),
        (quiet("22:00", "07:00", "Europe/Berlin"), at(0, 30, day=25, month=10), at(6, day=25, month=10)),
        (AlertChannel(name="x"), at(3), None),
    ],
)
def test_quiet_hours_go_by_the_clock_on_the_wall(channel, now, until):
    assert quiet_until(channel, now) == until


@pytest.fixture
def quiet_channel(make_channel: Callable[..., AlertChannel]) -> AlertChannel:
    """A channel whose quiet hours are now."""
    now = datetime.now(UTC)
    begins, ends = (now - timedelta(hours=2)).time(), (now + timedelta(hours=2)).time()
    return make_channel(quiet_from=begins, quiet_until=ends)


def test_in_quiet_hours_messages_wait_and_go_as_one(make_pipeline, make_rule, end, sent, quiet_channel):
    make_rule(FAILED, RECOVERED, channel=quiet_channel)
    orders, refunds = make_pipeline("Orders"), make_pipeline("Refunds")
    end(orders, "failed")
    end(refunds, "failed")
    end(orders, "succeeded")
    assert work.work() == 0
    assert states() == ["waiting"] * 3
    assert AlertDelivery.objects.filter(due__gt=Now() + timedelta(hours=1), deferred=True).count() == 3
    make_due()
    work.work()
    assert sent.titles == ["3 alerts from quiet hours"]
    body = sent[0][1]
    assert body.index("Orders failed") < body.index("Refunds failed") < body.index("Orders works again")
    assert sorted(states()) == ["merged", "merged", "sent"]


def test_one_alone_goes_as_it_is(make_pipeline, make_rule, end, sent, quiet_channel):
    make_rule(FAILED, channel=quiet_channel)
    end(make_pipeline(), "failed")
    make_due()
    work.work()
    assert sent.titles == ["Orders failed"]


def test_urgent_rules_are_told_at_any_hour(make_pipeline, make_rule, end, sent, quiet_channel):
    make_rule(FAILED, channel=quiet_channel, urgent=True)
    end(make_pipeline(), "failed")
    work.work()
    assert sent.titles == ["Orders failed"]


def test_a_channel_may_drop_what_comes_in_quiet_hours(make_pipeline, make_rule, end, sent, quiet_channel):
    AlertChannel.objects.update(quiet_mode=Quiet.DROP)
    make_rule(FAILED, channel=quiet_channel)
    end(make_pipeline(), "failed")
    make_due()
    assert work.work() == 0
    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.error_code) == ("dropped", "quiet_hours")


def test_a_channel_that_is_off_gets_nothing(make_pipeline, make_rule, make_channel, end, sent):
    make_rule(FAILED, channel=make_channel(enabled=False))
    end(make_pipeline(), "failed")
    assert work.work() == 0
    assert AlertDelivery.objects.get().error_code == "channel_off"


# By hand ------------------------------------------------------------------------------------------


def test_a_test_goes_at_once_and_is_tried_once(make_channel, operator, sent, quiet_channel):
    sent.outcomes = [BAD]
    delivery = outbox.send_test(quiet_channel, by=operator)
    work.work()
    delivery.refresh_from_db()
    assert sent.titles == ["Test of channel #data"]
    assert "Sent by: olga" in sent[0][1]
    assert (delivery.state, delivery.requested_by) == ("failed", operator)


def test_a_message_can_be_sent_again(make_pipeline, make_rule, end, sent, operator):
    make_rule(FAILED)
    end(make_pipeline(), "failed")
    work.work()
    first = AlertDelivery.objects.get()
    for _ in range(2):
        again = outbox.resend(first, by=operator)
        work.work()
        again.refresh_from_db()
        assert (again.state, again.is_resend, again.requested_by) == ("sent", True, operator)
    assert sent.titles == ["Orders failed"] * 3
    assert AlertDelivery.objects.filter(is_resend=False).get() == first


def test_a_channel_whose_key_is_lost_says_so(make_pipeline, make_rule, end, sent):
    make_rule(FAILED)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipelines_alertchannel SET secrets = 'gAAAAA-not-a-token'")
    end(make_pipeline(), "failed")
    work.work()
    assert sent == []
    assert (AlertDelivery.objects.get().state, AlertDelivery.objects.get().error_code) == ("failed", "key_lost")


@pytest.mark.django_db(transaction=True)
def test_many_senders_send_each_message_once(make_pipeline, make_rule, end, monkeypatch):
    make_rule(FAILED)
    for number in range(8):
        end(make_pipeline(f"P {number}"), "failed")
    sent: list[str] = []

    def send(url: str, message: Any) -> Outcome:
        clock.sleep(0.05)
        sent.append(message.title)
        return GOOD

    monkeypatch.setattr(work, "send", send)
    begin = threading.Barrier(4)

    def run() -> None:
        try:
            begin.wait(60)
            work.work()
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(sent) == len(set(sent)) == 8
    assert set(AlertDelivery.objects.values_list("state", "attempts")) == {(DeliveryState.SENT, 1)}
    assert AlertDelivery.objects.filter(ended_at__gte=F("created_at")).count() == 8
