"""Pipelines in near real time: their sources are asked for changes, and a change asks for one micro-batch."""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connectors import registry
from connectors.errors import ConnectorError, Unreachable
from connectors.reading import ReadRequest
from connectors.registry import Kind
from connectors.watching import SourceState, TableState
from pipelines import given
from pipelines import services as definitions
from pipelines.models import Connection, Mode, Pipeline, Revision
from runs import services
from runs.models import Because, Poll, PollShare, Process, Run
from runs.polling import poller as polling
from runs.polling import subjects
from runs.polling.poller import Poller
from tests.runs.pages import *  # noqa: F403

pytestmark = pytest.mark.django_db
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
NEW = {
    **{"mode": Mode.REALTIME, "poll_every_s": 1, "incremental": True, "cursor_column": "at"},
    **{"write_disposition": "merge", "merge_key": ["id"], "lookback": 60},
}


@dataclass
class Lake:
    """What the stand-in source says, and who asked it for what."""

    states: dict[str, TableState | Exception] = field(default_factory=dict)
    looks: list[str] = field(default_factory=list)
    behind: dict[str, tuple[str, ...]] = field(default_factory=dict)
    on_look: Callable[[str], None] = lambda _: None
    opened: int = 0

    def change(self, table: str = "sales.orders", **changes: Any) -> None:
        was = self.states.get(table)
        rows = was.rows + 1 if isinstance(was, TableState) else 10
        self.states[table] = TableState(**{"modified": MONDAY, "rows": rows, "bytes": 1000, "streaming": "", **changes})


lake = Lake()


@dataclass(frozen=True)
class Options:
    """Nothing to set."""


class AskedSource:
    """Stands for BigQuery, whose record of a table does not change as a test needs it."""

    def __init__(self, options: Options, *, timeout_s: float) -> None:
        assert timeout_s < 10
        lake.opened += 1

    def tables_behind(self, request: ReadRequest) -> tuple[str, ...]:
        return lake.behind[request.query] if request.query else (request.table,)

    def look(self, table: str) -> TableState:
        lake.looks.append(table)
        lake.on_look(table)
        state = lake.states[table]
        if isinstance(state, Exception):
            raise state
        return state

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def source(db: None, monkeypatch: pytest.MonkeyPatch) -> Connection:
    kind = Kind("asked", "Asked", options=f"{__name__}:Options", source=f"{__name__}:AskedSource")
    monkeypatch.setitem(registry.KINDS, "asked", kind)
    for name, value in vars(Lake()).items():
        setattr(lake, name, value)
    lake.change()
    return Connection.objects.create(name="Lake", kind="asked")


@pytest.fixture
def live(make_pipeline: Callable[..., Pipeline]) -> Callable[..., Pipeline]:
    def live(name: str = "Orders", table: str = "sales.orders", **changes: Any) -> Pipeline:
        values = {"source_table": table, "target_table": name.lower(), **NEW, **changes}
        return make_pipeline(name, **values)

    return live


class Polling:
    """A poller whose time passes as a test says."""

    def __init__(self, name: str = "poller@a:1") -> None:
        self.poller = Poller(name)
        services.make_shares()

    def poll(self, times: int = 1, *, assign: bool = True) -> None:
        """Look at everything so many times, as if it were due."""
        its = self.poller
        for _ in range(times):
            if assign:
                its._share_at = its._assign_at = float("-inf")
            its._agenda.clear()
            its.round(0.001)
            for line in its._lines.values():
                line.free_at = line.away_until = float("-inf")
            self.all_due()
            self.until_seen()

    def make_due(self) -> None:
        its = self.poller
        its._agenda = [(0.0, number, place) for number, place in enumerate(its._places.values())]

    def all_due(self) -> None:
        self.until_seen()
        self.make_due()
        self.poller.round(0.001)

    def until_seen(self) -> None:
        deadline = time.monotonic() + 60
        while self.poller._under_way or any(line.places for line in self.poller._lines.values()):
            self.poller._agenda.clear()
            self.poller.round(0.01)
            assert time.monotonic() < deadline

    def undisturbed(self) -> None:
        """Let nothing be renewed, looked up or written just because time passes."""
        self.poller._share_at = self.poller._assign_at = self.poller._write_at = self.poller._lives_until = float("inf")

    def later(self, seconds: float) -> None:
        """Let time pass for all that waits."""
        for subject in self.poller._subjects.values():
            subject.asked -= seconds
            subject.next_poll -= seconds
            subject.not_before -= seconds


@pytest.fixture
def polled(source: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Polling]:
    monkeypatch.setattr(polling, "CALLS_PER_S", 100_000.0)
    polled = Polling()
    yield polled
    polled.poller._lookers.end()


def runs_of(pipeline: Pipeline) -> list[tuple[str, str]]:
    return [(r.trigger, r.action_options["because"]) for r in pipeline.runs.order_by("created_at")]


def end_runs(status: str = "succeeded") -> None:
    Run.objects.filter(status="queued").update(status=status, finished_at=Now())


# Changes --------------------------------------------------------------------------------------


def test_a_change_asks_for_one_micro_batch_and_no_change_for_none(live, polled):
    pipeline = live()
    polled.poll()
    assert runs_of(pipeline) == [("realtime", "first")], "it begins by reading what is there"
    end_runs()
    polled.poll(3)
    assert pipeline.runs.count() == 1
    lake.change()
    polled.poll(2)
    assert runs_of(pipeline)[1:] == [("realtime", "changed")]


def test_changes_while_one_waits_are_read_by_it_and_a_long_run_piles_up_nothing(live, polled):
    pipeline = live()
    polled.poll()
    for _ in range(3):
        lake.change()
        polled.poll()
    assert pipeline.runs.count() == 1
    Run.objects.update(status="running")
    for _ in range(5):
        lake.change()
        polled.poll()
    assert sorted(pipeline.runs.values_list("status", flat=True)) == ["queued", "running"]


def test_an_idle_poll_asks_the_control_database_nothing(live, polled):
    for number in range(3):
        live(f"P{number}", f"sales.t{number}")
        lake.change(f"sales.t{number}")
    polled.poll()
    end_runs()
    polled.poll()
    polled.undisturbed()
    looks = len(lake.looks)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        polled.poll(5, assign=False)
    assert len(lake.looks) == looks + 15
    assert [query["sql"] for query in asked] == []


def test_what_is_to_be_polled_is_one_statement_however_many_pipelines(live, polled):
    counts = []
    for many in (1, 12):
        for number in range(many):
            live(f"P{many}-{number}", target_table=f"t{many}_{number}")
        polled.poll()
        end_runs()
        polled.poll()
        its = polled.poller
        polled.undisturbed()
        its._assign_at = float("-inf")
        its._agenda.clear()
        with CaptureQueriesContext(connection) as asked:
            its.round(0.001)
        counts.append(len(asked))
    assert counts == [1, 1]


def test_one_look_serves_all_pipelines_of_a_table_and_one_client_a_connection(live, polled):
    pipelines = [live(f"P{number}") for number in range(3)]
    live("Other", "sales.items")
    lake.change("sales.items")
    polled.poll()
    assert sorted(lake.looks) == ["sales.items", "sales.orders"]
    assert [len(runs_of(each)) for each in pipelines] == [1, 1, 1]
    assert lake.opened == 1


def test_rows_that_are_streamed_in_count_as_a_change_within_their_interval(live, polled):
    pipeline = live(stream_every_s=1000)
    polled.poll()
    end_runs()
    lake.states["sales.orders"] = TableState(MONDAY, 10, 1000, "5 rows")
    polled.poll(3)
    assert pipeline.runs.count() == 1
    polled.later(1000)
    polled.poll(3)
    assert runs_of(pipeline)[1:] == [("realtime", "streaming")], "though the buffer says the same all the time"
    end_runs()
    polled.later(1000)
    polled.poll()
    assert pipeline.runs.count() == 3
    end_runs()
    lake.states["sales.orders"] = TableState(MONDAY, 15, 1500)
    polled.poll()
    assert runs_of(pipeline)[3:] == [("realtime", "changed")], "they are in the table now"


def test_after_so_many_polls_without_a_change_it_reads_anyway_however_long_they_take(live, polled):
    often = live(force_read_every=3, poll_every_s=60)
    seldom = live("Seldom", force_read_every=3, poll_every_s=600)
    never = live("Never", force_read_every=None)
    polled.poll()
    end_runs()

    def forced(pipeline):
        return runs_of(pipeline)[1:].count(("realtime", "forced"))

    for passed, told in ((10**6, 0), (60, 0), (60, 1)):
        polled.later(passed)
        polled.poll()
        assert forced(often) == told
    end_runs()
    for told in (0, 0, 1):
        polled.later(60)
        polled.poll()
        assert forced(often) == 1 + told, "it is counted anew"
    assert forced(seldom) == 0, "one look serves all three, but these polls were not its own"
    for _ in range(2):
        polled.later(600)
        polled.poll()
    assert (forced(seldom), forced(never)) == (1, 0)


def test_a_poller_that_takes_over_counts_the_polls_that_there_was_time_for(live, polled):
    pipeline = live(force_read_every=100, poll_every_s=60)
    polled.poll()
    end_runs()
    for minutes, count in ((90, 1), (100, 2)):
        Poll.objects.update(asked_at=Now() - timedelta(minutes=minutes))
        polled.poller._forget(pipeline.pk)
        polled.poll()
        assert pipeline.runs.count() == count
    assert runs_of(pipeline)[1:] == [("realtime", "forced")]


def test_a_query_is_polled_by_the_tables_that_a_dry_run_names(live, polled):
    query = "SELECT * FROM v JOIN e USING (id)"
    lake.behind[query] = ("sales.orders", "sales.secret", "sales.v")
    lake.states["sales.v"] = ConnectorError("A view.", code="watch_unsupported")
    lake.states["sales.secret"] = ConnectorError("Its owner's.", code="permission_denied")
    pipeline = live(source_table="", source_query=query)
    polled.poll()
    end_runs()
    lake.change()
    polled.poll(2)
    assert runs_of(pipeline) == [("realtime", "first"), ("realtime", "changed")]
    assert Poll.objects.get().unseen.split() == ["sales.secret", "sales.v"]


# Pipelines change -----------------------------------------------------------------------------


def test_a_pause_ends_polls_and_a_resume_catches_up(live, polled):
    pipeline = live()
    polled.poll()
    end_runs()
    definitions.pause([pipeline], by=None)
    lake.change()
    looks = len(lake.looks)
    polled.poll(2)
    assert (len(lake.looks), pipeline.runs.count()) == (looks, 1)
    definitions.resume([pipeline], by=None)
    polled.poll(2)
    assert runs_of(pipeline)[1:] == [("realtime", "first")]
    definitions.archive([pipeline], by=None)
    looks = len(lake.looks)
    polled.poll()
    assert len(lake.looks) == looks


def test_a_definition_that_changes_while_it_is_polled_is_read_anew(live, polled):
    pipeline = live()
    polled.poll()
    end_runs()
    lake.change("sales.new")
    pipeline.source_table = "sales.new"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    polled.poll(2)
    assert lake.looks[-1] == "sales.new"
    assert runs_of(pipeline)[1:] == [("realtime", "first")]
    assert pipeline.runs.order_by("-created_at").first().revision_id == pipeline.revision_id
    pipeline.mode = Mode.BATCH
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    looks = len(lake.looks)
    polled.poll()
    assert len(lake.looks) == looks


def test_what_waits_already_goes_by_the_definition_as_it_is_now(live, polled):
    pipeline = live()
    polled.poll()
    pipeline.lookback = 30
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    polled.poll()
    assert pipeline.runs.get().revision_id == pipeline.revision_id


def test_who_decided_by_an_older_definition_is_refused(live, polled):
    pipeline = live()
    before = pipeline.revision_id
    pipeline.lookback = 30
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    asked = services.ask(pipeline.pk, revision=before, version=0, state=SourceState("x"), because=Because.CHANGED)
    assert asked.is_obsolete
    assert pipeline.runs.count() == 0


def test_another_poller_goes_on_where_the_first_one_was(live, polled):
    pipeline = live()
    polled.poll()
    end_runs()
    other = Polling("poller@b:1")
    services.leave_shares("poller@a:1")
    other.poll(2)
    assert pipeline.runs.count() == 1, "nothing has changed since"
    lake.change()
    other.poll()
    assert runs_of(pipeline)[1:] == [("realtime", "changed")]
    other.poller._lookers.end()


# Failures -------------------------------------------------------------------------------------


def test_a_source_that_is_away_is_asked_less_and_less_and_starts_nothing(live, polled, monkeypatch):
    waits: list[float] = []
    growing = polling.growing

    def an_hour(failures: int, **limits: float) -> float:
        waits.append(growing(failures, **limits))
        return 3600

    monkeypatch.setattr(polling, "growing", an_hour)
    pipelines = [live(f"P{number}", f"sales.t{number}") for number in range(3)]
    for number in range(3):
        lake.states[f"sales.t{number}"] = Unreachable("BigQuery cannot be reached.", hint="Check the address.")
    its = polled.poller
    its.round(0.001)
    polled.undisturbed()
    polled.make_due()
    while its._under_way or not lake.looks:
        its.round(0.01)
    assert len(lake.looks) <= 3
    assert set(Poll.objects.values_list("error_code", "error_message")) == {
        ("unreachable", "BigQuery cannot be reached.")
    }, "each pipeline says so"
    assert Run.objects.count() == 0
    (line,) = its._lines.values()
    for _ in range(3):
        looks = len(lake.looks)
        polled.make_due()
        for _ in range(3):
            its.round(0.01)
        assert len(lake.looks) == looks, "it is left alone for a while"
        line.away_until = line.free_at = float("-inf")
        for ahead in (1, 2):
            its._start_looks(time.monotonic() + ahead)
            assert its._under_way == 1, "then it is asked by one look at a time"
        while its._under_way:
            its.round(0.01)
    assert len(waits) == len(lake.looks)
    for failures, wait in enumerate(waits):
        assert 0.75 * 2**failures <= wait <= 1.25 * 2**failures, "each time later"
    for number in range(3):
        lake.change(f"sales.t{number}")
    polled.poll(2)
    assert [len(runs_of(each)) for each in pipelines] == [1, 1, 1]
    assert set(Poll.objects.values_list("error_code", flat=True)) == {""}


def test_a_table_that_is_gone_keeps_no_other_from_being_polled(live, polled):
    bad, good = live("Bad", "sales.bad"), live()
    lake.states["sales.bad"] = ConnectorError("Table sales.bad was not found.", code="table_not_found")
    polled.poll(2)
    assert Poll.objects.get(pipeline=bad).error_code == "table_not_found"
    assert [len(runs_of(each)) for each in (bad, good)] == [0, 1]


def test_a_definition_that_cannot_be_polled_says_so_once_and_stops_no_other(live, polled, monkeypatch):
    bad, good = live("Bad", source_table="", source_query="SELECT 1"), live()
    lake.behind["SELECT 1"] = ()

    def refuse(pipeline: Pipeline) -> Any:
        raise ConnectorError("Parameter x is missing.", code="parameter")

    monkeypatch.setattr(given, "sample_parameters", refuse)
    polled.poll(3)
    assert Poll.objects.get(pipeline=bad).error_code == "parameter"
    assert [len(runs_of(each)) for each in (bad, good)] == [0, 1]


def test_a_system_that_hangs_holds_up_no_other(live, polled, monkeypatch, destination):
    monkeypatch.setattr(polling, "PER_CONNECTION", 2)
    hanging = threading.Event()
    lake.on_look = lambda table: hanging.wait(120) if table.startswith("slow") else None
    other = Connection.objects.create(name="Other lake", kind="asked")
    for number in range(4):
        live(f"Slow{number}", f"slow.t{number}")
        lake.change(f"slow.t{number}")
    quick = live("Quick")
    Pipeline.objects.filter(pk=quick.pk).update(source=other)
    its = polled.poller
    its.round(0.001)
    polled.undisturbed()
    polled.make_due()

    def slow() -> int:
        return len([table for table in lake.looks if table.startswith("slow")])

    deadline = time.monotonic() + 60
    try:
        while not (runs_of(quick) and slow() == its._under_way == 2):
            its.round(0.01)
            assert time.monotonic() < deadline
        for _ in range(5):
            its.round(0.01)
        assert (runs_of(quick), slow()) == ([("realtime", "first")], 2)
    finally:
        hanging.set()
    polled.until_seen()


def test_a_micro_batch_that_fails_is_asked_for_again_later_and_later(live, polled, monkeypatch):
    growing = subjects.growing
    monkeypatch.setattr(subjects, "growing", lambda *failures: 1000 * growing(*failures))  # a test takes no hour
    pipeline = live()
    polled.poll()
    for failures in range(1, 4):
        end_runs("failed")
        for _ in range(3):
            lake.change()
            polled.poll()
        assert pipeline.runs.count() == failures, "no storm"
        wait = polled.poller._subjects[pipeline.pk].not_before - time.monotonic()
        assert 3000 * 2 ** (failures - 1) < wait < 7000 * 2 ** (failures - 1)
        polled.later(wait + 1)
        polled.poll(2)
        assert pipeline.runs.count() == failures + 1
    end_runs()
    polled.poll()
    assert pipeline.runs.count() == 4
    end_runs()
    lake.change()
    polled.poll()
    assert pipeline.runs.count() == 5, "at once, since it works again"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_what_was_not_read_is_asked_for_again_without_a_further_change(live, polled, end):
    pipeline = live()
    polled.poll()
    end_runs(end)
    polled.poll(2)
    polled.later(60)
    polled.poll(3)
    assert runs_of(pipeline) == [("realtime", "first"), ("realtime", "failed")]


def test_while_a_run_is_held_nothing_more_is_read(live, polled):
    pipeline = live()
    polled.poll()
    Run.objects.update(status="held", held_until=Now() + timedelta(days=1))
    lake.change()
    polled.poll(3)
    assert pipeline.runs.count() == 1
    assert Poll.objects.get().refusal.startswith("A run is held")
    Run.objects.update(status="cancelled", finished_at=Now())
    polled.poll(2)
    assert runs_of(pipeline)[1:] == [("realtime", "changed")], "what changed meanwhile is not forgotten"
    assert Poll.objects.get().refusal == ""


def test_what_waits_for_its_cost_stops_nothing_but_is_a_load(live, polled):
    pipeline = live()
    polled.poll()
    Run.objects.update(status="held", held_until=Now() + timedelta(days=1), error_code="over_budget", action="compare")
    lake.change()
    polled.poll(3)
    assert pipeline.runs.count() == 2, "a comparison that waits has read nothing that a micro-batch would"
    Run.objects.update(action="load")
    lake.change()
    polled.poll(3)
    assert pipeline.runs.count() == 2


def test_a_micro_batch_that_became_a_full_refresh_and_waits_for_its_cost_has_no_second_one(live, polled, claim):
    pipeline = live()
    polled.poll()
    services.begin_anew(claim(), services.Failure("schema_incompatible", "It cannot follow."))
    services.hold(claim(), services.Failure("over_budget", "25 GB."), keep_for=timedelta(days=1))
    assert pipeline.runs.get().action == "full_refresh"
    lake.change()
    polled.poll(3)
    assert pipeline.runs.count() == 1
    Run.objects.update(action_options={})
    polled.later(60)
    polled.poll(3)
    assert pipeline.runs.count() == 2, "what somebody else asked for holds up no micro-batch"


def test_what_breaks_off_between_seeing_and_asking_is_seen_again(live, polled, monkeypatch):
    pipeline = live()
    polled.poll()
    end_runs()
    lake.change()
    monkeypatch.setattr(services.asking_once, "request_run", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        polled.poll()
    monkeypatch.undo()
    registry.KINDS["asked"] = Kind("asked", "A", options=f"{__name__}:Options", source=f"{__name__}:AskedSource")
    polled.poll()
    assert runs_of(pipeline)[1:] == [("realtime", "changed")]
    del registry.KINDS["asked"]


# Several pollers ------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_many_pollers_at_once_ask_for_one_run_a_change(live, at_once, source):
    pipeline = live()
    for change in range(3):
        state = SourceState(f"change {change}")
        asked = at_once(
            lambda _, change=change, state=state: services.ask(
                pipeline.pk, revision=pipeline.revision_id, version=change, state=state, because=Because.CHANGED
            ),
            4,
        )
        assert [each.is_new for each in asked].count(True) == 1
        assert [each.is_obsolete for each in asked].count(True) == 3
        assert pipeline.runs.count() == change + 1
        Run.objects.update(status="succeeded", finished_at=Now())


def shares() -> dict[str, int]:
    held: dict[str, int] = {}
    for poller in PollShare.objects.values_list("poller", flat=True):
        held[poller] = held.get(poller, 0) + 1
    return held


def test_pollers_share_the_work_and_take_over_from_those_that_are_silent(db):
    services.make_shares()
    services.take_shares("a")
    assert shares() == {"a": 16}
    for _ in range(2):
        services.take_shares("b")
        services.take_shares("a")
    services.take_shares("b")
    assert shares() == {"a": 8, "b": 8}
    services.take_shares("b")
    assert shares() == {"a": 8, "b": 8}, "who lives keeps its own"
    Process.objects.filter(name="a").update(seen_at=Now() - timedelta(seconds=7))
    services.take_shares("b")
    assert shares() == {"b": 16}
    services.leave_shares("b")
    assert shares() == {"": 16}


@pytest.mark.parametrize("jump", [timedelta(hours=1), -timedelta(hours=1)])
def test_a_clock_that_jumps_leaves_no_share_with_the_dead(db, jump):
    services.make_shares()
    services.take_shares("a")
    Process.objects.filter(name="a").update(seen_at=Now() + jump)
    services.take_shares("b")
    assert shares() == {"b": 16}


def test_a_poller_that_waits_for_a_first_pipeline_takes_no_share(db):
    services.make_shares()
    Process.objects.create(name="waiting", kind="poller", slots=0)
    services.take_shares("a")
    assert shares() == {"a": 16}


def test_pipelines_are_polled_by_whoever_has_their_share(live, source):
    for number in range(12):
        live(f"P{number}", f"sales.t{number}")
    services.make_shares()
    for name in "abab":
        services.take_shares(name)
    of_a, of_b = ({row.pipeline for row in services.assigned(name)} for name in "ab")
    assert len(of_a | of_b) == 12
    assert not of_a & of_b
    assert of_a
    assert of_b


def test_a_poller_that_may_have_lost_its_shares_looks_at_nothing(live, polled):
    live()
    polled.poll()
    looks = len(lake.looks)
    its = polled.poller
    polled.undisturbed()
    its._lives_until = time.monotonic() - 1
    its._agenda = [(0.0, 1, place) for place in its._places.values()]
    its.round(0.01)
    assert len(lake.looks) == looks


class Until(threading.Event):
    """Set when something has happened, or when that takes too long."""

    def __init__(self, has_happened: Callable[[], bool], within_s: float = 60) -> None:
        super().__init__()
        self._has_happened, self._until = has_happened, time.monotonic() + within_s

    def is_set(self) -> bool:
        return time.monotonic() > self._until or self._has_happened()


@pytest.mark.parametrize("error", [OperationalError("away"), ZeroDivisionError("a defect")])
def test_an_outage_of_the_control_database_and_a_defect_are_waited_out(live, polled, monkeypatch, error):
    pipeline = live()
    outages = iter([1, 2])
    assigned = services.assigned

    def away_twice(me: str) -> Any:
        if next(outages, None):
            raise error
        return assigned(me)

    monkeypatch.setattr(services, "assigned", away_twice)
    monkeypatch.setattr(polling, "growing", lambda *_, **__: 0.01)
    monkeypatch.setattr(connection, "close", lambda: None)
    assert polled.poller.run(Until(Run.objects.exists)) is False
    assert next(outages, None) is None
    assert runs_of(pipeline) == [("realtime", "first")]
    assert shares() == {"": 16}, "it signed off"


def test_without_a_pipeline_to_poll_it_ends(db):
    assert Poller("a", idle_s=0.0).run(threading.Event()) is True


# Many -----------------------------------------------------------------------------------------


def make_many(live: Any, count: int) -> None:
    """Pipelines whose sources have not changed since their last micro-batch."""
    first = live("Number 0", "sales.t0")
    state = TableState(MONDAY, 10, 1000)
    lake.states = {f"sales.t{number}": state for number in range(count)}
    others = []
    for number in range(1, count):
        other = copy.copy(first)
        other.pk, other.name, other.target_table = uuid.uuid4(), f"Number {number}", f"t{number}"
        other.source_table, other.revision_id = f"sales.t{number}", None
        others.append(other)
    Pipeline.objects.bulk_create(others)
    common = {"number": 1, "definition": first.revision.definition, "fingerprint": ""}
    Revision.objects.bulk_create(Revision(pipeline=each, **common) for each in others)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipelines_pipeline p SET revision_id = r.id FROM pipelines_revision r WHERE r.pipeline_id = p.id"
        )
    everything = list(Pipeline.objects.all())
    Poll.objects.bulk_create(
        Poll(
            pipeline=each,
            revision=each.revision_id,
            since=each.active_from,
            asked_at=timezone.now(),
            record=SourceState.of([(each.source_table, state)]).record,
        )
        for each in everything
    )


def test_a_thousand_pipelines_need_few_threads_and_few_statements(live, polled):
    make_many(live, 1000)
    before = threading.active_count()
    with CaptureQueriesContext(connection) as asked:
        polled.poller.round(0.001)
        polled.undisturbed()
        polled.all_due()
        polled.until_seen()
    assert sorted(lake.looks) == sorted(f"sales.t{number}" for number in range(1000))
    assert threading.active_count() - before <= polling.THREADS
    assert len(asked) <= 12, [query["sql"][:100] for query in asked]
    assert Run.objects.count() == 0
    assert lake.opened == 1


def test_one_account_is_not_asked_more_often_than_bigquery_takes(live, polled, monkeypatch):
    make_many(live, 80)
    monkeypatch.setattr(polling, "CALLS_PER_S", 80.0)
    its = polled.poller
    its.round(0.001)
    polled.undisturbed()
    polled.make_due()
    began, deadline = time.monotonic(), time.monotonic() + 60
    while len(lake.looks) < 40:
        its.round(0.01)
        assert len(lake.looks) <= 80 * (time.monotonic() - began) + 5
        assert time.monotonic() < deadline
