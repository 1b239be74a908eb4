"""Every write to definitions."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.admin.models import CHANGE, LogEntry
from django.db import transaction
from django.db.models import Case, F, ProtectedError, QuerySet, When
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule

from connectors import parameters, registry
from connectors.checks import Check
from connectors.modes import WriteDisposition
from connectors.options import build
from pipelines import (
    budgets,
    calendars,
    deletions,
    quarantines,
    queries,
    realtime,
    schedules,
    schema_policies,
    sql_rights,
)
from pipelines import dependencies as graph
from pipelines.checks import checks_of, for_definition, keep_or_replace
from pipelines.dependencies import DependencySpec
from pipelines.models import Connection, Dependency, Pipeline, PipelineState, Pool, Revision, Schedule
from pipelines.objections import PipelineRefused, constraints_in_words
from pipelines.signals import paused
from pipelines.specs import Key, ScheduleSpec

log = logging.getLogger(__name__)

# What decides which rows go where: a change of these is checked against the live systems.
MOVING = frozenset(
    {
        "source", "source_table", "source_query", "row_filter", "parameters", "destination", "target_schema",
        "target_table",
        "adopt_target", "write_disposition", "merge_key", "deletes", "cursor_column", "incremental", "initial_value",
        "column_rules", "sql_before", "sql_after", "sql_role",
        "primary_key", "indexes", "partition_column", "partition_unit",
    }
)  # fmt: skip

MAX_NAME = 200
MAX_TABLE_BYTES = 63


# Pipelines ------------------------------------------------------------------------------------


def save_pipeline(
    pipeline: Pipeline,
    *,
    schedules: Sequence[ScheduleSpec] | None,
    dependencies: Sequence[DependencySpec] | None = None,
    checks: Sequence[Check] | None = None,
    by: Any,
    keep_state: bool = False,
) -> Revision:
    """Save a pipeline with its schedules, dependencies and checks (None: as they are), and revise it if it changed.

    With `keep_state`, a pause or resume that came in the meantime is not undone by the state of `pipeline`.
    Raises PipelineRefused or RuleError, and then nothing is saved.
    """
    specs = None if schedules is None else {spec.key: spec for spec in (raw.tidy() for raw in schedules)}
    pipeline.parameters = parameters.canonical(pipeline.parameters)
    with transaction.atomic():
        if dependencies is not None:
            graph.lock()
        before = Pipeline.objects.select_for_update().filter(pk=pipeline.pk).first()
        budgets.refuse(before, pipeline, by)
        now = queries.database_now()
        if before is None:
            pipeline.active_from = now
        else:
            pipeline.state = before.state if keep_state else pipeline.state
            resumed = before.state != PipelineState.ACTIVE and pipeline.state == PipelineState.ACTIVE
            pipeline.active_from = now if resumed else before.active_from
            if _reads_elsewhere(before, pipeline) and pipeline.source_columns == before.source_columns:
                pipeline.source_columns = None  # nobody has looked at the new source yet
        sql_rights.refuse(before, pipeline, by)
        with constraints_in_words():
            pipeline.save()
        if before is not None and before.state == PipelineState.ACTIVE and pipeline.state == PipelineState.PAUSED:
            paused.send(sender=Pipeline, pipelines=[pipeline.pk], by=by)
        if pipeline.state == PipelineState.ARCHIVED:
            specs, dependencies = {}, ()
        if specs is not None:
            _replace_schedules(pipeline, specs, now)
        if dependencies is not None:
            graph.replace(pipeline, dependencies)
        keep_or_replace(pipeline, checks, before=before, by=by)
        return revise(pipeline, by)


def _reads_elsewhere(before: Pipeline, now: Pipeline) -> bool:
    def reads(pipeline: Pipeline) -> tuple[Any, ...]:
        return pipeline.source_id, pipeline.source_table, pipeline.source_query

    return reads(before) != reads(now)


def _replace_schedules(pipeline: Pipeline, wanted: dict[Key, ScheduleSpec], now: datetime) -> None:
    kept: set[Key] = set()
    ended: list[Schedule] = []
    for schedule in pipeline.schedules.filter(ends_at__isnull=True).select_related("calendar"):
        key = ScheduleSpec.of(schedule).key
        if key in wanted and key not in kept:
            kept.add(key)
        else:
            ended.append(schedule)
            _end(pipeline.schedules.filter(pk=schedule.pk), now)
    covered = max((end for each in ended if (end := schedules.covered_by(each, now))), default=None)
    for key, spec in wanted.items():
        if key not in kept:
            _start(pipeline, spec, now, covered, _anchor(spec, ended))


def _anchor(spec: ScheduleSpec, ended: list[Schedule]) -> datetime | None:
    """Where an interval goes on counting from that was edited but for its length and its beginning."""
    for index, old in enumerate(ended):
        if (old.kind, old.every_s, old.active_from) == (Schedule.Kind.INTERVAL, spec.every_s, spec.active_from):
            gone = ended.pop(index)
            return gone.anchor or gone.starts_at
    return None


def _start(
    pipeline: Pipeline, spec: ScheduleSpec, now: datetime, covered: datetime | None, anchor: datetime | None
) -> None:
    """Start a schedule; its data begins where that of those it takes the place of ended."""
    schedule = Schedule(
        pipeline=pipeline,
        kind=spec.kind,
        cron=spec.cron,
        zone=spec.zone,
        every_s=spec.every_s,
        active_from=spec.active_from,
        active_until=spec.active_until,
        calendar=calendars.calendar_named(spec.calendar) if spec.calendar else None,
        jitter_s=spec.jitter_s,
        starts_at=now,
        anchor=anchor,
        ticked_through=now,
        covered_through=covered,
    )
    rule = schedules.Rule.of(schedule)
    schedule.next_due = schedules.next_time(rule, now)
    if spec.kind == Schedule.Kind.CRON:
        fields = schedules.crontab_fields(spec.cron)
        schedule.crontab = CrontabSchedule.objects.create(timezone=ZoneInfo(spec.zone), **fields)
    schedule.save()


def _end(current: QuerySet[Schedule], now: datetime) -> None:
    """End schedules; ticks up to now that nobody has looked at yet stay due."""
    ending = current.filter(ends_at__isnull=True)
    crontabs = [pk for pk in ending.values_list("crontab", flat=True) if pk is not None]
    ending.update(ends_at=now, crontab=None, next_due=Case(When(next_due__lte=now, then=F("next_due")), default=None))
    CrontabSchedule.objects.filter(pk__in=crontabs).delete()


def revise(pipeline: Pipeline, by: Any) -> Revision:
    """The current revision, or a new one if the definition is no longer what it says; the caller holds the row lock."""
    definition = definition_of(pipeline)
    latest = Revision.objects.filter(pipeline=pipeline).first()
    if latest is not None and latest.definition == definition:
        revision = latest
    else:
        revision = Revision.objects.create(
            pipeline=pipeline,
            number=latest.number + 1 if latest else 1,
            definition=definition,
            fingerprint=fingerprint_of(definition),
            created_by=by if by is not None and by.is_authenticated else None,
        )
    if pipeline.revision_id != revision.pk:
        pipeline.revision = revision
        pipeline.save(update_fields=["revision"])
    return revision


def definition_of(pipeline: Pipeline) -> dict[str, Any]:
    """What a run needs to know of a pipeline, as stored in a revision."""
    current = [ScheduleSpec.of(schedule) for schedule in queries.current_schedules().filter(pipeline=pipeline)]
    return {
        "name": pipeline.name,
        "source": {
            "connection": str(pipeline.source_id),
            "table": pipeline.source_table,
            "query": pipeline.source_query,
            "columns": pipeline.source_columns,
        },
        **({"row_filter": pipeline.row_filter} if pipeline.row_filter else {}),
        "parameters": pipeline.parameters,
        "destination": {
            "connection": str(pipeline.destination_id),
            "schema": pipeline.target_schema,
            "table": pipeline.target_table,
            "adopt": pipeline.adopt_target,
        },
        "write_disposition": str(pipeline.write_disposition),
        "merge_key": list(pipeline.merge_key),
        **deletions.said(pipeline),
        "cursor_column": pipeline.cursor_column,
        "column_rules": pipeline.column_rules,
        **schema_policies.said(pipeline),
        "incremental": pipeline.incremental,
        "lookback": pipeline.lookback,
        "settle": pipeline.settle,
        "initial_value": pipeline.initial_value,
        "guard_zero_rows": pipeline.guard_zero_rows,
        "guard_shrink_percent": pipeline.guard_shrink_percent,
        "held_days": pipeline.held_days,
        "undo_depth": pipeline.undo_depth,
        **realtime.definition_of(pipeline),
        "watch_every_s": pipeline.watch_every_s,
        "load_method": str(pipeline.load_method),
        "text_policy": str(pipeline.text_policy),
        **quarantines.said(pipeline),
        "target_options": pipeline.target_options.to_json(),
        "schedules": [spec.to_json() for spec in sorted(current, key=lambda spec: spec.key)],
        "dependencies": [spec.to_json() for spec in graph.specs_of(pipeline)],
        **for_definition(pipeline),
        **_sql_of(pipeline),
        "overlap": str(pipeline.overlap),
        "missed": str(pipeline.missed),
        "retries": pipeline.retries,
        "retry_delay_s": pipeline.retry_delay_s,
        "give_up_after_s": pipeline.give_up_after_s,
        "time_limit_s": pipeline.time_limit_s,
        **budgets.told(pipeline),
    }


def _sql_of(pipeline: Pipeline) -> dict[str, Any]:
    """The SQL around the load; a pipeline without any says nothing of it."""
    told = {name: getattr(pipeline, name) for name in ("sql_before", "sql_after", "sql_role", "sql_limit_s")}
    return told if pipeline.sql_before or pipeline.sql_after else {}


def fingerprint_of(definition: dict[str, Any]) -> str:
    """SHA-256 of what decides which rows belong in the target: source, target, key, the cursor that tells new rows."""
    keeps_history = definition["write_disposition"] == WriteDisposition.HISTORY
    merges = keeps_history or definition["write_disposition"] == WriteDisposition.MERGE
    # Named only where there are any: what was written before they could be declared is still the same.
    declared, row_filter = definition.get("parameters"), definition.get("row_filter")
    told = json.dumps(
        {
            "source": {name: definition["source"][name] for name in ("connection", "table", "query")},
            "destination": {name: definition["destination"][name] for name in ("connection", "schema", "table")},
            "key": [name.lower() for name in definition["merge_key"]] if merges else [],
            "columns": definition.get("column_rules", {}),
            "cursor": definition["cursor_column"].lower() if definition["incremental"] else "",
            **({"parameters": declared} if declared else {}),
            **({"filter": row_filter} if row_filter else {}),
            **({"history": definition["cursor_column"].lower()} if keeps_history else {}),
        },
        sort_keys=True,
    )
    return hashlib.sha256(told.encode()).hexdigest()


def pause(pipelines: QuerySet[Pipeline] | Iterable[Pipeline], *, by: Any) -> int:
    """Let no schedule start runs; says how many were active. What jitter delays is taken back, all else goes on."""
    return _change_state(pipelines, [PipelineState.ACTIVE], by, "Paused.", state=PipelineState.PAUSED)


def resume(pipelines: QuerySet[Pipeline] | Iterable[Pipeline], *, by: Any) -> int:
    """Let schedules start runs again, from now on; says how many were paused."""
    now = queries.database_now()
    return _change_state(pipelines, [PipelineState.PAUSED], by, "Resumed.", state=PipelineState.ACTIVE, active_from=now)


def archive(pipelines: QuerySet[Pipeline] | Iterable[Pipeline], *, by: Any) -> int:
    """Retire pipelines: schedules end, what waits will not run; name, history and published tables stay theirs."""
    with transaction.atomic():
        chosen = [pipeline.pk for pipeline in pipelines]
        # The schedules of a pipeline change only under the lock of its row.
        list(Pipeline.objects.select_for_update().filter(pk__in=chosen).order_by("pk").values_list("pk"))
        _end(Schedule.objects.filter(pipeline__in=chosen), queries.database_now())
        Dependency.objects.filter(pipeline__in=chosen).delete()
        living = [PipelineState.ACTIVE, PipelineState.PAUSED]
        chosen_ones = Pipeline.objects.filter(pk__in=chosen)
        return _change_state(chosen_ones, living, by, "Archived.", state=PipelineState.ARCHIVED)


def _change_state(
    pipelines: QuerySet[Pipeline] | Iterable[Pipeline],
    allowed_from: list[PipelineState],
    by: Any,
    note: str,
    **changes: Any,
) -> int:
    """Change the state exactly once, however many try; a log entry says who did it."""
    with transaction.atomic():
        changed = [
            pk
            for pk in sorted(pipeline.pk for pipeline in pipelines)
            if Pipeline.objects.filter(pk=pk, state__in=allowed_from).update(**changes)
        ]
        if by is not None and by.is_authenticated and changed:
            LogEntry.objects.log_actions(by.pk, Pipeline.objects.filter(pk__in=changed), CHANGE, note)
        if changed and changes["state"] == PipelineState.PAUSED:
            paused.send(sender=Pipeline, pipelines=changed, by=by)
    return len(changed)


def duplicate(pipeline: Pipeline, *, by: Any, name: str | None = None, target_table: str | None = None) -> Pipeline:
    """A paused copy with its schedules, writing to a table of its own."""
    copy = Pipeline(
        name=name or _free_name(pipeline.name),
        description=pipeline.description,
        state=PipelineState.PAUSED,
        source_id=pipeline.source_id,
        source_table=pipeline.source_table,
        source_query=pipeline.source_query,
        row_filter=pipeline.row_filter,
        parameters=dict(pipeline.parameters),
        destination_id=pipeline.destination_id,
        target_schema=pipeline.target_schema,
        target_table=target_table or _free_table(pipeline),
        write_disposition=pipeline.write_disposition,
        merge_key=list(pipeline.merge_key),
        deletes=pipeline.deletes,
        cursor_column=pipeline.cursor_column,
        column_rules=dict(pipeline.column_rules),
        schema_policy=pipeline.schema_policy,
        incremental=pipeline.incremental,
        lookback=pipeline.lookback,
        settle=pipeline.settle,
        initial_value=pipeline.initial_value,
        guard_zero_rows=pipeline.guard_zero_rows,
        guard_shrink_percent=pipeline.guard_shrink_percent,
        held_days=pipeline.held_days,
        undo_depth=pipeline.undo_depth,
        mode=pipeline.mode,
        poll_every_s=pipeline.poll_every_s,
        stream_every_s=pipeline.stream_every_s,
        force_read_every=pipeline.force_read_every,
        watch_every_s=pipeline.watch_every_s,
        load_method=pipeline.load_method,
        text_policy=pipeline.text_policy,
        **quarantines.fields(pipeline),
        primary_key=list(pipeline.primary_key),
        indexes=list(pipeline.indexes),
        partition_column=pipeline.partition_column,
        partition_unit=pipeline.partition_unit,
        analyze=pipeline.analyze,
        sql_before=pipeline.sql_before,
        sql_after=pipeline.sql_after,
        sql_role=pipeline.sql_role,
        sql_limit_s=pipeline.sql_limit_s,
        priority=pipeline.priority,
        pool_id=pipeline.pool_id,
        overlap=pipeline.overlap,
        missed=pipeline.missed,
        retries=pipeline.retries,
        retry_delay_s=pipeline.retry_delay_s,
        give_up_after_s=pipeline.give_up_after_s,
        time_limit_s=pipeline.time_limit_s,
        run_budget_bytes=pipeline.run_budget_bytes,
        month_budget_bytes=pipeline.month_budget_bytes,
    )
    current = queries.current_schedules().filter(pipeline=pipeline)
    specs = [ScheduleSpec.of(schedule) for schedule in current]
    waits_for, checks = graph.specs_of(pipeline), checks_of(pipeline)
    save_pipeline(copy, schedules=specs, dependencies=waits_for, checks=checks, by=by)
    return copy


def _free_name(name: str) -> str:
    for ending in _endings(" (copy)", " (copy {})"):
        candidate = name[: MAX_NAME - len(ending)] + ending
        if not Pipeline.objects.filter(name=candidate).exists():
            return candidate
    raise AssertionError("endings never run out")


def _free_table(pipeline: Pipeline) -> str:
    for ending in _endings("_copy", "_copy{}"):
        room = MAX_TABLE_BYTES - len(ending)
        candidate = pipeline.target_table.encode()[:room].decode(errors="ignore") + ending
        if queries.pipeline_writing_to(pipeline.destination, pipeline.target_schema, candidate) is None:
            return candidate
    raise AssertionError("endings never run out")


def _endings(first: str, more: str) -> Iterator[str]:
    yield first
    for number in count(2):
        yield more.format(number)


# How pipelines are run ------------------------------------------------------------------------


def set_limits(pipelines: QuerySet[Pipeline], *, priority: int | None, pool: Pool | bool | None, by: Any) -> int:
    """Give pipelines a priority (None: as it is) and a pool (None: no pool, False: as it is); says how many."""
    changes: dict[str, Any] = {} if priority is None else {"priority": priority}
    if pool is not False:
        changes["pool"] = pool
    if not changes:
        return 0
    with transaction.atomic():
        chosen = Pipeline.objects.select_for_update().filter(pk__in=pipelines.values("pk")).order_by("pk")
        pks = list(chosen.values_list("pk", flat=True))
        Pipeline.objects.filter(pk__in=pks).update(**changes)
        if by is not None and by.is_authenticated and pks:
            LogEntry.objects.log_actions(by.pk, Pipeline.objects.filter(pk__in=pks), CHANGE, "Set priority and pool.")
    return len(pks)


def save_pool(pool: Pool) -> None:
    """Save a pool; its slots count at once, for what waits already. Raises PipelineRefused if its name is taken."""
    with constraints_in_words():
        pool.save()


def delete_pool(pool: Pool) -> None:
    """Delete a pool that no pipeline is in; raises PipelineRefused."""
    try:
        with transaction.atomic():
            pool.delete()
    except ProtectedError as error:
        names = sorted(str(pipeline) for pipeline in error.protected_objects)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise PipelineRefused(
            "pool_in_use",
            f"Pool {pool.name} has pipelines: {', '.join(names[:3])}{more}.",
            "Move them to another pool, or out of it.",
        ) from error


# Connections ----------------------------------------------------------------------------------


def limit_connection(connection: Connection, max_running: int | None) -> None:
    """Set how many steps may use a connection at once; None for the default."""
    Connection.objects.filter(pk=connection.pk).update(max_running=max_running, updated_at=timezone.now())


def save_connection(connection: Connection, *, by: Any) -> Connection:
    """Save a connection; raises ConnectorError if its options do not make one.

    With secrets whose key is lost, what is stored stays until new secrets replace it.
    """
    if not connection.has_lost_secrets:
        build(registry.options_type(connection.kind), {**connection.options, **(connection.secrets or {})})
    connection.save()
    log.info("Connection %s saved by %s", connection.name, by or "a command")
    return connection
