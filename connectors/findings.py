"""What a comparison means, in plain words: each finding follows from what the two sides said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from connectors.counts import counted
from connectors.keys import KeyDifferences
from connectors.modes import Deletes, WriteDisposition

if TYPE_CHECKING:
    from connectors.comparing import Comparison

NAMES_SAID = 8


@dataclass(frozen=True)
class Finding:
    """One thing that was found. `is_good`: True and False speak for and against, None only explains."""

    code: str
    is_good: bool | None
    text: str


def find(comparison: Comparison) -> list[Finding]:
    """The answer first, then what else is to be known."""
    return [*_answer(comparison), *_details(comparison), *_since(comparison), *_limits(comparison)]


def _answer(c: Comparison) -> Iterator[Finding]:
    when = _moment(c.published.snapshot_time if c.is_of_snapshot else c.read_at)
    held = f"what the source {'held' if c.is_of_snapshot else 'holds'} at {when}{_reach(c)}"
    if c.appends_all:
        yield _appended(c)
    elif c.agrees:
        code, at = ("equal", "at the snapshot") if c.is_of_snapshot else ("equal_now", "now")
        text = f"Equal {at}: the target has {held}: {counted(c.target.rows)}, {counted(len(c.compared), 'column')}."
        yield Finding(code, True, text)
    elif c.put_aside.rows and _is_equal_but_for_quarantine(c):
        aside = counted(c.put_aside.rows)
        text = f"Equal but for the quarantine: of {held}, {aside} {_are(c.put_aside.rows)} there, and all others here."
        yield Finding("equal_but_quarantined", True, text)
    elif c.put_aside.rows and c.keys is None and c.source.rows == c.target.rows + c.put_aside.rows:
        text = (
            f"The target lacks {counted(c.put_aside.rows)} of {held}, as many as are in quarantine. Without a key"
            " nobody can tell them from the others: whether those are the same is not known."
        )
        yield Finding("quarantined", None, text)
    elif _is_equal_by_key(c):
        yield Finding("equal_by_key", True, f"Equal by key: every row of {held} is in the target.")
    elif not c.is_of_snapshot:
        taken = _moment(c.published.snapshot_time)
        text = (
            f"The target is not {held}. Either the source changed since {taken}, when the last run read it, or"
            " something else changed the target."
        )
        yield Finding("differs_now", False, text)
    elif why := _why_it_may_differ(c):
        yield Finding("differs", False, f"The target is not {held}. {why}".strip())
    else:
        text = (
            f"The target is not {held}, and no run of this pipeline was published since: something else changed"
            " the target."
        )
        yield Finding("target_changed", False, text)


def _why_it_may_differ(c: Comparison) -> str:
    """What besides others' changes may make the target differ; empty if nothing can."""
    if c.request.has_former_rows:
        return "It may hold rows of a former definition, which a run kept."
    if c.is_incremental:
        return "Rows may have come late, or changed without a higher cursor, or something else changed the target."
    found = c.keys
    if _keeps_gone(c) and (found is None or not (found.only_source or found.differing)):
        return "Merge deletes no rows: key by key it can be told whether that is all."
    if _merges(c) and c.published.receipt.get("changes", {}).get("stale"):
        return "Some rows of the source were older than what the target had: merge left those as they were."
    return ""


def _appended(c: Comparison) -> Finding:
    said = (
        f"Append adds all rows of the source at every run, and {counted(c.published.appends, 'run')} did so since the"
        " table was made: it cannot be compared with one snapshot of the source."
    )
    known = c.published.rows
    if known is not None and known != c.target.rows:
        told = f"By the runs' own record it has {counted(known)}, and it has {counted(c.target.rows)}"
        return Finding("target_changed", False, f"{said} {told}: something else changed the target.")
    as_many = "" if known is None else f" It has the {counted(known)} that it should have by the runs' own record."
    return Finding("appends_all", None, f"{said}{as_many}")


def _is_equal_but_for_quarantine(c: Comparison) -> bool:
    """Whether every key that differs is in quarantine, but for those that merge does not delete."""
    found = c.keys
    if found is None or not found.is_complete or found.only_source or found.differing:
        return False
    return _keeps_gone(c) or not found.only_target


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _is_equal_by_key(c: Comparison) -> bool:
    """Whether merge did all it promises: it deletes nothing, so the target may have more keys."""
    found = c.keys
    return _keeps_gone(c) and found is not None and found.is_complete and not (found.only_source or found.differing)


def _details(c: Comparison) -> Iterator[Finding]:
    if c.appends_all:
        return
    if not c.agrees:
        if c.source.rows != c.target.rows:
            text = f"The source has {counted(c.source.rows)}, the target {counted(c.target.rows)}."
            yield Finding("rows_differ", None, text)
        elif c.differing:
            yield Finding("columns_differ", None, f"These columns differ: {_names(c.differing)}.")
    if c.keys is not None:
        yield from _keys(c, c.keys)
    elif c.is_incremental and c.latest.rows > c.target.rows:
        text = f"Late rows: {_reached(c)} the source has {counted(c.latest.rows - c.target.rows)} more than the target."
        yield Finding("late_rows", None, f"{text} {_again(c)}")


def _keys(c: Comparison, found: KeyDifferences) -> Iterator[Finding]:
    counts = (
        (found.differing, "key has other values in the target", "keys have other values in the target"),
        (found.only_source, "key is only in the source", "keys are only in the source"),
        (found.only_target, "key is only in the target", "keys are only in the target"),
    )
    said = [f"{count:,} {one if count == 1 else many}" for count, one, many in counts if count]
    least = "" if found.is_complete else "At least "
    if said:
        yield Finding("keys_differ", None, f"{least}{', '.join(said)}.")
    elif found.is_complete:
        text = "Looked at key by key, no row differs: one side may have changed between two looks."
        yield Finding("keys_agree", None, text)
    if c.is_incremental and found.only_source:
        text = (
            f"Late rows: {_reached(c)} the source has keys that the target lacks. They came after the run that read"
            f" their range, the watermark was set past them, or something else deleted them. {_again(c)}"
        )
        yield Finding("late_rows", None, text)
    if c.is_incremental and found.differing:
        text = f"Rows with other values changed without a higher {c.cursor}, or something else changed them."
        yield Finding("changed_below", None, text)
    if found.only_target and _keeps_gone(c):
        by = "Merge deletes no rows" if _is_merge(c) else "Runs that read only new rows see no deletions"
        text = f"{by}: what the target alone has was deleted in the source, or added by something else."
        yield Finding("only_in_target", None, text)
    if not found.is_complete:
        text = f"Not all rows that may differ were looked at one by one: {counted(found.rows_looked_at)} were."
        yield Finding("keys_incomplete", None, text)


def _since(c: Comparison) -> Iterator[Finding]:
    if c.then is None:
        return
    if c.now is None:
        yield Finding("source_unchanged", None, "The source has not changed since, by its own record.")
    elif not c.source_changed:
        yield Finding("source_unchanged", None, f"The source holds the same now{_reach(c)}.")
    else:
        rows = f"it had {counted(c.then.rows)} and has {counted(c.now.rows)} now"
        text = rows if c.then.rows != c.now.rows else _names(c.changed_since)
        yield Finding("source_changed", None, f"The source changed since{_reach(c)}: {text}. {_next(c)}".strip())


def _limits(c: Comparison) -> Iterator[Finding]:
    if c.survey.why_not and c.request.at_snapshot:
        why = c.survey.why_not
        if c.survey.unchanged:
            text = f"Read now: {why}. By their own record, none of the tables it reads changed since the snapshot."
            yield Finding("unchanged_since", None, text)
        else:
            yield Finding("not_pinned", None, f"Read now and not as it was: {why}.")
    if c.counted:
        text = f"Of {_names(c.counted)} only the NULLs were counted: both sides have no text in common for their types."
        yield Finding("counted_only", None, text)
    if c.missing:
        yield Finding("not_in_target", None, f"The target does not have {_names(c.missing)}.")


def _is_merge(c: Comparison) -> bool:
    return c.request.mode.disposition is WriteDisposition.MERGE


def _merges(c: Comparison) -> bool:
    """Whether rows that are older than what the target has are left out."""
    return _is_merge(c) or c.request.mode.disposition is WriteDisposition.HISTORY


def _keeps_gone(c: Comparison) -> bool:
    """Whether rows that the source has no longer may be there as if it had."""
    if c.request.mode.disposition is WriteDisposition.HISTORY:
        return c.is_incremental
    return _is_merge(c) and c.request.mode.deletes is Deletes.KEEP


def _reach(c: Comparison) -> str:
    """How far an incremental pipeline has read, as the end of a clause."""
    return f", {_reached(c)}" if c.is_incremental else ""


def _reached(c: Comparison) -> str:
    return f"with {c.cursor} up to {c.published.watermark or 'nothing yet'}"


def _again(c: Comparison) -> str:
    """What the next run does about rows below the watermark."""
    again = c.request.read.cursor is not None and c.request.read.cursor.lookback
    if again:
        return "The next run reads those within the lookback window again."
    return "The next run does not read them: a full refresh does, and a lookback window would."


def _next(c: Comparison) -> str:
    if c.is_incremental:
        return _again(c)
    match c.request.mode.disposition:
        case WriteDisposition.REPLACE:
            return "The next run will bring that."
        case WriteDisposition.MERGE if _keeps_gone(c):
            return "The next run will bring that, but for deletions."
        case WriteDisposition.MERGE | WriteDisposition.HISTORY:
            return "The next run will bring that."
        case _:
            return ""


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SAID
    return ", ".join(names[:NAMES_SAID]) + (f" and {more} more" if more > 0 else "")


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
