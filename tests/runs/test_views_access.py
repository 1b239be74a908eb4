"""Who may open which page, and who may press which button."""

from __future__ import annotations

import uuid
from contextlib import contextmanager

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.urls import reverse

from pipelines.models import ApiToken, PipelineState
from runs.models import Run
from runs.states import RunStatus
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import logged_in, write

PAGES = ("dashboard", "pipelines", "monitor", "runs")


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline("Orders")


@pytest.fixture
def run(pipeline, make_run):
    return make_run(pipeline, RunStatus.QUEUED)


@pytest.fixture
def addresses(pipeline, run):
    return [*map(reverse, PAGES), reverse("pipeline", args=[pipeline.pk]), reverse("run", args=[run.pk])]


def test_strangers_are_sent_to_the_login(addresses):
    for address in [*addresses, reverse("profile")]:
        response = Client().get(address)
        assert response.status_code == 302
        assert response.url == f"{reverse('login')}?next={address}"


def test_who_is_in_no_group_is_told_whom_to_ask(addresses):
    client = logged_in(User.objects.create_user("otto"))
    for address in addresses:
        response = client.get(address)
        assert response.status_code == 403
        assert "Ask an admin" in response.text


def test_viewers_see_every_page_and_no_button_that_acts(addresses, viewer_client):
    for address in addresses:
        response = viewer_client.get(address)
        assert response.status_code == 200
        assert "formaction" not in response.text


def test_viewers_cannot_act(pipeline, run, viewer_client):
    for name, pk in [
        ("run_pipeline", pipeline.pk),
        ("pause_pipeline", pipeline.pk),
        ("resume_pipeline", pipeline.pk),
        ("cancel_run", run.pk),
        ("run_again", run.pk),
    ]:
        assert viewer_client.post(reverse(name, args=[pk])).status_code == 403
    run.refresh_from_db()
    pipeline.refresh_from_db()
    assert (Run.objects.count(), run.status, pipeline.state) == (1, RunStatus.QUEUED, PipelineState.ACTIVE)


def test_buttons_need_a_post_with_a_token(pipeline, operator_client, operator):
    assert operator_client.get(reverse("run_pipeline", args=[pipeline.pk])).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    response = strict.post(reverse("run_pipeline", args=[pipeline.pk]))
    assert response.status_code == 403
    assert "This form is too old" in response.text
    assert not Run.objects.exists()


def test_run_now_leads_to_the_new_run(pipeline, operator_client, operator):
    response = operator_client.post(reverse("run_pipeline", args=[pipeline.pk]))
    run = Run.objects.get()
    assert response.url == reverse("run", args=[run.pk])
    assert (run.status, run.trigger, run.requested_by) == (RunStatus.QUEUED, "manual", operator)
    assert "The run is on its way." in operator_client.get(response.url).text


def test_a_refusal_says_why(pipeline, operator_client):
    pipeline.state = PipelineState.ARCHIVED
    pipeline.save()
    response = operator_client.post(reverse("run_pipeline", args=[pipeline.pk]), follow=True)
    assert "Orders is archived. Restore it before you run it." in response.text
    assert not Run.objects.exists()


def test_pause_and_resume(pipeline, operator_client):
    operator_client.post(reverse("pause_pipeline", args=[pipeline.pk]))
    pipeline.refresh_from_db()
    assert pipeline.state == PipelineState.PAUSED
    operator_client.post(reverse("resume_pipeline", args=[pipeline.pk]))
    pipeline.refresh_from_db()
    assert pipeline.state == PipelineState.ACTIVE


def test_cancel_and_run_again(run, operator_client):
    operator_client.post(reverse("cancel_run", args=[run.pk]))
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED
    response = operator_client.post(reverse("run_again", args=[run.pk]))
    again = Run.objects.exclude(pk=run.pk).get()
    assert response.url == reverse("run", args=[again.pk])


@pytest.mark.parametrize("address", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "", "\\\\evil"])
def test_a_button_never_leads_elsewhere(pipeline, operator_client, address):
    response = operator_client.post(reverse("pause_pipeline", args=[pipeline.pk]), {"next": address})
    assert response.url == reverse("pipeline", args=[pipeline.pk])


def test_a_button_leads_back_to_its_page(pipeline, operator_client):
    response = operator_client.post(reverse("pause_pipeline", args=[pipeline.pk]), {"next": "/pipelines/?page=2"})
    assert response.url == "/pipelines/?page=2"


def test_what_scripts_fetch_is_refused_in_json(run, viewer_client):
    address = reverse("run_log", args=[run.pk])
    write(run, "one")
    assert viewer_client.get(address).json()["lines"][0]["message"] == "one"
    for client, status, code in [
        (Client(), 401, "not_logged_in"),
        (logged_in(User.objects.create_user("otto")), 403, "not_allowed"),
    ]:
        response = client.get(address)
        assert response.status_code == status
        assert response.json()["code"] == code


def test_what_is_not_there_is_not_found(viewer_client):
    for name in ("pipeline", "run"):
        response = viewer_client.get(reverse(name, args=[uuid.uuid4()]))
        assert response.status_code == 404
        assert "There is nothing here" in response.text


def test_login_and_logout(viewer):
    client = Client()
    response = client.post(reverse("login"), {"username": "vera", "password": "wrong"})
    assert "Please enter a correct username and password" in response.text
    response = client.post(reverse("login"), {"username": "vera", "password": "correct horse", "next": "/monitor/"})
    assert response.url == "/monitor/"
    assert client.post(reverse("logout")).url == reverse("login")
    assert client.get("/monitor/").status_code == 302


def test_a_token_is_shown_once_and_revoked(viewer_client, viewer):
    shown = viewer_client.post(reverse("create_token"), {"name": "<b>nightly</b>"})
    token = ApiToken.objects.get(user=viewer)
    assert "dm_" in shown.text
    assert "<b>nightly</b>" not in shown.text
    assert "no-store" in shown["Cache-Control"]
    profile = viewer_client.get(reverse("profile"))
    assert "nightly" in profile.text
    assert "dm_" not in profile.text
    viewer_client.post(reverse("revoke_token", args=[token.pk]))
    assert not ApiToken.objects.exists()


def test_a_token_s_name_is_what_can_be_stored(viewer_client, viewer):
    viewer_client.post(reverse("create_token"), {"name": "nightly\0" + "x" * 500})
    assert viewer.api_tokens.get().name == "nightly" + "x" * 93
    assert viewer_client.post(reverse("create_token"), {"name": "\0"}).status_code == 302
    assert viewer.api_tokens.count() == 1


def test_nobody_revokes_the_token_of_another(viewer_client, operator):
    token = ApiToken.objects.create(user=operator, name="theirs", digest="x")
    viewer_client.post(reverse("revoke_token", args=[token.pk]))
    assert ApiToken.objects.filter(pk=token.pk).exists()


def test_a_changed_password_ends_other_sessions(viewer_client, viewer):
    other = logged_in(viewer)
    new = {"new_password1": "a battery staple", "new_password2": "a battery staple"}
    refused = viewer_client.post(reverse("profile"), {"old_password": "wrong", **new})
    assert "Your old password was entered incorrectly" in refused.text
    viewer_client.post(reverse("profile"), {"old_password": "correct horse", **new})
    assert viewer_client.get("/").status_code == 200
    assert other.get("/").status_code == 302


def test_healthz_needs_no_login(db):
    response = Client().get("/healthz")
    assert (response.status_code, response.text) == (200, "ok\n")


def test_healthz_says_when_the_database_is_away(django_db_blocker):
    with django_db_blocker.unblock(), closed_database():
        response = Client().get("/healthz")
    assert (response.status_code, response.text) == (503, "database unreachable\n")


@contextmanager
def closed_database():
    """The control database behind a port where nobody listens."""
    connection.close()
    port, connection.settings_dict["PORT"] = connection.settings_dict["PORT"], 1
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["PORT"] = port


def test_the_error_page_needs_nothing_that_may_be_broken(viewer_client, monkeypatch):
    def break_down():
        raise RuntimeError("out of order")

    monkeypatch.setattr("runs.board_queries.monitor", break_down)
    viewer_client.raise_request_exception = False
    response = viewer_client.get("/monitor/")
    assert response.status_code == 500
    assert "Something went wrong here" in response.text
    assert "out of order" not in response.text
