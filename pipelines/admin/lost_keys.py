"""Connections whose secrets were encrypted with a key that is no longer set, named before a run trips over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import connections as open_databases

from pipelines.fields import LostSecrets
from pipelines.models import Connection


def affected() -> list[Connection]:
    return [connection for connection in Connection.objects.exclude(secrets="") if connection.has_lost_secrets]


@register(Tags.database)
def check_keys(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Part of `manage.py check --database default`, and of `migrate`, which may come before the table is there."""
    table = Connection._meta.db_table
    found: list[CheckMessage] = []
    for alias in databases or ():
        if table not in open_databases[alias].introspection.table_names():
            continue
        rows = Connection.objects.using(alias).exclude(secrets="").values_list("name", "secrets")
        names = sorted(name for name, secrets in rows if isinstance(secrets, LostSecrets))
        if names:
            found.append(
                Warning(
                    f"The secrets of these connections cannot be read: {', '.join(names)}.",
                    hint="Put their key back into ENCRYPTION_KEYS, or enter the secrets again in the admin.",
                    id="pipelines.W001",
                )
            )
    return found
