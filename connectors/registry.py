"""The kinds of connection: one line each. Sources and destinations are imported only where rows move."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from connectors.errors import ConnectorError


@dataclass(frozen=True)
class Kind:
    """A kind of connection. Dotted paths are `module:attribute`; `options` is cheap to import."""

    name: str
    label: str
    options: str
    source: str = ""
    destination: str = ""


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "bigquery",
            "BigQuery",
            options="connectors.bigquery.options:BigQueryOptions",
            source="connectors.bigquery.source:BigQuerySource",
        ),
        Kind(
            "postgres",
            "PostgreSQL",
            options="connectors.postgres.options:PostgresOptions",
            destination="connectors.postgres.destination:PostgresDestination",
        ),
    )
}


def options_type(kind: str) -> type:
    return _load(get(kind).options)


def source_type(kind: str) -> type:
    if not get(kind).source:
        raise ConnectorError(f"{get(kind).label} cannot be read from.", code="not_a_source")
    return _load(get(kind).source)


def destination_type(kind: str) -> type:
    if not get(kind).destination:
        raise ConnectorError(f"{get(kind).label} cannot be written to.", code="not_a_destination")
    return _load(get(kind).destination)


def get(kind: str) -> Kind:
    try:
        return KINDS[kind]
    except KeyError:
        raise ConnectorError(f"There is no kind of connection called {kind}.", code="unknown_kind") from None


def _load(path: str) -> type:
    module, _, name = path.partition(":")
    loaded: type = getattr(import_module(module), name)
    return loaded
