"""A run's receipt in the words of people: grouped, with units; and as a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.counts import counted
from connectors.drift import Change, in_words
from runs import costs
from runs.models import Run, RunAction
from runs.words import count, exact_text, rows, size, span, words

METHODS = {
    "append": "Rows were added",
    "create": "A new table was made",
    "rename": "A new table took the old one's place",
    "in_place": "Rows were changed in place",
    "merge": "Rows were merged by key",
    "history": "Versions were added to a history",
    "set_watermark": "The watermark was set; no row moved",
    "undo": "A former state of the table was put back",
}
# Only these touch rows one by one: what they left alone is worth a 0.
_BY_ROW = ("in_place", "merge", "history")


@dataclass(frozen=True)
class Fact:
    name: str
    text: str


@dataclass(frozen=True)
class Group:
    """Facts under a title; `is_technical` for what only a search in other systems needs."""

    title: str
    facts: tuple[Fact, ...]
    is_technical: bool = False


Say = Callable[[Any], str]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _moment(text: Any) -> str:
    try:
        return exact_text(text)
    except (TypeError, ValueError):
        return _said(text)


def _milliseconds(value: Any) -> str:
    return f"{value:,.1f} ms"


def _table(value: Any) -> str:
    return f"{value['schema']}.{value['table']}"


def _drift(value: Any) -> str:
    return in_words(map(Change.from_json, value))


def _method(value: Any) -> str:
    return METHODS.get(value, str(value))


def _same(is_other: bool) -> str:
    return "no" if is_other else "yes"


def _run(value: Any) -> str:
    return f"run {value}"


def _way(value: Any) -> str:
    return {"rename": "the former table took its name back", "in_place": "rows were changed in place"}.get(value, value)


# Where a fact is in the receipt, what it is called, how it is said. What is not named here comes last, as it is.
_GROUPS: tuple[tuple[str, tuple[tuple[str, str, Say], ...]], ...] = (
    (
        "Rows",
        (
            ("source_rows", "In the source, at the snapshot", count),
            ("rows", "Read and staged", count),
            ("replayed", "From the quarantine", count),
            ("changes.inserted", "Inserted", count),
            ("changes.updated", "Updated", count),
            ("changes.unchanged", "The same already", count),
            ("changes.deleted", "Deleted", count),
            ("changes.marked", "Marked as deleted", count),
            ("changes.ended", "Ended or removed", count),
            ("changes.revived", "Back again", count),
            ("changes.versions", "Versions of known keys", count),
            ("changes.duplicates", "More than one for a key", count),
            ("changes.stale", "Older than what was there", count),
        ),
    ),
    (
        "Source",
        (
            ("snapshot_time", "As it was at", _moment),
            ("read_at", "As it is at", _moment),
            ("source.table", "Table", str),
            ("source.bytes_processed", "Read by the query", size),
            ("source.bytes_billed", "Billed", size),
            ("source.estimated_query_bytes", "A dry run said", size),
            ("source.estimated_storage_bytes", "Scanned, as the read session said", size),
            ("source.cursor_bytes_billed", "Billed for the cursor", size),
            ("source.partitions_bytes_billed", "Billed for the list of partitions", size),
            ("source.parts_by", "Read in ranges of", str),
            ("source.parts", "Loaded in parts", count),
            ("source.cache_hit", "From BigQuery's cache", _said),
            ("drift", "Its columns changed", _drift),
        ),
    ),
    (
        "Cursor",
        (
            ("interval.column", "Column", str),
            ("interval.low", "Read above", _said),
            ("interval.high", "Read up to", _said),
            ("interval.late", "Late rows, net", count),
            ("interval.left", "Left to settle", count),
            ("interval.nulls", "Without a value", count),
            ("watermark_before", "Watermark before", _said),
            ("watermark_after", "Watermark after", _said),
        ),
    ),
    (
        "Target",
        (
            ("target", "Table", _table),
            ("method", "Method", _method),
            ("disposition", "Mode", words),
            ("bytes", "Written", size),
            ("published_at", "Published at", _moment),
            ("lock_wait_ms", "Waited for the lock", _milliseconds),
            ("lock_held_ms", "Held the lock", _milliseconds),
        ),
    ),
    (
        "Undo",
        (
            ("undo.way", "Put back", _way),
            ("undo.rows", "Rows that are back", count),
            ("undo.rows_before", "Rows as its run left it", count),
            ("undo.written_since", "Of them written by someone else since", count),
            ("undo.as_left_by", "As it was left by", _run),
            ("undo.put_aside_by", "Put aside by", _run),
            ("undo.put_aside_at", "Put aside at", _moment),
            ("undo.in_place_of", "In the place of what is by", _run),
            ("undo.redefined", "Of the same definition", _same),
            ("kept.tables", "Former states kept", count),
            ("kept.bytes", "They take", size),
            ("kept.copied_rows", "Rows copied before they were changed", count),
            ("kept.copy_seconds", "Copying took", span),
        ),
    ),
)
_TECHNICAL = (
    ("source.job", "Query job", str),
    ("source.jobs", "Query jobs", _said),
    ("run", "Compared with what is by", _run),
    ("source.cursor_jobs", "Jobs for the cursor", _said),
    ("source.partitions_job", "Job for the list of partitions", str),
    ("source.location", "Location", str),
    ("source.session", "Read session", str),
    ("source.session_expires", "Session ends", _moment),
    ("interval.type", "Type of the cursor", str),
    ("interval.rows", "Rows in what was read of the cursor", count),
    ("interval.through", "Rows up to its end", count),
    ("interval.below", "Rows up to the watermark before", count),
    ("interval.includes_low", "Its lower end was read too", _said),
    ("source.generation", "Attempt that made the plan", count),
    ("token", "Token", _said),
)
_PHASES = ("plan", "load", "publish", "source", "target", "keys")
# What an undo has in common with a load it did to no source's rows.
_OF_AN_UNDO = ("target", "method", "published_at", "lock_wait_ms", "lock_held_ms", "undo", "kept", "token")
_OF_A_COMPARISON = ("run", "snapshot_time", "read_at", "watermark", "target", "source", "seconds")
_BY_ROW_ONLY = frozenset({"changes.updated", "changes.unchanged", "changes.deleted"})
_ZERO_SAYS_NOTHING = frozenset(
    {
        "changes.marked",
        "replayed",
        "changes.duplicates",
        "changes.stale",
        "changes.revived",
        "changes.versions",
        "interval.left",
        "interval.nulls",
    }
)


def visible(run: Run, user: Any) -> dict[str, Any] | None:
    """The receipt as `user` may see it: rows that differ are data, for those who may run the pipeline."""
    return run.receipt if user.has_perm("pipelines.run_pipeline") else public(run)


def public(run: Run) -> dict[str, Any] | None:
    """The receipt without rows."""
    if run.action != RunAction.COMPARE or not run.receipt or not run.receipt.get("keys"):
        return run.receipt
    return {**run.receipt, "keys": {**run.receipt["keys"], "shown": []}}


def document(run: Run, user: Any) -> dict[str, Any]:
    """A receipt with the names of what it is of; readable after the run itself is forgotten."""
    return {
        "run": str(run.pk),
        "pipeline": str(run.pipeline_id),
        "pipeline_name": run.pipeline.name,
        "action": run.action,
        "status": run.status,
        "started_at": run.started_at and run.started_at.isoformat(),
        "finished_at": run.finished_at and run.finished_at.isoformat(),
        "receipt": visible(run, user),
        "cost": costs.of_run(run).to_json(),
    }


def groups(receipt: Mapping[str, Any]) -> list[Group]:
    """What a run did, for its page; what a comparison found stands elsewhere."""
    if receipt.get("method") == "compare":
        receipt = {name: receipt[name] for name in _OF_A_COMPARISON if name in receipt}
    if receipt.get("method") == "undo":
        names = (*_OF_AN_UNDO, *(("changes",) if receipt["undo"]["way"] == "in_place" else ()))
        names = (*names, *(("watermark_before", "watermark_after") if receipt.get("watermark_before") else ()))
        receipt = {name: receipt[name] for name in names if name in receipt}
    apart = ("columns", "sql")
    left = dict(_flat({name: value for name, value in receipt.items() if name not in apart}))
    by_row = receipt.get("method") in _BY_ROW or bool(receipt.get("undo"))
    _name_what_went(left, receipt.get("method"))
    found = []
    for title, lines in _GROUPS:
        facts = list(_facts(left, lines, by_row=by_row))
        if title == "Rows":
            facts += [Fact(f"In quarantine: {why}", count(n)) for why, n in _under(left, "quarantined")]
            facts += [Fact(f"Mended in {name}", counted(n, "value")) for name, n in _under(left, "repaired")]
        found.append(Group(title, tuple(facts)))
    found.append(Group("SQL around the load", tuple(map(_statement, receipt.get("sql") or ()))))
    found.append(Group("Time", tuple(Fact(words(phase), span(s)) for phase, s in _in_order(left))))
    technical = list(_facts(left, _TECHNICAL, by_row=True))
    technical += [Fact(words(name.split(".")[-1]), _said(value)) for name, value in left.items() if name != "revision"]
    found.append(Group("For a search in other systems", tuple(technical), is_technical=True))
    return [group for group in found if group.facts]


def _name_what_went(left: dict[str, Any], method: Any) -> None:
    """Rows that were only marked, and versions that ended, are there all the same: they were not deleted."""
    deleted, marked = left.get("changes.deleted"), left.get("changes.marked")
    if deleted and method == "history":
        left["changes.ended"] = left.pop("changes.deleted")
    elif deleted and marked:
        left["changes.deleted"] = deleted - marked or None


def _in_order(left: dict[str, Any]) -> list[tuple[str, Any]]:
    """How long the phases took, as they followed one another: JSON keeps no order."""
    took = list(_under(left, "seconds"))
    return sorted(took, key=lambda each: _PHASES.index(each[0]) if each[0] in _PHASES else len(_PHASES))


def _statement(done: Mapping[str, Any]) -> Fact:
    return Fact(f"Statement {done['statement']} {done['when']}", f"{rows(done['rows'])}, {span(done['seconds'])}")


def _facts(left: dict[str, Any], lines: tuple[tuple[str, str, Say], ...], *, by_row: bool) -> Iterator[Fact]:
    for place, name, say in lines:
        value = left.pop(place, None)
        if value in (None, ""):
            continue
        if value == 0 and (place in _ZERO_SAYS_NOTHING or (place in _BY_ROW_ONLY and not by_row)):
            continue
        yield Fact(name, say(value))


def _under(left: dict[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for name in [name for name in left if name.startswith(f"{place}.")]:
        yield name.removeprefix(f"{place}."), left.pop(name)


def _flat(receipt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values by their path, one level deep; the target stays one value."""
    for name, value in receipt.items():
        if isinstance(value, Mapping) and name != "target":
            yield from ((f"{name}.{inner}", said) for inner, said in value.items() if said not in (None, ""))
        elif value not in (None, "", []):
            yield name, value
