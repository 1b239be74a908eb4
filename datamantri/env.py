"""Typed readers of the environment: a malformed value stops the start with the variable's name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

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


def number(name: str, default: float) -> float:
    """A number that is not negative."""
    raw = text(name, default)
    try:
        value = float(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number, not {raw!r}.") from None
    if not 0 <= value < float("inf"):
        raise ImproperlyConfigured(f"{name} must not be negative, and is {raw!r}.")
    return value


def names(name: str) -> list[str]:
    """A comma-separated list; empty when unset."""
    return [item.strip() for item in text(name, "").split(",") if item.strip()]


def networks(name: str) -> list[IPv4Network | IPv6Network]:
    """A comma-separated list of networks or single addresses, as in 10.1.0.0/16; empty when unset."""
    found = []
    for text_of_one in names(name):
        try:
            found.append(ip_network(text_of_one))
        except ValueError:
            message = f"{name} must be networks like 10.1.0.0/16 or addresses, and {text_of_one!r} is none."
            raise ImproperlyConfigured(message) from None
    return found


def http_url(name: str, default: object = MISSING) -> str:
    """An http(s) address without path, as in https://mantri.example.com; empty only by default."""
    value = text(name, default).rstrip("/")
    if value == default == "":
        return ""
    parts = _split(name, value)
    bare = not (parts.path or parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or not bare:
        raise ImproperlyConfigured(f"{name} must be like https://mantri.example.com, without a path, not {value!r}.")
    return value


def host_and_port(name: str, default: object = MISSING) -> str:
    """An address as in 127.0.0.1:9060; empty only by default."""
    value = text(name, default)
    if value == default == "":
        return ""
    parts = _split(name, f"//{value}")
    if parts.netloc != value or "@" in value or not parts.hostname or parts.port is None:
        raise ImproperlyConfigured(f"{name} must be like 127.0.0.1:9060, not {value!r}.")
    return value


def database(name: str = "DATABASE_URL") -> Mapping[str, object]:
    """Django's DATABASES entry from postgresql://user:password@host:port/name?sslmode=…"""
    return database_at(text(name), name)


def database_at(url: str, name: str = "DATABASE_URL") -> Mapping[str, object]:
    """The same of a URL that `name` gave."""
    parts = _split(name, url)
    dbname = unquote(parts.path.lstrip("/"))
    if parts.scheme not in ("postgres", "postgresql") or not parts.hostname or not dbname:
        raise ImproperlyConfigured(f"{name} must be like postgresql://user:password@host:5432/name.")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": dbname,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": parts.port or 5432,
        "CONN_MAX_AGE": 0,
        "OPTIONS": {
            "connect_timeout": 5,
            "keepalives_idle": 30,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # Keepalives watch only an idle connection: this is for one that waits for an answer.
            "tcp_user_timeout": 20_000,
            **dict(parse_qsl(parts.query)),
        },
    }


def broker(name: str = "BROKER_URL") -> str:
    value = text(name)
    parts = _split(name, value)
    if parts.scheme not in ("redis", "rediss", "amqp", "amqps") or not parts.hostname:
        raise ImproperlyConfigured(f"{name} must be like redis://:password@host:6379/0, or rediss, amqp or amqps.")
    return value


def live(name: str, broker_url: str) -> str:
    """A Redis through which pages are pushed to; by default the broker if it is one, otherwise none."""
    value = text(name, broker_url if broker_url.startswith("redis") else "")
    parts = _split(name, value)
    if value and (parts.scheme not in ("redis", "rediss") or not parts.hostname):
        raise ImproperlyConfigured(f"{name} must be like redis://:password@host:6379/0, or rediss.")
    return value


def _split(name: str, value: str) -> SplitResult:
    """The parts of an address; the value itself may hold a password and is not told."""
    try:
        parts = urlsplit(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} is not an address.") from None
    try:
        parts.port  # noqa: B018 - raises on a port that is none
    except ValueError:
        raise ImproperlyConfigured(f"{name} has a port that is no number up to 65535.") from None
    return parts


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
            raise ImproperlyConfigured(f"{name}: key {number} is no Fernet key (32 bytes in base64).") from None
    return keys
