"""What a comparison will cost, before it starts, and what it found, as its page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import lookups
from pipelines.models import Pipeline
from runs.words import count, exact_text, size

SIDES = {"then": "Source, at the snapshot", "now": "Source, now", "target": "Target"}
WHERE = {"both": "differs", "source": "only in the source", "target": "only in the target"}


@dataclass(frozen=True)
class Cost:
    """What the page says before a comparison starts.

    `billed` is what BigQuery bills at most, None where nobody knows; `no_snapshot` says why the source cannot be
    read as it was, with `is_gone` if it could once; `problem` why the cost is not known, `impossible` why there is
    nothing to compare.
    """

    said: Sequence[str]
    billed: int | None = None
    no_snapshot: str = ""
    is_gone: bool = False
    problem: str = ""
    impossible: str = ""


@dataclass(frozen=True)
class Line:
    """A column: its NULLs and its checksum on each side, or a dash where it has none."""

    name: str
    type: str
    differs: bool
    counted_only: bool
    cells: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class KeyLine:
    """A key that differs, and for each value of it the column's name, the source's and the target's."""

    key: str
    where: str
    values: Sequence[tuple[str, str | None, str | None]]
    more: int


@dataclass(frozen=True)
class Shown:
    """What a comparison found. `keys` is None for those who may not see rows, and where no key was looked for."""

    agrees: bool | None
    findings: Sequence[Mapping[str, Any]]
    sides: Sequence[str]
    counts: Sequence[str]
    lines: Sequence[Line]
    keys: Sequence[KeyLine] | None
    key_side: str
    hidden_keys: int


def cost_of(pipeline: Pipeline) -> Cost:
    """Ask both systems what comparing now would read; the page waits for the answer."""
    try:
        found = lookups.comparison_cost(pipeline)
    except lookups.LookupFailed as failure:
        told = f"{failure.message} {failure.hint}".strip()
        return Cost([], impossible=told) if failure.code == "nothing_published" else Cost([], problem=told)
    source, target = found["source"], found["target"]
    name = pipeline.source_table or "The query"
    here = f"{pipeline.target_schema}.{pipeline.target_table}"
    said = []
    if source["bytes"] is None:
        said.append(f"{name} is read as a whole; how much that is, BigQuery does not say.")
    else:
        least, most = source["least_billed"], source["most_billed"]
        billed = f"{name}: BigQuery bills {size(least)} if both sides agree"
        if most > least:
            billed += f", at most {size(most)} if keys that differ have to be looked for"
        said.append(f"{billed}. One pass over all columns reads {size(source['bytes'])}; the run stops at that limit.")
    if target:
        # No rows may also mean that PostgreSQL has not looked at the table yet.
        rows = f"about {count(target['rows'])} rows, " if target["rows"] else ""
        known = f" ({rows}{size(target['bytes'])})"
        said.append(
            f"{here} is read as a whole{known}, up to four times, in one transaction that only reads: others read and"
            " write meanwhile, VACUUM waits."
        )
    said.append("Nothing is written at either side. Loads of this pipeline wait until it is done.")
    no_snapshot = source["no_snapshot"]
    if no_snapshot and not source["is_gone"]:
        since = "did not change since, by their own record" if source["is_unchanged"] else "may have changed since"
        said.insert(0, f"It is read as it is now: {no_snapshot}. What it reads {since}.")
    return Cost(said, billed=source["most_billed"], no_snapshot=no_snapshot, is_gone=source["is_gone"])


def snapshot_of(pipeline: Pipeline) -> str:
    """When the run that was published last read the source, as the control database knows it."""
    receipts = pipeline.runs.filter(status="succeeded", receipt__has_key="changes").order_by("-created_at")
    receipt = receipts.values_list("receipt", flat=True).first() or {}
    return exact_text(receipt["snapshot_time"]) if "snapshot_time" in receipt else ""


def show(receipt: Mapping[str, Any], *, with_rows: bool) -> Shown:
    sides = [side for side in SIDES if receipt["counts"].get(side) is not None]
    lines = [_line(column, sides) for column in receipt["columns"]]
    keys = receipt["keys"]
    found = keys["shown"] if keys else []
    return Shown(
        agrees=receipt["agrees"],
        findings=receipt["findings"],
        sides=[SIDES[side] for side in sides],
        counts=[count(receipt["counts"][side]) for side in sides],
        lines=sorted(lines, key=lambda line: not line.differs),
        keys=[_key_line(one) for one in found] if keys and with_rows else None,
        key_side=SIDES.get(receipt["keys_at"], ""),
        hidden_keys=0 if with_rows else len(found),
    )


def _line(column: Mapping[str, Any], sides: Sequence[str]) -> Line:
    cells = []
    for side in sides:
        told = column[side]
        cells.append((count(told["nulls"]), "–" if told["sum"] is None else f"{int(told['sum']):x}"))
    return Line(column["name"], column["type"], column["differs"], column["counted_only"], cells)


def _key_line(one: Mapping[str, Any]) -> KeyLine:
    key = ", ".join("NULL" if part is None else part for part in one["key"])
    values = [(name, there, here) for name, (there, here) in one["values"].items()]
    return KeyLine(key, WHERE[one["where"]], values, one["more"])
