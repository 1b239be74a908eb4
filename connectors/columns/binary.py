"""PostgreSQL's binary send formats, made column by column in numpy, for types that pgpq does not take.

COPY BINARY carries a length and bytes, no type, and pgpq writes a binary column as just that: so an
Arrow binary array that holds a type's send format travels as that type. The formats are those of
`numeric_recv`, `interval_recv`, `range_recv` and `array_recv` in PostgreSQL's backend/utils/adt.
Everything is big-endian.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.column import Column
from connectors.columns.buffers import Mask, Numbers, cut, is_valid, offsets, value_bytes, value_offsets

# PostgreSQL counts from 2000-01-01, Arrow from 1970-01-01.
EPOCH_DAYS = 10_957
EPOCH_MICROS = 946_684_800_000_000

# Element types of the arrays that pgpq cannot write; it would call a timestamptz a timestamp.
ARRAY_OIDS = {"BIGNUMERIC": 1700, "INTERVAL": 1186, "TIMESTAMP": 1184}
RANGE_OIDS = {"DATE": 3912, "DATETIME": 3908, "TIMESTAMP": 3910}

_RANGE_LOWER_INCLUSIVE, _RANGE_LOWER_INFINITE, _RANGE_UPPER_INFINITE = 0x02, 0x08, 0x10

_LIMB = np.uint64(0xFFFFFFFF)
_GROUP = np.uint64(10**4)
_TWO_GROUPS = np.uint64(10**8)


def numeric(array: pa.Array) -> pa.Array:
    """decimal128 or decimal256 of any scale → numeric_send, without trailing zeros.

    The value is brought to a multiple of four fractional digits, then divided by 10^8 until nothing is
    left: each remainder is two of PostgreSQL's base-10000 digits, the least significant first.
    """
    fraction = -(-array.type.scale // 4)
    limbs, negative = _magnitudes(array)
    limbs = _multiply(limbs, 10 ** (4 * fraction - array.type.scale))
    groups: list[Numbers] = []
    while limbs or len(groups) < fraction:
        limbs, remainder = _divide(limbs, len(array))
        groups += [remainder % _GROUP, remainder // _GROUP]
    # Most significant first; at least one column, so that a column of zeros has something to look at.
    digits = np.stack(groups[::-1] or [np.zeros(len(array), np.uint64)], axis=1).astype(">u2")
    width = digits.shape[1]
    used = digits != 0
    is_zero = ~used.any(axis=1)
    first = used.argmax(axis=1)
    last = width - 1 - used[:, ::-1].argmax(axis=1)
    count = np.where(is_zero, 0, last - first + 1)
    position = np.arange(width)
    lowest = np.take_along_axis(digits, last[:, None], axis=1)[:, 0].astype(np.int64)
    zeros = (lowest % 10 == 0).astype(np.int64) + (lowest % 100 == 0) + (lowest % 1000 == 0)
    shown = 4 * (last + 1 - (width - fraction)) - zeros
    cells = np.empty((len(array), 4 + width), ">u2")
    cells[:, 0] = count
    cells[:, 1] = np.where(is_zero, 0, width - fraction - 1 - first).astype(np.int16).view(np.uint16)
    cells[:, 2] = np.where(negative & ~is_zero, 0x4000, 0)
    cells[:, 3] = np.where(is_zero, 0, np.maximum(shown, 0))
    cells[:, 4:] = digits
    keep = np.ones(cells.shape, bool)
    keep[:, 4:] = (position >= first[:, None]) & (position <= last[:, None]) & ~is_zero[:, None]
    return _ragged(cells[keep].view(np.uint8), 8 + 2 * count, is_valid(array))


def interval(array: pa.Array) -> pa.Array:
    """month_day_nano → interval_send: microseconds, days, months."""
    sent = np.empty(len(array), [("micros", ">i8"), ("days", ">i4"), ("months", ">i4")])
    sent["months"], sent["days"], sent["micros"] = interval_parts(array)
    return fixed(sent, is_valid(array))


def interval_parts(array: pa.Array) -> tuple[Numbers, Numbers, Numbers]:
    """Months, days and microseconds of a month_day_nano array; anything where it is NULL.

    Raises ArrowInvalid rather than lose a fraction of a microsecond.
    """
    parts = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanos", "<i8")])
    values = np.frombuffer(array.buffers()[1] or b"", parts)[array.offset : array.offset + len(array)]
    micros = values["nanos"] // 1000
    if (is_valid(array) & (micros * 1000 != values["nanos"])).any():
        raise pa.ArrowInvalid("an interval with nanoseconds, where PostgreSQL keeps microseconds")
    return values["months"], values["days"], micros


def timestamp(array: pa.Array) -> pa.Array:
    """timestamp[us] with or without zone → timestamp_send and timestamptz_send, which are the same."""
    return fixed(_since_2000(array), is_valid(array))


def range_(array: pa.Array) -> pa.Array:
    """struct<start, end> of dates or timestamps → range_send of `[start, end)`; a missing bound is infinite."""
    # flatten() hides bounds under a NULL struct, and the kernels below see only what is in the slice.
    start, end = array.flatten()
    has_start, has_end = is_valid(start), is_valid(end)
    bound = _since_2000(start)
    sent = np.empty(
        len(array),
        [("flags", "u1"), ("n1", ">i4"), ("start", bound.dtype), ("n2", ">i4"), ("end", bound.dtype)],
    )
    sent["flags"] = np.where(has_start, _RANGE_LOWER_INCLUSIVE, _RANGE_LOWER_INFINITE) | np.where(
        has_end, 0, _RANGE_UPPER_INFINITE
    )
    size = bound.dtype.itemsize
    sent["n1"] = sent["n2"] = size
    sent["start"], sent["end"] = bound, _since_2000(end)
    cells = sent.view(np.uint8).reshape(len(array), sent.itemsize)
    keep = np.ones(cells.shape, bool)
    keep[:, 1 : 5 + size] = has_start[:, None]
    keep[:, 5 + size :] = has_end[:, None]
    return _ragged(cells[keep], keep.sum(axis=1), is_valid(array))


def array_of(array: pa.Array, elements: pa.Array, oid: int) -> pa.Array:
    """A list whose flattened values are sent as `elements` → array_send with one dimension; NULL is empty."""
    lengths = pc.binary_length(elements).fill_null(-1).to_numpy().astype(">i4")
    framed = pc.binary_join_element_wise(fixed(lengths, None), elements, b"").fill_null(b"\xff\xff\xff\xff")
    counts = pc.list_value_length(array).fill_null(0).to_numpy()
    # Framed elements lie one after the other already: an array's body is a longer cut of the same bytes.
    data = np.frombuffer(framed.buffers()[2] or b"", np.uint8)
    bodies = cut(data, value_offsets(framed)[offsets(counts)], None, pa.binary())
    header = np.empty(len(array), ">i4,>i4,>i4,>i4,>i4")
    for name, value in zip(header.dtype.names or (), (counts > 0, 0, oid, counts, 1), strict=True):
        header[name] = value
    cells = header.view(np.uint8).reshape(len(array), 20)
    keep = np.ones(cells.shape, bool)
    keep[:, 12:] = (counts > 0)[:, None]  # an empty array has no dimension
    headers = _ragged(cells[keep], keep.sum(axis=1), None)
    return pc.binary_join_element_wise(headers, bodies, b"")


def array_oid(column: Column) -> int | None:
    """The element type that `array_of` has to name, or None if pgpq can write an array of this type."""
    return RANGE_OIDS[column.element] if column.type == "RANGE" else ARRAY_OIDS.get(column.type)


def relist(array: pa.Array, values: pa.Array) -> pa.Array:
    """`array` with other values in place of its flattened ones, and empty lists in place of NULL."""
    counts = pc.list_value_length(array).fill_null(0).to_numpy()
    return pa.ListArray.from_arrays(pa.array(offsets(counts)), values)


def hex_text(array: pa.Array) -> pa.Array:
    """binary → its hex digits as string."""
    digits = np.frombuffer(value_bytes(array).hex().encode(), np.uint8)
    bounds = value_offsets(array)
    return cut(digits, 2 * (bounds - bounds[0]), is_valid(array), pa.string())


def _magnitudes(array: pa.Array) -> tuple[list[Numbers], Mask]:
    """Absolute values as 32-bit limbs in 64-bit words, least significant first, and which were negative."""
    width = array.type.byte_width // 4
    words = np.frombuffer(array.buffers()[1] or b"", "<u4").reshape(-1, width)[array.offset : array.offset + len(array)]
    negative = words[:, -1] >= np.uint32(1 << 31)
    carry = negative.astype(np.uint64)
    flip = np.where(negative, _LIMB, np.uint64(0))
    limbs = []
    for i in range(width):
        limb = (words[:, i].astype(np.uint64) ^ flip) + carry
        carry = limb >> np.uint64(32)
        limbs.append(limb & _LIMB)
    return limbs, negative


def _multiply(limbs: list[Numbers], factor: int) -> list[Numbers]:
    if factor == 1:
        return limbs
    carry: Numbers = np.zeros(len(limbs[0]), np.uint64)
    product = []
    for limb in limbs:
        word = limb * np.uint64(factor) + carry
        carry = word >> np.uint64(32)
        product.append(word & _LIMB)
    return [*product, carry]


def _divide(limbs: list[Numbers], rows: int) -> tuple[list[Numbers], Numbers]:
    """Divide by 10^8: the quotient without limbs that are zero in every row, and the remainder."""
    remainder: Numbers = np.zeros(rows, np.uint64)
    quotient: list[Numbers] = []
    for limb in reversed(limbs):
        word = (remainder << np.uint64(32)) | limb
        limb = word // _TWO_GROUPS
        remainder = word - limb * _TWO_GROUPS
        if quotient or limb.any():
            quotient.append(limb)
    return quotient[::-1], remainder


def _since_2000(array: pa.Array) -> Numbers:
    is_date = pa.types.is_date32(array.type)
    since_1970: Numbers = array.view(pa.int32() if is_date else pa.int64()).fill_null(0).to_numpy()
    return (since_1970 - (EPOCH_DAYS if is_date else EPOCH_MICROS)).astype(">i4" if is_date else ">i8")


def fixed(values: Numbers, valid: Mask | None) -> pa.Array:
    """One value per item of `values`, as its bytes are."""
    return _ragged(values, np.full(len(values), values.dtype.itemsize), valid)


def _ragged(data: Numbers, lengths: Numbers, valid: Mask | None) -> pa.Array:
    return cut(data, offsets(lengths), valid, pa.binary())
