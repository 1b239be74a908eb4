"""What happened: runs, their attempts and log lines, ticks that were skipped, workers that live."""

from runs.models.alerts import MARKED_DONE, Alert, AlertDelivery, AlertEvent, Closing, DeliveryEvent, DeliveryState
from runs.models.backfills import Backfill, BackfillKind, BackfillSlice, BackfillState, SliceStatus
from runs.models.checks import CheckResult
from runs.models.costs import CostApproval, Ledger
from runs.models.deliveries import Delivery
from runs.models.drift import SchemaChange
from runs.models.lanes import Lane
from runs.models.log import LogLine
from runs.models.looks import DatasetLook, SeenTable, TableEvent
from runs.models.marks import DoneMark
from runs.models.polls import Because, Poll, PollDay, PollShare
from runs.models.processes import Installation, Process
from runs.models.runs import (
    MOVE_NOTHING,
    NO_NEWS,
    OVER_BUDGET,
    READ_NOTHING,
    Decision,
    LastEnd,
    Run,
    RunAction,
    Trigger,
)
from runs.models.skips import Skip
from runs.models.steps import Attempt, PartLoad
from runs.models.upstreams import CHAIN, Prerequisite, UpstreamSuccess
from runs.models.watches import Watch, WatchedTable

__all__ = [
    "CHAIN",
    "MARKED_DONE",
    "MOVE_NOTHING",
    "NO_NEWS",
    "OVER_BUDGET",
    "READ_NOTHING",
    "Alert",
    "AlertDelivery",
    "AlertEvent",
    "Attempt",
    "Backfill",
    "BackfillKind",
    "BackfillSlice",
    "BackfillState",
    "Because",
    "CheckResult",
    "Closing",
    "CostApproval",
    "DatasetLook",
    "Decision",
    "Delivery",
    "DeliveryEvent",
    "DeliveryState",
    "DoneMark",
    "Installation",
    "Lane",
    "LastEnd",
    "Ledger",
    "LogLine",
    "PartLoad",
    "Poll",
    "PollDay",
    "PollShare",
    "Prerequisite",
    "Process",
    "Run",
    "RunAction",
    "SchemaChange",
    "SeenTable",
    "Skip",
    "SliceStatus",
    "TableEvent",
    "Trigger",
    "UpstreamSuccess",
    "Watch",
    "WatchedTable",
]
