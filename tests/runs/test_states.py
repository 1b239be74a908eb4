"""The states of a run."""

from __future__ import annotations

import pytest

from runs.states import ACTIVE, CLAIMABLE, TERMINAL, TRANSITIONS, UNOWNED, RunStatus, may_become


def test_every_status_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(RunStatus)


def test_what_has_ended_stays_as_it_is_unless_a_person_clears_what_was_not_published() -> None:
    assert {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED} == TERMINAL
    assert TRANSITIONS[RunStatus.SUCCEEDED] == frozenset()
    assert TRANSITIONS[RunStatus.FAILED] == TRANSITIONS[RunStatus.CANCELLED] == {RunStatus.QUEUED, RunStatus.BLOCKED}


@pytest.mark.parametrize("status", sorted(set(RunStatus) - TERMINAL))
def test_every_run_can_still_end(status: RunStatus) -> None:
    seen, ahead = set(), {status}
    while ahead:
        seen |= ahead
        ahead = {after for before in ahead for after in TRANSITIONS[before]} - seen
    assert seen & TERMINAL


def test_only_a_claim_makes_a_queued_run_run() -> None:
    assert set(may_become(RunStatus.RUNNING)) == {
        RunStatus.QUEUED,
        RunStatus.RETRYING,
        RunStatus.RESOLVING,
    }


def test_what_may_end_without_asking_the_destination_is_claimable() -> None:
    assert {RunStatus.RUNNING, RunStatus.RESOLVING} == CLAIMABLE - UNOWNED
    assert UNOWNED - {RunStatus.BLOCKED} < CLAIMABLE
    assert RunStatus.BLOCKED not in CLAIMABLE


def test_what_a_person_decides_on_is_tried_again_or_ends() -> None:
    assert TRANSITIONS[RunStatus.HELD] == {RunStatus.RETRYING, RunStatus.CANCELLED}
    assert RunStatus.HELD not in CLAIMABLE


def test_what_was_never_claimed_is_not_active() -> None:
    assert {RunStatus.RUNNING, RunStatus.RETRYING, RunStatus.RESOLVING} == ACTIVE


def test_a_run_whose_outcome_is_unknown_fails_only_after_the_destination_was_asked() -> None:
    """Nothing but its owner, which has raised the fence, can end it: see UNOWNED in cancel_run."""
    assert RunStatus.RESOLVING not in UNOWNED
    assert RunStatus.RUNNING not in UNOWNED
