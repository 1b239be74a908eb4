"""The oracle sees a row that is missing, one too many, one that changed, and whatever else must not be."""

from __future__ import annotations

import pytest

from tests.chaos import features, feeds
from tests.chaos.feeds import Feed, Rows, compare

KINDS = {**feeds.KINDS, **features.FEEDS}


def a_feed(kind: str, rounds: int = 1) -> tuple[Feed, Rows]:
    """A feed after some rounds, and what its target held before the last."""
    feed = KINDS[kind]("feed", None)  # type: ignore[arg-type]
    target = Rows()
    for _ in range(rounds):
        before = target
        feed.begin(target)
        target = list(feed.outcomes(target))[-1]
    return feed, before


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_must_be_there_is_right(kind: str) -> None:
    feed, before = a_feed(kind, 3)
    for outcome in feed.outcomes(before):
        assert compare(Rows(outcome), feed.outcomes(before)).is_right


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_lost_row_is_seen(kind: str) -> None:
    feed, before = a_feed(kind, 3)
    found = Rows(list(feed.outcomes(before))[-1])
    found -= Rows([next(iter(found))])
    assert compare(found, feed.outcomes(before)).lost == 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_doubled_row_is_seen(kind: str) -> None:
    feed, before = a_feed(kind, 3)
    found = Rows(list(feed.outcomes(before))[-1])
    found[next(iter(found))] += 1
    assert compare(found, feed.outcomes(before)).doubled == 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_row_that_never_was_is_seen(kind: str) -> None:
    feed, before = a_feed(kind, 3)
    found = Rows(list(feed.outcomes(before))[-1])
    found[10**6, 1, 10**6] = 1
    assert compare(found, feed.outcomes(before)).wrong == 1


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"held"}))
def test_a_run_that_did_nothing_is_seen(kind: str) -> None:
    feed, before = a_feed(kind, 2)
    assert not compare(before, feed.outcomes(before)).is_right


def test_where_nobody_says_what_must_be_there_nothing_is_right() -> None:
    with pytest.raises(ValueError, match="nobody says"):
        compare(Rows(), [])
