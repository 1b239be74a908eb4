"""The demo's connections and pipelines; a second start finds them and leaves them as people made them."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from connectors import masks
from connectors.modes import WriteDisposition
from pipelines import lookups, queries, services
from pipelines.models import Connection, Pipeline, PipelineState
from pipelines.specs import ScheduleSpec

SCHEMA = "public"
SOURCE, DESTINATION = "BigQuery (emulator)", "Warehouse (PostgreSQL)"

ROUTES = """
SELECT origin, dest, COUNT(*) AS flights, COUNTIF(dep_time IS NULL) AS cancelled
FROM `demo.nyc.flights`
GROUP BY origin, dest
""".strip()

HOURLY = ScheduleSpec("cron", cron="0 * * * *", zone="America/New_York")
NIGHTLY = ScheduleSpec("cron", cron="30 4 * * *", zone="America/New_York")
QUARTERLY = ScheduleSpec("interval", every_s=900)

# name, source table, query, target table, schedule
PIPELINES: tuple[tuple[str, str, str, str, ScheduleSpec], ...] = (
    ("Airlines", "nyc.airlines", "", "airlines", NIGHTLY),
    ("Airports", "nyc.airports", "", "airports", NIGHTLY),
    ("Planes", "nyc.planes", "", "planes", NIGHTLY),
    ("Weather", "nyc.weather", "", "weather", HOURLY),
    ("Flights", "nyc.flights", "", "flights", HOURLY),
    ("Routes", "", ROUTES, "routes", HOURLY),
    ("Every type", "nyc.all_types", "", "all_types", QUARTERLY),
)


# Reads only the flights that are new, and looks a day back for those that come late.
DAILY: tuple[str, str, str, str, ScheduleSpec] = ("Flights, day by day", "nyc.december", "", "december", HOURLY)
ONLY_NEW = {
    "write_disposition": WriteDisposition.MERGE.value,
    "merge_key": ["time_hour", "carrier", "flight"],
    "cursor_column": "time_hour",
    "incremental": True,
    "lookback": 86_400,
}


def ensure(*, project: str, warehouse: dict[str, Any], by: Any) -> list[Pipeline]:
    """The demo's pipelines, made where they are missing, without those that people archived; the last is DAILY's.

    The connections follow the servers' addresses.
    """
    source = _connection(SOURCE, "bigquery", {"project": project, "location": "US"}, {}, by)
    keys = {"password": warehouse.pop("password"), masks.KEY_FIELD: _mask_key()}
    destination = _connection(DESTINATION, "postgres", warehouse, keys, by)
    pipelines = [_pipeline(source, destination, *fields, by=by) for fields in PIPELINES]
    pipelines.append(_pipeline(source, destination, *DAILY, by=by, **ONLY_NEW))
    return [pipeline for pipeline in pipelines if pipeline.state != PipelineState.ARCHIVED]


def _mask_key() -> str:
    """The destination's key for masks: of its own choice once, then the one that masks were made with."""
    found = Connection.objects.filter(name=DESTINATION).first()
    return (found and found.secrets.get(masks.KEY_FIELD)) or secrets.token_urlsafe(32)


def _connection(name: str, kind: str, options: dict[str, Any], keys: dict[str, str], by: Any) -> Connection:
    found = Connection.objects.filter(name=name).first() or Connection(name=name, kind=kind)
    if found._state.adding or found.options != options or found.secrets != keys:
        found.options, found.secrets = options, keys
        services.save_connection(found, by=by)
    return found


def _pipeline(
    source: Connection,
    destination: Connection,
    name: str,
    table: str,
    query: str,
    target: str,
    schedule: ScheduleSpec,
    *,
    by: Any,
    **settings: Any,
) -> Pipeline:
    # People may have renamed it, or given it another target.
    found = queries.pipeline_writing_to(destination, SCHEMA, target) or Pipeline.objects.filter(name=name).first()
    if found:
        return found
    pipeline = Pipeline(
        name=name,
        source=source,
        source_table=table,
        source_query=query,
        destination=destination,
        target_schema=SCHEMA,
        target_table=target,
        **settings,
    )
    with contextlib.suppress(lookups.LookupFailed):  # then a run is the first to see the columns
        lookups.validate_pipeline(pipeline)
    services.save_pipeline(pipeline, schedules=[schedule], by=by)
    return pipeline
