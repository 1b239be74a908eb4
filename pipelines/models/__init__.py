"""What people configure: connections, pipelines, their revisions and schedules."""

from pipelines.models.alerts import AlertChannel, AlertKind, AlertRule, Quiet
from pipelines.models.calendars import Calendar
from pipelines.models.checks import Check
from pipelines.models.connections import Connection, Pool
from pipelines.models.dataset_rules import DatasetRule
from pipelines.models.dependencies import Dependency, DependencyRule, GiveUp
from pipelines.models.pipelines import Pipeline, PipelineState, Revision
from pipelines.models.running import LoadMethod, Missed, Mode, Overlap, Priority
from pipelines.models.schedules import Schedule
from pipelines.models.tokens import ApiToken
from pipelines.models.webhooks import Webhook

__all__ = [
    "AlertChannel",
    "AlertKind",
    "AlertRule",
    "ApiToken",
    "Calendar",
    "Check",
    "Connection",
    "DatasetRule",
    "Dependency",
    "DependencyRule",
    "GiveUp",
    "LoadMethod",
    "Missed",
    "Mode",
    "Overlap",
    "Pipeline",
    "PipelineState",
    "Pool",
    "Priority",
    "Quiet",
    "Revision",
    "Schedule",
    "Webhook",
]
