"""Shapes as text (WKT, as BigQuery sends GEOGRAPHY) → the binary form that PostGIS receives (EWKB), in numpy.

All texts are looked at as one row of characters. What is written for a word, a parenthesis or a coordinate
follows from the word before it and how deep it stands below that, so every kind of event is written at once.
Formats: OGC 06-103r4 (WKT, WKB), and PostGIS' EWKB for the SRID.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.columns.buffers import Numbers, cut, is_valid, offsets, value_bytes, value_offsets

SRID = 4326
# By the numbers that WKB gives them; the last is no shape.
_WORDS = (
    *("POINT", "LINESTRING", "POLYGON", "MULTIPOINT", "MULTILINESTRING", "MULTIPOLYGON", "GEOMETRYCOLLECTION"),
    "EMPTY",
)
_POINT, _LINESTRING, _POLYGON, _MULTIPOINT, _COLLECTION, _EMPTY = 1, 2, 3, 4, 7, 8
# By word, and by how many parentheses deep below it: does a parenthesis begin with a count, and before that
# with the header of a shape of its own? Where do coordinates stand?
_DEEPEST = np.array([0, 1, 1, 2, 2, 2, 3, 1, 0])
_COUNTS, _COORDINATES = np.zeros((9, 4), bool), np.zeros((9, 4), bool)
_HEADERS = np.zeros((9, 4), np.uint32)
for _word, _depths in {2: [1], 3: [1, 2], 4: [1], 5: [1, 2], 6: [1, 2, 3], 7: [1]}.items():
    _COUNTS[_word, _depths] = True
for _word, _depths in {1: [1], 2: [1], 3: [2], 4: [1, 2], 5: [2], 6: [3]}.items():
    _COORDINATES[_word, _depths] = True
_HEADERS[5, 2], _HEADERS[6, 2] = _LINESTRING, _POLYGON
# Which kind of event may follow which.
_EDGE, _SHAPE, _NOTHING, _OPEN, _CLOSE, _COMMA, _NUMBER = range(7)
_FOLLOWS = np.zeros((7, 7), bool)
for _before, _after in {
    _EDGE: [_SHAPE],
    _SHAPE: [_OPEN, _NOTHING],
    _NOTHING: [_CLOSE, _COMMA, _EDGE],
    _OPEN: [_OPEN, _SHAPE, _NUMBER],
    _CLOSE: [_CLOSE, _COMMA, _EDGE],
    _COMMA: [_OPEN, _SHAPE, _NUMBER],
    _NUMBER: [_NUMBER, _CLOSE, _COMMA],
}.items():
    _FOLLOWS[_before, _after] = True
_HAS_SRID = 0x20000000
_ROOT, _HEADER, _COUNT, _PAIR = 9, 5, 4, 16  # bytes
_SHOWN = 40  # characters of a text in a message


def ewkb(array: pa.Array) -> pa.Array:
    """Texts as EWKB; raises ArrowInvalid for one that is no WKT of two dimensions."""
    # A blank parts each text from the next.
    texts = pc.binary_join_element_wise(array.fill_null("POINT EMPTY"), "", " ")
    data, lengths = _Shapes(texts).written()
    return cut(data, offsets(lengths), is_valid(array), pa.binary())


class _Shapes:
    """Events in the texts, in their order: words, parentheses, commas, numbers."""

    def __init__(self, texts: pa.Array) -> None:
        self._texts = texts
        self._bounds = value_offsets(texts) - value_offsets(texts)[:1]
        text = np.frombuffer(value_bytes(texts), np.uint8)
        is_small = (text >= ord("a")) & (text <= ord("z"))
        text = text ^ np.where(is_small, np.uint8(0x20), np.uint8(0))
        digit = (text >= ord("0")) & (text <= ord("9")) | np.isin(text, np.frombuffer(b".+-", np.uint8))
        # The E of an exponent follows a digit, that of a word never does.
        number = digit | (text == ord("E")) & _shifted(digit)
        letter = (text >= ord("A")) & (text <= ord("Z")) & ~number
        starts_word, starts_number = letter & ~_shifted(letter), number & ~_shifted(number)
        opens, closes, comma = (text == ord(char) for char in "(),")
        self._refuse(np.flatnonzero(~(number | letter | opens | closes | comma | (text == ord(" ")))))
        places = self._places = np.flatnonzero(starts_word | starts_number | opens | closes | comma)
        self._row = np.searchsorted(self._bounds[1:], places, side="right")
        self._opens, self._closes, self._comma = opens[places], closes[places], comma[places]
        self._number = starts_number[places]
        self._depth = np.cumsum(self._opens.astype(np.int32) - self._closes)
        self._word = np.zeros(len(places), np.int64)
        words = _runs(text[letter], np.flatnonzero(starts_word), letter)
        self._word[starts_word[places]] = pc.index_in(words, pa.array(_WORDS)).fill_null(-1).to_numpy() + 1
        self._refuse(places[starts_word[places] & (self._word == 0)])
        self._is_shape = (self._word > 0) & (self._word != _EMPTY)
        self._follow_each_other()
        # The word that each event stands below, and how many parentheses below it.
        at = np.maximum.accumulate(np.where(self._is_shape, np.arange(len(places)), 0))
        self._kind, self._below = self._word[at], self._depth - self._depth[at]
        self._stand_where_they_may()
        numbers = _runs(text[number], np.flatnonzero(starts_number), number)
        self._pairs = numbers.cast(pa.float64()).to_numpy().astype("<f8").reshape(-1, 2)

    def written(self) -> tuple[Numbers, Numbers]:
        """The bytes of all shapes, and how many each text has."""
        is_empty, root = self._word == _EMPTY, self._is_shape & (self._depth == 0)
        first = np.zeros(len(self._word), bool)
        first[np.flatnonzero(self._number)[::2]] = True
        # What each event writes: a header, a count, a pair of numbers.
        header = np.where(self._is_shape, self._word, 0).astype(np.uint32)
        header[self._opens] = _HEADERS[self._kind, self._below][self._opens]
        header[first & (self._kind == _MULTIPOINT)] = _POINT
        counted = (self._opens & _COUNTS[self._kind, self._below]) | (is_empty & (self._kind != _POINT))
        paired = first | (is_empty & (self._kind == _POINT))
        sizes = np.where(root, _ROOT, _HEADER) * (header > 0) + _COUNT * counted + _PAIR * paired
        ends = np.cumsum(sizes)
        out = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
        starts, headed = ends - sizes, header > 0
        out[starts[headed]] = 1  # little-endian
        _put(out, starts[headed] + 1, np.where(root, header | _HAS_SRID, header)[headed].astype("<u4"))
        _put(out, starts[root] + _HEADER, np.full(root.sum(), SRID, "<u4"))
        _put(out, (ends - _COUNT)[counted], np.where(self._opens, self._elements, 0)[counted].astype("<u4"))
        pairs = np.full((len(sizes), 2), np.nan, "<f8")
        pairs[first] = self._pairs
        _put(out, (ends - _PAIR)[paired], pairs[paired])
        return out, np.bincount(self._row, sizes, len(self._texts)).astype(np.int64)

    def _follow_each_other(self) -> None:
        """Refuse texts whose events do not, or whose parentheses do not close."""
        kinds = np.full(len(self._places), _NUMBER)
        for kind, mask in (
            (_SHAPE, self._is_shape),
            (_NOTHING, self._word == _EMPTY),
            (_OPEN, self._opens),
            (_CLOSE, self._closes),
            (_COMMA, self._comma),
        ):
            kinds[mask] = kind
        ends_row = np.diff(self._row, append=len(self._texts)) > 0
        before = np.where(_shifted(ends_row, first=True), _EDGE, np.concatenate([[_EDGE], kinds[:-1]]))
        self._refuse(self._places[~_FOLLOWS[before, kinds] | (self._depth < 0)])
        self._refuse(self._places[ends_row & (~_FOLLOWS[kinds, _EDGE] | (self._depth != 0))])
        self._refuse(self._bounds[:-1][np.bincount(self._row, minlength=len(self._texts)) == 0])
        # Two numbers make a coordinate.
        apart = np.cumsum(~self._number)[self._number]
        if len(apart) % 2:
            apart = np.append(apart, -1)
        is_pair = (apart[::2] == apart[1::2]) & (np.diff(apart[::2], prepend=-1) > 0)
        self._refuse(self._places[self._number][::2][~is_pair])
        self._after_word = before == _SHAPE

    def _stand_where_they_may(self) -> None:
        """Refuse texts with more parentheses than their words have, or things in the wrong ones."""
        below, kind = self._below, self._kind
        wrong = self._opens & ((below > _DEEPEST[kind]) | (self._after_word != (below == 1)))
        self._below = below = np.clip(below, 0, 3)
        wrong |= self._number & ~_COORDINATES[kind, below]
        wrong |= self._comma & (((kind == _POINT) & (below == 1)) | ((kind == _MULTIPOINT) & (below == 2)))
        # Which parenthesis each event stands in: the last that opened at its depth.
        inside = self._depth - self._opens
        order = np.lexsort((np.arange(len(inside)), self._depth + self._closes))
        places = np.maximum.accumulate(np.where(self._opens[order], np.arange(len(order)), 0))
        within = np.zeros(len(order), np.int64)
        within[order] = order[places]
        nested = self._is_shape & (inside > 0)
        wrong |= nested & ((kind[within] != _COLLECTION) | (below[within] != 1))
        self._refuse(self._places[wrong])
        # A parenthesis holds one thing more than it has commas.
        self._elements = np.bincount(within[self._comma], minlength=len(order)) + 1

    def _refuse(self, places: Numbers) -> None:
        if len(places):
            row = int(np.searchsorted(self._bounds[1:], places[0], side="right"))
            raise pa.ArrowInvalid(f"{self._texts[row].as_py()[:_SHOWN].rstrip()!r} is not WKT")


def _shifted(mask: Numbers, first: bool = False) -> Numbers:
    """Of each place, what `mask` says of the place before."""
    return np.concatenate([[first], mask[:-1]])


def _runs(characters: Numbers, starts: Numbers, mask: Numbers) -> pa.Array:
    """The runs of `mask` that begin at `starts`, as texts; `characters` are those in the mask."""
    counted = np.concatenate([[0], np.cumsum(mask)])
    bounds = np.concatenate([counted[starts], counted[-1:]]).astype(np.int32)
    return cut(characters, bounds, None, pa.string())


def _put(out: Numbers, at: Numbers, values: Numbers) -> None:
    """Write the bytes of each value at its place."""
    size = values.dtype.itemsize * (values.shape[1] if values.ndim == 2 else 1)
    out[at[:, None] + np.arange(size)] = np.ascontiguousarray(values).view(np.uint8).reshape(len(at), size)
