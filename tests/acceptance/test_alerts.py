"""Alerts by the real beat and workers: told, told again when it is over, and never lost with a process."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from datamantri import processes
from pipelines import alert_definitions
from pipelines import services as definitions
from pipelines.models import AlertChannel, AlertKind, AlertRule, Pipeline
from pipelines.specs import ScheduleSpec
from runs.models import Alert, AlertDelivery
from runs.states import RunStatus
from tests.acceptance.conftest import ended, numbers
from tests.acceptance.product import wait_for
from tests.alerts.conftest import Receiver, receiver

__all__ = ["receiver"]

pytestmark = pytest.mark.usefixtures("product")
FAILED, RECOVERED, STALE = AlertKind.FAILED, AlertKind.RECOVERED, AlertKind.STALE


@pytest.fixture
def watch(receiver: Receiver, operator: Any) -> Iterator[Callable[..., AlertRule]]:
    """Makes a rule about one pipeline that tells the receiver; nothing of it stays."""
    made: list[AlertRule] = []

    def watch(pipeline: Pipeline, *kinds: AlertKind, **changes: Any) -> AlertRule:
        name = f"watch {secrets.token_hex(3)}"
        channel = alert_definitions.save_channel(AlertChannel(name=name), receiver.url(), by=operator)
        rule = AlertRule(name=name, kinds=list(kinds), every_pipeline=False, **changes)
        made.append(alert_definitions.save_rule(rule, channels=[channel], pipelines=[pipeline]))
        return rule

    yield watch
    for rule in made:
        rule.delete()
    Alert.objects.all().delete()
    AlertChannel.objects.all().delete()


def titles(receiver: Receiver) -> list[str]:
    return [message["title"].removeprefix("[DataMantri] ") for message in receiver.messages]


def test_a_failure_is_told_with_its_cause_and_then_that_it_works_again(
    product, receiver, watch, make_pipeline, source_table, run_now, operator
):
    good = source_table(numbers(10))
    pipeline = make_pipeline("shop.nowhere")
    watch(pipeline, FAILED, RECOVERED)
    run = ended(run_now(pipeline))
    assert run.status == RunStatus.FAILED
    wait_for(lambda: receiver.messages, saying="the failure is told")
    text = receiver.messages[0]["message"]
    for part in (f"Pipeline: {pipeline.name}", "nowhere", "[table_not_found]", f"{product.url}/runs/{run.pk}/"):
        assert part in text
    pipeline.source_table = good
    definitions.save_pipeline(pipeline, schedules=None, by=operator)
    assert ended(run_now(pipeline)).status == RunStatus.SUCCEEDED
    wait_for(lambda: len(receiver.messages) > 1, saying="the recovery is told")
    assert titles(receiver) == [f"{pipeline.name} failed", f"{pipeline.name} works again"]


def test_what_waits_while_nobody_sends_is_sent_afterwards_once(product, receiver, watch, make_pipeline, run_now):
    pipeline = make_pipeline("shop.nowhere")
    watch(pipeline, FAILED)
    product.stop("lookups", with_signal=signal.SIGKILL)
    try:
        assert ended(run_now(pipeline)).status == RunStatus.FAILED
        time.sleep(3)
        assert receiver.messages == []
    finally:
        product.start(processes.lookups())
    wait_for(lambda: receiver.messages, saying="what waited is sent")
    wait_for(lambda: set(AlertDelivery.objects.values_list("state", flat=True)) == {"sent"}, saying="it is known")
    time.sleep(3)
    assert titles(receiver) == [f"{pipeline.name} failed"]


def test_beat_looks_at_the_clock(product, receiver, watch, make_pipeline, source_table, operator):
    pipeline = make_pipeline(source_table(numbers(10)))
    definitions.save_pipeline(pipeline, schedules=[ScheduleSpec("cron", cron="0 0 1 1 *")], by=operator)
    Pipeline.objects.filter(pk=pipeline.pk).update(active_from=Now() - timedelta(hours=2))
    watch(pipeline, STALE, stale_after_h=1)
    product.stop("beat")
    product.start(processes.beat())  # now it looks, and then every half minute
    wait_for(lambda: receiver.messages, limit_s=60, saying="stale data is told")
    assert titles(receiver) == [f"{pipeline.name} has stale data"]
    assert "Nothing was ever loaded." in receiver.messages[0]["message"]


def test_a_test_message_by_api_goes_through_the_real_worker(product, receiver, api, operator):
    name = f"api {secrets.token_hex(3)}"
    status, channel = api("POST", "alert-channels/", {"name": name, "url": receiver.url("Tok3nOfMine")})
    assert status == 201
    status, delivery = api("POST", f"alert-channels/{channel['id']}/test/")
    assert status == 202

    def is_sent() -> bool:
        return api("GET", f"alert-deliveries/{delivery['id']}/")[1]["state"] == "sent"

    wait_for(is_sent, saying="the test is sent")
    assert titles(receiver) == [f"Test of channel {name}"]
    assert "Tok3nOfMine" not in product.said("lookups")
    assert api("DELETE", f"alert-channels/{channel['id']}/")[0] == 204
