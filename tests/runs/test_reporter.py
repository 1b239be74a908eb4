"""From the engine's callbacks to rows: at once after silence, then at most every 100 ms, whatever the database does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from django.db import OperationalError, connection

from connectors.reading import Part, ReadPlan
from runs import reporter as reporters
from runs import services
from runs.models import LogLine, Run
from runs.reporter import Reporter, scribe
from runs.services import Claim, ownership
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def reporter(owned: Claim, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    """A reporter that a scribe serves who has served nobody before."""
    monkeypatch.setattr(reporters, "_scribe", None)
    reporter = Reporter(owned)
    scribe().serve(reporter)
    yield reporter
    scribe().serve(None)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """When the scribe wrote, and how many lines."""
    made: list[tuple[float, int]] = []
    write = services.write_lines

    def write_lines(run: Any, lines: Any, **values: Any) -> Any:
        lines = list(lines)
        made.append((time.monotonic(), len(lines)))
        return write(run, lines, **values)

    monkeypatch.setattr(ownership, "write_lines", write_lines)
    return made


def messages() -> list[str]:
    return list(LogLine.objects.order_by("seq").values_list("message", flat=True))


def plan(rows: int) -> ReadPlan:
    return ReadPlan((), (Part("p"),), datetime.now(UTC), estimated_rows=rows, estimated_bytes=rows * 10)


def test_the_first_line_is_written_at_once_and_the_next_ones_wait(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter.log("info", "warm")
    until(lambda: messages() == ["warm"])
    time.sleep(0.3)
    monkeypatch.setattr(reporters, "PAUSE_S", 600.0)
    reporter.log("info", "first")
    until(lambda: messages() == ["warm", "first"])
    reporter.log("info", "next")
    time.sleep(0.2)
    assert messages() == ["warm", "first"]


def test_lines_that_come_in_the_pause_are_written_together(reporter: Reporter, writes: list[tuple[float, int]]) -> None:
    for n in range(30):
        reporter.log("info", str(n))
        time.sleep(0.01)
    until(lambda: len(messages()) == 30)
    assert sum(count for _, count in writes) == 30
    assert all(b - a >= 0.095 for (a, _), (b, _) in pairwise(writes))
    assert messages() == [str(n) for n in range(30)]


def test_progress_is_written_twice_a_second_and_its_last_word_is_not_forgotten(
    reporter: Reporter, writes: list[tuple[float, int]], owned: Claim
) -> None:
    began = time.monotonic()
    for n in range(60):
        reporter.progress(rows=n, bytes=n * 10)
        time.sleep(0.02)
    # Nothing more comes: the last value must arrive nevertheless.
    until(lambda: Run.objects.get(pk=owned.run).rows == 59)
    assert len(writes) <= (time.monotonic() - began) / 0.45 + 1


def test_plan_and_publishing_show_without_waiting_for_rows(
    reporter: Reporter, owned: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporters, "PROGRESS_EVERY_S", 600.0)
    reporter.planned(plan(1000))
    until(lambda: Run.objects.get(pk=owned.run).estimated_rows == 1000)
    assert Run.objects.get(pk=owned.run).phase == "loading"
    reporter.publishing()
    until(lambda: Run.objects.get(pk=owned.run).phase == "publishing")


def test_lines_wait_for_a_database_that_is_away(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch, owned: Claim
) -> None:
    """A mock stands for the outage: the session's server must go on for the other tests."""
    monkeypatch.setattr(reporters, "RETRY_S", 0.05)
    write, away = services.write_lines, threading.Event()
    away.set()

    def write_lines(*args: Any, **values: Any) -> Any:
        if away.is_set():
            raise OperationalError("server closed the connection unexpectedly")
        return write(*args, **values)

    monkeypatch.setattr(ownership, "write_lines", write_lines)
    reporter.log("info", "before")
    reporter.progress(rows=7, bytes=70)
    time.sleep(0.3)
    reporter.log("info", "meanwhile")
    assert messages() == []
    away.clear()
    until(lambda: messages() == ["before", "meanwhile"])
    until(lambda: Run.objects.get(pk=owned.run).rows == 7)


def test_a_connection_that_was_cut_is_made_anew(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "RETRY_S", 0.05)
    reporter.log("info", "a")
    until(lambda: messages() == ["a"])
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND query LIKE '%INSERT INTO runs_logline%'"  # the scribe's alone
        )
        assert cursor.rowcount >= 1
    reporter.log("info", "b")
    until(lambda: messages() == ["a", "b"])


@pytest.mark.parametrize("arrived", [False, True])
def test_a_write_whose_answer_was_lost_is_made_exactly_once(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    monkeypatch.setattr(reporters, "RETRY_S", 0.05)
    write, failures = services.write_lines, [True]

    def write_lines(*args: Any, **values: Any) -> Any:
        if failures:
            failures.pop()
            if arrived:
                write(*args, **values)
            raise OperationalError("server closed the connection unexpectedly")
        return write(*args, **values)

    monkeypatch.setattr(ownership, "write_lines", write_lines)
    reporter.log("info", "a")
    until(lambda: not failures)
    reporter.log("info", "b")
    until(lambda: len(messages()) >= 2)
    time.sleep(0.2)
    assert messages() == ["a", "b"]


def test_lines_that_the_scribe_did_not_get_to_are_there_for_the_end(owned: Claim) -> None:
    """Nobody serves this reporter, as after a database that was away to the end."""
    reporter = Reporter(owned)
    reporter.log("info", "a")
    reporter.log("info", "b")
    assert [line.message for line in reporter.unwritten()] == ["a", "b"]
    assert [line.message for line in reporter.unwritten()] == ["a", "b"], "asking does not take them"


def test_a_former_owner_stops_writing(
    reporter: Reporter, owned: Claim, lose: Callable[[Claim], None], claim: Callable[..., Claim | None]
) -> None:
    lose(owned)
    before = messages()
    reporter.log("info", "I am still here")
    until(lambda: reporter.stale)
    assert messages() == before
    assert reporter.due_in() is None


def test_a_flood_is_cut_and_said_to_be(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "PENDING_LIMIT", 50)
    write = services.write_lines
    gate = threading.Event()

    def write_lines(*args: Any, **values: Any) -> Any:
        gate.wait(60)
        return write(*args, **values)

    monkeypatch.setattr(ownership, "write_lines", write_lines)
    for n in range(80):
        reporter.log("info", str(n))
    gate.set()
    until(lambda: messages()[-1:] == ["30 log lines came too fast and were left out."])
    assert messages()[:-1] == [str(n) for n in range(50)]


def test_many_lines_are_written_in_portions(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch, writes: list[tuple[float, int]]
) -> None:
    monkeypatch.setattr(reporters, "LINES_AT_ONCE", 40)
    for n in range(100):
        reporter.log("info", str(n))
    until(lambda: len(messages()) == 100)
    assert messages() == [str(n) for n in range(100)]
    assert max(count for _, count in writes) <= 40


def test_lines_of_the_next_run_do_not_get_into_the_former_ones_log(
    owned: Claim, queue: Callable[..., Run], claim: Callable[..., Claim | None]
) -> None:
    queue()
    second = claim()
    assert second is not None
    for claimed in (owned, second):
        reporter = Reporter(claimed)
        scribe().serve(reporter)
        reporter.log("info", str(claimed.run))
        scribe().serve(None)
        services.write_lines(claimed.run, reporter.unwritten())
    for line in LogLine.objects.all():
        assert line.message == str(line.run_id)
    assert LogLine.objects.count() == 2


def test_the_scribe_outlives_what_nobody_foresaw(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "RETRY_S", 0.05)
    write, failures = services.write_lines, [True]

    def write_lines(*args: Any, **values: Any) -> Any:
        if failures:
            failures.pop()
            raise ValueError("a bug")
        return write(*args, **values)

    monkeypatch.setattr(ownership, "write_lines", write_lines)
    reporter.log("info", "a")
    until(lambda: messages() == ["a"])
