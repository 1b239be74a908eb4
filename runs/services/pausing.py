"""What a pause takes back: runs that wait for nothing but their jitter."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from pipelines import queries
from runs import doorbell, live
from runs.services.outcomes import Failure

# They would start by themselves, up to hours after the pause. The data interval of their ticks is left out,
# as those of the pause are; whoever wants one clears the run.
_TAKE_BACK = """
WITH taken AS (
    UPDATE runs_run SET status = 'cancelled', finished_at = statement_timestamp(), phase = '', cancelled_by_id = %(by)s,
        last_seq = last_seq + 1, error_code = %(code)s, error_message = %(message)s, error_hint = %(hint)s
    WHERE pipeline_id = ANY(%(pipelines)s) AND status = 'queued' AND trigger = 'schedule' AND attempt = 0
        AND due > %(now)s
    RETURNING id, pipeline_id, last_seq
), written AS (
    INSERT INTO runs_logline (run_id, seq, at, level, message, attempt)
    SELECT id, last_seq, statement_timestamp(), 'warning', %(line)s, 0 FROM taken
)
SELECT id, pipeline_id FROM taken
"""
PAUSED = Failure(
    "paused_before_start",
    "The pipeline was paused while this run still waited for the jitter of its schedule.",
    "Clear the run to let it start nevertheless, or run the pipeline by hand.",
)


def take_back(*, pipelines: Collection[UUID], by: Any = None, **_: Any) -> None:
    """Cancel what schedules queued and jitter delays, in the transaction of the pause."""
    values = {
        "pipelines": list(pipelines),
        "by": by.pk if by is not None and by.is_authenticated else None,
        "now": queries.database_now(),
        "code": PAUSED.code,
        "message": PAUSED.message,
        "hint": PAUSED.hint,
        "line": f"[{PAUSED.code}] {PAUSED.message}",
    }
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_BACK, values)
        taken = cursor.fetchall()
    if not taken:
        return
    for run, _pipeline in taken:
        transaction.on_commit(partial(live.push_run, run))
    transaction.on_commit(partial(live.push_boards, {pipeline for _run, pipeline in taken}))
    transaction.on_commit(doorbell.ring)  # what waited behind them may be free now
