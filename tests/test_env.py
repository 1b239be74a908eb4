"""Settings come from the environment alone: a malformed value stops the start with its name."""

from __future__ import annotations

import base64
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

CHECKOUT = Path(__file__).resolve().parents[1]
# The same in every xdist worker: it stands in names of tests.
KEY = base64.urlsafe_b64encode(b"a key of thirty-two bytes, no more"[:32]).decode()
GOOD = {
    "SECRET_KEY": "s" * 50,
    "ENCRYPTION_KEYS": KEY,
    "DATABASE_URL": "postgresql://mantri:secret@db.example.com/control",
    "BROKER_URL": "redis://:secret@broker.example.com:6379/0",
}
SECURED = ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT")


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Executes the settings file under an environment; Django's own settings stay what they are."""

    def read(**variables: str) -> dict[str, Any]:
        names = {"PUBLIC_URL", "PORT", "WORKERS", "LEASE_TTL_S", "HEARTBEAT_S", "RETENTION_DAYS", "LOG_RETENTION_DAYS"}
        names |= {"LIVE_URL", "ALERT_PRIVATE_NETWORKS", "BIGQUERY_REST_ENDPOINT", "BIGQUERY_STORAGE_ENDPOINT"}
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in {**GOOD, **variables}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(CHECKOUT / "datamantri" / "settings.py"))

    return read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", ""),
        ("ENCRYPTION_KEYS", ""),
        ("ENCRYPTION_KEYS", "not a key"),
        ("ENCRYPTION_KEYS", f"{KEY},c2hvcnQ="),
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://user@host/name"),
        ("DATABASE_URL", "postgresql://user@host"),
        ("DATABASE_URL", "postgresql:///name"),
        ("DATABASE_URL", "postgresql://user@host:five/name"),
        ("DATABASE_URL", "postgresql://user@[::1/name"),
        ("BROKER_URL", ""),
        ("BROKER_URL", "memory://"),
        ("BROKER_URL", "redis://"),
        ("BROKER_URL", "redis://host:99999/0"),
        ("LIVE_URL", "amqp://host//"),
        ("LIVE_URL", "redis://"),
        ("LIVE_URL", "host:6379"),
        ("PUBLIC_URL", "mantri.example.com"),
        ("PUBLIC_URL", "ftp://mantri.example.com"),
        ("PUBLIC_URL", "https://mantri.example.com/below"),
        ("PUBLIC_URL", "https://mantri.example.com#part"),
        ("PUBLIC_URL", "https://user@mantri.example.com"),
        ("PUBLIC_URL", "https://mantri.example.com:port"),
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("WORKERS", "0"),
        ("WORKERS", "2.5"),
        ("LEASE_TTL_S", "soon"),
        ("LEASE_TTL_S", "nan"),
        ("LEASE_TTL_S", "10"),
        ("HEARTBEAT_S", "0"),
        ("HEARTBEAT_S", "inf"),
        ("RETENTION_DAYS", "0"),
        ("RETENTION_DAYS", "a year"),
        ("LOG_RETENTION_DAYS", "-1"),
        ("ALERT_PRIVATE_NETWORKS", "intranet"),
        ("ALERT_PRIVATE_NETWORKS", "10.0.0.0/8, 10.1.2.3/8"),
        ("BIGQUERY_REST_ENDPOINT", "127.0.0.1:9050"),
        ("BIGQUERY_STORAGE_ENDPOINT", "http://127.0.0.1:9060"),
        ("BIGQUERY_STORAGE_ENDPOINT", "127.0.0.1"),
    ],
)
def test_a_malformed_value_is_refused_with_its_name(settings_of: Any, name: str, value: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=name):
        settings_of(**{name: value})


@pytest.mark.parametrize("value", ["postgresql://user:pa55word@host:x/name", "redis://:pa55word@[host", "pa55word"])
@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL", "ENCRYPTION_KEYS"])
def test_what_is_refused_tells_no_password(settings_of: Any, name: str, value: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        settings_of(**{name: value})
    assert "pa55word" not in str(refused.value)


def test_an_empty_variable_counts_as_unset(settings_of: Any) -> None:
    settings = settings_of(PORT="", WORKERS="", PUBLIC_URL="", BIGQUERY_REST_ENDPOINT="")
    assert (settings["PORT"], settings["WORKERS"], settings["PUBLIC_URL"]) == (8000, 2, "http://localhost:8000")


def test_passwords_may_hold_any_character_when_percent_encoded(settings_of: Any) -> None:
    url = "postgresql://mantri:p%40ss%2Fw%3Ard@[::1]:5433/control%20plane?sslmode=verify-full"
    database = settings_of(DATABASE_URL=url)["DATABASES"]["default"]
    assert database["PASSWORD"] == "p@ss/w:rd"
    assert (database["HOST"], database["PORT"], database["NAME"]) == ("::1", 5433, "control plane")
    assert database["OPTIONS"]["sslmode"] == "verify-full"


def test_the_newest_encryption_key_comes_first(settings_of: Any) -> None:
    other = Fernet.generate_key().decode()
    assert settings_of(ENCRYPTION_KEYS=f" {other} , {KEY} ")["ENCRYPTION_KEYS"] == [other, KEY]


# What the broker decides -----------------------------------------------------------------------


def test_pages_are_pushed_to_through_a_broker_that_can(settings_of: Any) -> None:
    settings = settings_of()
    assert settings["LIVE_URL"] == GOOD["BROKER_URL"]
    assert settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"] == [GOOD["BROKER_URL"]]
    assert "socket_timeout" in settings["CELERY_BROKER_TRANSPORT_OPTIONS"]


def test_beside_another_broker_a_redis_may_push_to_pages(settings_of: Any) -> None:
    rabbit = "amqps://mantri:secret@rabbit.example.com//"
    settings = settings_of(BROKER_URL=rabbit)
    assert (settings["LIVE_URL"], settings["CHANNEL_LAYERS"]) == ("", {})
    assert settings["CELERY_BROKER_TRANSPORT_OPTIONS"]["confirm_publish"]
    settings = settings_of(BROKER_URL=rabbit, LIVE_URL="rediss://live.example.com:6379/3")
    assert settings["CELERY_BROKER_URL"] == rabbit
    config = settings["CHANNEL_LAYERS"]["default"]["CONFIG"]
    assert (config["hosts"], config["prefix"]) == (["rediss://live.example.com:6379/3"], "datamantri/3")


# What PUBLIC_URL decides ------------------------------------------------------------------------


def test_https_means_secure_cookies_one_host_and_hsts(settings_of: Any) -> None:
    settings = settings_of(PUBLIC_URL="https://mantri.example.com/")
    assert (
        settings["SESSION_COOKIE_SECURE"] is settings["CSRF_COOKIE_SECURE"] is settings["SECURE_SSL_REDIRECT"] is True
    )
    assert settings["SECURE_HSTS_SECONDS"] >= 31_536_000
    assert settings["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")
    assert settings["ALLOWED_HOSTS"] == ["mantri.example.com"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://mantri.example.com"]


def test_plain_http_means_cookies_that_a_browser_sends_back(settings_of: Any) -> None:
    settings = settings_of(PUBLIC_URL="http://localhost:8123")
    assert (
        settings["SESSION_COOKIE_SECURE"] is settings["CSRF_COOKIE_SECURE"] is settings["SECURE_SSL_REDIRECT"] is False
    )
    assert settings["SECURE_HSTS_SECONDS"] == 0
    # Nobody who sends the header himself may pass for a secure visitor.
    assert settings["SECURE_PROXY_SSL_HEADER"] is None
    assert set(settings["ALLOWED_HOSTS"]) == {"localhost", "127.0.0.1", "[::1]"}


def test_a_public_name_does_not_let_in_local_ones(settings_of: Any) -> None:
    assert settings_of(PUBLIC_URL="http://mantri.internal:8000")["ALLOWED_HOSTS"] == ["mantri.internal"]


def test_two_installations_on_one_host_keep_their_logins_apart(settings_of: Any) -> None:
    first, second = (settings_of(PUBLIC_URL=f"http://localhost:{port}") for port in (8000, 8001))
    assert first["SESSION_COOKIE_NAME"] != second["SESSION_COOKIE_NAME"]
    assert first["CSRF_COOKIE_NAME"] != second["CSRF_COOKIE_NAME"]


# Exit statuses ----------------------------------------------------------------------------------


def run(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **GOOD, **variables}
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=150, check=False)


def test_a_command_that_does_its_work_ends_with_status_0() -> None:
    done = run("manage.py", "check")
    assert done.returncode == 0, done.stderr


def test_a_command_that_fails_ends_with_status_1_and_says_why() -> None:
    away = {"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "BROKER_URL": "redis://127.0.0.1:1/0"}
    done = run("manage.py", "doctor", **away)
    assert done.returncode == 1
    assert "BAD  database: cannot be reached" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "variables", "words"),
    [
        (["manage.py", "check"], {"WORKERS": "many"}, "Error: WORKERS must be a whole number, not 'many'.\n"),
        (["manage.py", "check", "--no-such-option"], {}, "unrecognized arguments: --no-such-option"),
        (["-m", "datamantri.processes", "beat"], {"SECRET_KEY": ""}, "Error: SECRET_KEY is not set.\n"),
        (["-m", "datamantri.processes", "web"], {"PORT": "http"}, "Error: PORT must be a whole number, not 'http'.\n"),
    ],
)
def test_bad_usage_and_bad_configuration_end_with_status_2(
    argv: list[str], variables: dict[str, str], words: str
) -> None:
    done = run(*argv, **variables)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
