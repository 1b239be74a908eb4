"""Arrow's buffers as numpy sees them, and numpy's as Arrow sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def value_bytes(array: pa.Array) -> bytes:
    """All values of a string or binary array, one after the other."""
    bounds, data = value_offsets(array), array.buffers()[2]
    if data is None:
        return b""
    taken: bytes = data.slice(int(bounds[0]), int(bounds[-1] - bounds[0])).to_pybytes()
    return taken


def value_offsets(array: pa.Array) -> npt.NDArray[np.int32]:
    """Where each value of a string or binary array begins in its buffer, and where the last one ends."""
    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int32)[array.offset : array.offset + len(array) + 1]


def is_valid(array: pa.Array) -> Mask:
    valid: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def offsets(lengths: Numbers) -> npt.NDArray[np.int32]:
    """The offsets that cut a buffer into pieces of these lengths."""
    found = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=found[1:])
    return found


def cut(data: Numbers, bounds: npt.NDArray[np.int32], valid: Mask | None, type_: pa.DataType) -> pa.Array:
    """A string or binary array over `data` (not copied), cut at `bounds`; NULL where not `valid`."""
    validity = None if valid is None or valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [validity, pa.py_buffer(np.ascontiguousarray(bounds)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(type_, len(bounds) - 1, buffers)
