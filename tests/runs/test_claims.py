"""Who gets a run: one statement, however many ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from pipelines.models import Pipeline
from runs import priorities, services
from runs.models import Attempt, Process, Run, Trigger
from runs.services import Claim
from runs.services.bulk import insert_alike
from runs.states import ACTIVE, RunStatus

Queue = Callable[..., Run]
Claimer = Callable[..., "Claim | None"]
AtOnce = Callable[..., list[Any]]


@pytest.mark.django_db
def test_nothing_waits_nothing_is_claimed(claim: Claimer) -> None:
    assert claim() is None


@pytest.mark.django_db
def test_a_claim_says_all_that_a_worker_needs(queue: Queue, claim: Claimer) -> None:
    run = queue()
    claimed = claim(worker="worker@a:1:7", task_id="t-9")
    run.refresh_from_db()
    assert claimed == Claim(
        run=run.pk,
        token=1,
        attempt=1,
        status=RunStatus.RUNNING,
        losses=0,
        failures=0,
        cancel_requested=False,
        started_at=run.started_at,
        pipeline=run.pipeline_id,
        is_archived=False,
        action="load",
        decision="",
        revision=1,
        fingerprint=run.revision.fingerprint,
        others_wait=False,
        options={},
        definition=run.revision.definition,
    )
    assert (run.status, run.worker, run.task_id, run.phase) == ("running", "worker@a:1:7", "t-9", "starting")
    assert run.lease_until - run.heartbeat_at == settings.LEASE_TTL
    attempt = Attempt.objects.get(run=run)
    assert (attempt.number, attempt.token, attempt.worker, attempt.outcome) == (1, 1, "worker@a:1:7", "")


@pytest.mark.django_db
def test_a_claimed_run_is_not_claimed_again(owned: Claim, claim: Claimer) -> None:
    assert claim() is None


@pytest.mark.django_db
def test_every_claim_raises_the_token(queue: Queue, claim: Claimer, lose: Callable[[Claim], None]) -> None:
    queue()
    tokens = []
    for _ in range(3):
        claimed = claim()
        assert claimed is not None
        tokens.append((claimed.token, claimed.attempt, claimed.losses))
        lose(claimed)
    assert tokens == [(1, 1, 0), (2, 2, 1), (3, 3, 2)]


@pytest.mark.django_db
def test_people_come_before_schedules_and_older_runs_before_newer_ones(
    make_pipeline: Callable[..., Pipeline], queue: Queue, claim: Claimer
) -> None:
    ago = [Now() - timedelta(minutes=minutes) for minutes in (30, 20, 10)]
    pipelines = [make_pipeline(f"Number {n}") for n in range(3)]
    scheduled = queue(pipelines[0], due=ago[0], priority=priorities.scheduled(pipelines[0]))
    newer = queue(pipelines[1], due=ago[2], priority=priorities.asked_for(pipelines[1]))
    older = queue(pipelines[2], due=ago[1], priority=priorities.asked_for(pipelines[2]))
    assert [claim().run for _ in range(3)] == [older.pk, newer.pk, scheduled.pk]  # type: ignore[union-attr]


@pytest.mark.django_db
def test_a_run_is_not_claimed_before_it_is_due(queue: Queue, claim: Claimer) -> None:
    queue(due=Now() + timedelta(minutes=1))
    assert claim() is None


@pytest.mark.django_db
def test_a_claim_reads_a_handful_of_pages_however_many_runs_were_queued_at_once(
    never_analyzed: None, make_pipeline: Callable[..., Pipeline], claim: Claimer
) -> None:
    """The planner does not know of them yet: its statistics are gathered long after."""
    pipeline = make_pipeline()
    alike = {"pipeline": pipeline, "revision_id": pipeline.revision_id, "trigger": Trigger.MANUAL}
    insert_alike([Run(**alike) for _ in range(1500)], ("id",))
    asked: list[tuple[str, Any]] = []

    def note(execute: Any, statement: str, values: Any, many: bool, context: Any) -> Any:
        asked.append((statement, values))
        return execute(statement, values, many, context)

    with transaction.atomic():
        with connection.execute_wrapper(note):
            assert claim() is not None
        transaction.set_rollback(True)
    ((statements, values),) = asked
    *first, statement = statements.split(";")
    with connection.cursor() as cursor:
        cursor.execute(";".join(first), values)
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
        ((plan,),) = cursor.fetchone()
    assert Run.objects.filter(status=RunStatus.RUNNING).count() == 1
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200


@pytest.mark.django_db
@pytest.mark.parametrize("status", sorted(set(RunStatus) - {"queued", "retrying", "resolving"}))
def test_what_runs_has_ended_or_is_held_is_not_claimed(queue: Queue, claim: Claimer, status: RunStatus) -> None:
    queue(status=status)
    assert claim() is None


@pytest.mark.django_db
@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_a_pipelines_next_run_waits_for_the_active_one(
    make_pipeline: Callable[..., Pipeline], queue: Queue, claim: Claimer, status: RunStatus
) -> None:
    pipeline = make_pipeline()
    active = queue(pipeline, status=status, due=Now() + timedelta(hours=1), lease_until=Now() + timedelta(hours=1))
    waiting = queue(pipeline, priority=0)
    assert claim() is None
    Run.objects.filter(pk=active.pk).update(status=RunStatus.SUCCEEDED)
    claimed = claim()
    assert claimed is not None
    assert claimed.run == waiting.pk


@pytest.mark.django_db
def test_a_resolving_run_stays_so_until_the_destination_was_asked(
    owned: Claim, lose: Callable[[Claim], None], claim: Claimer
) -> None:
    lose(owned)
    claimed = claim()
    assert claimed is not None
    assert claimed.status == Run.objects.get(pk=owned.run).status == RunStatus.RESOLVING


@pytest.mark.django_db
def test_a_worker_that_is_ending_claims_nothing(
    queue: Queue, claim: Claimer, worker_alive: Callable[..., Process]
) -> None:
    queue()
    worker_alive("worker@a:1", draining=True)
    worker_alive("worker@b:1")
    assert claim(process="worker@a:1") is None
    assert claim(process="worker@b:1") is not None


@pytest.mark.django_db
def test_a_claim_begins_to_count_from_nothing(queue: Queue, claim: Claimer) -> None:
    run = queue(status=RunStatus.RETRYING, rows=12, bytes=500)
    claim()
    run.refresh_from_db()
    assert (run.rows, run.bytes) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_share_the_runs_without_a_double(queue: Queue, at_once: AtOnce, claim: Claimer) -> None:
    runs = [queue() for _ in range(6)]
    claims = at_once(lambda number: claim(worker=f"w:{number}"), times=8)
    assert claims.count(None) == 2
    assert {claimed.run for claimed in claims if claimed} == {run.pk for run in runs}
    assert Attempt.objects.count() == 6


@pytest.mark.django_db(transaction=True)
def test_a_pipeline_never_has_two_active_runs_and_keeps_their_order(
    make_pipeline: Callable[..., Pipeline], queue: Queue, at_once: AtOnce, claim: Claimer
) -> None:
    pipeline = make_pipeline()
    runs = [queue(pipeline, due=Now() - timedelta(minutes=10 - n)) for n in range(5)]
    for run in runs:
        claims = at_once(lambda number: claim(worker=f"w:{number}"), times=4)
        (claimed,) = [claimed for claimed in claims if claimed]
        assert claimed.run == run.pk
        services.finish(claimed, RunStatus.CANCELLED)


@pytest.mark.django_db(transaction=True)
def test_the_database_itself_refuses_a_second_active_run(
    make_pipeline: Callable[..., Pipeline], queue: Queue, claim: Claimer
) -> None:
    pipeline = make_pipeline()
    queue(pipeline)
    assert claim() is not None
    with pytest.raises(IntegrityError), transaction.atomic():
        queue(pipeline, status=RunStatus.RETRYING)


@pytest.mark.django_db(transaction=True)
def test_a_run_that_another_worker_is_taking_is_passed_by(queue: Queue, at_once: AtOnce, claim: Claimer) -> None:
    first, second = queue(priority=1), queue(priority=2)

    def take(_: int) -> Any:
        claimed = claim()
        return claimed and claimed.run

    with transaction.atomic():
        list(Run.objects.select_for_update(no_key=True).filter(pk=first.pk))
        assert at_once(take, times=1) == [second.pk]
    assert at_once(take, times=1) == [first.pk]


@pytest.mark.django_db(transaction=True)
def test_the_runs_behind_one_that_is_being_taken_do_not_overtake_it(
    make_pipeline: Callable[..., Pipeline], queue: Queue, at_once: AtOnce, claim: Claimer
) -> None:
    pipeline = make_pipeline()
    first = queue(pipeline, due=Now() - timedelta(minutes=2))
    queue(pipeline, due=Now() - timedelta(minutes=1))
    with transaction.atomic():
        list(Run.objects.select_for_update(no_key=True).filter(pk=first.pk))
        assert at_once(lambda _: claim(), times=1) == [None]


@pytest.mark.django_db(transaction=True)
def test_a_run_that_somebody_only_refers_to_is_still_claimed(queue: Queue, at_once: AtOnce, claim: Claimer) -> None:
    """A ticker that writes a skip holds the run it names in a key share lock."""
    run = queue()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM runs_run WHERE id = %s FOR KEY SHARE", [run.pk])
        (claimed,) = at_once(lambda _: claim(), times=1)
    assert claimed is not None


# Owners that are none any more


@pytest.mark.django_db
@pytest.mark.parametrize("case", ["claimed by another", "given up"])
def test_a_former_owner_writes_nothing(owned: Claim, lose: Callable[[Claim], None], claim: Claimer, case: str) -> None:
    lose(owned)
    if case == "claimed by another":
        assert claim() is not None
    before = Run.objects.filter(pk=owned.run).values().get()
    failure = services.Failure("transient", "Broke")
    writes: list[Callable[[], Any]] = [
        lambda: services.move_run(owned.run, RunStatus.SUCCEEDED, token=owned.token),
        lambda: services.finish(owned, RunStatus.SUCCEEDED, receipt={"rows": 9}),
        lambda: services.finish(owned, RunStatus.FAILED, failure=failure),
        lambda: services.retry_later(owned, failure, delay=timedelta(0)),
        lambda: services.hand_back(owned),
        lambda: services.resolve_later(owned, failure),
        lambda: services.resume(owned),
        lambda: services.write_lines(owned.run, [services.Line("info", "still here")], token=owned.token),
    ]
    for write in writes:
        with pytest.raises(services.StaleToken):
            write()
    assert not services.renew(owned.run, owned.token, process="").owned
    assert not services.read_flags(owned.run, owned.token, process="").owned
    assert Run.objects.filter(pk=owned.run).values().get() == before


@pytest.mark.django_db
def test_an_owner_ends_its_run_only_once(owned: Claim) -> None:
    services.finish(owned, RunStatus.SUCCEEDED, receipt={"rows": 9})
    with pytest.raises(services.StaleToken):
        services.finish(owned, RunStatus.FAILED, failure=services.Failure("x", "y"))
    assert Run.objects.get(pk=owned.run).status == RunStatus.SUCCEEDED


@pytest.mark.django_db
def test_a_run_cannot_become_what_it_must_not(owned: Claim) -> None:
    with pytest.raises(services.InvalidTransition):
        services.move_run(owned.run, RunStatus.QUEUED, token=owned.token)


@pytest.mark.django_db
def test_a_renewal_extends_the_lease_by_the_databases_clock(owned: Claim) -> None:
    Run.objects.filter(pk=owned.run).update(lease_until=Now() + timedelta(seconds=1))
    assert services.renew(owned.run, owned.token, process="").owned
    run = Run.objects.get(pk=owned.run)
    assert run.lease_until - run.heartbeat_at == settings.LEASE_TTL


@pytest.mark.django_db
def test_an_owner_hears_that_its_worker_is_ending(owned: Claim, worker_alive: Callable[..., Process]) -> None:
    worker_alive("worker@a:1")
    services.drain_process("worker@a:1")
    assert services.renew(owned.run, owned.token, process="worker@a:1").draining
    assert services.read_flags(owned.run, owned.token, process="worker@a:1").draining
    assert not services.renew(owned.run, owned.token, process="worker@b:1").draining


@pytest.mark.django_db
def test_asking_for_flags_does_not_renew(owned: Claim) -> None:
    before = Run.objects.get(pk=owned.run).lease_until
    services.read_flags(owned.run, owned.token, process="")
    assert Run.objects.get(pk=owned.run).lease_until == before


# Letting go


@pytest.mark.django_db
def test_a_try_that_comes_later_counts_as_a_failure(owned: Claim, claim: Claimer) -> None:
    services.retry_later(owned, services.Failure("transient", "Broke", "Wait"), delay=timedelta(minutes=5))
    run = Run.objects.get(pk=owned.run)
    assert (run.status, run.failures, run.error_code, run.error_hint) == ("retrying", 1, "transient", "Wait")
    assert run.due > run.created_at + timedelta(minutes=4)
    assert claim() is None
    Run.objects.update(due=Now())
    again = claim()
    assert again is not None
    assert (again.attempt, again.failures, again.status) == (2, 1, RunStatus.RUNNING)


@pytest.mark.django_db
def test_a_run_handed_back_has_not_failed(owned: Claim, claim: Claimer) -> None:
    services.hand_back(owned)
    again = claim()
    assert again is not None
    assert again.failures == 0
    assert Attempt.objects.get(number=1).outcome == "drained"


@pytest.mark.django_db
@pytest.mark.parametrize("resumed", [False, True])
def test_an_outcome_that_stays_unknown_is_asked_for_again(
    owned: Claim, lose: Callable[[Claim], None], claim: Claimer, resumed: bool
) -> None:
    """Also when the run had gone on in between: it must not be left running without an owner."""
    lose(owned)
    second = claim()
    assert second is not None
    if resumed:
        services.resume(second)
    services.resolve_later(second, services.Failure("unreachable", "Away"))
    run = Run.objects.get(pk=owned.run)
    assert (run.status, run.lease_until) == (RunStatus.RESOLVING, None)
    assert Attempt.objects.get(number=2).outcome == "unresolved"
    assert claim() is not None


@pytest.mark.django_db
def test_what_a_failure_says_can_always_be_stored(owned: Claim) -> None:
    """Error texts come from elsewhere: NUL, broken characters, megabytes."""
    failure = services.Failure("c" * 100, "row \x00 has \udce9" + "x" * 100_000, "\x00")
    services.finish(owned, RunStatus.FAILED, failure=failure, lines=[services.Line("error", "a\x00b\udce9")])
    run = Run.objects.get(pk=owned.run)
    assert run.error_code == "c" * 60
    assert run.error_message.startswith("row \N{REPLACEMENT CHARACTER} has ?x")
    assert len(run.error_message) < 21_000
    assert run.log_lines.get().message == "a\N{REPLACEMENT CHARACTER}b?"


@pytest.mark.django_db
def test_the_end_of_a_run_is_told_after_it_is_committed(
    owned: Claim, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    told: list[str] = []
    monkeypatch.setattr(services.outcomes.live, "push_run", lambda run: told.append("run"))
    monkeypatch.setattr(services.outcomes.live, "push_board", lambda run, pipeline, status: told.append(status))
    with django_capture_on_commit_callbacks(execute=True):
        services.finish(owned, RunStatus.SUCCEEDED, receipt={})
        assert not told
    assert told == ["run", RunStatus.SUCCEEDED]


@pytest.mark.django_db
def test_this_installation_has_one_id(operator: User) -> None:
    assert services.installation_id() == services.installation_id()


@pytest.mark.django_db
def test_a_slice_that_somebody_let_go_on_goes_on_whatever_else_is_held(queue: Queue, claim: Claimer) -> None:
    allowed = queue(action="backfill", status=RunStatus.RETRYING)
    queue(allowed.pipeline, status=RunStatus.HELD)
    claimed = claim()
    assert claimed is not None
    assert claimed.run == allowed.pk


@pytest.mark.django_db
def test_a_slice_begins_beside_a_comparison_that_is_held_and_not_beside_a_load(queue: Queue, claim: Claimer) -> None:
    begins = queue(action="backfill")
    load = queue(begins.pipeline, status=RunStatus.HELD)
    queue(begins.pipeline, status=RunStatus.HELD, action="compare")
    assert claim() is None
    Run.objects.filter(pk=load.pk).update(status=RunStatus.CANCELLED)
    assert claim() is not None
