"""The two ends of a look-up: opened for one answer, with a time limit, and closed with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from connectors import registry
from connectors.options import build

# Stays under what the page waits for, see lookups.WAIT_S.
CALL_LIMIT_S = 4.0

System = dict[str, Any]


@contextmanager
def source(system: System, *, limit_s: float = CALL_LIMIT_S) -> Iterator[Any]:
    with _opened(registry.source_type(system["kind"]), system, limit_s) as opened:
        yield opened


@contextmanager
def destination(system: System) -> Iterator[Any]:
    with _opened(registry.destination_type(system["kind"]), system, CALL_LIMIT_S) as opened:
        yield opened


@contextmanager
def _opened(kind: type, system: System, limit_s: float) -> Iterator[Any]:
    options = build(registry.options_type(system["kind"]), system["options"])
    with closing(kind(options, timeout_s=limit_s)) as opened:
        yield opened
