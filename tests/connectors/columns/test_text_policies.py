"""Characters that PostgreSQL refuses: stripped or replaced where they are, counted, nothing else touched."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.column import Column
from connectors.columns.characters import Characters
from connectors.columns.encode import BatchEncoder
from connectors.errors import ConnectorError

POSITION = Column("position", "INT64")
TEXT = Column("v", "STRING")
DOCUMENT = Column("v", "JSON")


def raw(*values: bytes | None) -> pa.Array:
    """Strings of any bytes, as a broken source could send them."""
    plain = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(plain), plain.buffers())


TEXTS = pa.array(["a", "b\0c", None, "\0", "", "é\0\0😀"])
DOCUMENTS = pa.array(
    [
        '{"a": "x\\u0000y"}',
        '["\\\\u0000"]',
        '["\\\\\\u0000\\u0000\\\\\\\\\\u0000"]',
        None,
        '{"k\\u0000": [1, "\\n\\"\\u0000é"]}',
        "1",
    ]
)
STRIPPED_DOCUMENTS = [{"a": "xy"}, ["\\u0000"], ["\\\\\\"], None, {"k": [1, '\n"é']}, 1]
REPLACED_DOCUMENTS = [{"a": "x�y"}, ["\\u0000"], ["\\��\\\\�"], None, {"k�": [1, '\n"�é']}, 1]
BROKEN = raw(b"ok", b"caf\xe9", None, b"\xc3", b"\xa9x", b"\xed\xa0\x80", "é\0".encode(), b"\xff\0\xff")


@pytest.mark.parametrize(
    ("policy", "column", "array", "expected", "changed"),
    [
        ("strip", TEXT, TEXTS, ["a", "bc", None, "", "", "é😀"], 3),
        ("replace", TEXT, TEXTS, ["a", "b�c", None, "�", "", "é��😀"], 3),
        ("strip", DOCUMENT, DOCUMENTS, STRIPPED_DOCUMENTS, 3),
        ("replace", DOCUMENT, DOCUMENTS, REPLACED_DOCUMENTS, 3),
        ("strip", TEXT, BROKEN, ["ok", "caf", None, "", "x", "", "é", ""], 6),
        ("replace", TEXT, BROKEN, ["ok", "caf�", None, "�", "�x", "���", "é�", "���"], 6),
        ("strip", DOCUMENT, raw(b'"\xff\\u0000\0"', b'"\xc3\xa9"'), ["", "é"], 1),
        ("strip", DOCUMENT, raw(b'"a\\u0\x0000\xff0"'), ["a"], 1),
    ],
)
def test_refused_characters_are_mended_and_their_values_counted(
    survivors: Any, policy: str, column: Column, array: pa.Array, expected: list[Any], changed: int
) -> None:
    encoder = BatchEncoder([POSITION, column], policy)
    assert survivors(column, array, encoder=encoder) == expected
    assert encoder.repaired == {"v": changed}


@pytest.mark.parametrize(("policy", "fill"), [("strip", ""), ("replace", "�")])
def test_elements_of_arrays_are_counted_one_by_one(survivors: Any, policy: str, fill: str) -> None:
    column = Column("v", "STRING", repeated=True)
    encoder = BatchEncoder([POSITION, column], policy)
    array = pa.array([["a\0", "b", None], None, ["\0", "\0c"], []])
    assert survivors(column, array, encoder=encoder) == [[f"a{fill}", "b", None], [], [fill, f"{fill}c"], []]
    assert encoder.repaired == {"v": 3}


@pytest.mark.parametrize(("policy", "fill"), [("strip", ""), ("replace", "�")])
def test_values_inside_a_struct_are_counted_by_their_path(survivors: Any, policy: str, fill: str) -> None:
    inner = Column("many", "STRUCT", True, columns=(Column("s", "STRING", True), Column("j", "JSON")))
    column = Column("v", "STRUCT", columns=(Column("t", "STRING"), inner))
    encoder = BatchEncoder([POSITION, column], policy)
    rows = [
        {"t": "x\0", "many": [{"s": ["\0", "y"], "j": '{"a":"\\u0000"}'}, {"s": None, "j": '"\\\\u0000"'}]},
        None,
        {"t": None, "many": [{"s": ["z\0\0"], "j": None}]},
    ]
    many = pa.list_(pa.struct([("s", pa.list_(pa.string())), ("j", pa.string())]))
    found = survivors(column, pa.array(rows, pa.struct([("t", pa.string()), ("many", many)])), encoder=encoder)
    assert found == [
        {"t": f"x{fill}", "many": [{"s": [fill, "y"], "j": {"a": fill}}, {"s": [], "j": "\\u0000"}]},
        None,
        {"t": None, "many": [{"s": [f"z{fill}{fill}"], "j": None}]},
    ]
    assert encoder.repaired == {"v.t": 1, "v.many.s": 2, "v.many.j": 1}


def test_counts_add_up_over_slices_and_batches() -> None:
    encoder = BatchEncoder([TEXT], "strip")
    encoder.header()
    batch = pa.record_batch([pa.array(["x" * 1000, "y\0" * 500] * 2000)], names=["v"])
    for _ in range(2):
        list(encoder.encode(batch))
    assert encoder.repaired == {"v": 4000}


@pytest.mark.parametrize("policy", ["strip", "replace"])
@pytest.mark.parametrize(
    ("column", "array"),
    [
        (TEXT, pa.array(["é😀", "\\u0000", "", None, "\x01\x7f"])),
        (DOCUMENT, pa.array(['"\\\\u0000"', '{"\\\\\\\\u0000": "\\n"}', None])),
        (TEXT, pa.array(["\0", "b", "\0"]).slice(1, 1)),
    ],
)
def test_what_is_good_stays_the_same_array(policy: str, column: Column, array: pa.Array) -> None:
    characters = Characters(policy)
    assert characters.mend(array, column.type, "v") is array
    assert characters.repaired == {}


def test_a_text_that_is_not_utf8_is_refused_unless_a_policy_mends_it() -> None:
    array = raw(b"ok", b"\xff", b"\xc3", b"\xa9")
    with pytest.raises(ConnectorError) as caught:
        Characters("fail").mend(array, "STRING", "v")
    assert (caught.value.code, caught.value.field) == ("bad_text", "v")
    assert "3 values" in caught.value.message


def test_a_policy_that_does_not_exist_is_no_policy() -> None:
    with pytest.raises(ValueError, match="ignore"):
        BatchEncoder([TEXT], "ignore")


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.none() | st.binary(max_size=12), min_size=1, max_size=6))
@example([b"\xf0\x9f\x98", b"\x80", b"\xf0\x9f\x98\x80"])
def test_any_bytes_become_the_text_that_python_reads_in_them(values: list[bytes | None]) -> None:
    array = raw(*values)
    stripped = Characters("strip").mend(array, "STRING", "v")
    replaced = Characters("replace").mend(array, "STRING", "v")
    for found, errors, nul in ((stripped, "ignore", ""), (replaced, "replace", "�")):
        found.validate(full=True)
        # NULs first: they end a broken sequence, and when they are gone its bytes may meet others.
        assert found.to_pylist() == [
            None if value is None else value.replace(b"\0", nul.encode()).decode(errors=errors) for value in values
        ]


strings = st.text(st.sampled_from(["\0", "\\", "u", "0", '"', "é", "a", "\n"]), max_size=10)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.dictionaries(st.sampled_from(["k", "\\"]), st.lists(strings, max_size=3)))
def test_a_document_without_its_nuls_says_the_same_otherwise(document: dict[str, list[str]]) -> None:
    for policy, fill in (("strip", ""), ("replace", "�")):
        for is_ascii in (True, False):
            array = pa.array([json.dumps(document, ensure_ascii=is_ascii)])
            (found,) = Characters(policy).mend(array, "JSON", "v").to_pylist()
            expected = {key: [text.replace("\0", fill) for text in texts] for key, texts in document.items()}
            assert json.loads(found) == expected
