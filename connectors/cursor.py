"""Values of a cursor column: what orders new rows, as whole numbers that can be compared and written down.

A date counts days since 1970-01-01, a DATETIME or TIMESTAMP microseconds, an INT64 is itself. A
watermark is kept as text in one form for each type, so that people can read it in the destination.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from connectors.errors import ConnectorError

if TYPE_CHECKING:
    from connectors.column import Column

CURSOR_TYPES = ("DATE", "DATETIME", "INT64", "TIMESTAMP")
FIELD = "cursor_column"

_EPOCH = datetime(1970, 1, 1)  # a DATETIME has no zone
_EPOCH_DAY = date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_DAY_S = 86_400
_EXAMPLES = {
    "DATE": "2026-01-31",
    "DATETIME": "2026-01-31 06:00:00",
    "INT64": "1000",
    "TIMESTAMP": "2026-01-31 06:00:00+00:00",
}
# What GoogleSQL makes of a value, so that both sides mean the same number.
_NUMBERS = {
    "DATE": "UNIX_DATE({})",
    "DATETIME": "DATETIME_DIFF({}, DATETIME '1970-01-01 00:00:00', MICROSECOND)",
    "INT64": "{}",
    "TIMESTAMP": "UNIX_MICROS({})",
}
SETTLE_S = 60


@dataclass(frozen=True)
class Span:
    """A past range of a cursor: from `low` on, below `high`, texts as `text_of` writes them."""

    column: str
    low: str
    high: str


@dataclass(frozen=True)
class CursorRead:
    """Read only what is new by `column`.

    `watermark` is what the destination has, `initial` where to begin when it has nothing; both are
    texts as `text_of` writes them or a person would. Rows up to `lookback` below the watermark are read again.
    With `settles`, rows that may still get company stay for the next run: the newest `settle` (None: 60
    seconds, no whole number), or of dates, today. Lookback and settle are seconds, or units of an INT64. With a `span`
    only its rows are read, and the watermark is what it must not reach beyond.
    """

    column: str
    watermark: str = ""
    initial: str = ""
    lookback: int = 0
    settles: bool = False
    settle: int | None = None
    span: Span | None = None


@dataclass(frozen=True)
class Interval:
    """What was read of a cursor column, at the plan's snapshot: values above `low` up to `high`, as texts.

    An empty bound is none: `low` when all rows are read, those without a cursor among them, and `high` when
    there is nothing to read. `through` counts the rows up to `high`, `late` the net number of rows that came
    below the watermark since it was written (None where nobody knows), `nulls` those without a cursor, and
    `left` those that have yet to settle.
    """

    column: str
    type: str
    low: str = ""
    high: str = ""
    includes_low: bool = False
    rows: int | None = None
    through: int = 0
    below: int = 0
    nulls: int = 0
    left: int = 0


def find_column(columns: tuple[Column, ...], name: str) -> Column:
    """The cursor's column, whatever its case; raises ConnectorError if it cannot order rows."""
    column = next((column for column in columns if column.name.lower() == name.lower()), None)
    if column is None:
        raise ConnectorError(
            f"The source has no column {name}, which is the cursor.",
            hint=f"It has: {', '.join(column.name for column in columns)}.",
            code="cursor_column_missing",
            field=FIELD,
        )
    if column.repeated or column.type not in CURSOR_TYPES:
        type_ = f"ARRAY<{column.type}>" if column.repeated else column.type
        raise ConnectorError(
            f"Column {column.name} ({type_}) cannot say which rows are new.",
            hint=f"Choose a column of one of the types {', '.join(CURSOR_TYPES)}, or read all rows every time.",
            code="cursor_type",
            field=FIELD,
        )
    return column


def number_of(text: str, type_: str, *, field: str = FIELD) -> int:
    """The number that `text` stands for; raises ConnectorError with code cursor_value if it is no such value."""
    text = text.strip()
    try:
        if type_ == "INT64":
            number = int(text)
            if not -(2**63) <= number < 2**63:
                raise ValueError(text)
            return number
        if type_ == "DATE":
            return (date.fromisoformat(text) - _EPOCH_DAY).days
        moment = datetime.fromisoformat(text)
        if type_ == "TIMESTAMP":
            # Without a zone it is UTC, as BigQuery has it.
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).replace(tzinfo=None)
        elif moment.tzinfo is not None:
            raise ValueError(text)
        return (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise ConnectorError(
            f"{text!r} is not a value of a {type_} column.",
            hint=f"Write it like {_EXAMPLES[type_]}.",
            code="cursor_value",
            field=field,
        ) from None


def text_of(number: int, type_: str) -> str:
    """The value as it is kept and shown: 2026-01-31, 2026-01-31 06:00:00, with +00:00 for a TIMESTAMP."""
    if type_ == "INT64":
        return str(number)
    if type_ == "DATE":
        return (_EPOCH_DAY + timedelta(days=number)).isoformat()
    text = (_EPOCH + number * _MICROSECOND).isoformat(sep=" ")
    return f"{text}+00:00" if type_ == "TIMESTAMP" else text


def literal(number: int, type_: str) -> str:
    """The value in GoogleSQL."""
    return str(number) if type_ == "INT64" else f"{type_} '{text_of(number, type_)}'"


def number_sql(expression: str, type_: str) -> str:
    """GoogleSQL for the number of a value."""
    return _NUMBERS[type_].format(expression)


def span_numbers(read: CursorRead, type_: str) -> tuple[int, int]:
    """The first and the last value of the span; raises ConnectorError where it is none, or not all of it is past."""
    span = read.span
    if span is None:
        raise ValueError("there is no span")
    low, last = number_of(span.low, type_), number_of(span.high, type_) - 1
    if last < low:
        raise ConnectorError(f"From {span.low} to {span.high} there is nothing.", code="backfill_range", field=FIELD)
    if not read.watermark:
        raise ConnectorError(
            "Nothing was loaded yet: there is no past to fill in.",
            hint="Run the pipeline first; its first run reads all rows from its initial value on.",
            code="backfill_no_watermark",
        )
    if last > number_of(read.watermark, type_):
        raise ConnectorError(
            f"The range up to {span.high} goes beyond the watermark, {read.watermark}.",
            hint="What is above the watermark comes with the next runs. End the backfill there.",
            code="backfill_beyond_watermark",
        )
    return low, last


def reach(amount: int, type_: str) -> int:
    """Seconds, or units of an INT64, as a distance between numbers; part of a day counts as one."""
    if type_ == "INT64":
        return amount
    return -(-amount // _DAY_S) if type_ == "DATE" else amount * 1_000_000


def settled(top: int, type_: str, read: CursorRead, snapshot: datetime) -> int:
    """The highest value whose rows are all there, given the highest that is there at all."""
    if not read.settles:
        return top
    if type_ == "DATE":
        yesterday = (snapshot.astimezone(UTC).date() - _EPOCH_DAY).days - 1
        return min(top, yesterday - reach(read.settle or 0, type_))
    usual = 0 if type_ == "INT64" else SETTLE_S
    return top - reach(usual if read.settle is None else read.settle, type_)
