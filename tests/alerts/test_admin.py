"""Channels, rules, alerts and deliveries on the desk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from pipelines.models import AlertChannel, AlertKind, AlertRule
from runs.alerts import admin as desk
from runs.alerts import work
from runs.alerts.sending import Outcome
from runs.models import AlertDelivery

pytestmark = pytest.mark.django_db
CHANNELS, RULES = "/admin/pipelines/alertchannel/", "/admin/pipelines/alertrule/"
ALERTS, DELIVERIES = "/admin/runs/alert/", "/admin/runs/alertdelivery/"
SECRET = "json://hooks.example.com/Tok3nOfMine"
CHANNEL = {"name": "#data", "url": SECRET, "enabled": "on", "quiet_zone": "UTC", "quiet_mode": "digest"}


def rule_of(channel: AlertChannel, **changes: Any) -> dict[str, Any]:
    numbers = {"late_after_min": 60, "stale_after_h": 26, "distance": 6}
    typed = {"name": "All", "enabled": "on", "kinds": ["failed", "late"], "channels": [channel.pk], **numbers}
    return {**typed, "every_pipeline": "on", **changes}


def errors_of(answer: Any) -> dict[str, str]:
    assert answer.status_code == 200
    return {name: " ".join(said) for name, said in answer.context["adminform"].form.errors.items()}


@pytest.fixture
def client_in(db: None) -> Callable[[str], Client]:
    def log_in(group: str) -> Client:
        user = User.objects.create_user(f"{group}-person", is_staff=True)
        user.groups.add(Group.objects.get(name=group))
        client = Client()
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Outcome]]:
    """What was sent, and outcomes to come; what is asked for is sent at once, before the page looks."""
    outcomes: list[Outcome] = []
    sent: list[Any] = []

    def send(url: str, message: Any) -> Outcome:
        sent.append((url, message))
        return outcomes.pop() if outcomes else Outcome()

    monkeypatch.setattr(work, "send", send)
    monkeypatch.setattr(desk.bell, "ring", work.work)
    return sent, outcomes


def test_an_address_is_kept_encrypted_and_never_shown(admin_client):
    assert admin_client.post(f"{CHANNELS}add/", CHANNEL).status_code == 302
    channel = AlertChannel.objects.get()
    assert (channel.secrets, channel.scheme, channel.service) == ({"url": SECRET}, "json", "Webhook (JSON)")
    page = f"{CHANNELS}{channel.pk}/change/"
    for url in (CHANNELS, page, f"{CHANNELS}{channel.pk}/history/"):
        assert "Tok3nOfMine" not in admin_client.get(url).content.decode()
    assert "An address of Webhook (JSON) is stored." in admin_client.get(page).content.decode()
    # Empty keeps it; another one takes its place.
    assert admin_client.post(page, {**CHANNEL, "url": "", "name": "#renamed"}).status_code == 302
    channel.refresh_from_db()
    assert (channel.secrets, channel.name) == ({"url": SECRET}, "#renamed")
    admin_client.post(page, {**CHANNEL, "url": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/"})
    channel.refresh_from_db()
    assert channel.service == "Slack"


@pytest.mark.parametrize(
    ("wrong", "field", "told"),
    [
        ({"url": ""}, "url", "required"),
        ({"url": "hooks.example.com"}, "url", "not the address of a channel"),
        ({"url": "syslog://"}, "url", "Alerts are not sent by syslog://"),
        ({"url": "dbus://"}, "url", "Alerts are not sent by dbus://"),
        ({"url": "macosx://"}, "url", "Alerts are not sent by macosx://"),
        ({"url": "slack://a/b/c?template=/etc/passwd"}, "url", "would read a file"),
        ({"url": "discord://a/b?x=1;template=/etc/passwd"}, "url", "would read a file"),
        ({"url": "mailtos://u:p@example.com?pgpkey=/etc/key"}, "url", "would read a file"),
        ({"quiet_from": "22:00"}, "quiet_until", "need a beginning"),
        ({"quiet_from": "22:00", "quiet_until": "22:00"}, "quiet_until", "another time"),
        ({"quiet_zone": "Mars/Olympus"}, "quiet_zone", "is not a time zone"),
    ],
)
def test_what_cannot_be_a_channel_is_told_at_its_field(admin_client, wrong, field, told):
    errors = errors_of(admin_client.post(f"{CHANNELS}add/", {**CHANNEL, **wrong}))
    assert list(errors) == [field]
    assert told in errors[field]


def test_a_refused_address_is_not_sent_back(admin_client):
    answer = admin_client.post(f"{CHANNELS}add/", {**CHANNEL, "quiet_zone": "nowhere"})
    assert "Tok3nOfMine" not in answer.content.decode()


def test_a_test_message_tells_how_it_ended(admin_client, make_channel, sends):
    sent, outcomes = sends
    channel = make_channel()
    url = f"{CHANNELS}{channel.pk}/send-test/"
    page = admin_client.post(url, follow=True).content.decode()
    assert "Sent: the service took the message." in page
    assert sent[0][1].title == "[DataMantri] Test of channel #data"
    outcomes.append(Outcome("private_address", "127.0.0.1 is a private address."))
    page = admin_client.post(url, follow=True).content.decode()
    assert "Not sent: 127.0.0.1 is a private address. Alerts are sent to public addresses only." in page
    delivery = AlertDelivery.objects.first()
    assert delivery is not None
    assert delivery.get_absolute_url() in page


def test_reading_its_address_sends_nothing(admin_client, make_channel, sends):
    page = admin_client.get(f"{CHANNELS}{make_channel().pk}/send-test/").content.decode()
    assert "Send a test to #data?" in page
    assert sends[0] == []


def test_a_test_that_nobody_sends_says_so(admin_client, make_channel, monkeypatch):
    monkeypatch.setattr(desk.bell, "ring", lambda: None)
    monkeypatch.setattr(desk, "TEST_WAIT_S", 0.2)
    page = admin_client.post(f"{CHANNELS}{make_channel().pk}/send-test/", follow=True).content.decode()
    assert "still on its way" in page


def test_a_rule_is_made_and_says_what_it_does(admin_client, make_channel, make_pipeline):
    channel, pipeline = make_channel(), make_pipeline()
    assert admin_client.post(f"{RULES}add/", rule_of(channel)).status_code == 302
    rule = AlertRule.objects.get()
    assert (rule.kinds, list(rule.channels.all()), rule.every_pipeline) == (["failed", "late"], [channel], True)
    words = "Tells #data when a run of any pipeline fails (after its retries); or when 1 hour after a scheduled time"
    for url in (RULES, f"{RULES}{rule.pk}/change/"):
        assert words in admin_client.get(url).content.decode()
    chosen = rule_of(channel, every_pipeline="", pipelines=[pipeline.pk], kinds=["held"])
    del chosen["every_pipeline"]
    assert admin_client.post(f"{RULES}{rule.pk}/change/", chosen).status_code == 302
    rule.refresh_from_db()
    assert (rule.kinds, list(rule.pipelines.all())) == (["held"], [pipeline])
    assert "when a guard or a check holds a run of Orders." in admin_client.get(RULES).content.decode()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"kinds": []}, "kinds"),
        ({"kinds": ["boredom"]}, "kinds"),
        ({"channels": []}, "channels"),
        ({"every_pipeline": None}, "pipelines"),
        ({"late_after_min": 0}, "late_after_min"),
        ({"distance": 1}, "distance"),
        ({"name": "Taken"}, "name"),
    ],
)
def test_what_cannot_be_a_rule_is_told_at_its_field(admin_client, make_channel, make_rule, wrong, field):
    channel = make_channel()
    make_rule(AlertKind.FAILED, name="Taken")
    typed = {name: value for name, value in rule_of(channel, **wrong).items() if value is not None}
    assert list(errors_of(admin_client.post(f"{RULES}add/", typed))) == [field]


def test_the_words_follow_what_is_typed(admin_client, make_channel):
    typed = rule_of(make_channel(), kinds=["stale"], stale_after_h=5)
    told = admin_client.post(f"{RULES}words/", typed).json()["words"]
    assert "nothing was loaded by any pipeline for 5 hours" in told
    assert "choose what to tell" in admin_client.post(f"{RULES}words/", {"enabled": "on"}).json()["words"]
    assert not AlertRule.objects.exists()


def test_a_channel_that_rules_tell_is_not_deleted(admin_client, make_rule):
    make_rule(AlertKind.FAILED, name="All failures")
    channel = AlertChannel.objects.get()
    page = admin_client.post(f"{CHANNELS}{channel.pk}/delete/", {"post": "yes"}).content.decode()
    assert "Not deleted, because these rules tell it:" in page
    assert "All failures" in page
    AlertRule.objects.all().delete()
    admin_client.post(f"{CHANNELS}{channel.pk}/delete/", {"post": "yes"})
    assert not AlertChannel.objects.exists()


def test_alerts_and_deliveries_are_looked_at_and_sent_again(admin_client, make_pipeline, make_rule, end, sends):
    sent, outcomes = sends
    outcomes.append(Outcome("not_sent", "The service is down."))
    make_rule(AlertKind.FAILED)
    end(make_pipeline(), "failed")
    work.work()
    delivery = AlertDelivery.objects.get()
    page = admin_client.get(DELIVERIES).content.decode()
    for text in ("Orders failed", "The service is down.", "Waiting"):
        assert text in page
    alerts = admin_client.get(ALERTS).content.decode()
    assert "There is no table shop.orders." in alerts
    assert admin_client.get(f"{ALERTS}{delivery.alert_id}/change/").status_code == 200
    assert admin_client.get(f"{DELIVERIES}?alert__id__exact={delivery.alert_id}").status_code == 200
    change = f"{DELIVERIES}{delivery.pk}/change/"
    assert "Cause: There is no table shop.orders." in admin_client.get(change).content.decode()
    answer = admin_client.post(f"{DELIVERIES}{delivery.pk}/resend/")
    again = AlertDelivery.objects.get(is_resend=True)
    assert answer.url == again.get_absolute_url()
    assert (again.state, len(sent)) == ("sent", 2)
    for url in (f"{DELIVERIES}add/", f"{ALERTS}add/"):
        assert admin_client.get(url).status_code == 403


def test_the_pipelines_page_and_the_dashboard_tell_what_is_wrong(admin_client, make_pipeline, make_rule, end):
    make_rule(AlertKind.UNUSUAL_ROWS, AlertKind.FAILED, name="Watchful")
    pipeline = make_pipeline()
    for _ in range(11):
        end(pipeline, "succeeded", rows=1000)
    assert "Open alerts" not in admin_client.get(pipeline.get_absolute_url()).content.decode()
    end(pipeline, "succeeded", rows=3)
    end(pipeline, "failed")
    page = admin_client.get(pipeline.get_absolute_url()).content.decode()
    for text in ("Open alerts", "An unusual number of rows", "A run fails", "It moved 3 rows.", "Watchful"):
        assert text in page
    assert "an unusual number of rows" in admin_client.get("/").content.decode()


def test_viewers_look_and_operators_change(client_in, make_rule, make_pipeline, end, sends):
    make_rule(AlertKind.FAILED)
    end(make_pipeline(), "failed")
    channel, rule, delivery = AlertChannel.objects.get(), AlertRule.objects.get(), AlertDelivery.objects.get()
    viewer, operator = client_in("viewer"), client_in("operator")
    change = f"{CHANNELS}{channel.pk}/change/"
    pages = (CHANNELS, change, RULES, f"{RULES}{rule.pk}/change/", ALERTS, DELIVERIES)
    for url in (*pages, f"{DELIVERIES}{delivery.pk}/change/"):
        page = viewer.get(url)
        assert page.status_code == 200, url
        for button in ('name="_save"', "Send test", "Send again"):
            assert button not in page.content.decode(), (url, button)
    assert "Webhook (JSON)" in viewer.get(change).content.decode()
    posts = {
        change: CHANNEL,
        f"{CHANNELS}add/": CHANNEL,
        f"{CHANNELS}{channel.pk}/send-test/": {},
        f"{RULES}{rule.pk}/change/": rule_of(channel),
        f"{RULES}words/": rule_of(channel),
        f"{DELIVERIES}{delivery.pk}/resend/": {},
    }
    for url, sent in posts.items():
        assert viewer.post(url, sent).status_code in (302, 403), url
    assert (sends[0], AlertChannel.objects.count()) == ([], 1)
    assert operator.post(f"{RULES}{rule.pk}/change/", rule_of(channel, name="Ours")).status_code == 302
    assert operator.post(f"{CHANNELS}{channel.pk}/send-test/").status_code == 302
    assert len(sends[0]) == 2  # what waited, and the test
