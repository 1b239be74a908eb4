"""A column as the source declares it, with what rules make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


class MaskKind(StrEnum):
    """What stands in the target in the place of a column's values; NULL stays NULL."""

    HMAC = "hmac"
    HMAC_BASE64 = "hmac_base64"
    REDACT = "redact"
    KEEP_LAST = "keep_last"


KEYED_MASKS = frozenset({MaskKind.HMAC, MaskKind.HMAC_BASE64})


@dataclass(frozen=True)
class Mask:
    """How values of the column `of`, as the source declares it, become texts that tell less.

    `keep` is how many characters KEEP_LAST leaves; `key_id` says which key a HMAC is made with, never what it is.
    """

    kind: MaskKind
    of: Column
    keep: int = 0
    key_id: str = ""


@dataclass(frozen=True)
class Column:
    """A column as the source declares it, in BigQuery's standard SQL words.

    `type` is INT64, NUMERIC, STRUCT, RANGE, ...; `element` is the T of RANGE<T>; `columns` are the
    fields of a STRUCT; `max_length` counts characters or bytes. `target_type` is the PostgreSQL type that
    a rule chose, spelled as `format_type` spells it, empty for the usual one; `zone` is where a time
    that changes its kind was told. `target_name` is the name in PostgreSQL where it is not the usual one. A column with
    a `mask` is the STRING that the mask makes.
    """

    name: str
    type: str
    repeated: bool = False
    required: bool = False
    precision: int | None = None
    scale: int | None = None
    max_length: int | None = None
    element: str = ""
    columns: tuple[Column, ...] = ()
    description: str = ""
    target_type: str = ""
    zone: str = ""
    target_name: str = ""
    mask: Mask | None = None


def column_from_json(values: Mapping[str, Any]) -> Column:
    """A Column from what `dataclasses.asdict` made of it."""
    mask = values.get("mask")
    if mask is not None:
        mask = Mask(**{**mask, "kind": MaskKind(mask["kind"]), "of": column_from_json(mask["of"])})
    return Column(**{**values, "columns": tuple(map(column_from_json, values["columns"])), "mask": mask})


def declared_to_json(column: Column) -> dict[str, Any]:
    """A source's own column as definitions keep it: without what only rules give."""
    given = {name: value for name, value in vars(column).items() if name not in ("target_name", "mask")}
    return {**given, "columns": tuple(map(declared_to_json, column.columns))}
