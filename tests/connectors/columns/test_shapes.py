"""Shapes as text become the bytes that PostGIS receives: checked against a writer that takes one at a time."""

from __future__ import annotations

import math
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.columns.wkt import ewkb

# A shape is (its number in WKB, its parts); coordinates are pairs.
Shape = tuple[int, Any]
NAMES = dict(
    enumerate(
        ("POINT", "LINESTRING", "POLYGON", "MULTIPOINT", "MULTILINESTRING", "MULTIPOLYGON", "GEOMETRYCOLLECTION"), 1
    )
)

number = st.floats(-180, 180) | st.integers(-180, 180).map(float)
pair = st.tuples(number, number)
line = st.lists(pair, min_size=2, max_size=4)
ring = st.lists(pair, min_size=3, max_size=4).map(lambda pairs: [*pairs, pairs[0]])
polygon = st.lists(ring, max_size=3)
simple = st.one_of(
    st.tuples(st.just(1), st.none() | pair),
    st.tuples(st.just(2), st.just([]) | line),
    st.tuples(st.just(3), polygon),
    st.tuples(st.just(4), st.lists(pair, max_size=4)),
    st.tuples(st.just(5), st.lists(line, max_size=3)),
    st.tuples(st.just(6), st.lists(polygon.filter(bool), max_size=3)),
)
shapes = st.recursive(simple, lambda inner: st.tuples(st.just(7), st.lists(inner, max_size=3)), max_leaves=6)


def text(shape: Shape) -> str:
    kind, parts = shape
    return f"{NAMES[kind]} EMPTY" if not parts else f"{NAMES[kind]}({inside(kind, parts)})"


def inside(kind: int, parts: Any) -> str:
    def listed(pairs: Any) -> str:
        return ", ".join(f"{x!r} {y!r}" for x, y in pairs)

    if kind == 1:
        return listed([parts])
    if kind in (2, 4):
        return listed(parts)
    if kind in (3, 5):
        return ", ".join(f"({listed(ring)})" for ring in parts)
    if kind == 6:
        return ", ".join(f"({inside(3, rings)})" for rings in parts)
    return ", ".join(map(text, parts))


def binary(shape: Shape, srid: bool = True) -> bytes:
    kind, parts = shape
    head = struct.pack("<BII", 1, kind | 0x20000000, 4326) if srid else struct.pack("<BI", 1, kind)

    def pairs(values: Any) -> bytes:
        return struct.pack("<I", len(values)) + b"".join(struct.pack("<dd", *value) for value in values)

    if kind == 1:
        return head + (struct.pack("<dd", *parts) if parts else struct.pack("<dd", math.nan, math.nan))
    if kind == 2:
        return head + pairs(parts)
    count = struct.pack("<I", len(parts))
    if kind == 3:
        return head + count + b"".join(map(pairs, parts))
    inner = {4: 1, 5: 2, 6: 3}.get(kind)
    return head + count + b"".join(binary((inner, part) if inner else part, srid=False) for part in parts)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.none() | shapes, max_size=8))
@example([(7, [(1, (1e-300, -5e-324)), (7, [(6, [[[(0.0, 0.0)] * 4]])]), (1, None)]), None])
def test_shapes_of_any_kind_are_written_as_one_at_a_time_would_be(rows: list[Shape | None]) -> None:
    array = pa.array([None, *(row and text(row) for row in rows), "POINT(9 9)"], pa.string()).slice(1, len(rows))
    assert ewkb(array).to_pylist() == [row and binary(row) for row in rows]


def test_spelling_does_not_matter() -> None:
    found = ewkb(pa.array(["multipoint ( (1 2) ,( 3 4) )", "MULTIPOINT(1 2,3 4)", "MultiPoint(1e0 2.0, 3 +4)"]))
    assert set(found.to_pylist()) == {binary((4, [(1.0, 2.0), (3.0, 4.0)]))}


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "POINT", "POINT()", "POINT(1)", "POINT(1 2 3)", "POINT(1 2", "POINT 1 2", "POINT((1 2))", "POINT(1,2)"),
        *("POINT(1 2, 3 4)", "POINT(1 2) POINT(3 4)", "POINT(1 2)x", "POINT(a b)", "POINT(--1 2)", "POINT(1e 2)"),
        *("POINT EMPTY EMPTY", "POINT(1 2)(3 4)", "POINT(1 2))(", "POINT Z(1 2)", "SRID=4326;POINT(1 2)"),
        *("LINESTRING(0 0 1 1)", "LINESTRING()", "LINESTRING(1 2,)", "LINESTRING((0 0, 1 1))"),
        *("POLYGON(0 0, 1 1)", "POLYGON((0 0), 1 1)", "POLYGON(((0 0)))", "MULTIPOLYGON((0 0, 1 1))"),
        *("MULTIPOINT(POINT(1 2))", "MULTIPOINT((1 2, 3 4))", "MULTILINESTRING(0 0, 1 1)"),
        *("GEOMETRYCOLLECTION(1 2)", "GEOMETRYCOLLECTION((1 2))", "GEOMETRYCOLLECTION(POINT(1 2), (3 4))"),
        *("GEOMETRYCOLLECTION(POINT(1 2), 3 4)", "GEOMETRYCOLLECTION(POLYGON((POINT(1 2))))", "FULLGLOBE"),
        *("(1 2)", "1 2", "hello", "é", "CIRCULARSTRING(0 0, 1 1, 2 0)", "EMPTY"),
    ],
)
def test_what_is_no_shape_is_refused_wherever_it_stands(wrong: str) -> None:
    for texts in ([wrong], ["POINT(0 0)", wrong], [wrong, "POLYGON((0 0, 1 0, 1 1, 0 0))"]):
        with pytest.raises(pa.ArrowInvalid):
            ewkb(pa.array(texts))
