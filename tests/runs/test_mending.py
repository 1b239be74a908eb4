"""Runs in parts that the destination refuses at their publish: held until somebody has mended it there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import F

from connectors import publishing, transfer
from connectors.errors import ConnectorError, TransientError
from connectors.postgres.publish import lock
from pipelines.models import Pipeline
from runs import actions, services
from runs.models import Decision, Run
from runs.states import RunStatus
from tests.runs.memory import Script

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def in_parts(
    moving: Callable[..., Pipeline], queue: Callable[..., Run], work: Any, script: Script
) -> Callable[..., tuple[Pipeline, Callable[[], Run]]]:
    """Makes a pipeline with rows in its target; and what runs it once more, in parts, to where it stops."""

    def run(run: Run) -> Run:
        while work():
            pass
        run.refresh_from_db()
        return run

    def make(**more: Any) -> tuple[Pipeline, Callable[[], Run]]:
        script.parts, script.rows = 2, 4
        pipeline = moving(load_method="staged", **{"retries": 0, **more})
        assert run(queue(pipeline)).status == RunStatus.SUCCEEDED
        return pipeline, lambda: run(queue(pipeline))

    return make


def finish(work: Any, run: Run, decision: Decision, by: User) -> None:
    services.decide(run, decision, by=by)
    while work():
        pass
    run.refresh_from_db()


def staged_tables(cursor: Any) -> int:
    cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE '\\_datamantri\\_new%'")
    return int(cursor.fetchone()[0])


def test_a_constraint_of_the_target_holds_the_run_until_it_is_mended_and_approved_or_discarded(
    in_parts: Any, work: Any, script: Script, rows_of: Any, warehouse_cursor: Any, operator: User
) -> None:
    pipeline, go = in_parts()
    constraint = f"ALTER TABLE {pipeline.target_table} {{}} CONSTRAINT few"
    warehouse_cursor.execute(constraint.format("ADD") + " CHECK (id < 3) NOT VALID")
    run = go()
    assert (run.status, run.error_code, run.rows, rows_of(pipeline)) == (RunStatus.HELD, "check_violated", 4, 4)
    assert "change the constraint, or make the partition that is missing, then approve the run" in run.error_hint
    finish(work, run, Decision.PUBLISH, operator)
    assert (run.status, run.error_code, rows_of(pipeline)) == (RunStatus.HELD, "check_violated", 4)
    finish(work, run, Decision.DISCARD, operator)
    assert (run.status, staged_tables(warehouse_cursor)) == (RunStatus.CANCELLED, 0)
    run = go()
    assert (run.status, run.error_code) == (RunStatus.HELD, "check_violated")
    warehouse_cursor.execute(constraint.format("DROP"))
    reads = script.reads
    finish(work, run, Decision.PUBLISH, operator)
    assert (run.status, rows_of(pipeline), script.reads) == (RunStatus.SUCCEEDED, 8, reads)
    assert staged_tables(warehouse_cursor) == 0


def test_a_lock_that_is_kept_through_all_attempts_holds_the_run(
    in_parts: Any, work: Any, rows_of: Any, warehouse_cursor: Any, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LIMIT_S", 0.0)
    monkeypatch.setattr(lock, "TRY_MS", 50)
    pipeline, go = in_parts()
    warehouse_cursor.execute(f"BEGIN; LOCK TABLE {pipeline.target_table} IN SHARE MODE")
    try:
        run = go()
    finally:
        warehouse_cursor.execute("ROLLBACK")
    assert (run.status, run.error_code) == (RunStatus.HELD, "target_locked")
    finish(work, run, Decision.PUBLISH, operator)
    assert (run.status, rows_of(pipeline)) == (RunStatus.SUCCEEDED, 8)


def test_an_approved_run_has_all_its_retries_however_late_it_is(
    in_parts: Any, work: Any, script: Script, rows_of: Any, warehouse_cursor: Any, operator: User, monkeypatch: Any
) -> None:
    pipeline, go = in_parts(retries=1, give_up_after_s=3600)
    warehouse_cursor.execute(f"ALTER TABLE {pipeline.target_table} ADD CONSTRAINT few CHECK (id < 3) NOT VALID")
    run = go()
    assert (run.status, run.error_code) == (RunStatus.HELD, "check_violated")
    # As after a retry of the day before yesterday.
    Run.objects.filter(pk=run.pk).update(failures=1, started_at=F("started_at") - timedelta(days=2))
    warehouse_cursor.execute(f"ALTER TABLE {pipeline.target_table} DROP CONSTRAINT few")
    publish_staged, reads, lost = publishing.publish_staged, script.reads, []

    def lose_one(*args: Any, **more: Any) -> Any:
        if not lost:
            lost.append(TransientError("Gone for a moment.", code="connection_lost"))
            raise lost[0]
        return publish_staged(*args, **more)

    monkeypatch.setattr(transfer, "publish_staged", lose_one)
    finish(work, run, Decision.PUBLISH, operator)
    assert (lost[0].code, run.status, rows_of(pipeline)) == ("connection_lost", RunStatus.SUCCEEDED, 8)
    assert (script.reads, staged_tables(warehouse_cursor)) == (reads, 0)


@pytest.mark.parametrize(("failures", "ends"), [(0, (True, False)), (3, (True, True))])
def test_what_is_tried_again_or_is_to_stop_is_not_held(failures: int, ends: tuple[bool, bool]) -> None:
    claimed: Any = SimpleNamespace(failures=failures, definition={"retries": 3})
    lease: Any = SimpleNamespace(reason="")
    errors = (ConnectorError("for good", code="check_violated"), TransientError("passes", code="target_locked"))
    assert tuple(actions._ends(claimed, lease, error) for error in errors) == ends
    for stopped in ("cancelled", "time_limit", "drain", "lease_lost"):
        lease.reason = stopped
        assert not any(actions._ends(claimed, lease, error) for error in errors)
