"""What a run did: kept with the published rows, shown to people, said in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from connectors.counts import counted
from connectors.modes import TextPolicy, WriteDisposition
from connectors.writing import Changes, Target


@dataclass(frozen=True)
class Receipt:
    """What a run did, as the destination keeps it in `applied`.

    `method` is append, rename, create, in_place, merge or history; `changes` counts what became of the target's rows;
    `bytes` are those of the COPY; `seconds` has one entry per phase. `lock_wait_ms` and `lock_held_ms`
    are about the lock that others feel: readers at a rename, writers at a merge; in the kept receipt
    the latter ends just before the commit. `repaired` counts values that the text policy changed. `rows` are those
    staged; `quarantined` counts the others that were read, by column and code. `replayed` rows came from there.
    `source_rows` is what the source itself counted at the snapshot, None where it could not. `interval` says
    which values of the cursor were read (see cursor.Interval), with `late`, the net number of rows that came at
    or below the watermark since it was written; None for a run that reads all rows. `checks` are the results of
    checks, without rows. `drift` are the changes of the source's columns that the run took, and `columns` then what
    the head has of the target's columns since. `kept` says how many former states are kept, and their
    bytes; `undo` what an undo put back.
    """

    rows: int
    bytes: int
    method: str
    target: Target
    disposition: WriteDisposition
    token: int
    snapshot_time: datetime
    published_at: datetime
    changes: Changes
    lock_wait_ms: float = 0.0
    lock_held_ms: float = 0.0
    repaired: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    replayed: int = 0
    source: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    source_rows: int | None = None
    interval: Mapping[str, Any] | None = None
    watermark_before: str = ""
    watermark_after: str = ""
    checks: Sequence[Mapping[str, Any]] = ()
    drift: Sequence[Mapping[str, str]] = ()
    columns: Mapping[str, Any] | None = None
    kept: Mapping[str, Any] | None = None
    undo: Mapping[str, Any] | None = None
    sql: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(
                replace(
                    self,
                    repaired=dict(self.repaired),
                    quarantined=dict(self.quarantined),
                    source=dict(self.source),
                    seconds=dict(self.seconds),
                    interval=None if self.interval is None else dict(self.interval),
                    kept=None if self.kept is None else dict(self.kept),
                    undo=None if self.undo is None else dict(self.undo),
                )
            ),
            "snapshot_time": self.snapshot_time.isoformat(),
            "published_at": self.published_at.isoformat(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Receipt:
        """The receipt in `values`, whatever else a newer version wrote there."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(
            **{
                **known,
                "target": Target(**values["target"]),
                "changes": Changes(**values.get("changes", {"inserted": values["rows"]})),
                "disposition": WriteDisposition(values["disposition"]),
                "drift": tuple(values.get("drift", ())),
                "checks": tuple(values.get("checks", ())),
                "sql": tuple(values.get("sql", ())),
                "snapshot_time": datetime.fromisoformat(values["snapshot_time"]),
                "published_at": datetime.fromisoformat(values["published_at"]),
            }
        )


def opening(method: str, target: Target) -> str:
    if method == "append":
        return f"Appending to {target}."
    if method == "in_place":
        return "Loading into a staging table."
    if method == "merge":
        return f"Loading into a staging table, which is merged into {target}."
    if method == "history":
        return f"Loading into a staging table, whose versions are added to {target}."
    if method == "create":
        return f"Loading into a new table, which becomes {target}."
    return f"Loading into a new table, which takes the place of {target}: nothing else depends on it."


def repaired(column: str, count: int, policy: TextPolicy) -> str:
    done = "stripped" if policy is TextPolicy.STRIP else "replaced by U+FFFD"
    values = counted(count, "value")
    return f"Column {column}: characters that PostgreSQL cannot store were {done} in {values}."


_WAITED = {
    "rename": "Readers and writers waited",
    "in_place": "Writers waited, readers did not,",
    "merge": "Writers waited, readers did not,",
    "history": "Writers waited, readers did not,",
}


def lock_line(receipt: Receipt) -> str:
    """Who waited for the publish, and for how long; empty where nobody did."""
    who = _WAITED.get(receipt.method)
    if who is None or not receipt.lock_held_ms:
        return ""
    asked = f"; the run itself had to wait {receipt.lock_wait_ms:,.1f} ms for the lock"
    return f"{who} for at most {receipt.lock_held_ms:,.1f} ms{asked if receipt.lock_wait_ms >= 1 else ''}."


def summary(receipt: Receipt) -> str:
    if receipt.method == "append" and receipt.changes.deleted:
        gone = receipt.changes.deleted
        return f"Published {counted(receipt.rows)} to {receipt.target}, in the place of {gone:,} of the range."
    if receipt.method == "history":
        return _of_a_history(receipt)
    if receipt.method not in ("merge", "in_place"):
        return f"Published {counted(receipt.rows)} to {receipt.target}."
    done = receipt.changes
    deleted = done.deleted - done.marked
    left = [f"{deleted:,} deleted"] if receipt.method == "in_place" or deleted else []
    left += [f"{done.marked:,} marked as deleted"] if done.marked else []
    left += [f"{done.revived:,} came back"] if done.revived else []
    left += [f"{done.unchanged:,} {_was(done.unchanged)} the same already"]
    left += [f"{done.stale:,} {_was(done.stale)} older than what is there"] if done.stale else []
    left += [f"{done.duplicates:,} came more than once"] if done.duplicates else []
    made = f"{counted(done.inserted)} added, {done.updated:,} updated"
    verb = "Merged" if receipt.method == "merge" else "Brought"
    return f"{verb} {counted(receipt.rows)} into {receipt.target}: {made}; {', '.join(left)}."


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _of_a_history(receipt: Receipt) -> str:
    done = receipt.changes
    told = [f"{done.versions:,} of keys it had"]
    told += [f"{counted(done.revived, 'key')} came back"] if done.revived else []
    told += [f"{counted(done.updated, 'version')} mended"] if done.updated else []
    told += [f"{done.deleted:,} ended or removed"] if done.deleted else []
    told += [f"{done.unchanged:,} {_was(done.unchanged)} known"]
    told += [f"{done.duplicates:,} came more than once"] if done.duplicates else []
    added = counted(done.inserted, "version")
    return f"Added {added} to {receipt.target} from {counted(receipt.rows)}: {', '.join(told)}."


def interval_lines(interval: Mapping[str, Any], *, reads_again: bool) -> list[tuple[str, str]]:
    """What an incremental read takes and leaves, as log lines with their levels."""
    column, low, high = interval["column"], interval["low"], interval["high"]
    if not interval["rows"]:
        lines = [("info", f"No row of {column} is new{f' above {low}' if low else ''}.")]
    elif low:
        lines = [("info", f"Reading {counted(interval['rows'])}: {column} above {low} up to {high}.")]
    else:
        lines = [("info", f"Reading all rows, {column} up to {high or 'nothing'}.")]
    if interval["left"]:
        newer = counted(interval["left"], "newer row")
        lines.append(("info", f"{newer} may still get company: left for the next run."))
    if interval["nulls"] and low:
        nulls = interval["nulls"]
        lines.append(("warning", f"{counted(nulls)} {'has' if nulls == 1 else 'have'} no {column}: not read."))
    late = interval["late"] or 0
    if late > 0:
        where = "; those within the lookback are read again" if reads_again else " and are not read"
        lines.append(
            ("warning", f"Late rows: at or below the watermark the source has {late:,} more than it had{where}.")
        )
    elif late < 0:
        lines.append(("info", f"At or below the watermark the source has {counted(-late)} fewer than it had."))
    return lines
