"""Typed readers of the environment: a malformed value stops the start with the variable's name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

MISSING = object()


def text(name: str, default: object = MISSING) -> str:
    value = os.environ.get(name, "")
    if value == "":
        if default is MISSING:
            raise ImproperlyConfigured(f"{name} is not set.")
        return str(default)
    return value


def integer(name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
    raw = text(name, default)
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {raw!r}.") from None
    if value < least or (most is not None and value > most):
        upper = f" and {most}" if most is not None else ""
        raise ImproperlyConfigured(f"{name} must be {'between ' if upper else 'at least '}{least}{upper}, not {value}.")
    return value


def seconds(name: str, default: float, *, least: float) -> float:
    raw = text(name, default)
    try:
        value = float(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number of seconds, not {raw!r}.") from None
    if not least <= value < float("inf"):
        raise ImproperlyConfigured(f"{name} must be at least {least} seconds, not {raw}.")
    return value


def names(name: str) -> list[str]:
    """A comma-separated list; empty when unset."""
    return [item.strip() for item in text(name, "").split(",") if item.strip()]


def http_url(name: str, default: object = MISSING) -> str:
    """An http(s) address without path, as in https://mantri.example.com."""
    value = text(name, default).rstrip("/")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query:
        raise ImproperlyConfigured(f"{name} must be like https://mantri.example.com, without a path, not {value!r}.")
    try:
        parts.port  # noqa: B018 - raises on a port that is none
    except ValueError:
        raise ImproperlyConfigured(f"{name} has a port that is not a number.") from None
    return value


def database(name: str = "DATABASE_URL") -> Mapping[str, object]:
    """Django's DATABASES entry from postgresql://user:password@host:port/name?sslmode=…"""
    parts = urlsplit(text(name))
    try:
        port = parts.port or 5432
    except ValueError:
        raise ImproperlyConfigured(f"{name} has a port that is not a number.") from None
    dbname = unquote(parts.path.lstrip("/"))
    if parts.scheme not in ("postgres", "postgresql") or not parts.hostname or not dbname:
        raise ImproperlyConfigured(f"{name} must be like postgresql://user:password@host:5432/name.")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": dbname,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": port,
        "CONN_MAX_AGE": 0,
        "OPTIONS": {
            "connect_timeout": 5,
            "keepalives_idle": 30,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            **dict(parse_qsl(parts.query)),
        },
    }


def broker(name: str = "BROKER_URL") -> str:
    value = text(name)
    if urlsplit(value).scheme not in ("redis", "rediss", "amqp", "amqps"):
        raise ImproperlyConfigured(f"{name} must begin with redis://, rediss://, amqp:// or amqps://.")
    return value


def fernet_keys(name: str = "ENCRYPTION_KEYS") -> list[str]:
    """Fernet keys, newest first."""
    from cryptography.fernet import Fernet

    keys = names(name)
    if not keys:
        raise ImproperlyConfigured(f"{name} is not set. Make a key with: manage.py doctor --new-key")
    for number, key in enumerate(keys, 1):
        try:
            Fernet(key)
        except ValueError:
            raise ImproperlyConfigured(
                f"{name}: key {number} is no Fernet key (32 bytes in base64)."
            ) from None
    return keys
