"""Django and Playwright in one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connections


def one_connection_a_thread() -> None:
    """While Playwright's loop runs, let this thread keep the database connections that it has.

    Django would give it others, which then belong to no test: what they have open, and what was read of a database
    that is another one by now, would meet the next test with a browser.
    """
    connections._connections = threading.local()  # type: ignore[attr-defined]


@contextmanager
def in_a_loop() -> Iterator[None]:
    """Let Django be used while a loop runs in this thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield
