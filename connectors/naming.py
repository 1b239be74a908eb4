"""Names of targets that follow a run: a text with places to fill in, such as `events_{data_interval_start:%Y%m}`.

`{name}` stands for a parameter, `{name:FORMAT}` for a day or time in it, `{name:FORMAT@ZONE}` for a TIMESTAMP on the
clocks of a zone; without one it is UTC's. FORMAT is made of %Y %m %d %H %M %S %j and of letters, digits, `_` and `-`.
`{{` and `}}` are braces. That is all there is: nothing is looked up, nothing is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from connectors.errors import ConnectorError
from connectors.parameters import Kind, Parameter

_PIECE = re.compile(r"\{\{|\}\}|\{(?P<place>[^{}]*)\}|[{}]|[^{}]+")
_PLACE = re.compile(r"(?P<name>\w+)(?::(?P<format>[^@]*)(?:@(?P<zone>[\w/+-]+))?)?")
_FORMAT = re.compile(r"(?:%[YmdHMSj]|[A-Za-z0-9_-])+")
_DIGITS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "j": 3}
_USUAL = {"DATE": "%Y%m%d", "DATETIME": "%Y%m%dT%H%M%S", "TIMESTAMP": "%Y%m%dT%H%M%S"}
_PLAIN = ("STRING", "INT64", "BOOL")
# What a text of a run's may bring into a name.
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,63}")
_FREE = re.compile(r"[A-Za-z0-9_-]+")
_EXAMPLE = "Write for example events_{data_interval_start:%Y%m%d}."


@dataclass(frozen=True)
class Place:
    """A place to fill in."""

    name: str
    format: str = ""
    zone: str = ""


def is_template(text: str) -> bool:
    return "{" in text or "}" in text


def pieces(text: str, field: str) -> list[str | Place]:
    """The text, cut into what stands and what is filled in; raises ConnectorError, code name_template."""
    found: list[str | Place] = []
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece in ("{{", "}}"):
            found.append(piece[0])
        elif piece in ("{", "}"):
            raise _wrong(field, f"In {text} a brace has no partner.", f"{_EXAMPLE} A brace itself is written twice.")
        elif match["place"] is not None:
            found.append(_place(match["place"], field))
        else:
            found.append(piece)
    return found


def _place(text: str, field: str) -> Place:
    match = _PLACE.fullmatch(text)
    if match is None:
        raise _wrong(field, f"{{{text}}} is no place that can be filled in.", _EXAMPLE)
    place = Place(match["name"], match["format"] or "", match["zone"] or "")
    if match["format"] is not None and not _FORMAT.fullmatch(place.format):
        raise _wrong(
            field, f"{place.format!r} is no format of a name.", "It has %Y %m %d %H %M %S %j, letters, _ and -."
        )
    if place.zone:
        try:
            ZoneInfo(place.zone)
        except (LookupError, ValueError, OSError) as error:
            raise _wrong(field, f"{place.zone} is no time zone.", "Write it like Europe/Berlin.") from error
    return place


def names_in(text: str) -> tuple[str, ...]:
    """The parameters that a name is made with; none of a text that is no template."""
    if not is_template(text):
        return ()
    return tuple(piece.name for piece in pieces(text, "") if isinstance(piece, Place))


def check(text: str, kinds: Mapping[str, Kind], field: str) -> None:
    """Raise ConnectorError, code name_template, if no run could fill it in; `kinds` are all parameters."""
    if not is_template(text):
        return
    for piece in pieces(text, field):
        if not isinstance(piece, Place):
            continue
        kind = kinds.get(piece.name)
        if kind is None:
            raise _wrong(field, f"There is no parameter {piece.name}.", f"There are: {', '.join(kinds)}.")
        if kind.repeated or kind.type not in (*_PLAIN, *_USUAL):
            raise _wrong(
                field, f"{piece.name} is {kind}, which makes no name.", "Use a text, a whole number or a time."
            )
        if piece.format and kind.type in _PLAIN:
            raise _wrong(field, f"{piece.name} is {kind}: a format is for days and times.", f"Write {{{piece.name}}}.")
        if piece.zone and kind.type != "TIMESTAMP":
            raise _wrong(field, f"{piece.name} is {kind}, which has no zone.", "A zone is for a TIMESTAMP.")
        if kind.type == "DATE" and re.search(r"%[HMS]", piece.format):
            raise _wrong(field, f"{piece.name} is a DATE, which has no hours.", "Use %Y, %m, %d or %j.")


def fill(text: str, parameters: Iterable[Parameter], field: str) -> str:
    """The name that a run with these values writes to; raises ConnectorError, code name_value, if they make none."""
    if not is_template(text):
        return text
    by_name = {each.name: each for each in parameters}
    return "".join(
        piece if isinstance(piece, str) else _filled(piece, by_name.get(piece.name), field)
        for piece in pieces(text, field)
    )


def _filled(place: Place, parameter: Parameter | None, field: str) -> str:
    if parameter is None or parameter.value is None:
        raise ConnectorError(
            f"The name of the target is made with {place.name}, which has no value in this run.",
            hint="Give the run one.",
            code="name_value",
            field=place.name,
        )
    if parameter.type in _USUAL:
        return _moment(parameter, place).strftime(place.format or _USUAL[parameter.type])
    value: Any = parameter.value
    written = str(value).lower() if isinstance(value, bool) else str(value)
    if not _SAFE.fullmatch(written):
        raise ConnectorError(
            f"{written[:60]!r}, the value of {place.name}, cannot be part of a target's name.",
            hint="It may have letters, digits, _ and -, 63 at most.",
            code="name_value",
            field=place.name,
        )
    return written


def _moment(parameter: Parameter, place: Place) -> date:
    if parameter.type == "DATE":
        return date.fromisoformat(parameter.value)
    moment = datetime.fromisoformat(parameter.value)
    return moment.astimezone(ZoneInfo(place.zone) if place.zone else UTC) if parameter.type == "TIMESTAMP" else moment


def may_meet(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two targets, (schema, table), could come to be the same table.

    Two templates are taken to meet where a sample of one, its places filled with zeros, fits the other.
    """
    try:
        return all(_meet(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    except ConnectorError:
        return False  # one of them is no name at all, which is told elsewhere


def _meet(one: str, other: str) -> bool:
    return _fits(one, _sample(other)) or _fits(other, _sample(one))


def _sample(text: str) -> str:
    return "".join(piece if isinstance(piece, str) else _zeros(piece) for piece in pieces(text, ""))


def _zeros(place: Place) -> str:
    return re.sub(r"%([A-Za-z])", lambda found: "0" * _DIGITS[found[1]], place.format) or "0"


def _fits(template: str, name: str) -> bool:
    """Whether a name may come of a template.

    By all the places that are reached after each piece: a regular expression would try every way to get there.
    """
    reached = {0}
    for piece in pieces(template, ""):
        reached = {end for start in reached for end in _ends(piece, name, start)}
    return len(name) in reached


def _ends(piece: str | Place, name: str, start: int) -> Iterable[int]:
    """Where a piece of a template may end that begins at `start`."""
    if isinstance(piece, str):
        return (start + len(piece),) if name.startswith(piece, start) else ()
    found = (_written(piece.format) if piece.format else _FREE).match(name, start)
    if found is None:
        return ()
    return (found.end(),) if piece.format else range(start + 1, found.end() + 1)


def _written(format_: str) -> re.Pattern[str]:
    cut = re.split(r"(%[A-Za-z])", format_)
    parts = (f"[0-9]{{{_DIGITS[part[1]]}}}" if part.startswith("%") else re.escape(part) for part in cut)
    return re.compile("".join(parts))


def _wrong(field: str, message: str, hint: str) -> ConnectorError:
    return ConnectorError(message, hint=hint, code="name_template", field=field)
