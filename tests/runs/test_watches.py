"""A source table that changes starts its pipelines, each once for a change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.urls import reverse

from connectors import registry
from connectors.errors import ConnectorError, Unreachable
from connectors.registry import Kind
from connectors.watching import TableState
from pipelines import objections
from pipelines import services as definitions
from pipelines.models import Connection, Pipeline
from runs import services, watching
from runs.lookout import TASK, SourceLookout
from runs.models import Run, Watch, WatchedTable
from tests.runs.pages import *  # noqa: F403

pytestmark = pytest.mark.django_db
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass
class Tables:
    """What the tables of the stand-in source are like, and who looked at which."""

    states: dict[str, TableState | Exception] = field(default_factory=dict)
    looks: list[str] = field(default_factory=list)
    on_look: Callable[[], None] = lambda: None

    def change(self, table: str = "sales.orders", **changes: Any) -> None:
        was = self.states.get(table)
        days = len(self.looks) + 1
        rows = was.rows + 1 if isinstance(was, TableState) else 10
        values = {"modified": MONDAY + timedelta(days=days), "rows": rows, "bytes": 1000, "streaming": "", **changes}
        self.states[table] = TableState(**values)


tables = Tables()


@dataclass(frozen=True)
class Options:
    """Nothing to set."""


class LookedAt:
    """Stands for BigQuery, whose record of a table does not change as a test needs it."""

    def __init__(self, options: Options, *, timeout_s: float) -> None:
        assert timeout_s < 10

    def look(self, table: str) -> TableState:
        tables.looks.append(table)
        tables.on_look()
        state = tables.states[table]
        if isinstance(state, Exception):
            raise state
        return state

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def source(db: None, monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setitem(
        registry.KINDS,
        "looked",
        Kind("looked", "Looked at", options=f"{__name__}:Options", source=f"{__name__}:LookedAt"),
    )
    for name, value in vars(Tables()).items():
        setattr(tables, name, value)
    tables.change()
    return Connection.objects.create(name="Lake", kind="looked")


@pytest.fixture
def watched(make_pipeline: Callable[..., Pipeline]) -> Callable[..., Pipeline]:
    def watched(name: str = "Orders", table: str = "sales.orders", **changes: Any) -> Pipeline:
        return make_pipeline(
            name, **{"watch_every_s": 60, "source_table": table, "target_table": name.lower(), **changes}
        )

    return watched


def look() -> int:
    """All tables, as if their time had come."""
    WatchedTable.objects.update(looked_at=Now() - timedelta(hours=2))
    return watching.look_at_sources()


def runs_of(pipeline: Pipeline) -> list[str]:
    return list(pipeline.runs.order_by("created_at").values_list("trigger", flat=True))


def test_a_change_starts_one_run_and_no_change_none(watched):
    pipeline = watched()
    assert look() == 0, "the first look only says how things are"
    assert look() == 0
    tables.change()
    assert look() == 1
    assert runs_of(pipeline) == ["source"]
    assert look() == 0
    Run.objects.update(status="running")
    tables.change()
    assert look() == 1
    assert runs_of(pipeline) == ["source", "source"], "what runs may have read before it"


@pytest.mark.parametrize("what", [{"rows": 11}, {"bytes": 1}, {"streaming": "5 rows"}, {"modified": MONDAY}])
def test_each_figure_of_the_record_tells_of_a_change(watched, what):
    watched()
    tables.change(**{"modified": MONDAY + timedelta(days=9), "rows": 10})
    look()
    tables.change(**{"modified": MONDAY + timedelta(days=9), "rows": 10, **what})
    assert look() == 1


def test_changes_before_a_run_begins_are_read_by_it(watched):
    pipeline = watched()
    look()
    for _ in range(3):
        tables.change()
        look()
    assert runs_of(pipeline) == ["source"]


def test_one_look_serves_all_pipelines_of_a_table(watched):
    pipelines = [watched(f"P{number}") for number in range(3)]
    other = watched("Other", "sales.items")
    tables.change("sales.items")
    look()
    assert sorted(tables.looks) == ["sales.items", "sales.orders"]
    tables.change()
    assert look() == 3
    assert [len(runs_of(each)) for each in [*pipelines, other]] == [1, 1, 1, 0]


def test_a_table_is_looked_at_as_often_as_the_most_curious_pipeline_wants(watched):
    watched("Often", watch_every_s=60)
    watched("Seldom", watch_every_s=3600)
    watching.look_at_sources()
    assert not services.is_look_due()
    WatchedTable.objects.update(looked_at=Now() - timedelta(seconds=59))
    assert not services.is_look_due()
    WatchedTable.objects.update(looked_at=Now() - timedelta(seconds=61))
    assert services.is_look_due()


def test_what_changed_in_a_pause_is_not_made_up_for(watched):
    pipeline = watched()
    look()
    definitions.pause([pipeline], by=None)
    tables.change()
    assert look() == 0
    definitions.resume([pipeline], by=None)
    assert look() == 0
    tables.change()
    assert look() == 1


def test_another_table_begins_anew(watched):
    pipeline = watched()
    look()
    tables.change("sales.new")
    pipeline.source_table = "sales.new"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert look() == 0
    assert list(WatchedTable.objects.values_list("table", flat=True)) == ["sales.new"]


def test_without_it_nothing_is_looked_at(make_pipeline):
    make_pipeline("Orders")
    assert not services.is_look_due()
    assert watching.look_at_sources() == 0
    assert tables.looks == []


def test_a_table_that_cannot_be_looked_at_says_why_and_is_looked_at_less_often(watched, viewer_client):
    pipeline = watched()
    tables.states["sales.orders"] = ConnectorError("It is a view.", code="watch_unsupported", hint="Use a schedule.")
    look()
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    assert "It is a view." in page
    assert "watch_unsupported" in page
    WatchedTable.objects.update(looked_at=Now() - timedelta(seconds=61))
    assert not services.is_look_due(), "after one failure twice as long"
    WatchedTable.objects.update(looked_at=Now() - timedelta(seconds=121))
    assert services.is_look_due()
    WatchedTable.objects.update(failures=1000, looked_at=Now() - timedelta(seconds=3601))
    assert services.is_look_due(), "but at least once an hour"
    tables.change()
    look()
    assert "It is a view." not in viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text


def test_one_table_that_fails_does_not_keep_others_from_being_looked_at(watched):
    watched("Bad", "sales.bad")
    watched()
    tables.states["sales.bad"] = ZeroDivisionError("a defect")
    look()
    tables.change()
    tables.states["sales.bad"] = Unreachable("Nobody answers.")
    assert look() == 1
    assert set(WatchedTable.objects.values_list("table", "error_code")) == {
        ("sales.bad", "unreachable"),
        ("sales.orders", ""),
    }


def test_the_page_shows_what_was_seen(watched, viewer_client):
    pipeline = watched()
    address = reverse("pipeline", args=[pipeline.pk])
    assert "It was not looked at yet." in viewer_client.get(address).text
    look()
    tables.change(streaming="3 rows")
    look()
    page = viewer_client.get(address).text
    assert "Looked at every 1 min; a change starts a run." in page
    assert "and some being streamed in" in page
    assert reverse("run", args=[Run.objects.get().pk]) in page
    assert "None: it starts when its source changes." in page


def test_a_change_that_may_start_nothing_is_told(watched, viewer_client):
    pipeline = watched()
    look()
    Pipeline.objects.update(revision=None)
    tables.change()
    assert look() == 0
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    assert "The last change started nothing: Orders was never saved as a whole." in page


def test_a_query_cannot_be_watched(make_pipeline):
    pipeline = make_pipeline("Query", source_table="", source_query="SELECT 1", target_table="q")
    pipeline.watch_every_s = 60
    assert [(each.code, each.field) for each in objections.against(pipeline)] == [
        ("watch_needs_table", "watch_every_s")
    ]


def test_nobody_may_look_more_often_than_once_a_minute(watched, admin_client):
    pipeline = watched()
    answer = admin_client.patch(
        f"/api/v1/pipelines/{pipeline.pk}/", {"watch_every_s": 59}, content_type="application/json"
    )
    assert answer.status_code == 400
    assert "watch_every_s" in answer.json()["fields"]


# Exactly once ---------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_ask_for_one_run_a_change(watched, at_once, monkeypatch):
    pipelines = [watched(f"P{number}") for number in range(3)]
    monkeypatch.setattr(watching, "_one", threading.Semaphore(8))
    look()
    for change in range(1, 4):
        tables.change()
        WatchedTable.objects.update(looked_at=Now() - timedelta(hours=2))
        at_once(lambda _: watching.look_at_sources(), 4)
        assert [len(runs_of(each)) for each in pipelines] == [change] * 3
        Run.objects.update(status="succeeded")


def test_what_was_seen_by_who_was_too_slow_does_not_count(watched):
    pipeline = watched()
    look()
    WatchedTable.objects.update(looked_at=None)
    (slow,) = services.take_looks()
    old = tables.states["sales.orders"]
    WatchedTable.objects.update(lease_until=Now() - timedelta(seconds=1))
    tables.change()
    assert look() == 1
    assert services.looked(slow, old) == []
    services.look_failed(slow, ConnectorError("Too late."))
    assert WatchedTable.objects.get().error_code == ""
    assert runs_of(pipeline) == ["source"]


def test_what_breaks_off_between_seeing_and_asking_is_seen_again(watched, monkeypatch):
    pipeline = watched()
    look()
    tables.change()
    monkeypatch.setattr(services.asking_once, "request_run", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look()
    monkeypatch.undo()
    monkeypatch.setitem(
        registry.KINDS, "looked", Kind("looked", "L", options=f"{__name__}:Options", source=f"{__name__}:LookedAt")
    )
    assert Watch.objects.get().changed_at is None
    WatchedTable.objects.update(lease_until=None)
    assert look() == 1
    assert runs_of(pipeline) == ["source"]


def test_beat_asks_now_and_then_and_only_calls_a_worker(watched, monkeypatch):
    watched()
    sent: list[str] = []
    called = threading.Event()

    def send(name: str, **_: Any) -> None:
        sent.append(name)
        called.set()

    monkeypatch.setattr("runs.lookout.current_app.send_task", send)
    lookout = SourceLookout()
    lookout.look(now=100.0)
    assert called.wait(30)
    lookout.look(now=102.0)
    assert sent == [TASK]
    assert tables.looks == []
    watching.look_at_sources()
    lookout.look(now=200.0)
    assert sent == [TASK], "nothing is due"
