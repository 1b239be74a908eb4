"""Parts of runs as people see them: counts in words, a picture of the parts, who loads them and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from uuid import UUID

from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import Count, Q, QuerySet

from connectors.counts import counted
from runs.models import Attempt, PartLoad, Run
from runs.states import PartStatus, RunStatus, Step
from runs.words import count, span

MOST_CELLS = 300  # with more parts, each cell stands for some neighbours
NAMED = 6
LEVELS = 8

# By urgency: of the parts that share a cell, the first of these that there is says how the cell looks.
FAILED, RUNNING, AGAIN, WAITING, DONE = "frawd"


def is_in_parts(run: Run) -> bool:
    """Whether a run's parts are those of the plan that counts: not of one that it left behind."""
    return bool(run.step) or (bool(run.generation) and run.status == RunStatus.RETRYING)


def doing(run: Run) -> str:
    """What a run that is active does now, in words."""
    if run.status == RunStatus.RUNNING and run.step:
        return "loading in parts" if run.step == Step.PARTS else "publishing"
    return run.phase


def process_of(worker: str) -> str:
    """The worker that a child belongs to."""
    return worker.rpartition(":")[0] or worker


# Counts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How many parts of a run stand how; of those that wait, `again` do so for another try."""

    total: int
    done: int
    running: int
    again: int
    failed: int
    workers: tuple[str, ...] = ()

    @property
    def waiting(self) -> int:
        return self.total - self.done - self.running - self.failed

    def in_words(self, run: Run) -> str:
        """A sentence: of what is, or of what was when the run ended."""
        if run.status == RunStatus.SUCCEEDED:
            return f"All {count(self.total)} parts were loaded."
        said = [
            _staged(self.done, self.total, was=run.is_terminal),
            _some(self.running, "is loading", "are loading"),
            _some(self.failed, "failed", "failed"),
        ]
        if run.is_terminal or run.step != Step.PARTS:
            said.append(_some(self.waiting, "was not finished", "were not finished"))
        else:
            said.append(_some(self.again, "waits for another try", "wait for another try"))
            said.append(_some(self.waiting - self.again, "waits", "wait"))
        return ", ".join(filter(None, said)) + "."


def _staged(done: int, total: int, *, was: bool) -> str:
    if done == total and total > 1:
        return f"All {count(total)} parts {'were' if was else 'are'} staged"
    one, many = ("was", "were") if was else ("is", "are")
    return f"{count(done) if done else 'None'} of {count(total)} parts {many if done > 1 else one} staged"


def _some(number: int, one: str, many: str) -> str:
    return f"{count(number)} {one if number == 1 else many}" if number else ""


def counts_of(runs: Sequence[Run]) -> dict[UUID, Counts]:
    """Counts of those runs that are in parts, in one query."""
    wanted = [run.pk for run in runs if is_in_parts(run)]
    if not wanted:
        return {}
    tried = Q(failures__gt=0) | Q(losses__gt=0)
    running = Q(status=PartStatus.RUNNING)
    counted = (
        PartLoad.objects.filter(run__in=wanted)
        .order_by()
        .values("run")
        .annotate(
            total=Count("pk"),
            done=Count("pk", filter=Q(status=PartStatus.DONE)),
            running=Count("pk", filter=running),
            again=Count("pk", filter=Q(status=PartStatus.WAITING) & tried),
            failed=Count("pk", filter=Q(status=PartStatus.FAILED)),
            workers=ArrayAgg("worker", filter=running, distinct=True, default=[]),
        )
    )
    return {row.pop("run"): Counts(**{**row, "workers": _processes(row["workers"])}) for row in counted}


def _processes(workers: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({process_of(worker) for worker in workers if worker}))


# The picture ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One part, or some neighbours: a letter for its state, how full (0 to 8) and how wide (1 to 4) it is drawn."""

    code: str
    title: str

    @property
    def css(self) -> str:
        state, full, wide = self.code
        return f"part is-{state} f{full} w{wide}"


@dataclass(frozen=True)
class Named:
    """A part that is told of in a line of its own."""

    number: int
    cell: Cell
    name: str
    text: str


class Picture:
    """All parts of a run, as its page shows them."""

    def __init__(self, run: Run, parts: Sequence[PartLoad]) -> None:
        self.run, self.parts = run, parts
        self.each = -(-len(parts) // MOST_CELLS)
        states = [state_of(part) for part in parts]
        workers = [part.worker for part in parts if part.status == PartStatus.RUNNING]
        numbers = {name: states.count(state) for name, state in _COUNTED.items()}
        self.counts = Counts(len(parts), **numbers, workers=_processes(workers))
        known = [size for part in parts if (size := _expected(part)) is not None]
        self._usual = float(median(known)) if known else 0.0

    @cached_property
    def words(self) -> str:
        return self.counts.in_words(self.run)

    @cached_property
    def codes(self) -> str:
        """The cells, three characters each: what is sent at every change, however many parts there are."""
        return "".join(self._code(group) for group in self._groups)

    @cached_property
    def cells(self) -> list[Cell]:
        return [Cell(self._code(group), self._title(group)) for group in self._groups]

    @cached_property
    def named(self) -> list[Named]:
        """What failed, what loads now, what waits for another try: a few of each."""
        found = ([part for part in self.parts if state_of(part) == state] for state in (FAILED, RUNNING, AGAIN))
        return [self._named(part) for parts in found for part in parts[:NAMED]]

    @property
    def not_named(self) -> int:
        return self.counts.failed + self.counts.running + self.counts.again - len(self.named)

    @property
    def _groups(self) -> list[Sequence[PartLoad]]:
        return [self.parts[start : start + self.each] for start in range(0, len(self.parts), self.each or 1)]

    def _code(self, group: Sequence[PartLoad]) -> str:
        states = [state_of(part) for part in group]
        state = next(state for state in (FAILED, RUNNING, AGAIN, WAITING, DONE) if state in states)
        rows, expected = sum(part.rows for part in group), self._rows_of(group)
        full = LEVELS if state == DONE else int(min(1.0, rows / expected) * LEVELS) if expected else 0
        return f"{state}{max(full, 1) if rows else full}{_wide(expected / len(group), self._usual)}"

    def _rows_of(self, group: Sequence[PartLoad]) -> float:
        sizes = [_expected(part) for part in group]
        return sum(self._usual if size is None else size for size in sizes)

    def _title(self, group: Sequence[PartLoad]) -> str:
        first, last = group[0], group[-1]
        if first is last:
            return f"Part {first.number + 1}{f' ({first.name})' if first.name else ''}: {self._told(first)}"
        rows = _rows(sum(part.rows for part in group), round(self._rows_of(group)))
        states = [state_of(part) for part in group]
        told = [f"{states.count(state)} {self._said(state)}" for state in (DONE, RUNNING, AGAIN, WAITING, FAILED)]
        told = [text for text in told if not text.startswith("0 ")]
        return f"Parts {first.number + 1} to {last.number + 1}: {', '.join(told)}; {rows}"

    def _named(self, part: PartLoad) -> Named:
        name, told = f"Part {part.number + 1}", self._told(part)
        return Named(
            part.number, Cell(self._code([part])[:2] + "2", ""), name, ": ".join(filter(None, (part.name, told)))
        )

    def _told(self, part: PartLoad) -> str:
        """State, worker, rows, what went wrong."""
        state = state_of(part)
        where = f" on {process_of(part.worker)}" if part.worker and state in (RUNNING, DONE) else ""
        told = [] if state == FAILED and part.failures else [self._said(state) + where]
        if part.rows or state in (RUNNING, DONE):
            told.append(_rows(part.rows, part.estimated_rows if state != DONE else None))
        if part.started_at and part.finished_at:
            told.append(f"in {span((part.finished_at - part.started_at).total_seconds())}")
        told += [f"failed {_times(part.failures)}"] if part.failures else []
        told += [f"lost its worker {_times(part.losses)}"] if part.losses else []
        message = part.error_message if state in (FAILED, AGAIN) else ""
        return ", ".join(told) + (f". {message}" if message else "")

    def _said(self, state: str) -> str:
        if state in (WAITING, AGAIN) and (self.run.is_terminal or self.run.step != Step.PARTS):
            return "not finished"
        return _SAID[state]


_COUNTED = {"done": DONE, "running": RUNNING, "again": AGAIN, "failed": FAILED}
_SAID = {
    DONE: "staged",
    RUNNING: "loading",
    AGAIN: "waiting for another try",
    WAITING: "waiting",
    FAILED: "failed",
}


def picture_of(run: Run) -> Picture | None:
    """The parts of a run; None for one that is not loaded in parts."""
    parts = list(parts_of(run).defer("error_hint", "task_id"))
    return Picture(run, parts) if parts else None


def parts_of(run: Run) -> QuerySet[PartLoad]:
    """The parts of a run, in their order; none of a plan that it left behind."""
    parts = PartLoad.objects.filter(run=run).order_by("number")
    return parts if is_in_parts(run) else parts.none()


def state_of(part: PartLoad) -> str:
    if part.status == PartStatus.WAITING:
        return AGAIN if part.failures or part.losses else WAITING
    return {PartStatus.DONE.value: DONE, PartStatus.RUNNING.value: RUNNING}.get(part.status, FAILED)


def _expected(part: PartLoad) -> int | None:
    """How many rows a part has, if anybody can tell."""
    if part.status == PartStatus.DONE:
        return part.rows
    return None if part.estimated_rows is None else max(part.rows, part.estimated_rows)


def _wide(rows: float, usual: float) -> int:
    """Parts that are much smaller or larger than the others look it."""
    times = rows / usual if usual else 1.0
    return 1 if times < 0.5 else 2 if times < 2 else 3 if times < 4 else 4


def _rows(rows: int, of: int | None) -> str:
    return f"{count(rows)} of about {count(of)} rows" if of else counted(rows)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


# Attempts ---------------------------------------------------------------------------------------


def outcome_in_words(attempt: Attempt, run: Run, counts: Counts | None = None) -> str:
    """How an attempt ended; one that made a plan did not end the run."""
    if not attempt.outcome:
        return "Goes on"
    if attempt.outcome != "divided":
        return attempt.outcome.capitalize()
    if attempt.number == run.generation and counts:
        return f"Planned: divided into {count(counts.total)} parts"
    if attempt.number > run.generation:
        return "Found parts that were not whole: they are loaded again"
    return "Planned: divided into parts"
