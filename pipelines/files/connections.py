"""Connections in files: their options, and never their secrets."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from connectors import registry
from connectors.options import sent_secrets
from pipelines import services
from pipelines.files import fields, values
from pipelines.files.changes import ADDED, CHANGED, Change, between, first, renamed
from pipelines.files.values import Values
from pipelines.models import Connection
from pipelines.objections import PipelineRefused


def save(name: str, entry: Values, connection: Connection | None, *, by: Any) -> tuple[Connection, Change] | None:
    """Make a connection what a file says; None if it is so already. Raises PipelineRefused."""
    of = (*fields.CONNECTION, *fields.options_of(entry["kind"]))
    wanted = values.filled(of, {**entry, **entry["options"]})
    if connection is None:
        options = {option: value for option, value in entry["options"].items() if value != ""}
        made = Connection(name=name, kind=entry["kind"], options=options, max_running=wanted["max_running"])
        return services.save_connection(made, by=by), Change(ADDED, "connection", name, first(of, wanted))
    if connection.kind != entry["kind"]:
        message = f"{name} is a {connection.get_kind_display()} connection, and stays one."
        raise PipelineRefused("kind_stays", message, "Give the new one another name.", "kind")
    before = values.of_connection(connection)
    changes, note = between(of, before, wanted), renamed(connection, name)
    if not changes and not note:
        return None
    different = {option: value for option, value in wanted.items() if before[option] != value}
    _keep_secrets_at_home(connection, different)
    connection.name, connection.max_running = name, different.pop("max_running", connection.max_running)
    merged = {**connection.options, **different}
    connection.options = {option: value for option, value in merged.items() if value != ""}
    services.save_connection(connection, by=by)
    return connection, Change(CHANGED, "connection", name, changes, note)


def _keep_secrets_at_home(connection: Connection, different: Collection[str]) -> None:
    """Who may write a file may not have stored secrets sent to an address of their choice."""
    moved = sorted(fields.addresses_of(connection.kind) & set(different))
    stored = sent_secrets(registry.options_type(connection.kind)) & set(connection.secrets or {})
    if moved and (stored or connection.has_lost_secrets):
        raise PipelineRefused(
            "secrets_elsewhere",
            f"{connection.name} has secrets, which would go to another address.",
            "Change the address in the admin, where its secrets are entered again; or leave connections as they "
            "are, with --only pools pipelines.",
            moved[0],
        )


def lacking(connection: Connection) -> str:
    """The labels of what has to be entered before it can be used."""
    if connection.secrets or connection.has_lost_secrets:
        return ""
    sent = sent_secrets(registry.options_type(connection.kind))
    return ", ".join(secret.label for secret in fields.secrets_of(connection.kind) if secret.name in sent)
