"""The states of a run, and how one becomes another."""

from __future__ import annotations

from django.db import models


class RunStatus(models.TextChoices):
    BLOCKED = "blocked", "Blocked"
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    RETRYING = "retrying", "Retrying"
    HELD = "held", "Held"
    RESOLVING = "resolving", "Resolving"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


_S = RunStatus

TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    # Waits for other pipelines, and stands in no line for workers until they have succeeded.
    _S.BLOCKED: frozenset({_S.QUEUED, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.RETRYING, _S.HELD, _S.RESOLVING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.RETRYING: frozenset({_S.RUNNING, _S.CANCELLED}),
    # A person decided: a worker publishes what is staged, or takes it away.
    _S.HELD: frozenset({_S.RETRYING, _S.CANCELLED}),
    # To itself: the destination does not answer, it is asked again later.
    _S.RESOLVING: frozenset({_S.RESOLVING, _S.RUNNING, _S.RETRYING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    # A person cleared it: nothing of it was published, and the same run is tried again.
    _S.FAILED: frozenset({_S.QUEUED, _S.BLOCKED}),
    _S.CANCELLED: frozenset({_S.QUEUED, _S.BLOCKED}),
}

ACTIVE = frozenset({_S.RUNNING, _S.RETRYING, _S.RESOLVING})
TERMINAL = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED})
# What a worker may claim once it is due: a run without an owner, unless it waits for its parts.
CLAIMABLE = frozenset({_S.QUEUED, _S.RUNNING, _S.RETRYING, _S.RESOLVING})
# Nobody works on it, and nothing of it can be published: it may end without asking the destination.
UNOWNED = frozenset({_S.BLOCKED, _S.QUEUED, _S.RETRYING})


class Step(models.TextChoices):
    """Where a run stands that is loaded in parts; every other run is one step, whose name is empty."""

    WHOLE = "", "Plan, or the whole run"
    PARTS = "parts", "Parts"
    PUBLISH = "publish", "Publish"


class PartStatus(models.TextChoices):
    WAITING = "waiting", "Waiting"
    RUNNING = "running", "Running"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"


def may_become(to: RunStatus) -> list[RunStatus]:
    return [status for status, targets in TRANSITIONS.items() if to in targets]
