"""What a poller remembers of a pipeline, and whether what its source says now calls for a micro-batch."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from uuid import UUID

from connectors.reading import ReadRequest
from connectors.watching import SourceState
from pipelines import given
from pipelines.models import Pipeline
from runs.models import Because, Poll
from runs.services import Assigned
from runs.states import RunStatus

FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 600.0


def growing(times: int, *, first: float = FIRST_WAIT_S, longest: float = LONGEST_WAIT_S) -> float:
    """How long to wait after so many failures: twice as long each time, give or take a quarter."""
    return min(longest, first * 2.0 ** min(times - 1, 20)) * random.uniform(0.75, 1.25)  # noqa: S311 - no secret


# How loads end that leave what they were to read for another one.
_UNREAD = (RunStatus.FAILED, RunStatus.CANCELLED)


@dataclass
class Subject:
    """A pipeline that is polled. Times are of the monotonic clock: the machine's own may jump."""

    assigned: Assigned
    connection: UUID
    request: ReadRequest
    every_s: float
    stream_every_s: float
    force_read_every: int | None
    record: str
    streaming: str
    unseen: tuple[str, ...]
    is_first: bool
    asked: float
    # Without a change, since `asked`; of looks that others want more often only those on its own beat.
    polls: int = 0
    next_poll: float = float("-inf")
    has_failed: bool = False
    failed_runs: int = 0
    refusals: int = 0
    not_before: float = float("-inf")
    last: tuple[UUID | None, str | None] = (None, None)
    answered: UUID | None = None

    @classmethod
    def of(cls, assigned: Assigned, pipeline: Pipeline, poll: Poll | None, now: float, age_s: float | None) -> Subject:
        """As the control database has it; `age_s`: for how long nothing was asked for.

        How often the source was asked in that time is not written down: as often as there was time for.
        """
        poll = poll or Poll(pipeline=pipeline)
        return cls(
            assigned,
            pipeline.source_id,
            ReadRequest(
                table=pipeline.source_table,
                query=pipeline.source_query,
                parameters=given.sample_parameters(pipeline) if pipeline.source_query else (),
            ),
            every_s=pipeline.poll_every_s,
            stream_every_s=pipeline.stream_every_s,
            force_read_every=pipeline.force_read_every,
            record=poll.record,
            streaming=poll.streaming,
            unseen=tuple(poll.unseen.splitlines()),
            is_first=(poll.revision, poll.since) != (assigned.revision, assigned.active_from),
            asked=now - (age_s or 0.0),
            polls=int((age_s or 0.0) / pipeline.poll_every_s),
            has_failed=bool(poll.failures),
        )

    @property
    def pipeline(self) -> UUID:
        return self.assigned.pipeline

    @property
    def place(self) -> Hashable:
        """What is looked at: pipelines that read the same are served by one look."""
        read = self.request
        return self.connection, read.table, read.query, str(read.parameters) if read.query else ""

    def is_as(self, assigned: Assigned) -> bool:
        """Whether nothing that counts has changed since."""
        mine = self.assigned
        return (mine.revision, mine.active_from, mine.source_changed, mine.version) == (
            assigned.revision,
            assigned.active_from,
            assigned.source_changed,
            assigned.version,
        )

    def note_end(self, run: UUID | None, status: str | None, now: float) -> None:
        """Take note of how the newest load ended: while they fail, the next is asked for later and later."""
        if (run, status) == self.last:
            return
        self.last = run, status
        self.refusals = 0
        self.failed_runs = self.failed_runs + 1 if status == RunStatus.FAILED else 0
        self.not_before = now + growing(self.failed_runs) if self.failed_runs else float("-inf")

    def note_poll(self, now: float) -> None:
        """Count a poll: one that comes late, or a little early, but none that came for others in between."""
        if now >= self.next_poll:
            self.polls += 1
            self.next_poll = max(self.next_poll + self.every_s, now + self.every_s / 2)

    def because(self, state: SourceState, now: float) -> Because | None:
        """Why a micro-batch is to be asked for now; None if nothing calls for one."""
        if now < self.not_before:
            return None
        since = now - self.asked
        if self.is_first:
            return Because.FIRST
        if state.record != self.record:
            return Because.CHANGED
        if self.last[1] in _UNREAD and self.last[0] != self.answered:
            return Because.FAILED
        if (state.streaming or self.streaming) and since >= self.stream_every_s:
            return Because.STREAMING
        if self.force_read_every is not None and self.polls >= self.force_read_every:
            return Because.FORCED
        return None

    def has_asked(self, state: SourceState, now: float) -> None:
        """A micro-batch that reads what `state` tells of was asked for."""
        self.record, self.streaming = state.record, state.streaming
        self.is_first, self.asked, self.polls, self.refusals = False, now, 0, 0
        self.answered = self.last[0]
        mine = self.assigned
        self.assigned = Assigned(
            mine.pipeline, mine.revision, mine.active_from, mine.source_changed, mine.version + 1, *self.last
        )

    def was_refused(self, now: float) -> None:
        self.refusals += 1
        self.not_before = now + growing(self.refusals, first=2.0, longest=60.0)


@dataclass(eq=False)
class Place:
    """Something that is looked at for one or more pipelines."""

    connection: UUID
    request: ReadRequest
    due: float
    subjects: dict[UUID, Subject] = field(default_factory=dict)
    # The tables behind it, and until when that counts.
    behind: tuple[str, ...] = ()
    behind_until: float = float("-inf")
    failures: int = 0
    is_looked_at: bool = False
    is_gone: bool = False

    @property
    def every_s(self) -> float:
        return min(subject.every_s for subject in self.subjects.values())
