"""Geography that comes in binary: as hexadecimal text, which PostGIS reads as well as WKT."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc


def with_text(batch: pa.RecordBatch, names: Collection[str]) -> pa.RecordBatch:
    """`batch` with those of `names` that came as binary turned to text; BigQuery itself sends WKT."""
    for i, field in enumerate(batch.schema):
        if field.name in names and pa.types.is_binary(field.type):
            batch = batch.set_column(i, pa.field(field.name, pa.string()), _hexadecimal(batch.column(i)))
    return batch


def _hexadecimal(array: pa.BinaryArray) -> pa.StringArray:
    """All values at once: the bytes lie side by side, so twice as many digits lie at twice the offsets."""
    _, offsets_buffer, data = array.buffers()
    offsets = pa.Array.from_buffers(pa.int32(), len(array) + 1, [None, offsets_buffer], offset=array.offset)
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    digits = data.slice(first, last - first).to_pybytes().hex().encode() if data is not None else b""
    doubled = pc.multiply(pc.subtract(offsets, offsets[0]), pa.scalar(2, pa.int32()))
    validity = array.is_valid().buffers()[1] if array.null_count else None
    return pa.StringArray.from_buffers(len(array), doubled.buffers()[1], pa.py_buffer(digits), validity)
