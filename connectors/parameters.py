"""Query parameters: what a pipeline declares, and the values that a run gives them, each of a type of BigQuery's.

A value is kept as JSON holds it: whole numbers, numbers and truth values as themselves, all else as text in one form;
None is NULL. It goes to BigQuery as a query parameter, never into the text of a query.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from connectors import cursor
from connectors.errors import ConnectorError

TYPES = ("STRING", "INT64", "FLOAT64", "NUMERIC", "BOOL", "DATE", "DATETIME", "TIMESTAMP")
# What every run has; nobody declares or gives these.
BUILT_IN = {
    "data_interval_start": "TIMESTAMP",
    "data_interval_end": "TIMESTAMP",
    "scheduled_for": "TIMESTAMP",
    "run_id": "STRING",
}
INTERVAL = ("data_interval_start", "data_interval_end")
MAX_DECLARED, MAX_TEXT, MAX_VALUES = 50, 10_000, 1_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_ARRAY = re.compile(r"ARRAY\s*<\s*(\w+)\s*>")
_EXAMPLES = {
    "STRING": "any text",
    "INT64": "1000",
    "FLOAT64": "0.5",
    "NUMERIC": "19.99",
    "BOOL": "true",
    "DATE": "2026-01-31",
    "DATETIME": "2026-01-31 06:00:00",
    "TIMESTAMP": "2026-01-31 06:00:00+00:00",
}
_TRUTH = {"true": True, "false": False}
_NO_NUMBERS = {"nan": "NaN", "inf": "Infinity", "infinity": "Infinity", "-inf": "-Infinity", "-infinity": "-Infinity"}


@dataclass(frozen=True)
class Kind:
    """The type of a parameter; `repeated` for an array of it."""

    type: str
    repeated: bool = False

    def __str__(self) -> str:
        return f"ARRAY<{self.type}>" if self.repeated else self.type


@dataclass(frozen=True)
class Declared:
    """A parameter as a pipeline declares it: the default is what a run takes that is given nothing else."""

    name: str
    kind: Kind
    default: Any = None

    def to_json(self) -> dict[str, Any]:
        return {"type": str(self.kind), **({} if self.default is None else {"default": self.default})}


@dataclass(frozen=True)
class Parameter:
    """A parameter with its value, as a query is run with it."""

    name: str
    type: str
    value: Any
    repeated: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Parameter:
        return cls(**values)


def kind_of(text: Any) -> Kind:
    """The type that `text` names, in any case; raises ConnectorError."""
    upper = text.strip().upper() if isinstance(text, str) else ""
    array = _ARRAY.fullmatch(upper)
    kind = Kind(array[1], repeated=True) if array else Kind(upper)
    if kind.type not in TYPES:
        raise _wrong(f"{text!r} is no type of a parameter.", f"There are: {', '.join(TYPES)}, and ARRAY<…> of these.")
    return kind


def declared(values: Any) -> tuple[dict[str, Declared], list[ConnectorError]]:
    """The parameters that `values` declares, {name: {type, default}}, and what is wrong with the others."""
    if not isinstance(values, Mapping):
        return {}, [_wrong("The parameters are no mapping.", 'Write for example {"country": {"type": "STRING"}}.')]
    found: dict[str, Declared] = {}
    errors = []
    seen: dict[str, str] = {}
    if len(values) > MAX_DECLARED:
        errors.append(_wrong(f"These are more than {MAX_DECLARED} parameters.", "Take some out."))
    for name, given in values.items():
        try:
            found[name] = _declared(name, given, seen)
        except ConnectorError as error:
            errors.append(error)
    return found, errors


def canonical(values: Any) -> Any:
    """What was declared, in the one form it is kept in; as it is where something is wrong with it."""
    found, errors = declared(values)
    return values if errors else {each.name: each.to_json() for each in found.values()}


def _declared(name: str, given: Any, seen: dict[str, str]) -> Declared:
    if not _NAME.fullmatch(name):
        raise _wrong(
            f"{name!r} cannot be the name of a parameter.",
            "Use letters, digits and _, beginning with a letter, 63 at most.",
        )
    if name.lower() in BUILT_IN:
        raise _wrong(f"Every run has a parameter {name} of its own.", "Choose another name.")
    other = seen.setdefault(name.lower(), name)
    if other != name:
        raise _wrong(f"Parameter {name} is declared twice, the other as {other}.", "Take one of them out.")
    if not isinstance(given, Mapping) or not set(given) <= {"type", "default"} or "type" not in given:
        raise _wrong(f"Parameter {name} needs a type, and may have a default.", 'Write for example {"type": "DATE"}.')
    try:
        kind = kind_of(given["type"])
        return Declared(name, kind, value_of(given.get("default"), kind))
    except ConnectorError as error:
        raise _wrong(f"Parameter {name}: {error.message}", error.hint) from error


def value_of(given: Any, kind: Kind) -> Any:
    """A value in the form it is kept in; raises ConnectorError, code parameter_value, for one of another type."""
    if given is None:
        return None
    if not kind.repeated:
        return _scalar(given, kind.type)
    if not isinstance(given, list | tuple):
        raise _no_value(given, kind, 'Write a list, for example ["a", "b"].')
    if len(given) > MAX_VALUES:
        raise _no_value(f"a list of {len(given)}", kind, f"A list has at most {MAX_VALUES} values.")
    if None in given:
        raise _no_value(given, kind, "A list that BigQuery is given cannot hold NULL.")
    return [_scalar(each, kind.type) for each in given]


def _scalar(given: Any, type_: str) -> Any:
    kind = Kind(type_)
    try:
        match type_:
            case "STRING":
                return _text(given, kind)
            case "BOOL":
                return given if isinstance(given, bool) else _TRUTH[str(given).strip().lower()]
            case "INT64":
                return cursor.number_of(_digits(given), "INT64")
            case "FLOAT64":
                return _float(given)
            case "NUMERIC":
                return _numeric(given)
        if not isinstance(given, str):
            raise ValueError(given)
        return cursor.text_of(cursor.number_of(given, type_), type_)
    except (ConnectorError, ValueError, KeyError, OverflowError, InvalidOperation) as error:
        if isinstance(error, ConnectorError) and error.code == "parameter_value":
            raise
        raise _no_value(given, kind, f"Write it like {_EXAMPLES[type_]}.") from error


def _text(given: Any, kind: Kind) -> str:
    if not isinstance(given, str):
        raise ValueError(given)
    if len(given) > MAX_TEXT or "\x00" in given:
        raise _no_value(given[:40], kind, f"A text has at most {MAX_TEXT:,} characters, none of them NUL.")
    return given


def _digits(given: Any) -> str:
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise ValueError(given)
    return str(given)


def _float(given: Any) -> float | str:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(given)
    name = _NO_NUMBERS.get(str(given).strip().lower())
    if name is not None:
        return name
    number = float(given)
    if not math.isfinite(number):
        raise ValueError(given)
    return number


def _numeric(given: Any) -> str:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(given)
    number = Decimal(str(given).strip())
    if not number.is_finite():
        raise ValueError(given)
    digits = number.normalize()
    exponent = digits.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -9 or digits.adjusted() > 28:
        raise ValueError(given)
    return f"{digits:f}"


def given_to(
    parameters: Mapping[str, Declared], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, ConnectorError]]:
    """The values that a person gave, by the declared names, and what is wrong with the others, by theirs."""
    by_name = {name.lower(): each for name, each in parameters.items()}
    values: dict[str, Any] = {}
    errors: dict[str, ConnectorError] = {}
    for name, value in given.items():
        each = by_name.get(name.lower())
        if each is None:
            known = ", ".join(parameters) or "none"
            errors[name] = ConnectorError(
                f"The pipeline declares no parameter {name}.", hint=f"It declares: {known}.", code="no_such_parameter"
            )
            continue
        try:
            values[each.name] = value_of(value, each.kind)
        except ConnectorError as error:
            errors[name] = error
    return values, errors


def resolved(
    parameters: Mapping[str, Declared], given: Mapping[str, Any], built_in: Mapping[str, Any]
) -> tuple[Parameter, ...]:
    """All parameters of a run: those it was given, else their defaults, and those that every run has."""
    own = [
        Parameter(each.name, each.kind.type, given.get(each.name, each.default), each.kind.repeated)
        for each in parameters.values()
    ]
    return (*own, *(Parameter(name, type_, built_in.get(name)) for name, type_ in BUILT_IN.items()))


def used_in(sql: str, parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    """Those that a query may name; a name in a comment or a text counts, which does no harm."""
    return tuple(each for each in parameters if names_it(sql, each.name))


def names_it(sql: str, name: str) -> bool:
    return re.search(rf"@{name}\b", sql, re.IGNORECASE) is not None


def uses_built_in(sql: str) -> bool:
    return any(names_it(sql, name) for name in BUILT_IN)


def _no_value(given: Any, kind: Kind, hint: str) -> ConnectorError:
    shown = given if isinstance(given, str) else str(given)
    return ConnectorError(f"{shown[:60]!r} is no {kind}.", hint=hint, code="parameter_value")


def _wrong(message: str, hint: str) -> ConnectorError:
    return ConnectorError(message, hint=hint, code="parameter", field="parameters")
