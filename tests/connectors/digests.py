"""Counts and checksums of either side by itself."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.base import Destination, NeverStop, Source
from connectors.column import Column
from connectors.reading import ReadRequest
from connectors.sides import Cost, Scope, TableDigest
from connectors.writing import Target


def of_source(source: Source, request: ReadRequest, columns: Sequence[Column]) -> TableDigest:
    return source.comparing(request, Scope(), tuple(columns), Cost(), stop=NeverStop()).digest(columns)


def of_target(destination: Destination, target: Target, columns: Sequence[Column]) -> TableDigest:
    with destination.comparing(target, stop=NeverStop()) as side:
        return side.digest(columns)
