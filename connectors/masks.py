"""What masks can be made of which columns, and the key that HMACs are made with: told apart by an id, never shown."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from connectors.column import KEYED_MASKS, Column, Mask, MaskKind
from connectors.errors import ConnectorError, NewGeneration
from connectors.types import bigquery_type

REDACTED = "***"
KEPT_BEHIND = "****"
KEEP_MOST = 64
KEY_LEAST = 32
KEY_FIELD = "mask_key"
# Types whose equal values have equal texts: a HMAC of the text then tells which values are equal.
_HMAC_TYPES = frozenset(
    {"BOOL", "INT64", "NUMERIC", "BIGNUMERIC", "STRING", "BYTES", "DATE", "TIME", "DATETIME", "TIMESTAMP"}
)
_KEEP_TYPES = frozenset({"STRING", "INT64"})
_WORDS: dict[str, str] = {
    MaskKind.HMAC: "HMAC-SHA256, in hexadecimal digits",
    MaskKind.HMAC_BASE64: "HMAC-SHA256, in base64",
    MaskKind.REDACT: "redacted",
}


def in_words(kind: str, keep: int = 0) -> str:
    """The mask as logs and pages tell it."""
    if kind == MaskKind.KEEP_LAST:
        return f"its last {keep} characters" if keep != 1 else "its last character"
    return _WORDS.get(kind, kind)


def masked(column: Column, kind: MaskKind, keep: int = 0) -> Column:
    """The column that a mask makes of `column`: a STRING, of an array an array of them.

    Raises ConnectorError, code column_rule, for types that the mask cannot be made of.
    """
    if kind not in offered(column):
        raise ConnectorError(
            f"Column {column.name} ({bigquery_type(column)}) cannot be masked by {_named(kind)}: {_why(column, kind)}.",
            hint=_instead(column),
            code="column_rule",
            field=column.name,
        )
    return Column(
        column.name,
        "STRING",
        repeated=column.repeated,
        description=column.description,
        mask=Mask(kind, column, keep),
    )


def offered(column: Column) -> tuple[str, ...]:
    """The masks that can be made of the column."""
    types = {MaskKind.HMAC: _HMAC_TYPES, MaskKind.HMAC_BASE64: _HMAC_TYPES, MaskKind.KEEP_LAST: _KEEP_TYPES}
    return tuple(kind.value for kind in MaskKind if column.type in types.get(kind, (column.type,)))


def _named(kind: MaskKind) -> str:
    return "keeping its last characters" if kind is MaskKind.KEEP_LAST else "HMAC"


def _why(column: Column, kind: MaskKind) -> str:
    if column.type == "STRUCT":
        return "it has fields of its own"
    if kind is MaskKind.KEEP_LAST:
        return "only STRING and INT64 have last characters that mean something"
    return "equal values of this type may be written differently"


def _instead(column: Column) -> str:
    if column.type == "STRUCT" and column.columns:
        return f'Mask its fields by their paths, such as "{column.name}.{column.columns[0].name}", or redact all of it.'
    return "Redact or skip it, or cast it to STRING in a query."


def is_masked(column: Column) -> bool:
    """Whether the column, or a field in it, is masked."""
    return column.mask is not None or any(map(is_masked, column.columns))


def declared(column: Column) -> Column:
    """The column as the source sends it, whatever is masked of it."""
    if column.mask is not None:
        return column.mask.of
    return replace(column, columns=tuple(map(declared, column.columns))) if column.columns else column


def _masks(columns: Iterable[Column]) -> Iterator[Mask]:
    for column in columns:
        if column.mask is not None:
            yield column.mask
        yield from _masks(column.columns)


def refuse_lost(hidden: Iterable[str], before: Sequence[Column], found: Sequence[Column]) -> None:
    """Raise ConnectorError where a column of the names `hidden` is gone and another is new: it may be the same one.

    A column that was only gone hides nothing, and a new one has had its say when the pipeline was made to follow.
    """
    was, now = ({column.name.lower(): column.name for column in columns} for columns in (before, found))
    new = [name for key, name in now.items() if key not in was]
    gone = [was[name.lower()] for name in hidden if name.lower() in was and name.lower() not in now]
    if gone and new:
        raise ConnectorError(
            f"The source no longer has the column {gone[0]}, which is masked, and {', '.join(new)} is new: its values"
            " may have moved there.",
            hint=f"Mask {new[0]} as well, or remove the rule for {gone[0]} if they have not.",
            code="column_rule",
            field=gone[0],
        )


def key_id(key: str) -> str:
    """What tells one key from another, and nothing of it."""
    return hmac.digest(key.encode(), b"DataMantri's id of this key", hashlib.sha256).hex()[:16]


def check_key(key: str) -> None:
    """Raise ConnectorError for a key that could be guessed."""
    if key and len(key) < KEY_LEAST:
        raise ConnectorError(
            f"The key for masks has {len(key)} characters: it could be found by trying.",
            hint=f"Take at least {KEY_LEAST} random ones, for example of: openssl rand -base64 32",
            code="mask_key",
            field=KEY_FIELD,
        )


def key_missing(column: str = "") -> ConnectorError:
    what = f"Column {column} is" if column else "Columns are"
    return ConnectorError(
        f"{what} to be masked by HMAC, and the destination's connection has no key for masks.",
        hint="Enter one in the connection.",
        code="mask_key",
        field=column,
    )


def with_key(columns: Sequence[Column], key: str) -> tuple[Column, ...]:
    """The columns with the id of the key that their HMACs are made with; raises ConnectorError if there is no key."""
    if not any(mask.kind in KEYED_MASKS for mask in _masks(columns)):
        return tuple(columns)
    if not key:
        raise key_missing(next(column.name for column in columns if is_masked(column)))
    check_key(key)
    return tuple(_with_id(column, key_id(key)) for column in columns)


def _with_id(column: Column, id_: str) -> Column:
    if column.mask is not None:
        return replace(column, mask=replace(column.mask, key_id=id_)) if column.mask.kind in KEYED_MASKS else column
    return replace(column, columns=tuple(_with_id(child, id_) for child in column.columns))


def refuse_other_key(columns: Sequence[Column], key: str) -> None:
    """Raise NewGeneration if some rows of this plan were masked with another key than this."""
    ids = {mask.key_id for mask in _masks(columns) if mask.kind in KEYED_MASKS}
    if ids and ids != {key_id(key)}:
        raise NewGeneration(
            "The key for masks was changed while this load was under way: its rows would not match one another.",
            hint="The next attempt reads again.",
        )


def definition(fingerprint: str, is_keyed: bool, key: str) -> str:
    """The fingerprint of what goes into a target, where a key is a part of it: another key makes other values."""
    if not is_keyed or not key:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} masked with {key_id(key)}".encode()).hexdigest()
