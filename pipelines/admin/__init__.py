"""The operator's desk: one module per subject, each registers its models."""

from pipelines.admin import beat, calendars, connections, people, pipelines

__all__ = ["beat", "calendars", "connections", "people", "pipelines"]
