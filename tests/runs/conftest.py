"""Runs to test with: pipelines that nobody reads from, and the real destination fed by rows in memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from connectors import registry
from connectors.modes import WriteDisposition
from connectors.postgres import keep
from pipelines import services as definitions
from pipelines.models import Connection, Pipeline
from runs import executor, services
from runs.models import Process, Run, Trigger
from runs.services import Claim, outcomes
from tests.definitions import destination, make_pipeline, operator, source
from tests.runs import memory
from tests.runs.memory import Script

__all__ = ["destination", "make_pipeline", "operator", "source"]


@pytest.fixture(scope="session", autouse=True)
def nobody_left_behind(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The executor's threads keep their connections; a database that is used cannot be dropped."""
    yield
    keep.sessions.clear()
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
        )


@pytest.fixture
def queue(make_pipeline: Callable[..., Pipeline]) -> Callable[..., Run]:
    """Queues a run: of a pipeline of its own, or of the one given."""
    numbers = itertools.count(1)

    def queue(pipeline: Pipeline | None = None, **changes: Any) -> Run:
        pipeline = pipeline or make_pipeline(f"Pipeline {next(numbers)}")
        run = Run.objects.create(pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.MANUAL, **changes)
        run.refresh_from_db()
        return run

    return queue


@pytest.fixture
def claim() -> Callable[..., Claim | None]:
    """Claims as a worker would."""

    def claim(process: str = "worker@a:1", worker: str = "", task_id: str = "task-1") -> Claim | None:
        return services.claim(process=process, worker=worker or f"{process}:2", task_id=task_id)

    return claim


@pytest.fixture
def owned(queue: Callable[..., Run], claim: Callable[..., Claim | None]) -> Claim:
    """A run that was just claimed."""
    queue()
    claimed = claim()
    assert claimed is not None
    return claimed


@pytest.fixture
def never_analyzed(db: None) -> None:
    """The planner knows nothing of runs, whatever autovacuum saw of them between other tests."""
    with connection.cursor() as cursor:
        for table in ("runs_run", "runs_lane", "runs_partload", "pipelines_pipeline"):
            cursor.execute("SELECT pg_clear_relation_stats('public', %s)", [table])
            cursor.execute(
                "SELECT pg_clear_attribute_stats('public', tablename, attname, inherited) FROM pg_stats"
                " WHERE schemaname = 'public' AND tablename = %s",
                [table],
            )


@pytest.fixture
def lose() -> Callable[[Claim], None]:
    """Lets a lease run out."""

    def lose(claimed: Claim) -> None:
        Run.objects.filter(pk=claimed.run).update(lease_until=Now() - timedelta(seconds=1))
        assert services.sweep() == 1

    return lose


@pytest.fixture
def worker_alive(db: None) -> Callable[..., Process]:
    """Makes a worker that lives."""

    def worker_alive(name: str = "worker@a:1", slots: int = 2, **changes: Any) -> Process:
        return Process.objects.create(name=name, kind=Process.Kind.WORKER, slots=slots, **changes)

    return worker_alive


@pytest.fixture
def at_once() -> Callable[..., list[Any]]:
    """Calls a function in many threads at the same moment; gives what each returned or raised."""

    def at_once(work: Callable[[int], Any], times: int = 2) -> list[Any]:
        barrier = threading.Barrier(times)
        results: list[Any] = [None] * times

        def run(number: int) -> None:
            try:
                connection.ensure_connection()
                barrier.wait(30)
                results[number] = work(number)
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                results[number] = error
            finally:
                connection.close()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(times)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return results

    return at_once


# A pipeline whose runs really move rows


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """What the source in memory gives, and where things go wrong."""
    script = Script()
    for kind in memory.KINDS:
        monkeypatch.setitem(registry.KINDS, kind.name, kind)
    monkeypatch.setattr(memory, "script", script)
    yield script
    keep.sessions.clear()


@pytest.fixture
def moving(
    transactional_db: None, script: Script, warehouse: dict[str, Any], warehouse_cursor: Any
) -> Iterator[Callable[..., Pipeline]]:
    """Makes a pipeline from the source in memory to the session's destination database."""
    tables = []
    numbers = itertools.count(1)

    def moving(**changes: Any) -> Pipeline:
        number = next(numbers)
        secrets = {"password": warehouse["password"]}
        options = {name: value for name, value in warehouse.items() if name != "password"}
        from_memory, _ = Connection.objects.get_or_create(name="Memory", kind="memory")
        to_postgres, _ = Connection.objects.get_or_create(
            name="Warehouse", kind="scripted", defaults={"options": options, "secrets": secrets}
        )
        values = {"target_table": f"moved_{number}", "write_disposition": WriteDisposition.APPEND.value, **changes}
        pipeline = Pipeline(
            name=f"Moving {number}", source=from_memory, source_table="d.t", destination=to_postgres, **values
        )
        definitions.save_pipeline(pipeline, schedules=None, by=None)
        tables.append(pipeline.target_table)
        return pipeline

    yield moving
    keep.sessions.clear()
    for table in tables:
        warehouse_cursor.execute(f'DROP TABLE IF EXISTS public."{table}"')
    warehouse_cursor.execute("DROP SCHEMA IF EXISTS _datamantri CASCADE")
    warehouse_cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE '\\_datamantri\\_%'")
    for (table,) in warehouse_cursor.fetchall():
        warehouse_cursor.execute(f"DROP TABLE public.{table}")


@pytest.fixture
def rows_of(warehouse_cursor: Any) -> Callable[[Pipeline], int | None]:
    """Counts the rows that readers of a pipeline's target see; None without a table."""

    def rows_of(pipeline: Pipeline) -> int | None:
        warehouse_cursor.execute("SELECT to_regclass(%s)", (f"public.{pipeline.target_table}",))
        if warehouse_cursor.fetchone()[0] is None:
            return None
        warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
        return warehouse_cursor.fetchone()[0]

    return rows_of


# What is tried again a little later must not be due yet when the same bell looks for more, however slow the machine.
LATER = timedelta(seconds=30)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Works off what is due, as a worker's child does when a bell rings."""
    leave = outcomes._leave

    def leave_for_later(*args: Any, delay: timedelta | None = None, **values: Any) -> None:
        leave(*args, delay=max(delay, LATER) if delay else delay, **values)

    monkeypatch.setattr(outcomes, "_leave", leave_for_later)

    def work(process: str = "") -> int:
        Run.objects.filter(due__gt=Now()).update(due=Now())
        return executor.work_on(process=process, task_id="task-1")

    return work
