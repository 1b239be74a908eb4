"""Django and Playwright in one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connections


@contextmanager
def own_connections() -> Iterator[None]:
    """While Playwright's loop is there, Django has other connections for this thread than without it.

    They are closed before and after: the next test with a browser may be one of another database.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        connections.close_all()
        try:
            yield
        finally:
            connections.close_all()
