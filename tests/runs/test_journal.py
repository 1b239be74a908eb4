"""A run's log: one order without gaps, whoever writes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from runs import live, queries, services
from runs.models import LogLine, Run
from runs.services import Claim, Line, Progress


def numbers(run_id: Any) -> list[int]:
    return list(LogLine.objects.filter(run_id=run_id).order_by("seq").values_list("seq", flat=True))


@pytest.mark.django_db
def test_lines_are_numbered_from_one(owned: Claim) -> None:
    services.write_lines(owned.run, [Line("info", "a"), Line("info", "b")], attempt=1)
    written = services.write_lines(owned.run, [Line("error", "c")], attempt=2)
    assert [(line.seq, line.level, line.message, line.attempt) for line in queries.log_lines(owned.run)] == [
        (1, "info", "a", 1),
        (2, "info", "b", 1),
        (3, "error", "c", 2),
    ]
    assert [line["seq"] for line in written] == [3]
    assert Run.objects.get(pk=owned.run).last_seq == 3


@pytest.mark.django_db
def test_log_lines_come_after_a_seq_and_in_pages(owned: Claim) -> None:
    services.write_lines(owned.run, [Line("info", str(n)) for n in range(10)])
    assert [line.seq for line in queries.log_lines(owned.run, after=3, limit=4)] == [4, 5, 6, 7]


@pytest.mark.django_db
def test_nothing_to_write_is_no_query(owned: Claim, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert services.write_lines(owned.run, []) == []


@pytest.mark.django_db
def test_lines_and_progress_are_one_statement(owned: Claim, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        services.write_lines(owned.run, [Line("info", "a")], token=owned.token, progress=Progress(rows=5, phase="x"))
    run = Run.objects.get(pk=owned.run)
    assert (run.rows, run.phase, run.last_seq) == (5, "x", 1)


@pytest.mark.django_db
def test_progress_leaves_what_it_does_not_name(owned: Claim) -> None:
    services.write_lines(owned.run, [], token=owned.token, progress=Progress(rows=5, bytes=50, estimated_rows=100))
    services.write_lines(owned.run, [], token=owned.token, progress=Progress(rows=6))
    run = Run.objects.get(pk=owned.run)
    assert (run.rows, run.bytes, run.estimated_rows, run.last_seq) == (6, 50, 100, 0)


@pytest.mark.django_db(transaction=True)
def test_writers_at_once_leave_no_gap_and_keep_their_own_order(owned: Claim, at_once: Callable[..., list[Any]]) -> None:
    """Some of them roll back: a sequence would leave holes there."""

    def write(writer: int) -> int:
        chance = random.Random(writer)
        kept = 0
        for n in range(20):
            try:
                with transaction.atomic():
                    services.write_lines(owned.run, [Line("info", f"{writer}:{kept + i}") for i in range(n % 3 + 1)])
                    if chance.random() < 0.3:
                        raise InterruptedError
                kept += n % 3 + 1
            except InterruptedError:
                continue
        return kept

    kept = at_once(write, times=4)
    assert numbers(owned.run) == list(range(1, sum(kept) + 1))
    for writer in range(4):
        mine = LogLine.objects.filter(message__startswith=f"{writer}:").order_by("seq")
        assert [line.message for line in mine] == [f"{writer}:{n}" for n in range(kept[writer])]


@pytest.mark.django_db(transaction=True)
def test_whoever_has_seen_a_line_has_seen_all_before_it(owned: Claim, at_once: Callable[..., list[Any]]) -> None:
    """Commit order is seq order: a reader that goes on after the last seq misses nothing."""

    def act(number: int) -> bool:
        if number:
            for n in range(40):
                services.write_lines(owned.run, [Line("info", str(n))])
            return True
        seen = 0
        while seen < 80:
            lines = queries.log_lines(owned.run, after=seen)
            assert [line.seq for line in lines] == list(range(seen + 1, seen + 1 + len(lines)))
            seen += len(lines)
        return True

    assert at_once(act, times=3) == [True] * 3


@pytest.mark.django_db
def test_lines_are_pushed_as_they_are_stored_once_they_are_committed(
    owned: Claim, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    pushed: list[dict[str, Any]] = []
    monkeypatch.setattr(live, "push_lines", lambda run, lines: pushed.extend(lines))
    with django_capture_on_commit_callbacks(execute=True):
        services.write_lines(owned.run, [Line("info", "a\x00b")], attempt=1)
        assert not pushed
    (stored,) = queries.log_lines(owned.run)
    assert pushed == [{"seq": 1, "at": stored.at.isoformat(), "level": "info", "message": stored.message, "attempt": 1}]
