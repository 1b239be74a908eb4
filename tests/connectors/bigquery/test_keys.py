from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.errors import ConnectorError


def refusal_of(source) -> ConnectorError:
    with pytest.raises(ConnectorError) as refusal:
        source.datasets()
    return refusal.value


def test_without_an_emulator_a_key_is_needed(connect):
    error = refusal_of(connect(Endpoints()))
    assert (error.code, error.field) == ("credentials_missing", "credentials_json")


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"type": "service_account"}'])
def test_a_malformed_key_is_refused(connect, text):
    error = refusal_of(connect(Endpoints(), key=text))
    assert error.field == "credentials_json"
    assert error.code in ("credentials_malformed", "credentials_kind")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"type": "authorized_user"}, "credentials_kind"),
        ({"type": "external_account", "credential_source": {"file": "/etc/passwd"}}, "credentials_kind"),
        ({"token_uri": "http://169.254.169.254/"}, "credentials_refused"),
        ({"universe_domain": "example.com"}, "credentials_refused"),
        ({"private_key": ""}, "credentials_malformed"),
        (
            {"private_key": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"},
            "credentials_malformed",
        ),
        ({"client_email": "../../x@evil.example"}, "credentials_malformed"),
    ],
)
def test_a_key_that_could_reach_elsewhere_or_cannot_sign_is_refused(connect, service_account, change, code):
    error = refusal_of(connect(Endpoints(), key=json.dumps({**service_account, **change})))
    assert (error.code, error.field) == (code, "credentials_json")
    assert "c2VjcmV0" not in f"{error.message}{error.hint}{error!r}"
    assert error.__cause__ is None


def test_a_project_that_cannot_be_one_is_refused(connect, key):
    error = refusal_of(connect(Endpoints(), key=key, project="My Project"))
    assert (error.code, error.field) == ("project_name", "project")


def test_requests_carry_a_token_that_the_key_signed_itself(connect, rest, key, service_account, private_key):
    rest.answer("GET", "/datasets", (200, {"datasets": []}))
    assert connect(Endpoints(rest.url), key=key).datasets() == []
    kind, _, token = rest.requests[0][3]["authorization"].partition(" ")
    signed, _, signature = token.rpartition(".")
    private_key.public_key().verify(_decode(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    claims = json.loads(_decode(signed.split(".")[1]))
    assert kind == "Bearer"
    assert claims["iss"] == service_account["client_email"]
    assert "https://www.googleapis.com/auth/bigquery" in claims["scope"]


def test_a_key_does_not_show_in_the_options_text(key):
    assert "PRIVATE" not in repr(BigQueryOptions("acme", "US", key))


@pytest.mark.parametrize(
    ("rest", "storage"),
    [("127.0.0.1:9050", ""), ("ftp://x", ""), ("http://user@x:1", ""), ("http://x:1", "http://x:2"), ("", "x:1")],
)
def test_a_malformed_emulator_address_is_named(rest, storage):
    with pytest.raises(ConnectorError) as refusal:
        Endpoints(rest, storage)
    assert refusal.value.code == "bad_endpoint"
    assert "BIGQUERY_" in refusal.value.message


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
