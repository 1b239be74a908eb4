"""Reads that several doors share."""

from __future__ import annotations

from datetime import datetime

from django.db import connection
from django.db.models import Prefetch, Q, QuerySet

from connectors import naming
from pipelines.models import Connection, Dependency, Pipeline, PipelineState, Schedule


def database_now() -> datetime:
    """What the database's clock says, which decides what is due."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


def current_schedules() -> QuerySet[Schedule]:
    return (
        Schedule.objects.filter(ends_at__isnull=True)
        .select_related("calendar")
        .order_by("starts_at", "kind", "cron", "zone", "every_s")
    )


def current_dependencies() -> QuerySet[Dependency]:
    return Dependency.objects.select_related("upstream").only(
        "id", "pipeline", "rule", "offset_s", "give_up_hours", "on_give_up", "upstream__name", "upstream__state"
    )


def with_dependencies() -> Prefetch:
    """For lists of pipelines: what each waits for, in `current_dependencies`."""
    return Prefetch("dependencies", queryset=current_dependencies(), to_attr="current_dependencies")


def with_checks() -> Prefetch:
    """For lists of pipelines: what each checks, in `current_checks`."""
    return Prefetch("checks", to_attr="current_checks")


def pipelines_with_parts() -> QuerySet[Pipeline]:
    """Pipelines with what a list shows of each, in a fixed number of queries; schedules in `current_schedules`,
    and likewise dependencies and checks."""
    return Pipeline.objects.select_related("source", "destination", "revision").prefetch_related(
        Prefetch("schedules", queryset=current_schedules(), to_attr="current_schedules"),
        with_dependencies(),
        with_checks(),
    )


def pipeline_writing_to(
    destination: Connection, schema: str, table: str, *, besides: Pipeline | None = None
) -> Pipeline | None:
    """The pipeline that owns a target, or may come to write it under a name that follows its runs.

    Archived ones own none. `schema` and `table` may be such names themselves.
    """
    others = Pipeline.objects.exclude(state=PipelineState.ARCHIVED).filter(destination=destination)
    others = others.exclude(pk=besides.pk) if besides else others
    owner = others.filter(target_schema=schema, target_table=table).first()
    if owner is not None:
        return owner
    if naming.is_template(schema) or naming.is_template(table):
        candidates = others.only("name", "target_schema", "target_table")
    else:
        follows = Q(target_schema__contains="{") | Q(target_table__contains="{")
        candidates = others.filter(follows).only("name", "target_schema", "target_table")
    return next((each for each in candidates if naming.may_meet((schema, table), _names_of(each))), None)


def _names_of(pipeline: Pipeline) -> tuple[str, str]:
    return pipeline.target_schema, pipeline.target_table


def pipelines_of(connection_: Connection) -> QuerySet[Pipeline]:
    """What would break without this connection, archived pipelines included."""
    return (connection_.pipelines_from.all() | connection_.pipelines_to.all()).distinct()
