"""What a run would do to its target as things stand now, in words for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LastLock:
    """The lock of the last published run: how it was published, how long it waited, how long others did."""

    method: str
    wait_ms: float
    held_ms: float


@dataclass(frozen=True)
class Forecast:
    """`method` is create, rename, in_place, append or merge, and `why` the reason in a sentence.

    `dependents` lean on the table, by name; `makes` are keys, indexes and partitions that the run will make;
    `waits` say who waits for what, and `minds` what else to know, a sentence each. `last_lock` is None where no
    run was published yet, or none that took a lock.
    """

    method: str
    why: str
    dependents: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    minds: tuple[str, ...] = ()
    last_lock: LastLock | None = None
