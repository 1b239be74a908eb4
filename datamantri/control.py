"""The control database without Django, for what must be small or quick."""

from __future__ import annotations

from typing import Any

import psycopg2

from datamantri import env


def connect(limit_s: int) -> Any:
    """A connection of its own, by the variables that the settings go by too."""
    address = env.database()
    options = {**address["OPTIONS"], "connect_timeout": limit_s}  # type: ignore[dict-item]
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    return psycopg2.connect(**{ours: address[djangos] for ours, djangos in names.items()}, **options)  # type: ignore[call-overload]
