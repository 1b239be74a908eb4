"""Masks, made where rows are read: what comes after it never has the values.

Column by column in compiled code, but for HMAC: no library here makes them of a column at once that does not cost more
(see docs/columns.md), so it is made once for each distinct value of a batch.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from connectors.base import StopSignal
from connectors.column import KEYED_MASKS, Column, Mask, MaskKind
from connectors.columns import binary
from connectors.columns.arrow import fits
from connectors.columns.casts import text_of
from connectors.errors import ConnectorError
from connectors.masks import KEPT_BEHIND, REDACTED, declared, is_masked, refuse_other_key
from connectors.reading import Part

if TYPE_CHECKING:
    from connectors.base import Source

Make = Callable[[pa.Array], pa.Array]
Read = Callable[..., Iterator[pa.RecordBatch]]
_BLOCK = 64  # bytes that SHA-256 takes at once


def reader(source: Source, columns: Sequence[Column], key: str) -> Read:
    """`source.read`, whose rows have masks in the place of values; itself where nothing is masked.

    Raises NewGeneration if `key` is not the one that the columns were planned with.
    """
    hidden = [column for column in columns if is_masked(column)]
    if not hidden:
        return source.read
    refuse_other_key(columns, key)
    if source.is_masked:
        return source.read
    masking, names = Masking(hidden, key), {column.name.lower() for column in hidden}

    def read(part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        batches = source.read(part, start=start, stop=stop)
        try:
            yield from map(masking.masked, batches)
        except ConnectorError as error:
            if error.field.partition(".")[0].lower() not in names:
                raise
            # What a source says of a value that it cannot read may have the value in its hint.
            raise ConnectorError(error.message, code=error.code, field=error.field) from None
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    return read


class Masking:
    """Puts masks in the place of values, batch by batch."""

    def __init__(self, columns: Sequence[Column], key: str) -> None:
        self._columns = [column for column in columns if is_masked(column)]
        self._hmac = Hmac(key)

    def masked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with masks; raises ConnectorError, which never has a value in it."""
        for column in self._columns:
            places = batch.schema.get_all_field_indices(column.name)
            found = batch.column(places[0]) if len(places) == 1 else None
            if found is None or not fits(declared(column), found.type):
                raise _arrives_otherwise(column, found)
            batch = batch.set_column(places[0], column.name, self._values(column, found))
        return batch

    def _values(self, column: Column, array: pa.Array) -> pa.Array:
        if not is_masked(column):
            return array
        if column.repeated:
            return binary.relist(array, self._values(_element(column), array.flatten()))
        if column.mask is not None:
            return self._texts(column, column.mask, array)
        # flatten() carries the struct's own NULLs and offset down to its fields; field() would not.
        fields = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
        arrays = [self._values(child, fields[child.name]) for child in column.columns]
        return pa.StructArray.from_arrays(
            arrays, names=[child.name for child in column.columns], mask=pc.invert(array.is_valid())
        )

    def _texts(self, column: Column, mask: Mask, array: pa.Array) -> pa.Array:
        if mask.kind is MaskKind.REDACT:
            return pc.if_else(array.is_valid(), REDACTED, pa.scalar(None, pa.string()))
        try:
            texts = text_of(mask.of, array)
            if mask.kind in KEYED_MASKS:
                return self._hmac.of(texts, is_base64=mask.kind is MaskKind.HMAC_BASE64)
            return _last(texts, mask.keep)
        except pa.ArrowInvalid:
            # What Arrow says of a value has the value in it.
            raise ConnectorError(
                f"Column {column.name} holds a value that cannot be masked: it is no text of {mask.of.type}.",
                hint="Mend it in the source, or redact or skip the column.",
                code="bad_text",
                field=column.name,
            ) from None


class Hmac:
    """HMAC-SHA256 of texts (RFC 2104) under one key."""

    def __init__(self, key: str) -> None:
        block = key.encode()
        block = (hashlib.sha256(block).digest() if len(block) > _BLOCK else block).ljust(_BLOCK, b"\0")
        # Both hold the key's block already: copying them is half of what hmac.digest would take.
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def of(self, texts: pa.Array, *, is_base64: bool) -> pa.Array:
        """The HMAC of each text, NULL of NULL."""
        distinct = texts.cast(pa.binary()).dictionary_encode()
        made = map(self._one, distinct.dictionary.to_pylist())
        shown = [base64.b64encode(one.digest()).decode() if is_base64 else one.hexdigest() for one in made]
        return pa.array(shown, pa.string()).take(distinct.indices)

    def _one(self, value: bytes) -> hashlib._Hash:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(value)
        outer.update(inner.digest())
        return outer


def _last(texts: pa.Array, keep: int) -> pa.Array:
    """The last characters of each text; of one that has no more than these, none."""
    texts.validate(full=True)  # slicing what is not UTF-8 would cut anywhere
    shown = pc.utf8_slice_codeunits(texts, start=-keep, stop=None)
    is_short = pc.less_equal(pc.utf8_length(texts), keep)
    kept = pc.binary_join_element_wise(KEPT_BEHIND, shown, "")
    return pc.if_else(is_short, pa.scalar(KEPT_BEHIND), kept)


def _element(column: Column) -> Column:
    mask = column.mask
    return replace(column, repeated=False, mask=mask and replace(mask, of=replace(mask.of, repeated=False)))


def _arrives_otherwise(column: Column, found: Any) -> ConnectorError:
    arrived = f"arrives as {found.type}" if found is not None else "does not arrive"
    return ConnectorError(
        f"Column {column.name}, which is to be masked, {arrived}.",
        hint="The source changed while it was read, or is not what it was when the pipeline was saved: run it again.",
        code="column_type_changed",
        field=column.name,
    )
