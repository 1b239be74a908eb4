"""Rows that cannot be stored leave a batch in Arrow, with their reasons; all others are encoded as ever."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import psycopg2
import pyarrow as pa
import pytest

from connectors.column import Column
from connectors.columns import json_checks
from connectors.columns.divert import Diverted, Diverter
from connectors.columns.encode import BatchEncoder
from connectors.errors import ConnectorError

ID = Column("id", "INT64")


def divert(
    columns: Sequence[Column], arrays: Sequence[pa.Array], policy: str = "fail", **options: Any
) -> tuple[list[Diverted], bytes, BatchEncoder]:
    taken: list[Diverted] = []
    encoder = BatchEncoder(columns, policy, diverter=Diverter(columns, taken.append, **options))
    batch = pa.record_batch(list(arrays), names=[column.name for column in columns])
    return taken, b"".join([encoder.header(), *encoder.encode(batch), encoder.finish()]), encoder


def encoded(columns: Sequence[Column], arrays: Sequence[pa.Array], policy: str = "fail") -> bytes:
    encoder = BatchEncoder(columns, policy)
    batch = pa.record_batch(list(arrays), names=[column.name for column in columns])
    return b"".join([encoder.header(), *encoder.encode(batch), encoder.finish()])


BAD: list[tuple[Column, pa.Array, str, bool]] = [
    (Column("v", "STRING"), pa.array(["a", "b\0", None, "\0", "c"]), "nul_character", False),
    (Column("v", "STRING"), pa.array([b"a", b"\xff", b"b", b"\xc3", b"c"]).view(pa.string()), "bad_text", False),
    (Column("v", "JSON"), pa.array(["1", '"\\u0000"', None, '["\\u0000"]', "{}"]), "nul_character", False),
    (Column("v", "JSON"), pa.array(["1", '"\\ud800"', None, "[1,]", "{}"]), "bad_json", True),
    (Column("v", "STRING", target_type="jsonb"), pa.array(["1", "yes", None, "", "{}"]), "bad_json", True),
    (Column("v", "JSON", repeated=True), pa.array([["1"], ["1", "nan"], [], ["["], ["2"]]), "bad_json", True),
    (Column("v", "STRING", repeated=True), pa.array([["a"], ["b", "\0"], [], ["\0"], ["c"]]), "nul_character", False),
    (
        Column("v", "STRUCT", columns=(Column("t", "STRING"),)),
        pa.array([{"t": "a"}, {"t": "\0"}, None, {"t": "b\0"}, {"t": "c"}]),
        "nul_character",
        False,
    ),
    (
        Column("v", "INT64", target_type="smallint"),
        pa.array([1, 40_000, None, -40_000, 2]),
        "value_out_of_range",
        False,
    ),
    (
        Column("v", "STRING", target_type="uuid"),
        pa.array([None, "x", None, "y" * 36, None]),
        "value_out_of_range",
        False,
    ),
    (
        Column("v", "STRING", target_type="character varying(3)"),
        pa.array(["abc", "abcd", None, "abcde", ""]),
        "value_out_of_range",
        False,
    ),
    (
        Column("v", "NUMERIC", target_type="numeric(5,2)"),
        pa.array([1, 1000, None, -2000, 2], pa.decimal128(38, 9)),
        "value_out_of_range",
        False,
    ),
    (
        Column("v", "DATE"),
        pa.array([0, -3_000_000, None, 2_147_000_000, 1], pa.int32()).view(pa.date32()),
        "value_out_of_range",
        True,
    ),
    (
        Column("v", "DATETIME"),
        pa.array([0, -(2**62), None, -(2**61), 1], pa.int64()).view(pa.timestamp("us")),
        "value_out_of_range",
        True,
    ),
    (
        Column("v", "INTERVAL"),
        pa.array([(1, 2, 3000), (0, 0, 1), None, (0, 0, 1001), (0, 0, 0)], pa.month_day_nano_interval()),
        "value_out_of_range",
        False,
    ),
    (
        Column("v", "RANGE", element="DATE"),
        pa.array(
            [
                {"start": None, "end": None},
                {"start": 2, "end": 1},
                None,
                {"start": 9, "end": 8},
                {"start": 1, "end": 2},
            ],
            pa.struct([("start", pa.date32()), ("end", pa.date32())]),
        ),
        "value_out_of_range",
        True,
    ),
]


@pytest.mark.parametrize(("column", "array", "code", "is_strict"), BAD, ids=lambda each: getattr(each, "type", None))
def test_rows_one_and_three_are_left_out_with_their_reason(
    column: Column, array: pa.Array, code: str, is_strict: bool
) -> None:
    ids = pa.array(range(5), pa.int64())
    taken, sent, _ = divert([ID, column], [ids, array], key=["ID"], is_strict=is_strict)
    good = pa.array([True, False, True, False, True])
    assert sent == encoded([ID, column], [ids.filter(good), array.filter(good)])
    (found,) = taken
    assert [(reason.column.split(".")[0], reason.code) for reason in found.reasons] == [("v", code)] * 2
    assert all("v" in reason.text for reason in found.reasons)
    assert [json.loads(key) for key in found.keys.to_pylist()] == [{"id": "1"}, {"id": "3"}]
    assert [json.loads(raw)["id"] for raw in found.raw.to_pylist()] == ["1", "3"]


def test_nothing_is_looked_at_twice_where_nothing_is_bad() -> None:
    taken, sent, _ = divert([ID], [pa.array([1, 2])], key=["id"], never_null=[("id", "null_key")])
    assert (taken, sent) == ([], encoded([ID], [pa.array([1, 2])]))


def test_a_row_that_is_bad_twice_is_left_out_once() -> None:
    columns = [Column("a", "STRING"), Column("b", "STRING")]
    taken, _, _ = divert(columns, [pa.array(["\0", "x"]), pa.array(["\0", "\0"])])
    assert [[reason.column for reason in found.reasons] for found in taken] == [["a", "b"]]


def test_a_key_without_a_value_is_illegible_and_so_is_a_bad_one() -> None:
    columns = [Column("k", "STRING"), Column("v", "STRING")]
    arrays = [pa.array([None, "\0", "c", "d"]), pa.array(["a", "b", "\0", "d"])]
    taken, _, _ = divert(columns, arrays, key=["k"], never_null=[("k", "null_key")])
    (found,) = taken
    assert [reason.code for reason in found.reasons] == ["null_key", "nul_character", "nul_character"]
    assert found.keys.to_pylist() == [None, None, '{"k":"c"}']


@pytest.mark.parametrize(
    ("policy", "keys"),
    [("fail", [None, None, '{"k":"c"}']), ("strip", ['{"k":"ab"}', '{"k":"xy"}', '{"k":"c"}'])],
)
def test_a_key_is_told_as_it_is_stored_or_illegible_whatever_else_is_wrong(policy: str, keys: list[Any]) -> None:
    columns = [Column("v", "STRING", target_type="jsonb"), Column("k", "STRING")]
    arrays = [pa.array(["[", "[", "["]), pa.array([b"a\0b", b"x\xffy", b"c"]).view(pa.string())]
    taken, _, _ = divert(columns, arrays, policy, key=["k"], text_policy=policy, is_strict=True)
    assert taken[0].keys.to_pylist() == keys


@pytest.mark.parametrize(
    ("column", "array", "text"),
    [
        (Column("k", "BYTES"), pa.array([b"\xff\0"]), "\\xff00"),
        (Column("k", "TIMESTAMP"), pa.array([0], pa.timestamp("us", "UTC")), "1970-01-01T00:00:00Z"),
        (
            Column("k", "TIMESTAMP", target_type="text"),
            pa.array([0], pa.timestamp("us", "UTC")),
            "1970-01-01T00:00:00.000000Z",
        ),
        (
            Column("k", "DATE", target_type="timestamp without time zone"),
            pa.array([dt.date(2026, 1, 2)]),
            "2026-01-02T00:00:00",
        ),
        (
            Column("k", "STRING", target_type="uuid"),
            pa.array(["123e4567-E89b-12d3-a456-426614174000"]),
            "123e4567-E89b-12d3-a456-426614174000",
        ),
        (Column("k", "INT64", target_type="text"), pa.array([7]), "7"),
    ],
)
def test_keys_and_cursors_are_told_as_the_target_has_them(column: Column, array: pa.Array, text: str) -> None:
    bad = Column("v", "STRING")
    taken, _, _ = divert([column, bad], [array, pa.array(["\0"])], key=["k"], cursor="K")
    assert json.loads(taken[0].keys[0].as_py()) == {"k": text}
    assert taken[0].cursors.to_pylist() == [text]


def test_values_that_the_policy_mends_are_counted_once_beside_rows_that_are_left_out() -> None:
    columns = [Column("a", "STRING"), Column("b", "INT64", target_type="smallint")]
    _, _, encoder = divert(columns, [pa.array(["x\0", "y", "z\0"]), pa.array([1, 99_999, 2])], "strip")
    assert encoder.repaired == {"a": 2}


def test_a_column_that_is_not_what_was_announced_still_ends_the_load() -> None:
    with pytest.raises(ConnectorError) as caught:
        divert([ID], [pa.array(["x"])])
    assert caught.value.code == "column_type_changed"


def test_a_large_slice_with_many_bad_rows_keeps_every_good_one_in_order() -> None:
    texts = [f"{n}\0" if n % 3 == 0 else str(n) for n in range(3000)]
    taken, sent, _ = divert([Column("v", "STRING")], [pa.array(texts)])
    assert sum(len(found.reasons) for found in taken) == 1000
    assert sent == encoded([Column("v", "STRING")], [pa.array([text for text in texts if "\0" not in text])])


JSON_TEXTS = [
    "1", '"a"', "[]", "{}", "[1,2]", '{"a":[{"b":null}]}', " [ 1 ,\n2 ] ", '{"a" : "x\\n\\u00e4"}', '"\\ud83d\\ude00"',
    '"\\\\ud800"', "-0.5e10", "1e99999", "1e-99", "", "x", "[1,]", '{"a"}', "{a:1}", "01", "1 2", "[1 2]", '"\\x"',
    '"\\ud800"', '"\\udc00"', '"\\ud83dx"', '"\\u0000"', "1.", "-", "[", '{"a":1}}', "tru", "truefalse", '"a""b"',
    "1e200000", "nan", "{1:2}", '"\n"', "+1", ".5", '"abc', "[1]2", '{"a":1,"a":2}', "[[[[[[[1]]]]]]]", "\u00a01",
    '"\\u00"', "null", "[true false]", '{"a":}', "1e1", "1E+2", "0", "-0", "00", '"\\/"', "'a'", '{"a":1,}', ",",
]  # fmt: skip


@pytest.mark.parametrize("type_", ["jsonb", "json"])
def test_json_is_told_apart_as_postgresql_does(warehouse_cursor: Any, type_: str) -> None:
    found = json_checks.refused(pa.array(JSON_TEXTS), is_jsonb=type_ == "jsonb").to_pylist()
    assert dict(zip(JSON_TEXTS, found, strict=True)) == {
        text: not _takes(warehouse_cursor, text, type_) for text in JSON_TEXTS
    }


def _takes(cursor: Any, text: str, type_: str) -> bool:
    try:
        cursor.execute(f"SELECT %s::text::{type_}", (text,))
    except psycopg2.DataError:
        return False
    return True
