"""Results of checks in sentences."""

from __future__ import annotations

from dataclasses import replace

from connectors.checks import BadRows, Check, CheckKind, CheckResult, Status
from connectors.checksums import SourceSums
from connectors.comparing import differing
from connectors.counts import counted
from connectors.sides import TableDigest


def result(check: Check, status: Status, message: str, value: float | None = None) -> CheckResult:
    return CheckResult(check.name, check.kind, check.severity, status, message, value)


def timed(found: CheckResult, seconds: float) -> CheckResult:
    return replace(found, seconds=seconds)


def passed(check: Check, rows: int) -> CheckResult:
    if check.kind is CheckKind.SQL:
        return result(check, Status.PASSED, "The query gives no rows.", 0)
    return result(check, Status.PASSED, f"{counted(rows)}, none of them bad.", 0)


def bad_rows(check: Check, count: int, rows: int, shown: BadRows) -> CheckResult:
    said = f"{counted(count)} of {rows:,} {_what(check, count)}."
    if check.kind is CheckKind.SQL:
        said = f"The query gives {counted(count)}."
    return replace(result(check, Status.FAILED, said, count), sample=shown)


def _what(check: Check, count: int) -> str:
    about, is_one = ", ".join(check.columns), count == 1
    match check.kind:
        case CheckKind.NOT_NULL:
            return f"{'has' if is_one else 'have'} no {about}"
        case CheckKind.UNIQUE:
            return f"{'shares' if is_one else 'share'} {'its' if is_one else 'their'} {about} with another row"
        case CheckKind.ACCEPTED:
            return f"{'has' if is_one else 'have'} another {about} than is accepted"
        case CheckKind.RANGE:
            bounds = [f"below {check.minimum}"] if check.minimum else []
            bounds += [f"above {check.maximum}"] if check.maximum else []
            return f"{'has' if is_one else 'have'} a value of {about} {' or '.join(bounds)}"
        case CheckKind.REGEX:
            return f"{'has' if is_one else 'have'} a value of {about} that does not match {check.pattern}"
        case CheckKind.RELATION:
            return f"{'refers' if is_one else 'refer'} to nothing in {check.table}: {about}"
    return "are bad"


def freshness(check: Check, age_s: float | None) -> CheckResult:
    about, limit = ", ".join(check.columns), check.max_age_s or 0
    if age_s is None:
        return result(check, Status.FAILED, f"No row has a value of {about}: nothing says how new the rows are.")
    status = Status.FAILED if age_s > limit else Status.PASSED
    said = f"The newest {about} is {_span(age_s)} old" if age_s >= 0 else f"The newest {about} is yet to come"
    return result(check, status, f"{said}; {_span(limit)} are allowed.", round(age_s, 1))


def checksum(check: Check, told: SourceSums, here: TableDigest) -> CheckResult:
    """Columns that differ from the source's own sums, and what asking it for them cost."""
    there = told.digest or here
    names = differing(there, here)
    uncompared = sum(None in (a.checksum, b.checksum) for a, b in zip(there.columns, here.columns, strict=True))
    billed = f" Asking the source for them was billed as {told.bytes_billed / 1e6:,.1f} MB."
    if there.rows != here.rows:
        said = f"The source has {counted(there.rows)}, {here.rows:,} are staged."
    elif names:
        said = f"{', '.join(names)}: not as in the source."
    else:
        only = f", {uncompared} of them counted only" if uncompared else ""
        said = f"As in the source: {counted(len(here.columns), 'column')}{only}."
    status = Status.PASSED if there.rows == here.rows and not names else Status.FAILED
    return result(check, status, said + billed, len(names))


def row_count(
    check: Check, rows: int, usual: float | None = None, *, is_bad: bool = False, runs: int = 0
) -> CheckResult:
    said = f"{counted(rows)}."
    if usual is not None:
        said = (
            f"{counted(rows)}; the median of the last {runs} runs is {usual:,.0f}, {check.percent} % off are allowed."
        )
    elif check.minimum or check.maximum:
        bounds = [f"at least {int(check.minimum):,}"] if check.minimum else []
        bounds += [f"at most {int(check.maximum):,}"] if check.maximum else []
        said = f"{counted(rows)}; {' and '.join(bounds)} are to come."
    return result(check, Status.FAILED if is_bad else Status.PASSED, said, rows)


def _span(seconds: float) -> str:
    """Two units at most, as in 3 h 20 min."""
    left, parts = max(0, round(seconds)), list[str]()
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= length and len(parts) < 2:
            parts.append(f"{left // length:,} {unit}")
            left %= length
    return " ".join(parts) or "0 s"
