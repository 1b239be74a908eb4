"""What became of a run, as a trigger of the suite's own wrote it down, against what may become of one."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import pairwise
from typing import Any

from django.db import connection

from runs.models import LogLine, Run
from runs.states import TERMINAL, TRANSITIONS, RunStatus

_NOTE = """
CREATE TABLE IF NOT EXISTS chaos_history (
    n bigserial PRIMARY KEY, run uuid NOT NULL, status text NOT NULL, token bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE OR REPLACE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR (OLD.status, OLD.token) IS DISTINCT FROM (NEW.status, NEW.token) THEN
        INSERT INTO chaos_history (run, status, token) VALUES (NEW.id, NEW.status, NEW.token);
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER chaos_note AFTER INSERT OR UPDATE ON runs_run FOR EACH ROW EXECUTE FUNCTION chaos_note();
CREATE TABLE IF NOT EXISTS chaos_parts (
    n bigserial PRIMARY KEY, run uuid NOT NULL, part integer NOT NULL, status text NOT NULL, token bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE OR REPLACE FUNCTION chaos_note_part() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, OLD.token) IS DISTINCT FROM (NEW.status, NEW.token) THEN
        INSERT INTO chaos_parts (run, part, status, token) VALUES (NEW.run_id, NEW.number, NEW.status, NEW.token);
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER chaos_note AFTER UPDATE ON runs_partload FOR EACH ROW EXECUTE FUNCTION chaos_note_part();
"""


def keep() -> None:
    """From now on every state of every run is written down."""
    with connection.cursor() as cursor:
        cursor.execute(_NOTE)


def read(run: Run) -> list[tuple[str, int]]:
    """The states and tokens of a run, in order."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT status, token FROM chaos_history WHERE run = %s ORDER BY n", [run.pk])
        return [(status, token) for status, token in cursor.fetchall()]


def going_again(run: Run, attempt: int, part: int | None, since: datetime) -> datetime | None:
    """When somebody took up what was struck then: the next attempt, or the part itself; None if nobody had to."""
    starts = list(run.attempts.filter(number__gt=attempt, started_at__gte=since).values_list("started_at", flat=True))
    if part is not None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT at FROM chaos_parts WHERE run = %s AND part = %s AND status = 'running' AND at >= %s",
                [run.pk, part, since],
            )
            starts += [at for (at,) in cursor.fetchall()]
    return min(starts, default=None)


def faults(run: Run) -> list[str]:
    """What in the history of a run that has ended may not be."""
    return [*_of_states(read(run)), *_of_attempts(run), *_of_log(run)]


def _of_states(states: list[tuple[str, int]]) -> list[str]:
    said = []
    if not states or states[0][0] not in (RunStatus.QUEUED, RunStatus.BLOCKED):
        said.append(f"a run begins as queued or blocked, this one as {states[:1]}")
    for (was, old), (now, new) in pairwise(states):
        if was != now and RunStatus(now) not in TRANSITIONS[RunStatus(was)]:
            said.append(f"{was} became {now}")
        if new < old or (was in TERMINAL and (now, new) != (was, old)):
            said.append(f"after {was} with token {old} came {now} with token {new}")
    ends = [status for status, _ in states if status in TERMINAL]
    if len(ends) != 1:
        said.append(f"a run ends once, this one did so: {ends}")
    return said


def _of_attempts(run: Run) -> list[str]:
    attempts: list[Any] = list(run.attempts.order_by("number").values_list("number", "outcome"))
    said = [] if [number for number, _ in attempts] == list(range(1, run.attempt + 1)) else [f"attempts: {attempts}"]
    outcomes = [outcome for _, outcome in attempts]
    if outcomes.count("succeeded") != (run.status == RunStatus.SUCCEEDED):
        said.append(f"the run is {run.status}, its attempts {outcomes}")
    return said + [f"attempt {number} has no end" for number, outcome in attempts if not outcome]


def _of_log(run: Run) -> list[str]:
    told = ("seq", "attempt", "at", "level", "message")
    # With their number in one look: whoever wakes up late may write another at this moment.
    found = list(LogLine.objects.filter(run=run).order_by("seq").values_list("run__last_seq", *told))
    last_seq, lines = (found[0][0] if found else run.last_seq), [line for _, *line in found]
    seqs = [seq for seq, *_ in lines]
    said = [] if seqs == list(range(1, last_seq + 1)) else [f"the log has the lines {seqs}, of {last_seq}"]
    # A line whose write was not answered may have been written: it would come again as it was noted.
    times = Counter(tuple(told) for _, *told in lines)
    return said + [f"the log says {count} times: {told[-1]}" for told, count in times.items() if count > 1]
