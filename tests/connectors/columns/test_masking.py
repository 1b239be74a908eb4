"""Masks, made where rows are read: no value is left, and equal values stay equal."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from connectors import column_rules, masks
from connectors.base import NeverStop
from connectors.column import Column, MaskKind
from connectors.column_rules import ColumnRule
from connectors.columns import masking
from connectors.columns.encode import BatchEncoder
from connectors.errors import ConnectorError, NewGeneration
from connectors.reading import Part
from tests.connectors.memory import MemorySource

KEY = "0123456789abcdef0123456789abcdef"


def tag(text: str | bytes, key: str = KEY) -> str:
    return hmac.digest(key.encode(), text if isinstance(text, bytes) else text.encode(), hashlib.sha256).hex()


def masked(column: Column, array: pa.Array, rules: dict[str, ColumnRule], key: str = KEY) -> tuple[Column, list[Any]]:
    columns = masks.with_key(column_rules.apply([column], rules), key)
    source = MemorySource([pa.record_batch({column.name: array})], [column])
    (batch,) = masking.reader(source, columns, key)(Part("only"), stop=NeverStop())
    encoder = BatchEncoder(columns)
    encoder.header()
    list(encoder.encode(batch))  # it is what the encoder expects
    return columns[0], batch.column(0).to_pylist()


@pytest.mark.parametrize(
    ("type_", "array", "texts"),
    [
        ("STRING", pa.array(["a@b.c", "é\0", "a@b.c", "", None]), ["a@b.c", "é\0", "a@b.c", "", None]),
        ("INT64", pa.array([42, -1, None]), ["42", "-1", None]),
        ("BOOL", pa.array([True, False]), ["true", "false"]),
        ("NUMERIC", pa.array([Decimal("1.50"), Decimal("42")], pa.decimal128(38, 9)), ["1.5", "42"]),
        ("BIGNUMERIC", pa.array([Decimal("42")], pa.decimal256(76, 38)), ["42"]),
        ("BYTES", pa.array([b"\x00\xff"]), ["00ff"]),
        ("DATE", pa.array([dt.date(2026, 1, 2)]), ["2026-01-02"]),
        ("TIME", pa.array([dt.time(1, 2, 3)], pa.time64("us")), ["01:02:03.000000"]),
        ("DATETIME", pa.array([dt.datetime(2026, 1, 2)], pa.timestamp("us")), ["2026-01-02T00:00:00.000000"]),
        ("TIMESTAMP", pa.array([0], pa.timestamp("us", "UTC")), ["1970-01-01T00:00:00.000000Z"]),
    ],
)
def test_hmac_is_that_of_the_canonical_text_and_null_stays_null(type_: str, array: pa.Array, texts: list[str | None]):
    found = masked(Column("c", type_), array, {"c": ColumnRule(mask="hmac")})
    assert found[1] == [None if text is None else tag(text) for text in texts]
    assert (found[0].type, found[0].mask and found[0].mask.of.type) == ("STRING", type_)


def test_a_long_key_and_base64_are_as_rfc_2104_has_them():
    key = "k" * 100
    _, found = masked(Column("c", "STRING"), pa.array(["a"]), {"c": ColumnRule(mask="hmac_base64")}, key)
    assert found == [base64.b64encode(bytes.fromhex(tag("a", key))).decode()]


def test_the_last_characters_are_kept_of_longer_texts_only():
    rule = {"c": ColumnRule(mask="keep_last", keep=4)}
    texts = pa.array(["4111111111111234", "1234", "", "Grüße", None]).slice(0)
    assert masked(Column("c", "STRING"), texts, rule)[1] == ["****1234", "****", "****", "****rüße", None]
    assert masked(Column("c", "INT64"), pa.array([491701234567]), rule)[1] == ["****4567"]


def test_what_is_redacted_says_only_whether_there_was_a_value():
    documents = pa.array([{"a": 1}, None], pa.struct([("a", pa.int64())]))
    column = Column("c", "STRUCT", columns=(Column("a", "INT64"),))
    assert masked(column, documents, {"c": ColumnRule(mask="redact")})[1] == ["***", None]
    shapes = pa.array([b"\x01", None], pa.binary())
    assert masked(Column("c", "GEOGRAPHY"), shapes, {"c": ColumnRule(mask="redact")})[1] == ["***", None]


def test_elements_of_arrays_are_masked_one_by_one():
    array = pa.array([["x"], ["y", "z"], [], None]).slice(1)
    rules = {"c": ColumnRule(mask="hmac")}
    assert masked(Column("c", "STRING", repeated=True), array, rules)[1] == [[tag("y"), tag("z")], [], []]


def test_fields_of_structs_are_masked_by_their_paths_and_nothing_else_is():
    person = pa.struct([("name", pa.string()), ("age", pa.int64())])
    array = pa.array([{"who": [{"name": "Ada", "age": 36}], "n": 1}, None, {"who": None, "n": 2}]).cast(
        pa.struct([("who", pa.list_(person)), ("n", pa.int64())])
    )
    who = Column("who", "STRUCT", repeated=True, columns=(Column("name", "STRING"), Column("age", "INT64")))
    column = Column("c", "STRUCT", columns=(who, Column("n", "INT64")))
    rules = {"C.who.Name": ColumnRule(mask="hmac"), "c.who.age": ColumnRule(mask="redact")}
    assert masked(column, array, rules)[1] == [
        {"who": [{"name": tag("Ada"), "age": "***"}], "n": 1},
        None,
        {"who": [], "n": 2},
    ]


@pytest.mark.parametrize(
    ("column", "rules", "said"),
    [
        (Column("c", "FLOAT64"), {"c": ColumnRule(mask="hmac")}, "may be written differently"),
        (Column("c", "JSON"), {"c": ColumnRule(mask="hmac_base64")}, "may be written differently"),
        (Column("c", "DATE"), {"c": ColumnRule(mask="keep_last", keep=2)}, "only STRING and INT64"),
        (Column("c", "STRUCT", columns=(Column("a", "STRING"),)), {"c": ColumnRule(mask="hmac")}, "fields of its own"),
        (Column("c", "STRUCT", columns=(Column("a", "STRING"),)), {"c.b": ColumnRule(mask="redact")}, "no field c.b"),
        (Column("c", "STRING"), {"c.b": ColumnRule(mask="redact")}, "no field c.b"),
    ],
)
def test_what_cannot_be_masked_is_refused(column: Column, rules: dict[str, ColumnRule], said: str):
    with pytest.raises(ConnectorError, match=said) as refused:
        column_rules.apply([column], rules)
    assert (refused.value.code, refused.value.field) == ("column_rule", "c")


def test_no_error_has_a_value_in_it():
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"secret\xff"]).buffers())
    with pytest.raises(ConnectorError) as refused:
        masked(Column("c", "STRING"), broken, {"c": ColumnRule(mask="keep_last", keep=2)})
    error: BaseException | None = refused.value
    assert refused.value.code == "bad_text"
    while error is not None:
        assert "secret" not in str(error)
        error = None if error.__suppress_context__ else error.__cause__ or error.__context__


def test_what_a_source_says_of_a_value_that_it_cannot_read_is_not_told():
    class Broken(MemorySource):
        def read(self, part: Part, *, start: int = 0, stop: Any) -> Any:
            raise ConnectorError("Column c: not of its type.", hint="'secret'", code="bad_answer", field="C")
            yield

    columns = column_rules.apply([Column("c", "STRING")], {"c": ColumnRule(mask="redact")})
    with pytest.raises(ConnectorError) as refused:
        next(masking.reader(Broken([]), columns, "")(Part("only"), stop=NeverStop()))
    assert (refused.value.code, refused.value.hint) == ("bad_answer", "")
    assert refused.value.__suppress_context__


def test_without_a_key_or_with_another_than_planned_nothing_is_read():
    columns = column_rules.apply([Column("c", "STRING")], {"c": ColumnRule(mask=MaskKind.HMAC)})
    with pytest.raises(ConnectorError) as refused:
        masks.with_key(columns, "")
    assert refused.value.code == "mask_key"
    planned = masks.with_key(columns, KEY)
    with pytest.raises(NewGeneration):
        masking.reader(MemorySource([]), planned, KEY[::-1])
    assert KEY not in repr(planned)


def test_columns_without_masks_are_read_as_they_are():
    source = MemorySource([])
    assert masking.reader(source, [Column("c", "STRING")], "") == source.read
