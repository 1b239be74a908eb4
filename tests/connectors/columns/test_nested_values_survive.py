"""Generated structs of every type, nested three deep, go through a real binary COPY and say the same."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.column import Column
from connectors.columns.encode import BatchEncoder
from tests.connectors.columns.documents import as_json, equal
from tests.connectors.columns.values import KINDS, few

ODD_NAMES = ["plain", "Größe", "with space", "x:y", "null", "a-b"]
POSITION = Column("position", "INT64")


class Leaf:
    """A column of one of the KINDS, with its Arrow type, its values and what they look like in JSON."""

    def __init__(self, name: str, kind: str, repeated: bool) -> None:
        self._name, self._kind, self._repeated = kind, KINDS[kind], repeated
        self.column = self._kind.column(name, kind, repeated=repeated)
        self.arrow = pa.list_(self._kind.arrow) if repeated else self._kind.arrow
        self.values = listed(self._kind.values, repeated)

    def sent(self, value: Any) -> Any:
        return each(lambda one: self._kind.into(one), value, self._repeated)

    def shown(self, value: Any) -> Any:
        return each(lambda one: as_json(self._name, one), arrayed(value, self._repeated), self._repeated)


class Branch:
    """A STRUCT or ARRAY of STRUCT of other nodes."""

    def __init__(self, name: str, nodes: list[Any], repeated: bool) -> None:
        # Numbered, for a STRUCT's fields have different names.
        self._nodes = {f"{node.column.name} {i}": node for i, node in enumerate(nodes)}
        self._repeated = repeated
        columns = tuple(replace(node.column, name=key) for key, node in self._nodes.items())
        self.column = Column(name, "STRUCT", repeated, columns=columns)
        # The other way round, as nothing promises the order of fields.
        struct = pa.struct([(key, node.arrow) for key, node in reversed(self._nodes.items())])
        self.arrow = pa.list_(struct) if repeated else struct
        self.values = listed(st.fixed_dictionaries({k: node.values for k, node in self._nodes.items()}), repeated)

    def sent(self, value: Any) -> Any:
        return each(lambda row: {k: self._nodes[k].sent(v) for k, v in row.items()}, value, self._repeated)

    def shown(self, value: Any) -> Any:
        def document(row: dict[str, Any]) -> dict[str, Any]:
            return {key: self._nodes[key].shown(inner) for key, inner in row.items()}

        return each(document, arrayed(value, self._repeated), self._repeated)


def listed(values: st.SearchStrategy[Any], repeated: bool) -> st.SearchStrategy[Any]:
    return st.none() | (st.lists(st.none() | values, max_size=3) if repeated else values)


def arrayed(value: Any, repeated: bool) -> Any:
    """A NULL array is an empty one."""
    return [] if repeated and value is None else value


def each(change: Callable[[Any], Any], value: Any, repeated: bool) -> Any:
    if value is None:
        return None
    if repeated:
        return [None if one is None else change(one) for one in value]
    return change(value)


def nodes(depth: int) -> st.SearchStrategy[Any]:
    names = st.sampled_from(ODD_NAMES)
    leaf = st.builds(Leaf, names, st.sampled_from(sorted(KINDS)), st.booleans())
    return leaf | branches(depth - 1) if depth else leaf


def branches(depth: int) -> st.SearchStrategy[Branch]:
    return st.builds(Branch, st.sampled_from(ODD_NAMES), st.lists(nodes(depth), min_size=1, max_size=3), st.booleans())


def three_deep(kind: str) -> st.SearchStrategy[Branch]:
    """A type at every depth, alone and in arrays, with structs around it that are arrays or not."""

    def build(repeated: tuple[bool, bool, bool]) -> Branch:
        leaves = [Leaf("one", kind, False), Leaf("many", kind, True)]
        inner = Branch("inner", leaves, repeated[2])
        return Branch("outer", [Branch("middle", [inner, *leaves], repeated[1]), *leaves], repeated[0])

    return st.builds(build, st.tuples(st.booleans(), st.booleans(), st.booleans()))


@pytest.fixture
def nested(warehouse_cursor: Any) -> Iterator[Any]:
    """A cursor that has a table (position, v jsonb)."""
    warehouse_cursor.execute("CREATE TEMP TABLE nested (position bigint, v jsonb)")
    yield warehouse_cursor
    warehouse_cursor.execute("DROP TABLE nested")


def check(cursor: Any, node: Branch, rows: list[Any]) -> None:
    """COPY `rows` in the form of `node`, and compare what PostgreSQL then holds."""
    sent = pa.array([None, *map(node.sent, rows), None], node.arrow).slice(1, len(rows))
    batch = pa.record_batch([sent, pa.array(range(len(rows)), pa.int64())], names=["v", "position"])
    encoder = BatchEncoder([POSITION, replace(node.column, name="v")])
    stream = io.BytesIO(b"".join([encoder.header(), *encoder.encode(batch), encoder.finish()]))
    cursor.execute("TRUNCATE nested")
    cursor.copy_expert("COPY nested FROM STDIN (FORMAT binary)", stream)
    cursor.execute("SELECT v::text FROM nested ORDER BY position")
    found = [text and json.loads(text, parse_float=Decimal) for (text,) in cursor.fetchall()]
    assert len(found) == len(rows)
    for document, row in zip(found, rows, strict=True):
        assert equal(document, node.shown(row)), (document, node.shown(row))


@pytest.mark.parametrize("name", KINDS)
def test_every_type_says_the_same_three_structs_deep(nested: Any, name: str) -> None:
    @settings(few, max_examples=25)
    @given(st.data())
    def each_form(data: st.DataObject) -> None:
        node = data.draw(three_deep(name))
        check(nested, node, data.draw(st.lists(node.values, max_size=4)))

    each_form()


def test_structs_of_any_form_say_the_same(nested: Any) -> None:
    @few
    @given(st.data())
    def each_form(data: st.DataObject) -> None:
        node = data.draw(branches(3))
        check(nested, node, data.draw(st.lists(node.values, max_size=4)))

    each_form()
