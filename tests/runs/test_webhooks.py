"""Signed deliveries: what starts a run, once, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from pipelines import rotation, webhooks
from pipelines import services as definitions
from pipelines.models import Pipeline, Webhook
from runs import services
from runs.models import Delivery, Run
from tests.runs.browser import Web, web
from tests.runs.pages import *  # noqa: F403

__all__ = ["web"]
pytestmark = pytest.mark.django_db
DOCS = (Path(__file__).resolve().parents[2] / "docs" / "triggers.md").read_text()


@pytest.fixture
def pipeline(make_pipeline: Any) -> Pipeline:
    return make_pipeline("Orders")


@pytest.fixture
def secret(pipeline: Pipeline) -> str:
    return webhooks.renew_secret(pipeline)[1]


def deliver(secret: str, body: bytes = b"", *, id_: str = "event-1", at: float | None = None, **changes: str) -> Any:
    timestamp = str(int(time.time() if at is None else at))
    signature = "v1," + webhooks.signature_of(secret, id_, timestamp, body)
    headers = {"webhook-id": id_, "webhook-timestamp": timestamp, "webhook-signature": signature, **changes}
    address = reverse("webhook", args=[Webhook.objects.get().pk])
    return Client().post(address, body, content_type="application/json", headers=headers)


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert {"code", "message", "hint", "fields"} == set(answer.json())
    assert not Run.objects.exists()


def test_a_signed_delivery_starts_a_run_without_a_login(secret, pipeline):
    answer = deliver(secret)
    assert answer.status_code == 202
    run = Run.objects.get()
    assert answer.json() == {"run": str(run.pk), "status": "queued", "url": f"http://testserver/api/v1/runs/{run.pk}/"}
    assert (run.pipeline, run.trigger, run.requested_by) == (pipeline, "webhook", None)
    assert Webhook.objects.get().used_at is not None


def test_the_signature_is_that_of_the_specification():
    """The example of standardwebhooks.com's reference libraries."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    signature = webhooks.signature_of(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert signature == "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_delivery_that_comes_again_starts_nothing(secret):
    assert deliver(secret).status_code == 202
    again = deliver(secret)
    assert (again.status_code, again.json()["code"]) == (409, "webhook_replayed")
    signed_anew = deliver(secret, at=time.time() + 60)
    assert signed_anew.status_code == 409
    assert deliver(secret, id_="event-2").status_code == 202
    assert Run.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_of_the_same_delivery_many_times_at_once_one_starts_a_run(secret, at_once):
    answers = at_once(lambda _: deliver(secret).status_code, 6)
    assert sorted(answers) == [202, 409, 409, 409, 409, 409]
    assert Run.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"webhook-signature": "v1,AAAA"}, 401, "webhook_signature"),
        ({"webhook-signature": "v2,AAAA"}, 401, "webhook_signature"),
        ({"webhook-signature": "v1,\u00e9"}, 401, "webhook_signature"),
        ({"webhook-id": "another"}, 401, "webhook_signature"),
        ({"webhook-timestamp": "1700000000"}, 401, "webhook_signature"),
        ({"webhook-timestamp": "now"}, 400, "webhook_unsigned"),
        ({"webhook-timestamp": "9" * 400}, 400, "webhook_unsigned"),
        ({"webhook-id": "x" * 201}, 400, "webhook_unsigned"),
        ({"webhook-id": ""}, 400, "webhook_unsigned"),
        ({"webhook-signature": ""}, 400, "webhook_unsigned"),
    ],
)
def test_what_is_not_signed_as_sent_is_refused(secret, changes, status, code):
    refused(deliver(secret, **changes), status, code)


def test_another_body_than_was_signed_is_refused(secret):
    at = str(int(time.time()))
    signature = "v1," + webhooks.signature_of(secret, "event-1", at, b"{}")
    refused(
        deliver(secret, b'{"a": 1}', **{"webhook-timestamp": at, "webhook-signature": signature}),
        401,
        "webhook_signature",
    )


@pytest.mark.parametrize("seconds", [-301, 330])
def test_what_is_older_or_newer_than_five_minutes_is_refused(secret, seconds):
    refused(deliver(secret, at=time.time() + seconds), 401, "webhook_expired")


@pytest.mark.parametrize("seconds", [-270, 270])
def test_a_clock_may_be_off_a_little(secret, seconds):
    assert deliver(secret, at=time.time() + seconds).status_code == 202


def test_one_of_several_signatures_is_enough(secret):
    at = str(int(time.time()))
    good = webhooks.signature_of(secret, "event-1", at, b"")
    answer = deliver(secret, **{"webhook-timestamp": at, "webhook-signature": f"v1a,xyz v1,AAAA v1,{good}"})
    assert answer.status_code == 202


def test_a_webhook_of_one_pipeline_does_not_start_another(secret, make_pipeline):
    other, other_secret = webhooks.renew_secret(make_pipeline("Other"))
    at = str(int(time.time()))
    headers = {
        "webhook-id": "e", "webhook-timestamp": at,
        "webhook-signature": "v1," + webhooks.signature_of(secret, "e", at, b""),
    }  # fmt: skip
    answer = Client().post(reverse("webhook", args=[other.pk]), b"", content_type="text/plain", headers=headers)
    refused(answer, 401, "webhook_signature")
    assert other_secret != secret


def test_an_address_that_is_none_is_not_found(secret):
    address = reverse("webhook", args=["00000000-0000-4000-8000-000000000000"])
    refused(Client().post(address, b"", content_type="text/plain"), 404, "webhook_unknown")
    assert Client().get(address).status_code == 405


def test_a_large_body_is_refused_before_anything_is_looked_at(secret):
    refused(deliver(secret, b"x" * (64 * 1024 + 1)), 413, "webhook_too_large")
    assert deliver(secret, b'"' + b"x" * (64 * 1024 - 2) + b'"').status_code == 202


def test_many_failures_are_answered_with_429_and_leave_no_trace_but_what_is_signed_goes(secret, monkeypatch):
    monkeypatch.setattr(webhooks, "REFUSED_A_MINUTE", 3)
    codes = [deliver(secret, **{"webhook-signature": "v1,AAAA"}).status_code for _ in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    assert Webhook.objects.get().refused == 3
    assert deliver(secret).status_code == 202
    Webhook.objects.update(refused_since=Now() - timedelta(minutes=2))
    assert deliver(secret, **{"webhook-signature": "v1,AAAA"}).status_code == 401
    assert Webhook.objects.get().refused == 1


# Secrets --------------------------------------------------------------------------------------


def test_a_secret_is_stored_encrypted_and_rotates_with_the_keys(secret, pipeline):
    with connection.cursor() as cursor:
        cursor.execute("SELECT secrets FROM pipelines_webhook")
        (stored,) = cursor.fetchone()
    assert secret.removeprefix("whsec_") not in stored
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    stored = rotation.count().stored
    webhooks.remove(pipeline)
    assert rotation.count().stored == stored - 1


def test_a_renewed_secret_leaves_the_one_before_for_a_day_or_not_at_all(secret, pipeline):
    _, newer = webhooks.renew_secret(pipeline)
    assert deliver(secret, id_="a").status_code == 202
    assert deliver(newer, id_="b").status_code == 202
    webhook = Webhook.objects.get()
    ended = (timezone.now() - timedelta(seconds=1)).isoformat()
    webhook.secrets = {**webhook.secrets, "before": [[secret, ended]]}
    webhook.save()
    assert deliver(secret, id_="c").status_code == 401
    _, newest = webhooks.renew_secret(pipeline)
    webhooks.drop_old_secret(pipeline)
    assert deliver(newer, id_="d").status_code == 401
    _, last = webhooks.renew_secret(pipeline, at_once=True)
    assert deliver(newest, id_="e").status_code == 401
    assert deliver(last, id_="f").status_code == 202


def test_who_renews_twice_cuts_nobody_off(secret, pipeline):
    _, second = webhooks.renew_secret(pipeline)
    _, third = webhooks.renew_secret(pipeline)
    for number, text in enumerate((secret, second, third)):
        assert deliver(text, id_=f"id-{number}").status_code == 202


def test_a_lost_key_is_told_and_the_secret_can_be_renewed(secret, pipeline):
    Webhook.objects.filter(pipeline=pipeline).update(used_at=None)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipelines_webhook SET secrets = 'gAAAAABnothing'")
    refused(deliver(secret), 503, "key_lost")
    _, newer = webhooks.renew_secret(pipeline)
    assert deliver(newer).status_code == 202


def test_ids_are_forgotten_when_they_expire_and_not_before(secret):
    deliver(secret)
    assert services.forget_deliveries() == 0
    Delivery.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert services.forget_deliveries() == 1


# What it asks for -----------------------------------------------------------------------------


def test_it_may_carry_parameters_and_an_interval_and_the_rest_is_the_senders(make_pipeline):
    pipeline = make_pipeline("Regional", parameters={"region": {"type": "STRING", "default": "EU"}})
    _, secret = webhooks.renew_secret(pipeline)
    body = {
        "parameters": {"region": "US"}, "action": "opened", "data_interval_start": "2026-01-01T00:00:00Z",
        "data_interval_end": "2026-01-02T00:00:00+00:00",
    }  # fmt: skip
    assert deliver(secret, json.dumps(body).encode()).status_code == 202
    run = Run.objects.get()
    assert run.action_options == {"parameters": {"region": "US"}}
    assert f"{run.data_interval_end:%Y-%m-%d}" == "2026-01-02"


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff", b'{"parameters": [1]}', b'{"parameters": {"nowhere": 1}}', b'{"data_interval_start": "2026-01-01"}',
     b'{"data_interval_start": "2026-99-01T00:00:00Z"}', b"[" * 20000],
)  # fmt: skip
def test_what_a_run_cannot_go_by_is_refused_and_may_be_sent_again_mended(secret, body):
    refused(deliver(secret, body), 400, "webhook_body")
    assert deliver(secret, b"[]").status_code == 202, "a body that is no object says nothing"


def test_paused_and_archived_pipelines_are_not_started(secret, pipeline):
    definitions.pause([pipeline], by=None)
    refused(deliver(secret), 409, "pipeline_paused")
    definitions.archive([pipeline], by=None)
    refused(deliver(secret), 409, "pipeline_archived")
    Pipeline.objects.update(state="active")
    assert deliver(secret).status_code == 202, "the refused delivery was not used up"


# The page and the API -------------------------------------------------------------------------


def test_the_page_shows_a_secret_once(pipeline, operator_client):
    address = reverse("webhook_page", args=[pipeline.pk])
    assert "None yet" in operator_client.get(address).text
    assert not Webhook.objects.exists(), "looking makes nothing"
    page = operator_client.post(address).text
    (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]+", page)
    assert deliver(secret).status_code == 202
    later = operator_client.get(address).text
    assert "whsec_" not in later
    assert f"/hooks/{Webhook.objects.get().pk}/" in later
    operator_client.post(address)
    assert "The one before counts until" in operator_client.get(address).text
    operator_client.post(reverse("drop_old_secret", args=[pipeline.pk]))
    assert "The one before counts until" not in operator_client.get(address).text
    operator_client.post(reverse("remove_webhook", args=[pipeline.pk]))
    assert not Webhook.objects.exists()


def test_viewers_neither_see_nor_make_webhooks(pipeline, viewer_client):
    for name in ("webhook_page", "drop_old_secret", "remove_webhook"):
        assert viewer_client.post(reverse(name, args=[pipeline.pk])).status_code == 403
    assert viewer_client.get(reverse("webhook_page", args=[pipeline.pk])).status_code == 403
    assert (
        reverse("webhook_page", args=[pipeline.pk])
        not in viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    )
    for method in ("get", "post", "delete"):
        assert getattr(viewer_client, method)(f"/api/v1/pipelines/{pipeline.pk}/webhook/").status_code == 403


def test_the_api_makes_renews_shows_and_removes_a_webhook(pipeline, operator_client):
    address = f"/api/v1/pipelines/{pipeline.pk}/webhook/"
    assert operator_client.get(address).status_code == 404
    made = operator_client.post(address, {}, content_type="application/json").json()
    assert deliver(made["secret"], id_="a").status_code == 202
    shown = operator_client.get(address).json()
    assert "secret" not in shown
    assert shown["url"].endswith(f"/hooks/{Webhook.objects.get().pk}/")
    renewed = operator_client.post(address, {"at_once": True}, content_type="application/json").json()
    assert deliver(made["secret"], id_="b").status_code == 401
    assert deliver(renewed["secret"], id_="b").status_code == 202
    assert operator_client.delete(address).status_code == 204
    assert operator_client.delete(address).status_code == 404


# The examples of the documentation ------------------------------------------------------------


def example(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCS.split("## Webhook")[1].split("\n## ")[0], re.DOTALL)
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", [["bash", "-c", example("sh")], [sys.executable, "-c", example("python")]])
def test_the_examples_in_the_docs_start_a_run(pipeline, web: Web, command):
    webhook, secret = webhooks.renew_secret(pipeline)
    env = {**os.environ, "ADDRESS": f"{web.url}/hooks/{webhook.pk}/", "SECRET": secret}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert str(Run.objects.get().pk) in done.stdout, done.stdout
