"""What stands against rules for columns and row filters, told of the field at fault before anything is saved."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines import objections, services
from pipelines.files.changes import between
from pipelines.files.fields import PIPELINE
from pipelines.models import Pipeline
from pipelines.revisions import differences
from tests.connectors.columns.test_masking import KEY

HMAC, REDACT = {"mask": "hmac"}, {"mask": "redact"}


@pytest.fixture
def pipeline(make_pipeline: Any) -> Pipeline:
    made: Pipeline = make_pipeline()
    made.destination.secrets = {**(made.destination.secrets or {}), "mask_key": KEY}
    made.destination.save()
    return made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"column_rules": {"email": HMAC, "phone": REDACT}, "merge_key": ["email"]}, ""),
        ({"column_rules": {"Email": REDACT}, "merge_key": ["email"]}, "stands in the key, and its mask"),
        ({"column_rules": {"id": {"mask": "keep_last", "keep": 4}}, "primary_key": ["ID"]}, "in the primary key"),
        ({"column_rules": {"id": REDACT}, "indexes": [{"columns": ["id"], "unique": True}]}, "in a unique index"),
        ({"column_rules": {"id": REDACT}, "indexes": [{"columns": ["id"]}]}, ""),
        ({"column_rules": {"id": {"skip": True}}, "primary_key": ["id"]}, "is skipped, and stands in"),
        ({"column_rules": {"day": HMAC}, "partition_column": "day"}, "partitioned by day, which is masked"),
        ({"column_rules": {"day": {"name": "when"}}, "partition_column": "day"}, ""),
        ({"column_rules": {"at": HMAC}, "cursor_column": "AT", "write_disposition": "merge"}, "is the cursor"),
        ({"column_rules": {"at": {"type": "text"}}, "cursor_column": "at", "write_disposition": "merge"}, "the cursor"),
        ({"column_rules": {"at": {"name": "x"}}, "cursor_column": "at", "write_disposition": "merge"}, ""),
        ({"column_rules": {"a": {"mask": "rot13"}}}, "no mask 'rot13'"),
        ({"column_rules": {"a": {"mask": "keep_last"}}}, "no use for keep, or needs it"),
        ({"column_rules": {"a": {"mask": "hmac", "keep": 3}}}, "no use for keep, or needs it"),
        ({"column_rules": {"a": {"mask": "hmac", "type": "text"}}}, "cannot be masked and have a type"),
        ({"column_rules": {"a.b": {"name": "c"}}}, "can only be masked"),
        ({"column_rules": {"a": {"name": "x" * 64}}}, "64 bytes"),
        ({"column_rules": {"a": {"name": "c", "skip": True}}}, "either skip it"),
    ],
)
def test_rules_that_cannot_be(pipeline: Pipeline, changes: dict[str, Any], said: str):
    if "merge_key" not in changes:
        changes = {"merge_key": ["k"] if changes.get("write_disposition") == "merge" else [], **changes}
    for name, value in changes.items():
        setattr(pipeline, name, value)
    found = [refused for refused in objections.against(pipeline) if refused.field == "column_rules"]
    assert [said in refused.message for refused in found] == ([True] if said else [])


@pytest.mark.parametrize("stored", [{}, {"password": "x"}])
def test_hmac_needs_a_key_and_other_masks_do_not(pipeline: Pipeline, stored: dict[str, str]):
    pipeline.destination.secrets = stored
    pipeline.column_rules = {"a": REDACT}
    assert not objections.against(pipeline)
    pipeline.column_rules = {"a.b": HMAC}
    assert [(r.code, r.field) for r in objections.against(pipeline)] == [("mask_key", "column_rules")]


def test_a_filter_is_for_tables_and_is_one_condition(pipeline: Pipeline):
    pipeline.row_filter = "country = 'DE'"
    assert not objections.against(pipeline)
    pipeline.row_filter = "TRUE) OR (TRUE"
    assert [(r.code, r.field) for r in objections.against(pipeline)] == [("row_filter", "row_filter")]
    pipeline.row_filter, pipeline.source_table, pipeline.source_query = "a = 1", "", "SELECT 1 AS a"
    assert [(r.code, r.field) for r in objections.against(pipeline)] == [("row_filter", "row_filter")]


def test_a_filter_is_kept_copied_and_part_of_the_definition_only_where_there_is_one(pipeline: Pipeline):
    plain = pipeline.revision
    assert "row_filter" not in plain.definition
    pipeline.row_filter = "a = 1"
    revision = services.save_pipeline(pipeline, schedules=None, by=None)
    assert revision.fingerprint != plain.fingerprint
    assert services.duplicate(pipeline, by=None).row_filter == "a = 1"
    ((change,),) = differences([(plain.definition, revision.definition)])
    assert (change.label, change.words) == ("Row filter", "empty → a = 1")


def test_rules_are_told_in_words():
    before = {"column_rules": {"a": {"type": "text"}}}
    after = {
        "column_rules": {
            "a": {"name": "b", "type": "timestamptz", "zone": "UTC"},
            "c": {"mask": "keep_last", "keep": 4, "name": "d"},
            "e": HMAC,
        }
    }
    told = [(change.label, change.after) for change in between(PIPELINE, before, after) if change.label[0] == "C"]
    assert told == [
        ("Column a", "called b, as timestamptz, times of UTC"),
        ("Column c", "called d, masked: its last 4 characters"),
        ("Column e", "masked: HMAC-SHA256, in hexadecimal digits"),
    ]
