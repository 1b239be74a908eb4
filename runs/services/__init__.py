"""Every write to a run: request, claim, renew, move, log, cancel, sweep."""

from runs.services.approving import approve_cost, is_over_budget, release_affordable
from runs.services.backfills import (
    advance_backfills,
    cancel_backfill,
    pause_backfill,
    resume_backfill,
    retry_backfill,
    start_backfill,
)
from runs.services.bills import note_bill
from runs.services.chains import Chain, chain_from, request_chain, runs_of_chain
from runs.services.deciding import decide, discard_expired
from runs.services.errors import InvalidTransition, KeyReused, RunRefused, StaleToken
from runs.services.histories import forgets
from runs.services.journal import Line, Progress, is_written, write_lines
from runs.services.outcomes import (
    Failure,
    begin_anew,
    finish,
    hand_back,
    hold,
    move_run,
    resolve_later,
    resume,
    retry_later,
    time_is_up,
)
from runs.services.ownership import Claim, Renewal, Waiting, claim, installation_id, read_flags, renew, waiting
from runs.services.part_ownership import PartClaim, claim_part
from runs.services.parts import NewPart, fail_part, failed_part, finish_part, release_part, spread, spread_again
from runs.services.polls import (
    SILENT_AFTER,
    Asked,
    Assigned,
    ask,
    assigned,
    has_realtime,
    leave_shares,
    make_shares,
    take_shares,
    write_failure,
    write_seen,
    write_unseen,
)
from runs.services.prerequisites import start_anyway
from runs.services.processes import drain_process, end_process, forget_processes, seen, start_process
from runs.services.recovery import give_back_all_leases, give_back_lease, give_back_leases, sweep
from runs.services.requests import cancel_run, request_run, requested_before, run_again
from runs.services.retention import trim
from runs.services.settling import clear_run, mark_done
from runs.services.undecided import refuse_beside_held
from runs.services.undoing import request_undo
from runs.services.upstreams import settle
from runs.services.watches import Look, is_look_due, look_failed, looked, take_looks
from runs.services.webhooks import accept, forget_deliveries

__all__ = [
    "SILENT_AFTER",
    "Asked",
    "Assigned",
    "Chain",
    "Claim",
    "Failure",
    "InvalidTransition",
    "KeyReused",
    "Line",
    "Look",
    "NewPart",
    "PartClaim",
    "Progress",
    "Renewal",
    "RunRefused",
    "StaleToken",
    "Waiting",
    "accept",
    "advance_backfills",
    "approve_cost",
    "ask",
    "assigned",
    "begin_anew",
    "cancel_backfill",
    "cancel_run",
    "chain_from",
    "claim",
    "claim_part",
    "clear_run",
    "decide",
    "discard_expired",
    "drain_process",
    "end_process",
    "fail_part",
    "failed_part",
    "finish",
    "finish_part",
    "forget_deliveries",
    "forget_processes",
    "forgets",
    "give_back_all_leases",
    "give_back_lease",
    "give_back_leases",
    "hand_back",
    "has_realtime",
    "hold",
    "installation_id",
    "is_look_due",
    "is_over_budget",
    "is_written",
    "leave_shares",
    "look_failed",
    "looked",
    "make_shares",
    "mark_done",
    "move_run",
    "note_bill",
    "pause_backfill",
    "read_flags",
    "refuse_beside_held",
    "release_affordable",
    "release_part",
    "renew",
    "request_chain",
    "request_run",
    "request_undo",
    "requested_before",
    "resolve_later",
    "resume",
    "resume_backfill",
    "retry_backfill",
    "retry_later",
    "run_again",
    "runs_of_chain",
    "seen",
    "settle",
    "spread",
    "spread_again",
    "start_anyway",
    "start_backfill",
    "start_process",
    "sweep",
    "take_looks",
    "take_shares",
    "time_is_up",
    "trim",
    "waiting",
    "write_failure",
    "write_lines",
    "write_seen",
    "write_unseen",
]
