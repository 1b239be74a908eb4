"""A control database with a long history: many pipelines with schedules and their past runs, made by SQL."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from datamantri.embedded.postgres import Postgres
from datamantri.embedded.stack import CONTROL

RUNS_EACH = 100
LINES_EACH = 2
DAYS = 80  # runs are kept longer

_PAST_RUNS = """
CREATE TEMPORARY TABLE past AS
SELECT gen_random_uuid() AS id, q.id AS pipeline, q.revision_id AS revision, s.id AS schedule,
       random() AS luck, random() AS cause, now() - interval '1 day' * %(days)s * (n - random()) / %(runs)s AS at
FROM pipelines_pipeline q JOIN pipelines_schedule s ON s.pipeline_id = q.id, generate_series(1, %(runs)s) AS n
WHERE q.name LIKE 'Pipeline %%' AND substr(q.name, 10)::int BETWEEN %(first)s AND %(last)s
ORDER BY at
"""
# Of a hundred runs three fail and one is cancelled; five are asked for by people and programs.
_STATUS = "CASE WHEN past.luck < 0.03 THEN 'failed' WHEN past.luck < 0.04 THEN 'cancelled' ELSE 'succeeded' END"
_TRIGGER = "CASE WHEN past.cause < 0.95 THEN 'schedule' WHEN past.cause < 0.98 THEN 'manual' ELSE 'api' END"


class History:
    """Copies of one pipeline, of its schedule and of one run of it, as often as asked for."""

    def __init__(self, postgres: Postgres) -> None:
        from django.contrib.auth import get_user_model

        from pipelines import services
        from pipelines.models import Connection, Pipeline, Revision, Schedule
        from pipelines.specs import ScheduleSpec
        from runs.models import Attempt, LogLine, Run

        self.operator = get_user_model().objects.get(username="operator")
        self.pipelines = 0
        self._postgres = postgres
        source = Connection.objects.create(name="Source", kind="bigquery", options={"project": "bench"})
        options = {"host": "127.0.0.1", "dbname": "nowhere", "user": "nobody"}
        destination = Connection.objects.create(name="Destination", kind="postgres", options=options)
        first = Pipeline(name="First", source=source, source_table="d.t", destination=destination, target_table="first")
        services.save_pipeline(first, schedules=[ScheduleSpec("cron", cron="0 0 * * *")], by=self.operator)
        ended = {"status": "succeeded", "rows": 1000, "bytes": 80_000, "finished_at": first.created_at}
        run = Run.objects.create(pipeline=first, revision=first.revision, trigger="schedule", **ended)
        Attempt.objects.create(run=run, number=1, token=1, worker="worker@host:1:2", outcome="succeeded")
        line = "1,000 rows of about 80 bytes were read."
        LogLine.objects.create(run=run, seq=1, at=first.created_at, level="info", message=line)
        self._models = {model.__name__: model for model in (Pipeline, Revision, Schedule, Run, Attempt, LogLine)}

    def grow_to(self, pipelines: int) -> None:
        """Add pipelines until there are so many, each with a schedule and its past runs."""
        with closing(self._postgres.connect(CONTROL)) as connection, connection.cursor() as cursor:
            # No foreign key is looked up, a row at a time: these rows are whole by the way they are made.
            cursor.execute(
                "SET session_replication_role = replica; SET synchronous_commit = off; SET work_mem = '256MB'"
            )
            self._add_pipelines(cursor, self.pipelines + 1, pipelines)
            self._add_runs(cursor, self.pipelines + 1, pipelines)
            cursor.execute("VACUUM ANALYZE")
        self.pipelines = pipelines

    def _add_pipelines(self, cursor: Any, first: int, last: int) -> None:
        name = {"name": "'Pipeline ' || n", "target_table": "'t_' || n"}
        long_ago = f"now() - interval '1 day' * {DAYS}"
        changes = {"id": "gen_random_uuid()", "revision_id": "NULL", "active_from": long_ago, **name}
        self._copy(cursor, "Pipeline", changes, f"generate_series({first}, {last}) AS n")
        new = "pipelines_pipeline q WHERE q.revision_id IS NULL"
        definition = "jsonb_set(o.definition, '{name}', to_jsonb(q.name))"
        self._copy(cursor, "Revision", {**_serial("Revision"), "pipeline_id": "q.id", "definition": definition}, new)
        changes = {
            "id": "gen_random_uuid()",
            "pipeline_id": "q.id",
            "crontab_id": "NULL",
            "cron": "floor(random() * 60)::int || ' ' || floor(random() * 24)::int || ' * * *'",
            "next_due": "now() + interval '1 day' * (1 + random())",
        }
        self._copy(cursor, "Schedule", changes, new)
        cursor.execute(
            "UPDATE pipelines_pipeline q SET revision_id = v.id FROM pipelines_revision v"
            " WHERE q.revision_id IS NULL AND v.pipeline_id = q.id"
        )

    def _add_runs(self, cursor: Any, first: int, last: int) -> None:
        cursor.execute(_PAST_RUNS, {"first": first, "last": last, "days": DAYS, "runs": RUNS_EACH})
        changes = {
            "id": "past.id",
            "pipeline_id": "past.pipeline",
            "revision_id": "past.revision",
            "schedule_id": "CASE WHEN past.cause < 0.95 THEN past.schedule END",
            "scheduled_for": "CASE WHEN past.cause < 0.95 THEN past.at END",
            "trigger": _TRIGGER,
            "requested_by_id": f"CASE WHEN past.cause >= 0.95 THEN {self.operator.pk} END",
            "status": _STATUS,
            "error_code": "CASE WHEN past.luck < 0.03 THEN 'not_found' ELSE '' END",
            **dict.fromkeys(("due", "created_at", "started_at"), "past.at"),
            "finished_at": "past.at + interval '1 minute' * (1 + past.luck)",
            "token": "1",
            "attempt": "1",
            "last_seq": str(LINES_EACH),
        }
        self._copy(cursor, "Run", changes, "past")
        changes = {"run_id": "past.id", "started_at": "past.at", "ended_at": "past.at + interval '1 minute'"}
        self._copy(cursor, "Attempt", {**_serial("Attempt"), **changes}, "past")
        changes = {"run_id": "past.id", "seq": "n", "at": "past.at"}
        self._copy(cursor, "LogLine", changes, f"past, generate_series(1, {LINES_EACH}) AS n")
        # What the triggers would have kept.
        cursor.execute(
            """
            INSERT INTO runs_lastend (pipeline_id, run_id, status, created_at, finished_at)
            SELECT DISTINCT ON (r.pipeline_id) r.pipeline_id, r.id, r.status, r.created_at, r.finished_at
            FROM past JOIN runs_run r ON r.id = past.id ORDER BY r.pipeline_id, r.created_at DESC
            """
        )
        cursor.execute("DROP TABLE past")

    def _copy(self, cursor: Any, name: str, changes: Mapping[str, str], rows: str) -> None:
        """Copy the first row of a model once for each of `rows`, a FROM clause; `changes` are SQL by column."""
        meta = self._models[name]._meta
        columns = [field.column for field in meta.concrete_fields]
        names = ", ".join(f'"{column}"' for column in columns)
        values = ", ".join(changes.get(column, f'o."{column}"') for column in columns)
        # All of it is text of this module.
        cursor.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS first_{name} AS SELECT * FROM {meta.db_table} LIMIT 1")
        cursor.execute(f"INSERT INTO {meta.db_table} ({names}) SELECT {values} FROM first_{name} AS o, {rows}")


def _serial(name: str) -> dict[str, str]:
    table = {"Revision": "pipelines_revision", "Attempt": "runs_attempt"}[name]
    return {"id": f"nextval(pg_get_serial_sequence('{table}', 'id'))"}
