"""How an attempt ends: what was raised, what that says about the destination, what is written down."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import Error as DatabaseError
from django.utils import timezone

from connectors.counts import counted
from connectors.errors import (
    ConnectorError,
    Held,
    NewGeneration,
    OutcomeUnknown,
    Overtaken,
    StaleToken,
    Stopped,
    TransientError,
)
from pipelines import schema_policies
from pipelines.schedules import span_in_words
from runs import services
from runs.lease import Lease
from runs.models import RunAction
from runs.services import Claim, Failure, Line, NewPart, PartClaim
from runs.states import RunStatus

log = logging.getLogger(__name__)

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 600.0
LONGEST_WAIT_S = 60.0

End = Callable[[list[Line]], None]
"""Writes down how the attempt ended, given the log lines that are still unwritten."""


class NeverPublished(Exception):
    """A run whose outcome was unknown turns out unpublished, and must not be tried again."""

    def __init__(self, to: RunStatus, failure: Failure | None) -> None:
        super().__init__(to)
        self.to, self.failure = to, failure


@dataclass(frozen=True)
class Divided:
    """Nothing is loaded yet: `parts` wait for workers, under this fence; `again` where only these numbers do."""

    generation: int
    fence_token: int
    parts: tuple[NewPart, ...] = ()
    again: tuple[int, ...] = ()


@dataclass
class Standing:
    """What this attempt knows: whether a former one may have published the run, and whether it may have itself."""

    is_unknown: bool
    is_loading: bool = False


def end_of(claimed: Claim, standing: Standing, lease: Lease, error: Exception) -> End | None:
    """How an attempt ends that raised `error`; None when only the destination can tell.

    A ConnectorError vouches that this attempt published nothing; OutcomeUnknown and whatever is not
    foreseen do not.
    """
    match error:
        case NeverPublished(to=to, failure=failure):
            return never_published(claimed, to, failure)
        case services.StaleToken():
            return abandoned(claimed, error)
        case Stopped():
            return after_stop(claimed, standing, error)
        case OutcomeUnknown():
            return None
        case StaleToken():
            # A newer owner raised the fence: it writes how the run ends, or the next one does.
            return unresolved(claimed, error)
        case Held():
            return held(claimed, error)
        case ConnectorError():
            return unresolved(claimed, error) if standing.is_unknown else after_failure(claimed, lease, error)
        case DatabaseError() if not standing.is_loading:
            return without_control_database(claimed, standing, error)
    log.error("Run %s met an unexpected error", claimed.run, exc_info=error)
    if standing.is_unknown or standing.is_loading:
        return None
    return after_failure(claimed, lease, in_words(error))


def in_words(error: Exception) -> ConnectorError:
    """What a person is told of an error that nobody foresaw."""
    if isinstance(error, ConnectorError):
        return error
    passes = isinstance(error, (OSError, MemoryError))
    return (TransientError if passes else ConnectorError)(
        f"Something unexpected happened ({type(error).__name__}).",
        code="internal_error",
        hint="The worker's own log has the details.",
    )


def succeeded(claimed: Claim, receipt: dict[str, Any]) -> End:
    target = claimed.definition["destination"]
    rows = receipt.get("rows", 0)
    said = ("is back in" if rows == 1 else "are back in") if claimed.action == RunAction.UNDO else "published to"
    done = f"Succeeded: {counted(rows)} {said} {target['schema']}.{target['table']}."
    return lambda lines: services.finish(
        claimed, RunStatus.SUCCEEDED, receipt=receipt, lines=[*lines, Line("info", done)]
    )


def divided(claimed: Claim, made: Divided) -> End:
    if made.again:
        return lambda lines: services.spread_again(
            claimed, made.again, generation=made.generation, fence_token=made.fence_token, lines=lines
        )
    return lambda lines: services.spread(
        claimed, made.parts, generation=made.generation, fence_token=made.fence_token, lines=lines
    )


def compared(claimed: Claim, receipt: dict[str, Any]) -> End:
    return lambda lines: services.finish(claimed, RunStatus.SUCCEEDED, receipt=receipt, lines=lines)


def held(claimed: Claim, error: Held) -> End:
    """The rows are staged at the destination, and a person must decide."""
    keep_for = timedelta(days=claimed.definition["held_days"])
    told = Line("warning", f"{error.message} The run is held. {error.hint}".strip())
    return lambda lines: services.hold(
        claimed, _failure(error), keep_for=keep_for, staged=error.staged, lines=[*lines, told]
    )


def never_published(claimed: Claim, to: RunStatus, failure: Failure | None) -> End:
    told = f"{failure.message} [{failure.code}] {failure.hint}" if failure else "Cancelled. Nothing was published."
    if claimed.decision and not failure:
        told = "Discarded: what was staged is gone, and nothing was published."
    line = Line("error" if failure else "warning", told.strip())
    return lambda lines: services.finish(claimed, to, failure=failure, lines=[*lines, line])


def after_stop(claimed: Claim, standing: Standing, stopped: Stopped) -> End:
    """Stopped before anything was published: the open transaction was rolled back."""
    if stopped.code == "lease_lost":
        return abandoned(claimed, stopped)
    if standing.is_unknown:
        return unresolved(claimed, stopped, delay_s=0)
    if stopped.code == "cancelled":
        return never_published(claimed, RunStatus.CANCELLED, None)
    if stopped.code == "time_limit":
        return _failed(claimed, services.time_is_up(claimed.definition))
    done = Line("info", "The worker is shutting down: another one starts this run over.")
    return lambda lines: services.hand_back(claimed, lines=[*lines, done])


def abandoned(claimed: Claim, error: Exception) -> End:
    """This worker is no longer the owner: it writes nothing."""

    def nothing(lines: list[Line]) -> None:
        why = " ".join(str(error).split())
        log.warning("Run %s went to another worker (%s); %d log lines are left out.", claimed.run, why, len(lines))

    return nothing


def unresolved(claimed: Claim, error: ConnectorError, *, delay_s: float | None = None) -> End:
    """Only the destination can say how this ended: it is asked again, less often the longer it takes."""
    wait = min(LONGEST_WAIT_S, 2.0 ** min(claimed.attempt - 1, 6)) if delay_s is None else delay_s
    told = Line("warning", f"{error.message} The destination is asked again what was published.")
    return lambda lines: services.resolve_later(
        claimed, _failure(error), delay=timedelta(seconds=wait), lines=[*lines, told]
    )


def without_control_database(claimed: Claim, standing: Standing, error: DatabaseError) -> End:
    """Our own database was away before anything was loaded: no fault of the run, so it costs it no retry."""
    told = TransientError("DataMantri's own database did not answer.", code="control_database")
    log.warning("Run %s: %s", claimed.run, error)
    if standing.is_unknown:
        return unresolved(claimed, told)
    line = Line("warning", f"{told.message} Starting over in {FIRST_RETRY_S:.0f} s.")
    wait = timedelta(seconds=FIRST_RETRY_S)
    return lambda lines: services.hand_back(
        claimed, failure=_failure(told), delay=wait, outcome="retrying", lines=[*lines, line]
    )


def after_failure(claimed: Claim, lease: Lease, error: ConnectorError) -> End:
    """Nothing was published: try again if that is of use and allowed, else fail.

    What fails after a stop fails because of it: breaking a wait can look like any error.
    """
    if lease.reason:
        return after_stop(claimed, Standing(is_unknown=False), Stopped(error.message, code=lease.reason))
    if becomes_full_refresh(claimed, error):
        told = f"{error.message} As the pipeline says, the run becomes a full refresh: all rows are read, and take the"
        line = Line("warning", f"{told} place of those that are there.")
        return lambda lines: services.begin_anew(claimed, _failure(error), lines=[*lines, line])
    allowed = claimed.definition["retries"]
    if isinstance(error, TransientError) and claimed.failures < allowed:
        if gives_up(claimed, claimed.failures, error):
            end = _failed(claimed, _failure(error))
            return lambda lines: end([*lines, too_late(claimed)])
        delay = backoff_s(claimed.failures, error.retry_after_s, first_s=first_wait_s(claimed))
        told = Line("warning", f"{error.message} Trying again in {delay:.0f} s ({claimed.failures + 1} of {allowed}).")
        wait = timedelta(seconds=delay)
        anew = isinstance(error, (NewGeneration, Overtaken))
        return lambda lines: services.retry_later(
            claimed, _failure(error), delay=wait, plans_anew=anew, lines=[*lines, told]
        )
    return _failed(claimed, _failure(error))


def becomes_full_refresh(claimed: Claim, error: ConnectorError) -> bool:
    """Whether the target cannot follow its source, and is to be written anew without anybody being asked."""
    return (
        error.code == schema_policies.INCOMPATIBLE
        and claimed.action == RunAction.LOAD
        and not claimed.decision
        and schema_policies.begins_anew(claimed.definition, claimed.options)
    )


def is_final(claimed: Claim, lease: Lease, error: Exception) -> bool:
    """Whether the run ends with `error`, unpublished and not held, or begins again with a new plan."""
    if lease.reason:
        return lease.reason in ("cancelled", "time_limit")
    match error:
        case NeverPublished():
            return True
        case Held() | OutcomeUnknown() | StaleToken() | Stopped():
            return False
        case NewGeneration() | Overtaken():
            return True  # and if it is tried again, then with other rows
        case TransientError():
            return claimed.failures >= claimed.definition["retries"] or gives_up(claimed, claimed.failures, error)
    return True


def backoff_s(failures: int, asked: float | None = None, *, first_s: float = FIRST_RETRY_S) -> float:
    """Exponential backoff with jitter: 5 s, 10 s, 20 s … at most 10 minutes, or what the system asked for.

    A first wait of more than 10 minutes does not grow.
    """
    return max(_usual_s(failures, first_s) * random.uniform(0.75, 1.25), asked or 0.0)  # noqa: S311 - jitter


def _usual_s(failures: int, first_s: float) -> float:
    return min(max(LONGEST_RETRY_S, first_s), first_s * 2**failures)


def first_wait_s(claimed: Claim | PartClaim) -> float:
    return claimed.definition.get("retry_delay_s", FIRST_RETRY_S)


def gives_up(claimed: Claim | PartClaim, failures: int, error: TransientError) -> bool:
    """Whether another attempt would begin later after the first than the pipeline allows.

    Not once somebody has decided on a held run, which waited for them maybe for days.
    """
    limit = claimed.definition.get("give_up_after_s")
    if limit is None or (isinstance(claimed, Claim) and claimed.decision):
        return False
    # Without jitter: who asks again has the same answer.
    wait = max(_usual_s(failures, first_wait_s(claimed)), error.retry_after_s or 0.0)
    return timezone.now() + timedelta(seconds=wait) > claimed.started_at + timedelta(seconds=limit)


def too_late(claimed: Claim | PartClaim) -> Line:
    limit = span_in_words(claimed.definition["give_up_after_s"])
    return Line("error", f"The run gives up {limit} after its first attempt: another would begin later.")


def _failed(claimed: Claim, failure: Failure) -> End:
    return never_published(claimed, RunStatus.FAILED, failure)


def _failure(error: ConnectorError) -> Failure:
    return Failure(error.code, error.message, error.hint)
