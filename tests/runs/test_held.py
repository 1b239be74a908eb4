"""A run that a guard holds: who decides, what becomes of it, and what overtakes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.utils import timezone

from pipelines import services as definitions
from pipelines.models import Pipeline
from runs import reporter, services
from runs.models import Decision, LogLine, Run, RunAction
from runs.services import RunRefused, deciding, settling
from runs.states import RunStatus
from tests.runs.memory import Script

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def held(
    moving: Callable[..., Pipeline], queue: Callable[..., Run], work: Callable[..., int], script: Script
) -> tuple[Pipeline, Run]:
    """A pipeline whose target has three rows, and its second run, which found none."""
    pipeline = moving(write_disposition="replace")
    queue(pipeline)
    work()
    script.rows = 0
    run = queue(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.HELD
    return pipeline, run


def allow(user: User, *codenames: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))


def log_of(run: Run) -> str:
    return "\n".join(LogLine.objects.filter(run=run).values_list("message", flat=True))


def with_values(pipeline: Pipeline, **names: str) -> None:
    pipeline.parameters = {"country": {"type": "STRING", "default": "DE"}}
    for name, value in names.items():
        setattr(pipeline, name, value)
    definitions.save_pipeline(pipeline, schedules=None, by=None)


def test_where_each_run_has_its_own_values_what_is_overtaken_can_be_cleared(
    held: Any, queue: Any, work: Any, script: Script, operator: User
) -> None:
    pipeline, run = held
    with_values(pipeline)
    script.rows = 3
    newer = queue(pipeline)
    work()
    newer.refresh_from_db()
    run.refresh_from_db()
    assert (newer.status, run.status) == (RunStatus.SUCCEEDED, RunStatus.CANCELLED)
    assert "Clear this one: it reads its own values again." in log_of(run)
    settling.clear_run(run, by=operator)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED


def test_where_each_run_has_its_own_table_what_is_held_stays(held: Any, queue: Any, work: Any, script: Script) -> None:
    pipeline, run = held
    with_values(pipeline, target_table="flights_{country}")
    script.rows = 3
    newer = queue(pipeline)
    work()
    newer.refresh_from_db()
    run.refresh_from_db()
    assert (newer.status, run.status) == (RunStatus.SUCCEEDED, RunStatus.HELD)


def test_a_run_that_would_empty_the_table_is_held_and_says_so(held: Any, rows_of: Any) -> None:
    pipeline, run = held
    assert rows_of(pipeline) == 3
    assert run.error_code == "guard_zero_rows"
    assert run.lease_until is None
    assert run.held_until - run.created_at > timedelta(days=6)
    assert run.attempts.get().outcome == "held"
    assert "The run is held" in log_of(run)


def test_how_many_rows_are_staged_is_known_at_once(
    moving: Callable[..., Pipeline],
    queue: Callable[..., Run],
    work: Callable[..., int],
    script: Script,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(reporter, "PROGRESS_EVERY_S", 60.0)
    queue(moving(write_disposition="replace"))
    script.rows = 10
    work()
    script.rows = 2
    run = queue(Pipeline.objects.get())
    work()
    run.refresh_from_db()
    assert (run.status, run.rows) == (RunStatus.HELD, 2)


def test_approved_it_publishes_without_reading_again(
    held: Any, rows_of: Any, work: Any, script: Script, operator: User
) -> None:
    pipeline, run = held
    reads = script.reads
    services.decide(run, Decision.PUBLISH, by=operator, note="the source was emptied on purpose")
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert (rows_of(pipeline), script.reads) == (0, reads)
    assert (run.decided_by, run.decision_note) == (operator, "the source was emptied on purpose")
    assert "olga approved this run" in log_of(run)
    assert "on purpose" in log_of(run)


def test_rows_of_another_definition_are_not_approved(held: Any, rows_of: Any, work: Any, operator: User) -> None:
    """What is to be masked by now stands in them as it was."""
    pipeline, run = held
    pipeline.column_rules = {"name": {"mask": "redact"}}
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    with pytest.raises(RunRefused) as refused:
        services.decide(run, Decision.PUBLISH, by=operator)
    assert refused.value.code == "definition_changed"
    assert "These rows are of revision 1" in refused.value.message
    services.decide(run, Decision.DISCARD, by=operator)
    work()
    run.refresh_from_db()
    assert (run.status, rows_of(pipeline)) == (RunStatus.CANCELLED, 3)


@pytest.mark.parametrize("how", ["discard", "cancel"])
def test_discarded_it_leaves_the_table_and_nothing_staged(
    held: Any, rows_of: Any, work: Any, operator: User, warehouse_cursor: Any, how: str
) -> None:
    pipeline, run = held
    if how == "discard":
        services.decide(run, Decision.DISCARD, by=operator)
    else:
        services.cancel_run(run, by=operator)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED
    assert rows_of(pipeline) == 3
    warehouse_cursor.execute("SELECT to_regclass(%s)", (f"public._datamantri_new_{run.pk.hex}",))
    assert warehouse_cursor.fetchone() == (None,)


def test_cancelled_before_its_owner_hears_of_it_there_is_nothing_left_to_decide(
    moving: Any, queue: Any, rows_of: Any, work: Any, script: Script, operator: User, warehouse_cursor: Any
) -> None:
    pipeline = moving(write_disposition="replace")
    queue(pipeline)
    work()
    script.rows = 0
    run = queue(pipeline)
    script.on_plan = [lambda stop: services.cancel_run(run, by=operator)]
    work()
    run.refresh_from_db()
    assert (run.status, run.decided_by) == (RunStatus.CANCELLED, operator)
    assert "The run is held." in log_of(run)
    assert "olga discarded this run." in log_of(run)
    assert rows_of(pipeline) == 3
    warehouse_cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE '\\_datamantri\\_new%'")
    assert warehouse_cursor.fetchone() == (0,)


def test_only_one_decision_counts(held: Any, operator: User) -> None:
    _, run = held
    services.decide(run, Decision.DISCARD, by=operator)
    with pytest.raises(RunRefused) as refused:
        services.decide(run, Decision.PUBLISH, by=operator)
    assert refused.value.code == "not_held"


def test_the_next_run_is_not_kept_waiting_and_ends_the_held_one(
    held: Any, queue: Any, work: Any, rows_of: Any, script: Script
) -> None:
    pipeline, run = held
    script.rows = 5
    queue(pipeline)
    work()
    run.refresh_from_db()
    assert rows_of(pipeline) == 5
    assert run.status == RunStatus.CANCELLED
    assert "A newer run" in log_of(run)


def test_a_comparison_publishes_nothing_and_overtakes_nothing(held: Any, queue: Any, claim: Any) -> None:
    pipeline, run = held
    queue(pipeline, action=RunAction.COMPARE)
    services.finish(claim(), RunStatus.SUCCEEDED, receipt={"method": "compare"})
    run.refresh_from_db()
    assert run.status == RunStatus.HELD


def test_a_second_run_that_is_held_takes_the_place_of_the_first(held: Any, queue: Any, work: Any) -> None:
    pipeline, first = held
    second = queue(pipeline)
    work()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == (RunStatus.CANCELLED, RunStatus.HELD)


def test_while_another_run_is_under_way_nobody_decides(held: Any, queue: Any, operator: User) -> None:
    pipeline, run = held
    queue(pipeline, status=RunStatus.RUNNING)
    with pytest.raises(RunRefused) as refused:
        services.decide(run, Decision.PUBLISH, by=operator)
    assert refused.value.code == "pipeline_busy"
    run.refresh_from_db()
    assert (run.status, run.decision) == (RunStatus.HELD, "")


def test_what_nobody_decides_on_is_discarded_in_the_end(held: Any, rows_of: Any, work: Any) -> None:
    pipeline, run = held
    assert services.discard_expired() == 0
    Run.objects.filter(pk=run.pk).update(held_until=Now())
    assert services.discard_expired() == 1
    work()
    run.refresh_from_db()
    assert (run.status, rows_of(pipeline)) == (RunStatus.CANCELLED, 3)
    assert "Nobody decided in time" in log_of(run)


def test_a_publish_that_was_approved_and_lost_is_found_done(
    held: Any, rows_of: Any, work: Any, script: Script, operator: User
) -> None:
    pipeline, run = held

    def die() -> None:
        raise SystemExit  # as a killed process: nothing is written down

    services.decide(run, Decision.PUBLISH, by=operator)
    script.after_commit = [die, lambda: None]
    with pytest.raises(SystemExit):
        work()
    Run.objects.filter(pk=run.pk).update(lease_until=Now() - timedelta(seconds=1))
    services.sweep()
    work()
    run.refresh_from_db()
    assert (run.status, rows_of(pipeline)) == (RunStatus.SUCCEEDED, 0)


def test_pages_show_what_is_staged_and_let_an_operator_decide(
    held: Any, client: Any, operator: User, work: Any
) -> None:
    from django.contrib.auth.models import Permission

    _, run = held
    operator.user_permissions.add(
        *Permission.objects.filter(codename__in=("view_run", "view_pipeline", "run_pipeline"))
    )
    client.force_login(operator)
    page = client.get(f"/runs/{run.pk}/").content.decode()
    assert "Approve and publish" in page
    assert "would empty" in page
    answer = client.post(f"/runs/{run.pk}/discard/", {"note": "wrong source"})
    assert answer.status_code == 302
    work()
    run.refresh_from_db()
    assert (run.status, run.decision_note) == (RunStatus.CANCELLED, "wrong source")


def test_a_viewer_may_look_but_not_decide(held: Any, client: Any, operator: User) -> None:
    _, run = held
    allow(operator, "view_run", "view_pipeline")
    client.force_login(operator)
    assert "Approve and publish" not in client.get(f"/runs/{run.pk}/").content.decode()
    assert client.post(f"/runs/{run.pk}/approve/").status_code == 403


def test_what_a_busy_pipeline_holds_is_not_in_the_way_of_others(
    make_pipeline: Any, queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "AT_ONCE", 1)
    busy, idle = make_pipeline("Busy"), make_pipeline("Idle")
    queue(busy, status=RunStatus.RUNNING)
    for pipeline, days in ((busy, 2), (idle, 1)):
        queue(pipeline, status=RunStatus.HELD, held_until=timezone.now() - timedelta(days=days))
    assert services.discard_expired() == 1
    assert Run.objects.get(pipeline=idle).decision == Decision.DISCARD
