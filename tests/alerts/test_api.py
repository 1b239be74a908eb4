"""Alerts by API: definitions without secrets, what is wrong now, deliveries."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group

from pipelines.models import AlertChannel, AlertKind, AlertRule
from runs.alerts import api as doors
from runs.alerts import work
from runs.alerts.sending import Outcome
from runs.models import Alert, AlertDelivery
from tests.api.conftest import client_of

__all__ = ["client_of"]

pytestmark = pytest.mark.django_db
CHANNELS, RULES = "/api/v1/alert-channels/", "/api/v1/alert-rules/"
ALERTS, DELIVERIES = "/api/v1/alerts/", "/api/v1/alert-deliveries/"
CHANNEL = {"name": "#data", "url": "json://hooks.example.com/Tok3nOfMine"}


@pytest.fixture
def people(client_of, django_user_model) -> dict[str, Any]:
    found = {}
    for name in ("viewer", "operator"):
        user = django_user_model.objects.create_user(f"{name}-person")
        user.groups.add(Group.objects.get(name=name))
        found[name] = client_of(user)
    return {**found, "outsider": client_of(django_user_model.objects.create_user("otto"))}


@pytest.fixture
def api(people) -> Any:
    return people["operator"]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    sent: list[Any] = []

    def send(url: str, message: Any) -> Outcome:
        sent.append(message)
        return Outcome()

    monkeypatch.setattr(work, "send", send)
    monkeypatch.setattr(doors.bell, "ring", work.work)
    return sent


def test_a_channel_is_made_changed_and_deleted_and_keeps_its_address_to_itself(api):
    made = api.post(CHANNELS, CHANNEL)
    assert made.status_code == 201
    channel = made.json()
    assert "url" not in channel
    assert "Tok3nOfMine" not in made.content.decode() + api.get(CHANNELS).content.decode()
    assert (channel["service"], channel["quiet_mode"], channel["enabled"]) == ("Webhook (JSON)", "digest", True)
    url = f"{CHANNELS}{channel['id']}/"
    quiet = {"quiet_from": "22:00", "quiet_until": "07:00:00", "quiet_zone": "Europe/Berlin"}
    changed = api.patch(url, quiet)
    assert changed.status_code == 200
    assert changed.json()["quiet_from"] == "22:00:00"
    assert AlertChannel.objects.get().secrets == {"url": CHANNEL["url"]}
    assert api.delete(url).status_code == 204


@pytest.mark.parametrize(
    ("sent_in", "field", "code"),
    [
        ({"name": "x"}, "url", "required"),
        ({**CHANNEL, "url": "syslog://"}, "url", "channel_scheme"),
        ({**CHANNEL, "url": "nothing"}, "url", "channel_address"),
        ({**CHANNEL, "quiet_from": "22:00"}, "quiet_until", "quiet_hours_incomplete"),
        ({**CHANNEL, "quiet_zone": "nowhere"}, "quiet_zone", "bad_rule"),
        ({**CHANNEL, "name": "Taken"}, "name", "name_taken"),
        ({**CHANNEL, "webhook": "x"}, "webhook", "unknown_field"),
    ],
)
def test_what_is_wrong_with_a_channel_is_told_field_by_field(api, make_channel, sent_in, field, code):
    make_channel("Taken")
    answer = api.post(CHANNELS, sent_in)
    assert answer.status_code == 400
    assert [problem["code"] for problem in answer.json()["fields"][field]] == [code]


def test_a_rule_is_made_changed_and_deleted(api, make_channel, make_pipeline):
    channel, pipeline = make_channel(), make_pipeline()
    made = api.post(RULES, {"name": "All", "kinds": ["late", "failed"], "channels": [str(channel.pk)]})
    assert made.status_code == 201, made.content
    rule = made.json()
    assert (rule["kinds"], rule["every_pipeline"], rule["pipelines"]) == (["failed", "late"], True, [])
    assert rule["words"].startswith("Tells #data when a run of any pipeline fails")
    url = f"{RULES}{rule['id']}/"
    changed = api.patch(url, {"every_pipeline": False, "pipelines": [str(pipeline.pk)], "urgent": True})
    assert changed.json()["pipelines"] == [str(pipeline.pk)]
    assert changed.json()["channels"] == [str(channel.pk)]
    assert api.patch(url, {"remind_after_h": 4}).json()["remind_after_h"] == 4
    assert api.get(RULES, {"pipelines": str(pipeline.pk)}).json()["count"] == 1
    in_use = api.delete(f"{CHANNELS}{channel.pk}/")
    assert (in_use.status_code, in_use.json()["code"]) == (409, "channel_in_use")
    assert api.delete(url).status_code == 204
    assert not AlertRule.objects.exists()


@pytest.mark.parametrize(
    ("wrong", "field", "code"),
    [
        ({"kinds": []}, "kinds", "min_length"),
        ({"kinds": ["boredom"]}, "kinds.0", "invalid_choice"),
        ({"channels": []}, "channels", "empty"),
        ({"every_pipeline": False}, "pipelines", "watches_nothing"),
        ({"distance": 1}, "distance", "min_value"),
        ({"name": "Taken"}, "name", "name_taken"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told_field_by_field(api, make_rule, make_channel, wrong, field, code):
    channel = make_channel()
    make_rule(AlertKind.FAILED, name="Taken")
    rule = {"name": "All", "kinds": ["failed"], "channels": [str(channel.pk)], **wrong}
    answer = api.post(RULES, rule)
    assert answer.status_code == 400
    assert [problem["code"] for problem in answer.json()["fields"][field]] == [code]


def test_alerts_say_what_is_wrong_now(api, make_pipeline, make_rule, end):
    make_rule(AlertKind.FAILED, name="Failures")
    orders, refunds = make_pipeline("Orders"), make_pipeline("Refunds")
    run = end(orders, "failed")
    end(refunds, "failed")
    end(refunds, "succeeded")
    (alert,) = api.get(ALERTS, {"open": "true"}).json()["results"]
    expected = {"kind": "failed", "pipeline_name": "Orders", "run": str(run.pk), "rule_name": "Failures", "count": 1}
    assert alert == alert | expected
    (over,) = api.get(ALERTS, {"open": "false"}).json()["results"]
    assert (over["pipeline_name"], over["closing"]) == ("Refunds", "recovered")
    assert api.get(f"{ALERTS}{alert['id']}/").json() == alert


def test_a_rule_that_is_gone_leaves_its_alerts(api, make_pipeline, make_rule, end):
    rule = make_rule(AlertKind.FAILED)
    end(make_pipeline(), "failed")
    rule.delete()
    (alert,) = api.get(ALERTS).json()["results"]
    assert (alert["rule"], alert["rule_name"]) == (None, "")


def test_deliveries_are_read_tested_and_sent_again(api, make_pipeline, make_rule, end, sent):
    make_rule(AlertKind.FAILED)
    end(make_pipeline(), "failed")
    (waiting,) = api.get(DELIVERIES, {"state": "waiting"}).json()["results"]
    assert (waiting["title"], waiting["attempts"]) == ("[DataMantri] Orders failed", 0)
    channel = AlertChannel.objects.get()
    tested = api.post(f"{CHANNELS}{channel.pk}/test/")
    assert (tested.status_code, tested.json()["event"]) == (202, "test")
    assert api.get(f"{DELIVERIES}{tested.json()['id']}/").json()["state"] == "sent"
    again = api.post(f"{DELIVERIES}{waiting['id']}/resend/")
    assert (again.status_code, again.json()["is_resend"]) == (202, True)
    assert len(sent) == 3
    AlertRule.objects.all().delete()
    channel.delete()
    gone = api.post(f"{DELIVERIES}{waiting['id']}/resend/")
    assert (gone.status_code, gone.json()["code"]) == (409, "channel_gone")


def test_who_may_not_may_not(people, make_pipeline, make_rule, end, sent):
    rule = make_rule(AlertKind.FAILED)
    end(make_pipeline(), "failed")
    channel, delivery, alert = AlertChannel.objects.get(), AlertDelivery.objects.get(), Alert.objects.get()
    reads = (CHANNELS, RULES, ALERTS, DELIVERIES, f"{ALERTS}{alert.pk}/", f"{CHANNELS}{channel.pk}/")
    for url in reads:
        assert people["viewer"].get(url).status_code == 200, url
        assert people["outsider"].get(url).status_code == 403, url
    for client in (people["viewer"], people["outsider"]):
        assert client.post(CHANNELS, CHANNEL).status_code == 403
        assert client.patch(f"{RULES}{rule.pk}/", {"enabled": False}).status_code == 403
        assert client.delete(f"{CHANNELS}{channel.pk}/").status_code == 403
        assert client.post(f"{CHANNELS}{channel.pk}/test/").status_code == 403
        assert client.post(f"{DELIVERIES}{delivery.pk}/resend/").status_code == 403
    assert sent == []
