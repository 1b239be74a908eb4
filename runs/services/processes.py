"""Worker and beat processes, as they say themselves that they live."""

from __future__ import annotations

from datetime import timedelta

from django.db import connection
from django.db.models import Value
from django.db.models.functions import Now

from runs.models import Process

FORGOTTEN_AFTER = timedelta(hours=1)


def seen(name: str, kind: str, *, slots: int = 0) -> None:
    """A worker or beat process says that it lives."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO runs_process (name, kind, slots, draining) VALUES (%s, %s, %s, false)
            ON CONFLICT (name) DO UPDATE SET seen_at = statement_timestamp(), slots = excluded.slots
            """,
            [name, kind, slots],
        )


def start_process(name: str, kind: str, *, slots: int = 0) -> None:
    """A process begins: whatever an earlier one of this name left behind does not count."""
    Process.objects.filter(pk=name).delete()
    seen(name, kind, slots=slots)


def drain_process(name: str) -> None:
    """Ask the children of a worker to claim nothing more and to hand back what they hold."""
    Process.objects.filter(pk=name).update(draining=True)


def end_process(name: str) -> None:
    Process.objects.filter(pk=name).delete()


def forget_processes() -> None:
    """Drop processes that have not been seen for an hour."""
    Process.objects.filter(seen_at__lt=Now() - Value(FORGOTTEN_AFTER)).delete()
