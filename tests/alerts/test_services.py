"""What services are sent: mail over SMTP, webhooks, and a PagerDuty that resolves what it was told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipelines import alert_urls
from runs.alerts import child
from runs.alerts.sending import Message, send
from tests.alerts.smtp import mail_server

MESSAGE = Message("Orders failed", "Pipeline: Orders\nCause: <b>no table</b>", "failure", "key-of-the-alert")


def test_a_mail_arrives(loopback_allowed):
    with mail_server() as server:
        url = f"mailto://127.0.0.1:{server.port}?from=mantri@example.com&to=me@example.com"
        assert send(url, MESSAGE).error == ""
    (mail,) = server.messages
    assert (mail["Subject"], mail["To"]) == ("Orders failed", "me@example.com")
    text = mail.get_body(("plain", "html"))
    assert text is not None
    assert "Pipeline: Orders" in text.get_content()
    assert "<b>no table</b>" not in text.get_content() or text.get_content_type() == "text/plain"


def test_what_a_mail_server_refuses_is_told(loopback_allowed):
    with mail_server() as server:
        outcome = send(f"mailto://127.0.0.1:{server.port}?from=mantri@example.com&to=nobody@example.com", MESSAGE)
    assert (outcome.code, server.messages) == ("not_sent", [])
    assert outcome.error


def test_no_mail_goes_to_a_server_on_a_private_address():
    with mail_server() as server:
        outcome = send(f"mailto://127.0.0.1:{server.port}?from=mantri@example.com&to=me@example.com", MESSAGE)
    assert (outcome.code, server.messages, server.recipients) == ("private_address", [], [])


def test_apprise_knows_every_service_that_may_be_used_and_none_runs_anything_here():
    script = (
        "import apprise, json\n"
        "found = apprise.Apprise().details()['schemas']\n"
        "print(json.dumps([s for d in found for k in ('protocols', 'secure_protocols') for s in d[k] or ()]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert set(alert_urls.SERVICES) - set(json.loads(done.stdout)) == set()
    local = {"dbus", "gio", "glib", "gnome", "growl", "kde", "macosx", "qt", "syslog", "windows", "blink1"}
    assert local & set(alert_urls.SERVICES) == set()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pagerduty_gets_one_incident_an_alert_which_its_recovery_resolves(monkeypatch):
    posted: list[dict[str, object]] = []

    class Answer:
        status_code = 202
        content = text = b""

    def post(url: str, data: str, **_: object) -> Answer:
        posted.append(json.loads(data))
        return Answer()

    # PagerDuty cannot be had here: what would be posted to it is looked at instead.
    monkeypatch.setattr("requests.post", post)
    told = {
        "url": "pagerduty://integrationkey123@mantri/loads",
        "public_url": "https://m.example.com",
        "time_limit_s": 5,
    }
    for kind in ("failure", "success"):
        service = child._service({**told, "key": "key-of-the-alert"})
        assert service.notify(body="b", title="t", notify_type=kind)
    assert [each["event_action"] for each in posted] == ["trigger", "resolve"]
    assert {each["dedup_key"] for each in posted} == {"key-of-the-alert"}


@pytest.mark.parametrize(
    ("url", "text", "expected"),
    [
        ("slack://Tok3nA/Tok3nB/Tok3nC", "POST /services/Tok3nA/Tok3nB/Tok3nC", "POST /services/***/***/***"),
        ("tgram://123456789:AAbbCCddEE/42", "https://api/bot123456789:AAbbCCddEE/send", "https://api/bot***/send"),
        (
            "json://u:P%40ss@host.example.com:8080/x",
            "u P@ss P%40ss host.example.com 8080",
            "u *** *** host.example.com 8080",
        ),
        ("json://host/hooks?-key=V4lue", "key V4lue of hooks", "key *** of ***"),
        ("discord://webhookid/webhooktoken", "webhookid webhooktoken", "*** ***"),
        (
            "mailto://me:pw3@smtp.example.com?to=you@example.com",
            "535 me pw3 you smtp.example.com",
            "535 me *** *** smtp.example.com",
        ),
    ],
)
def test_no_part_of_an_address_that_may_be_secret_is_told(url, text, expected):
    assert alert_urls.scrub(text, url) == expected
