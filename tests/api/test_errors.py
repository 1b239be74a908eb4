"""Every error has one shape, whatever went wrong."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from rest_framework.test import APIClient

from pipelines import queries
from pipelines.models import ApiToken


def told(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    error = response.json()
    assert set(error) == {"code", "message", "hint", "fields"}
    assert error["code"]
    assert error["message"].endswith((".", "!"))
    return error


def test_without_a_login(db):
    response = APIClient().get("/api/v1/runs/")
    assert told(response, 401)["code"] == "not_authenticated"
    assert response["WWW-Authenticate"] == "Bearer"


def test_with_a_wrong_or_revoked_token(api, operator):
    wrong = APIClient(HTTP_AUTHORIZATION="Bearer dm_wrong")
    assert told(wrong.get("/api/v1/runs/"), 401)["code"] == "authentication_failed"
    assert api.get("/api/v1/runs/").status_code == 200
    ApiToken.objects.all().delete()
    assert told(api.get("/api/v1/runs/"), 401)["code"] == "authentication_failed"


def test_without_permission(outsider_api):
    for path in ("connections", "pipelines", "runs"):
        assert told(outsider_api.get(f"/api/v1/{path}/"), 403)["code"] == "permission_denied"
        assert outsider_api.head(f"/api/v1/{path}/").status_code == 403


@pytest.mark.parametrize(
    "path",
    ["nowhere/", "runs", "runs/1/", f"runs/{uuid.UUID(int=0)}/", f"runs/{uuid.UUID(int=0)}/log/",
     f"pipelines/{uuid.UUID(int=0)}/", f"pipelines/{uuid.UUID(int=0)}/nowhere/"],
)  # fmt: skip
def test_nothing_there(api, path):
    assert told(api.get(f"/api/v1/{path}"), 404)["code"] == "not_found"


def test_addresses_that_lead_nowhere_say_so_whatever_the_method(db):
    client = APIClient()
    for method in (client.get, client.post, client.delete, client.options):
        assert told(method("/api/v1/nowhere/"), 404)["code"] == "not_found"


def test_a_wrong_method(api, make_pipeline):
    assert told(api.get(f"/api/v1/pipelines/{make_pipeline().pk}/runs/"), 405)["code"] == "method_not_allowed"
    assert told(api.options("/api/v1/runs/"), 405)["code"] == "method_not_allowed"


def test_a_wrong_content_type(api, db):
    response = api.post("/api/v1/pipelines/", "name=x", content_type="application/x-www-form-urlencoded")
    assert told(response, 415)["code"] == "unsupported_media_type"


def test_a_wrong_accept_header(api, db):
    assert told(api.get("/api/v1/runs/", headers={"accept": "text/csv"}), 406)["code"] == "not_acceptable"


@pytest.mark.parametrize("body", ["{", b"\xff", '{"name": NaN}', pytest.param("[" * 100_000, id="deep")])
def test_a_body_that_is_no_json(api, db, body):
    response = api.post("/api/v1/pipelines/", body, content_type="application/json")
    assert told(response, 400)["code"] == "parse_error"


@pytest.mark.parametrize("body", ["[]", '"text"', "1"])
def test_a_body_that_is_no_object(api, db, body):
    response = api.post("/api/v1/pipelines/", body, content_type="application/json")
    assert told(response, 400)["fields"]["non_field_errors"][0]["code"] == "invalid"


def test_missing_values(api, db):
    error = told(api.post("/api/v1/pipelines/", {}), 400)
    assert set(error["fields"]) == {"name", "source", "destination", "target_table"}
    assert error["fields"]["name"] == [{"code": "required", "message": "This field is required.", "hint": ""}]


def test_a_session_needs_its_csrf_token(operator, make_pipeline):
    operator.is_superuser = True
    operator.save()
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    url = f"/api/v1/pipelines/{make_pipeline().pk}/runs/"
    assert told(client.post(url), 403)["code"] == "csrf_failed"
    client.get("/api/v1/docs/")
    token = next(cookie.value for name, cookie in client.cookies.items() if "csrf" in name)
    assert client.post(url, content_type="application/json", headers={"X-CSRFToken": token}).status_code == 201


def test_a_defect_is_logged_and_tells_nothing(api, db, monkeypatch, caplog):
    monkeypatch.setattr(queries, "pipelines_with_parts", lambda: {}["secret detail"])
    api.raise_request_exception = False
    response = api.get("/api/v1/pipelines/")
    assert told(response, 500)["code"] == "internal_error"
    assert "secret detail" not in response.content.decode()
    assert "secret detail" in caplog.text


def test_a_database_that_is_away_is_worth_another_try(api, db, monkeypatch):
    def away() -> None:
        raise OperationalError

    monkeypatch.setattr(queries, "pipelines_with_parts", away)
    response = api.get("/api/v1/pipelines/")
    assert told(response, 503)["code"] == "database_unavailable"
    assert response["Retry-After"]
