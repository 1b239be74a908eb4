"""Rows that vanish from a source: which pipelines can tell, and what they do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectors.errors import ConnectorError
from connectors.modes import Deletes, WriteDisposition
from connectors.parameters import INTERVAL, declared, names_it
from pipelines.models import Pipeline

# A query that names one of these gives other rows at every run.
_TIMES = (*INTERVAL, "scheduled_for")


def said(pipeline: Pipeline) -> dict[str, Any]:
    """What a definition says of it: nothing where rows are kept, as definitions from before it could be chosen."""
    return {} if pipeline.deletes == Deletes.KEEP else {"deletes": str(pipeline.deletes)}


def are_made(pipeline: Pipeline) -> bool:
    """Whether runs of this pipeline take what they do not read for gone."""
    does = pipeline.deletes != Deletes.KEEP or pipeline.write_disposition == WriteDisposition.HISTORY
    return does and not pipeline.incremental and not is_of_times(pipeline.source_query)


_GOES = {
    "hard": "those rows are deleted",
    "soft": "those rows are marked as deleted",
    "history": "their current versions end",
}


def what_goes(pipeline: Pipeline) -> str:
    """What becomes of rows that vanish, in words."""
    is_history = pipeline.write_disposition == WriteDisposition.HISTORY
    return _GOES["history" if is_history else str(pipeline.deletes)]


def sees_all(definition: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether a run of this definition, with what it was given, reads every row that the target should have."""
    return not definition["incremental"] and reads_every_row(definition, options)


def reads_every_row(definition: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """The same of a run that goes by no watermark."""
    query = definition["source"]["query"]
    if is_of_times(query):
        return False
    declares = declared(definition.get("parameters") or {})[0]
    given: Mapping[str, Any] = options.get("parameters") or {}
    return not any(
        name in declares and value != declares[name].default and names_it(query, name) for name, value in given.items()
    )


def objections(pipeline: Pipeline) -> Iterator[ConnectorError]:
    """What stands against deletions, or a history, by the definition itself."""
    if pipeline.write_disposition == WriteDisposition.HISTORY:
        yield from _of_a_history(pipeline)
    if pipeline.deletes == Deletes.KEEP:
        return
    if pipeline.write_disposition != WriteDisposition.MERGE:
        yield ConnectorError(
            f"{pipeline.get_write_disposition_display()} has no use for it.",
            hint="Choose merge, or keep rows that vanish.",
            code="only_for_merge",
            field="deletes",
        )
    elif pipeline.incremental:
        yield ConnectorError(
            "A run that reads only new rows cannot tell which rows are gone.",
            hint="Read all rows, or keep rows that vanish.",
            code="deletes_unseen",
            field="deletes",
        )
    elif is_of_times(pipeline.source_query):
        yield ConnectorError(
            "The query gives other rows at every run: those that a run does not read are not gone.",
            hint="Let the query give all rows, or keep rows that vanish.",
            code="deletes_unseen",
            field="deletes",
        )


def _of_a_history(pipeline: Pipeline) -> Iterator[ConnectorError]:
    """A row that comes back has a second version with the same values: no index of the source's columns is unique."""
    hint = "Leave it out; the key has an index that allows one current version."
    unique = any(index.get("unique") for index in pipeline.indexes)
    for field, is_asked in (("primary_key", bool(pipeline.primary_key)), ("indexes", unique)):
        if is_asked:
            message = "A history has several rows with one key: nothing of the source is unique in it."
            yield ConnectorError(message, hint=hint, code="history_unique", field=field)


def is_of_times(query: str) -> bool:
    """Whether a query names an interval or a time, so that it gives other rows at every run."""
    return any(names_it(query, name) for name in _TIMES)
