"""What a message broker that is away raises: each kind of broker has errors of its own."""

from __future__ import annotations

from celery import current_app
from kombu.exceptions import KombuError

# How long a broker may take to say that it has a message; one that says nothing is away.
CONFIRM_S = 5


def failures() -> tuple[type[BaseException], ...]:
    """For an except clause around sending."""
    link = current_app.connection_for_write()
    return (KombuError, OSError, *link.connection_errors, *link.channel_errors)
