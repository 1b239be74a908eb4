"""Slots of pools and connections: never more than there are, and nobody waits behind those that have none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now

from pipelines import services as definitions
from pipelines.models import Connection, Pipeline, PipelineState, Pool, Priority
from runs import capacity, executor, priorities, services, ticker
from runs.models import Lane, PartLoad, Process, Run, RunAction
from runs.services import Claim, PartClaim
from runs.states import RunStatus, Step
from runs.waiting import NO_WAIT, wait_of

pytestmark = pytest.mark.django_db

Queue = Callable[..., Run]
Claimer = Callable[..., "Claim | None"]
Alive = Callable[..., Process]
AtOnce = Callable[..., list[Any]]


@pytest.fixture
def elsewhere(db: None) -> Connection:
    """Another destination."""
    return Connection.objects.create(
        name="Elsewhere", kind="postgres", options={"host": "127.0.0.1", "port": 1, "dbname": "far", "user": "mover"}
    )


@pytest.fixture
def flow(source: Connection, destination: Connection) -> Callable[..., Pipeline]:
    """Makes a pipeline between these connections, or others."""
    numbers = itertools.count(1)

    def flow(**changes: Any) -> Pipeline:
        number = next(numbers)
        table = {"source_table": f"sales.t{number}", "target_table": f"t{number}"}
        ends = {"source": source, "destination": destination}
        pipeline = Pipeline(**{"name": f"Flow {number}", **ends, **table, **changes})
        definitions.save_pipeline(pipeline, schedules=None, by=None)
        return pipeline

    return flow


def limit(which: Connection | Pool, slots: int | None) -> None:
    field = "slots" if isinstance(which, Pool) else "max_running"
    type(which).objects.filter(pk=which.pk).update(**{field: slots})


def patiently(claim: Callable[[], Any]) -> Any:
    """Claim, and again as with the next bell should the claims before it take longer than it waits for them, 3 s."""
    while True:
        try:
            return claim()
        except OperationalError as error:
            if "lock timeout" not in str(error):
                raise


def taken(claims: list[Claim | None]) -> set[Any]:
    return {claimed.run for claimed in claims if claimed}


# What a slot is -------------------------------------------------------------------------------


def test_a_pool_runs_as_many_at_once_as_it_has_slots(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer
) -> None:
    pool = Pool.objects.create(name="Heavy", slots=2)
    runs = [queue(flow(pool=pool)) for _ in range(4)]
    claims = [claim() for _ in range(3)]
    assert [claimed and claimed.run for claimed in claims] == [runs[0].pk, runs[1].pk, None]
    assert claims[0] is not None
    services.finish(claims[0], RunStatus.SUCCEEDED, receipt={})
    assert taken([claim(), claim()]) == {runs[2].pk}


@pytest.mark.parametrize("end", ["source", "destination"])
def test_a_connection_runs_as_many_at_once_as_it_may_at_either_end(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, request: pytest.FixtureRequest, end: str
) -> None:
    limit(request.getfixturevalue(end), 1)
    first, _ = queue(flow()), queue(flow())
    assert taken([claim(), claim()]) == {first.pk}


def test_a_connection_that_is_both_ends_of_a_pipeline_gives_it_one_slot(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, destination: Connection
) -> None:
    limit(destination, 2)
    runs = {queue(flow(source=destination)).pk for _ in range(2)}
    assert taken([claim(), claim()]) == runs


def test_a_run_needs_a_slot_of_all_that_it_uses(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, elsewhere: Connection
) -> None:
    pool = Pool.objects.create(name="Heavy", slots=1)
    limit(elsewhere, 1)
    in_pool, both, to_elsewhere = (
        queue(flow(pool=pool)),
        queue(flow(pool=pool, destination=elsewhere)),
        queue(flow(destination=elsewhere)),
    )
    assert taken([claim() for _ in range(3)]) == {in_pool.pk, to_elsewhere.pk}
    Run.objects.filter(pk=in_pool.pk).update(status=RunStatus.SUCCEEDED, lease_until=None)
    assert claim() is None
    Run.objects.filter(pk=to_elsewhere.pk).update(status=RunStatus.SUCCEEDED, lease_until=None)
    assert taken([claim()]) == {both.pk}


def test_a_slot_is_taken_until_the_lease_is_given_back(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, lose: Callable[[Claim], None]
) -> None:
    """Whoever is silent may still be at work; a run between two attempts is not."""
    pool = Pool.objects.create(name="Heavy", slots=1)
    queue(flow(pool=pool))
    other = queue(flow(pool=pool), priority=90)
    first = claim()
    assert first is not None
    Run.objects.filter(pk=first.run).update(lease_until=Now() - timedelta(seconds=1))
    assert claim() is None
    lose(first)
    again = claim()
    assert again is not None
    assert again.run == first.run
    services.retry_later(again, services.Failure("transient", "Broke"), delay=timedelta(minutes=5))
    assert taken([claim()]) == {other.pk}


# Changes --------------------------------------------------------------------------------------


def test_a_change_of_a_limit_holds_for_what_waits_already(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, destination: Connection
) -> None:
    limit(destination, 1)
    for _ in range(4):
        queue(flow())
    assert len(taken([claim() for _ in range(3)])) == 1
    limit(destination, 3)
    assert len(taken([claim() for _ in range(4)])) == 2
    limit(destination, 1)
    assert claim() is None
    limit(destination, None)
    assert claim() is not None


def test_what_waits_follows_its_pipeline_into_another_pool_and_out_of_it(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer
) -> None:
    pool = Pool.objects.create(name="Heavy", slots=1)
    queue(flow(pool=pool))
    assert claim() is not None
    pipeline = flow()
    run = queue(pipeline)
    pipeline.pool = pool
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert claim() is None
    Pipeline.objects.filter(pk=pipeline.pk).update(pool=None)
    assert taken([claim()]) == {run.pk}


def test_a_pipelines_change_moves_what_is_unfinished_and_nothing_else(
    flow: Callable[..., Pipeline], queue: Queue, elsewhere: Connection
) -> None:
    pipeline, other = flow(), queue(flow())
    runs = {status: queue(pipeline, status=status) for status in ("queued", "retrying", "held", "failed", "succeeded")}
    before = {status: run.lane_id for status, run in runs.items()}
    assert len(set(before.values()) | {other.lane_id}) == 1
    Pipeline.objects.filter(pk=pipeline.pk).update(destination=elsewhere)
    after = {status: Run.objects.get(pk=run.pk).lane for status, run in runs.items()}
    for status in ("queued", "retrying", "held"):
        assert after[status].destination == elsewhere
    assert {after[status].pk for status in ("failed", "succeeded")} == {other.lane_id}
    other.refresh_from_db()
    assert other.lane.destination != elsewhere
    assert Lane.objects.count() == 2


def test_a_change_of_priority_moves_what_waits(flow: Callable[..., Pipeline], queue: Queue, claim: Claimer) -> None:
    first, second = (queue(pipeline, priority=pipeline.priority) for pipeline in (flow(), flow()))
    Pipeline.objects.filter(pk=second.pipeline_id).update(priority=Priority.HIGH)
    assert taken([claim()]) == {second.pk}
    first.refresh_from_db()
    assert first.priority == Priority.NORMAL


def test_how_a_pipeline_is_run_is_no_part_of_its_definition(flow: Callable[..., Pipeline]) -> None:
    pipeline = flow()
    pipeline.pool, pipeline.priority = Pool.objects.create(name="Heavy"), Priority.LOW
    assert definitions.save_pipeline(pipeline, schedules=None, by=None).number == 1


# Order ----------------------------------------------------------------------------------------


def test_live_runs_of_any_priority_come_before_backfills_of_any(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer
) -> None:
    ranks = {}
    for level in Priority:
        for number, rank in enumerate((priorities.backfill, priorities.scheduled, priorities.asked_for)):
            pipeline = flow(priority=level)
            run = queue(pipeline, priority=rank(pipeline), due=Now() - timedelta(hours=3 - number))
            ranks[run.pk] = (rank is priorities.backfill, level, rank is not priorities.asked_for)
    order = [claimed.run for _ in ranks if (claimed := claim())]
    assert order == sorted(ranks, key=lambda pk: ranks[pk])


def test_runs_that_have_no_slot_are_passed_by(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, elsewhere: Connection
) -> None:
    limit(elsewhere, 1)
    for _ in range(3):
        queue(flow(destination=elsewhere), priority=1)
    free = queue(flow(), priority=99)
    assert claim() is not None
    assert taken([claim(), claim()]) == {free.pk}


def wait_in_thousands(pipeline: Pipeline, count: int) -> None:
    """That many pipelines like this one, each with a run that waits in the same lane."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH more AS (
                INSERT INTO pipelines_pipeline
                SELECT made.* FROM pipelines_pipeline p, generate_series(1, %s) n, jsonb_populate_record(
                    p, jsonb_build_object('id', gen_random_uuid(), 'name', 'More ' || n,
                        'target_table', 'more_' || n, 'revision_id', null)) made
                WHERE p.id = %s
                RETURNING id
            )
            INSERT INTO runs_run
            SELECT made.* FROM more, runs_run r, jsonb_populate_record(
                r, jsonb_build_object('id', gen_random_uuid(), 'pipeline_id', more.id)) made
            WHERE r.pipeline_id = %s AND r.status = 'queued'
            """,
            [count, pipeline.pk, pipeline.pk],
        )
        assert cursor.rowcount == count


def analyze() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE runs_run, runs_lane, runs_partload, pipelines_pipeline")


@pytest.mark.parametrize("statistics", ["none", "of before", "of now"])
def test_five_thousand_runs_without_a_slot_cost_a_claim_nothing(
    never_analyzed: None,
    flow: Callable[..., Pipeline],
    queue: Queue,
    claim: Claimer,
    elsewhere: Connection,
    statistics: str,
) -> None:
    """Whatever the planner knows of them."""
    limit(elsewhere, 1)
    busy = flow(destination=elsewhere)
    queue(busy, priority=1)
    if statistics == "of before":
        analyze()
    wait_in_thousands(busy, 5000)
    if statistics == "of now":
        analyze()
    free = queue(flow(), priority=99)
    assert claim() is not None
    asked: list[Any] = []

    def note(execute: Any, statement: str, values: Any, many: bool, context: Any) -> Any:
        asked.append((statement.split(";"), values))
        return execute(statement, values, many, context)

    with transaction.atomic():
        with connection.execute_wrapper(note):
            assert taken([claim()]) == {free.pk}
        transaction.set_rollback(True)
    (((*first, statement), values),) = asked
    with connection.cursor() as cursor:
        cursor.execute(";".join(first), values)
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
        ((plan,),) = cursor.fetchone()
    assert Run.objects.get(pk=free.pk).status == RunStatus.RUNNING
    # To look at all that wait takes some 80,000; what other tests left in the tables may cost a few.
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 5000


# At once --------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["pool", "connection", "worker slots"])
def test_many_claims_at_once_take_no_more_than_there_is(
    flow: Callable[..., Pipeline],
    queue: Queue,
    claim: Claimer,
    at_once: AtOnce,
    destination: Connection,
    elsewhere: Connection,
    worker_alive: Alive,
    what: str,
) -> None:
    pool = Pool.objects.create(name="Heavy", slots=3 if what == "pool" else 100)
    if what == "connection":
        limit(destination, 3)
    if what == "worker slots":
        worker_alive(slots=4)
        flow(destination=elsewhere)
    for _ in range(9):
        queue(flow(pool=pool))
    for _ in range(3):
        claims = at_once(lambda number: patiently(lambda: claim(worker=f"w:{number}")), times=8)
        assert all(isinstance(each, Claim | None) for each in claims), claims
        assert len(taken(claims)) == 3
        for claimed in filter(None, claims):
            services.finish(claimed, RunStatus.CANCELLED)


# A system that hangs --------------------------------------------------------------------------


def test_one_worker_slot_is_left_for_pipelines_of_other_connections(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive, elsewhere: Connection
) -> None:
    worker_alive(slots=3)
    hanging = [queue(flow(destination=elsewhere)).pk for _ in range(4)]
    other = flow()
    assert taken([claim() for _ in range(3)]) == set(hanging[:2])
    late = queue(other)
    assert taken([claim(), claim()]) == {late.pk}


@pytest.mark.parametrize("why", ["paused", "own limit", "one slot"])
def test_no_worker_slot_is_left_idle_for_nobody_or_against_a_limit_of_ones_own(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive, elsewhere: Connection, why: str
) -> None:
    slots = 1 if why == "one slot" else 2
    worker_alive(slots=slots)
    flow(state=PipelineState.PAUSED if why == "paused" else PipelineState.ACTIVE)
    if why == "own limit":
        limit(elsewhere, 2)
    for _ in range(2):
        queue(flow(destination=elsewhere))
    assert len(taken([claim() for _ in range(slots)])) == slots


def test_a_slice_of_a_backfill_waits_for_what_a_person_has_yet_to_decide(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive
) -> None:
    worker_alive(slots=4)
    pipeline = flow()
    slice_ = queue(pipeline, action=RunAction.BACKFILL, priority=120)
    live = queue(pipeline, status=RunStatus.HELD)
    assert claim() is None
    assert "person's decision on the pipeline's held run" in wait_of(slice_).why
    Run.objects.filter(pk=live.pk).update(status=RunStatus.CANCELLED)
    assert taken([claim()]) == {slice_.pk}


def test_a_slice_of_a_backfill_ends_nothing_that_is_held(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive
) -> None:
    worker_alive(slots=4)
    pipeline = flow()
    queue(pipeline, action=RunAction.BACKFILL)
    owned = claim()
    live = queue(pipeline, status=RunStatus.HELD)
    assert owned is not None
    services.finish(owned, RunStatus.SUCCEEDED, receipt={})
    live.refresh_from_db()
    assert live.status == RunStatus.HELD


# Bells ----------------------------------------------------------------------------------------


def test_nobody_is_rung_for_what_has_no_slot(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive
) -> None:
    worker_alive(slots=8)
    pool = Pool.objects.create(name="Heavy", slots=2)
    for _ in range(5):
        queue(flow(pool=pool), due=Now() - timedelta(seconds=5))
    assert ticker.bells_due(0) > 0
    claims = [claim() for _ in range(2)]
    assert (ticker.bells_due(5), ticker.bells_due(0)) == (0, 0)
    assert claims[0] is not None
    services.finish(claims[0], RunStatus.SUCCEEDED, receipt={})
    assert ticker.bells_due(0) == 1
    queue(flow(), due=Now() - timedelta(seconds=5))
    assert ticker.bells_due(0) == 2
    assert capacity.claimable_count() == 2


@pytest.mark.parametrize("idle", [True, False])
def test_a_worker_that_goes_on_with_another_run_rings_for_the_slot_it_freed(
    flow: Callable[..., Pipeline],
    queue: Queue,
    claim: Claimer,
    worker_alive: Alive,
    elsewhere: Connection,
    monkeypatch: pytest.MonkeyPatch,
    idle: bool,
) -> None:
    rung: list[str] = []
    monkeypatch.setattr(executor.doorbell, "ring", lambda times=1: rung.append(f"bell {times}"))
    worker_alive(slots=2 if idle else 1)
    limit(elsewhere, 1)
    first, waits_for_slot = queue(flow(destination=elsewhere)), queue(flow(destination=elsewhere), priority=50)
    better = queue(flow(), priority=1)
    order: list[Any] = []

    def execute(claimed: Claim, **_: Any) -> None:
        order.append(claimed.run)
        rung.append("executed")
        services.finish(claimed, RunStatus.SUCCEEDED, receipt={})

    monkeypatch.setattr(executor, "execute", execute)
    Run.objects.filter(pk=better.pk).update(due=Now() + timedelta(hours=1))

    def execute_first(claimed: Claim, **more: Any) -> None:
        execute(claimed, **more)
        Run.objects.filter(pk=better.pk).update(due=Now())
        monkeypatch.setattr(executor, "execute", execute)

    monkeypatch.setattr(executor, "execute", execute_first)
    executor.work_on(process="worker@a:1", task_id="t")
    assert order == [first.pk, better.pk, waits_for_slot.pk]
    assert rung == (["executed", "bell 1", "executed", "executed"] if idle else ["executed"] * 3)


# What a run is told to wait for ---------------------------------------------------------------


def test_a_run_says_which_pool_it_waits_for_and_who_has_the_slots(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive
) -> None:
    worker_alive(slots=20)
    pool = Pool.objects.create(name="Heavy", slots=2)
    runs = [queue(flow(name=name, pool=pool)) for name in ("Orders", "Refunds", "Stock")]
    claim(), claim()
    wait = wait_of(runs[2])
    assert wait.why == "Waiting for a slot of pool Heavy: 2 of 2 in use by Orders and Refunds."
    assert [holder.run for holder in wait.holders] == [runs[0].pk, runs[1].pk]
    limit(pool, 1)
    assert wait_of(runs[2]).why == "Waiting for a slot of pool Heavy: 2 of 1 in use by Orders and Refunds."
    limit(pool, 8)
    assert wait_of(runs[2]).why == "Waiting for a worker to take it."
    more = [queue(flow(name=f"More {number}", pool=pool)) for number in range(7)]
    for _ in range(6):
        claim()
    why = wait_of(more[-1]).why
    assert why == (
        "Waiting for a slot of pool Heavy: 8 of 8 in use by More 0, More 1, More 2, More 3, More 4 and 3 more."
    )


def test_a_run_that_was_claimed_since_it_was_read_does_not_wait_for_itself(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive
) -> None:
    worker_alive(slots=20)
    pool = Pool.objects.create(name="Heavy", slots=1)
    read_before, behind = queue(flow(name="Orders", pool=pool)), queue(flow(name="Stock", pool=pool))
    claim()
    assert wait_of(read_before) == NO_WAIT
    assert wait_of(behind).why == "Waiting for a slot of pool Heavy: 1 of 1 in use by Orders."


def test_a_run_says_which_connections_it_waits_for(
    flow: Callable[..., Pipeline],
    queue: Queue,
    claim: Claimer,
    worker_alive: Alive,
    source: Connection,
    destination: Connection,
) -> None:
    worker_alive(slots=4)
    queue(flow(name="Orders"))
    claim()
    for end in (source, destination):
        limit(end, 1)
    waiting = queue(flow())
    assert wait_of(waiting).why == (
        "Waiting for connection Lake: 1 of 1 in use by Orders; and for connection Shop: 1 of 1 in use by Orders."
    )
    assert len(wait_of(waiting).holders) == 1


def test_a_run_says_that_the_last_worker_slot_is_left_for_others(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive, elsewhere: Connection
) -> None:
    worker_alive(slots=2)
    flow()
    queue(flow(name="Orders", destination=elsewhere))
    claim()
    assert wait_of(queue(flow(destination=elsewhere))).why == (
        "Waiting for connection Elsewhere: it has 1 of 2 worker slots, by Orders; "
        "the last one is left for pipelines to other destinations."
    )


def test_a_run_behind_its_own_pipelines_run_says_so_first(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive, destination: Connection
) -> None:
    worker_alive(slots=4)
    limit(destination, 1)
    queue(flow())
    claim()
    pipeline = flow()
    first, second = queue(pipeline, due=Now() - timedelta(seconds=1)), queue(pipeline)
    assert "connection Shop" in wait_of(first).why
    assert wait_of(second).why == "Waiting for this pipeline's run that came before it."


def test_what_has_no_slot_is_before_nobody_and_a_higher_priority_is_told(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, worker_alive: Alive, elsewhere: Connection
) -> None:
    worker_alive(slots=1)
    limit(elsewhere, 1)
    queue(flow(destination=elsewhere), priority=1)
    claim()
    queue(flow(destination=elsewhere), priority=1)
    queue(flow(), due=Now() - timedelta(minutes=2))
    run = queue(flow(), due=Now() - timedelta(minutes=1))
    queue(flow(), priority=10)
    assert wait_of(run).why == ("Waiting because all 1 worker slots are busy, 2 before it (1 of higher priority).")


# Loads in parts -------------------------------------------------------------------------------


@pytest.fixture
def divided(flow: Callable[..., Pipeline], queue: Queue) -> Callable[..., Run]:
    """Makes a run whose parts wait to be loaded."""

    def divided(parts: int = 3, pipeline: Pipeline | None = None, **changes: Any) -> Run:
        values = {"status": RunStatus.RUNNING, "step": Step.PARTS, "started_at": Now(), "attempt": 1, "token": 1}
        until = {"parts_until": Now() + timedelta(hours=1)}
        run = queue(pipeline or flow(), **{**values, **until, **changes})
        PartLoad.objects.bulk_create(PartLoad(run=run, number=number) for number in range(parts))
        return run

    return divided


def take_part() -> PartClaim | None:
    return services.claim_part(process="", worker="w:1", task_id="t")


def test_each_part_at_work_has_a_slot_of_its_own_and_its_run_none(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, divided: Callable[..., Run]
) -> None:
    pool = Pool.objects.create(name="Heavy", slots=2)
    run = divided(3, flow(pool=pool))
    other = queue(flow(pool=pool), priority=1)
    assert capacity.claimable_count() == 4
    assert taken([claim()]) == {other.pk}
    part = take_part()
    assert part is not None
    assert (part.run, take_part(), claim()) == (run.pk, None, None)
    assert capacity.claimable_count() == 0
    services.release_part(part, rows=0, bytes=0)
    assert capacity.claimable_count() == 1
    assert take_part() is not None


def test_a_load_in_parts_leaves_a_worker_slot_to_other_destinations(
    flow: Callable[..., Pipeline],
    queue: Queue,
    claim: Claimer,
    divided: Callable[..., Run],
    worker_alive: Alive,
    elsewhere: Connection,
) -> None:
    worker_alive(slots=3)
    quick = flow()
    divided(9, flow(destination=elsewhere))
    assert [take_part() is not None for _ in range(3)] == [True, True, False]
    run = queue(quick)
    assert taken([claim()]) == {run.pk}


def test_of_equal_priority_what_has_fewer_slots_goes_first(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, divided: Callable[..., Run]
) -> None:
    divided(5, due=Now() - timedelta(hours=2))
    # Nothing of it is loaded yet, and it was due first: the run that came later is not taken.
    run = queue(flow(), due=Now() - timedelta(hours=1))
    assert claim() is None
    assert take_part() is not None
    assert taken([claim()]) == {run.pk}
    urgent = queue(flow(), priority=1)
    assert taken([claim()]) == {urgent.pk}
    backfill = queue(flow(), priority=priorities.BACKFILL)
    assert claim() is None
    for _ in range(4):
        assert take_part() is not None
    assert taken([claim()]) == {backfill.pk}


@pytest.mark.django_db(transaction=True)
def test_many_claims_of_parts_at_once_take_no_more_than_there_is(
    flow: Callable[..., Pipeline], divided: Callable[..., Run], at_once: AtOnce
) -> None:
    pool = Pool.objects.create(name="Heavy", slots=3)
    for _ in range(2):
        divided(9, flow(pool=pool))
    claims = [each for each in at_once(lambda _: patiently(take_part), times=8) if each]
    assert all(isinstance(each, PartClaim) for each in claims), claims
    assert len(claims) == 3


def test_parts_that_all_wait_say_for_which_slots(
    flow: Callable[..., Pipeline], queue: Queue, claim: Claimer, divided: Callable[..., Run], worker_alive: Alive
) -> None:
    worker_alive(slots=9)
    pool = Pool.objects.create(name="Heavy", slots=3)
    large = divided(3, flow(name="Large", pool=pool))
    for _ in range(3):
        take_part()
    waiting = divided(2, flow(name="Wide", pool=pool))
    wait = wait_of(waiting)
    assert wait.why == "Its 2 parts that are left wait for a slot of pool Heavy: 3 of 3 in use by Large (3)."
    assert [(holder.run, holder.slots) for holder in wait.holders] == [(large.pk, 3)]
    assert wait_of(large).why == ""
