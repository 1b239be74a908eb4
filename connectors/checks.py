"""What a pipeline asks of rows before they are published, and what became of it.

Nothing heavy is imported: web and beat read this module. How checks are made in SQL is in `postgres.auditing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

LONGEST_NAME = 100
MAX_CHECKS = 50
SHOWN_ROWS = 100
LONGEST_TEXT = 200  # of a value that is shown
USUAL_RUNS = 10
# With fewer runs before it nobody can say what is usual.
LEAST_RUNS = 3
TIME_LIMIT_S = 300


class CheckKind(StrEnum):
    NOT_NULL = "not_null"
    UNIQUE = "unique"
    ACCEPTED = "accepted_values"
    RANGE = "range"
    REGEX = "regex"
    RELATION = "relation"
    SQL = "sql"
    ROW_COUNT = "row_count"
    FRESHNESS = "freshness"
    CHECKSUM = "checksum"


class Severity(StrEnum):
    """What becomes of a run that fails a check."""

    HOLD = "hold"
    WARN = "warn"
    QUARANTINE = "quarantine"


class Status(StrEnum):
    """How a check ended; `unknown` where nobody can say, as of a query that PostgreSQL refuses."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


# Kinds that say of a single row whether it is bad.
ROW_LEVEL = frozenset(
    {CheckKind.NOT_NULL, CheckKind.ACCEPTED, CheckKind.RANGE, CheckKind.REGEX, CheckKind.RELATION, CheckKind.SQL}
)


@dataclass(frozen=True)
class Check:
    """One check; `columns` by the source's names, in any case, `table_columns` by those of the other table.

    `name` tells it from the pipeline's other checks: its results are a history under that name. `values`, `minimum`
    and `maximum` are texts that the column's type in PostgreSQL reads; of a row count, the latter two are numbers
    of rows, and `percent` is how far from the median of the last `runs` it may be. `query` gives the bad rows; it
    names the staged ones as {staged}.
    """

    kind: CheckKind
    name: str = ""
    columns: tuple[str, ...] = ()
    severity: Severity = Severity.HOLD
    values: tuple[str, ...] = ()
    minimum: str = ""
    maximum: str = ""
    pattern: str = ""
    table: str = ""
    table_columns: tuple[str, ...] = ()
    query: str = ""
    percent: int | None = None
    runs: int = USUAL_RUNS
    max_age_s: int | None = None
    time_limit_s: int = TIME_LIMIT_S

    @property
    def is_row_level(self) -> bool:
        return self.kind in ROW_LEVEL

    @property
    def what(self) -> str:
        """What is checked, for the log and for pages: id: unique."""
        about = ", ".join(self.columns)
        label = LABELS[self.kind].lower()
        return f"{about}: {label}" if about else label

    def to_json(self) -> dict[str, Any]:
        """What is not as usual, so that older definitions say the same."""
        told: dict[str, Any] = {"kind": str(self.kind)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in told and value != field.default:
                told[field.name] = list(value) if isinstance(value, tuple) else value
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in told.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Check:
        """The check in `values`, whatever else a newer version wrote there."""
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        kinds = {"kind": CheckKind(values["kind"]), "severity": Severity(values.get("severity", Severity.HOLD))}
        return cls(**{**known, **lists, **kinds})


LABELS = {
    CheckKind.NOT_NULL: "Not null",
    CheckKind.UNIQUE: "Unique",
    CheckKind.ACCEPTED: "Accepted values",
    CheckKind.RANGE: "Range",
    CheckKind.REGEX: "Regular expression",
    CheckKind.RELATION: "Relation to another table",
    CheckKind.SQL: "SQL that gives bad rows",
    CheckKind.ROW_COUNT: "Row count",
    CheckKind.FRESHNESS: "Freshness of the newest row",
    CheckKind.CHECKSUM: "Checksum of each column",
}


def checks_from_json(stored: Iterable[Mapping[str, Any]]) -> tuple[Check, ...]:
    return tuple(map(Check.from_json, stored))


@dataclass(frozen=True)
class BadRows:
    """The first bad rows as text, for people; None is NULL."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True)
class CheckResult:
    """How one check ended: in a sentence, and as a number that can be drawn over time.

    `value` is the number of bad rows, of a row count the rows, of freshness the seconds; None where there is none.
    """

    name: str
    kind: CheckKind
    severity: Severity
    status: Status
    message: str
    value: float | None = None
    seconds: float = 0.0
    sample: BadRows | None = None

    @property
    def holds(self) -> bool:
        """Whether a person has to decide: it failed, or nobody can say that it did not.

        Bad rows that went into quarantine hold nothing.
        """
        if self.severity is Severity.QUARANTINE:
            return self.status is Status.UNKNOWN
        return self.severity is Severity.HOLD and self.status in (Status.FAILED, Status.UNKNOWN)

    @property
    def is_bad(self) -> bool:
        return self.status in (Status.FAILED, Status.UNKNOWN)

    def to_json(self) -> dict[str, Any]:
        """Without the bad rows: whoever may see a receipt need not be allowed to see rows."""
        return {
            "name": self.name,
            "kind": str(self.kind),
            "severity": str(self.severity),
            "status": str(self.status),
            "message": self.message,
            "value": self.value,
            "seconds": round(self.seconds, 4),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CheckResult:
        return cls(
            values["name"],
            CheckKind(values["kind"]),
            Severity(values["severity"]),
            Status(values["status"]),
            values["message"],
            values["value"],
            values["seconds"],
        )
