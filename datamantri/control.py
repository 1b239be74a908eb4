"""The control database without Django, for what must be small or quick."""

from __future__ import annotations

from typing import Any

import psycopg2

from datamantri import env


def connect(limit_s: int, url: str = "") -> Any:
    """A connection of its own: to the database that DATABASE_URL names, as the settings have it, or to another."""
    address = env.database_at(url) if url else env.database()
    options = {**address["OPTIONS"], "connect_timeout": limit_s}  # type: ignore[dict-item]
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    return psycopg2.connect(**{ours: address[djangos] for ours, djangos in names.items()}, **options)  # type: ignore[call-overload]
