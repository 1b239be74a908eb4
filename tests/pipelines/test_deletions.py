"""What a pipeline does with rows that vanish: how it is set, what stands against it, who can tell at all."""

from __future__ import annotations

import pytest

from pipelines import deletions, objections, services
from pipelines.models import Pipeline
from tests.pipelines.test_admin_pipelines import ADD, findings, form_errors, typed

__all__ = ["findings"]

MERGE = {"write_disposition": "merge", "merge_key": ["id"]}


def refused(pipeline, **changes):
    for name, value in changes.items():
        setattr(pipeline, name, value)
    return {(found.code, found.field) for found in objections.against(pipeline)}


def test_the_form_keeps_what_becomes_of_rows_that_vanish(admin_client, source, destination, findings):
    asked = typed(source, destination, write_disposition="merge", merge_key="id", deletes="soft")
    assert admin_client.post(ADD, asked).status_code == 302
    assert Pipeline.objects.get().deletes == "soft"
    answer = admin_client.post(ADD, asked | {"name": "Other", "target_table": "other", "write_disposition": "append"})
    assert form_errors(answer)["deletes"] == ["Append has no use for it. Choose merge, or keep rows that vanish."]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"write_disposition": "replace"}, {("only_for_merge", "deletes")}),
        ({"incremental": True, "cursor_column": "at"}, {("deletes_unseen", "deletes")}),
        ({"source_query": "SELECT 1 WHERE x > @data_interval_start"}, {("deletes_unseen", "deletes")}),
        ({"source_query": "SELECT 1 WHERE x = DATE(@scheduled_for)"}, {("deletes_unseen", "deletes")}),
        ({"source_query": "SELECT @run_id AS id"}, set()),
    ],
)
def test_only_a_merge_that_reads_all_rows_can_tell_which_are_gone(make_pipeline, changes, expected):
    if "source_query" in changes:
        changes["source_table"] = ""
    assert refused(make_pipeline("P"), **{**MERGE, "deletes": "hard", **changes}) == expected


def test_a_pipeline_that_keeps_them_is_defined_as_before_there_was_a_choice(make_pipeline):
    pipeline = make_pipeline("P", **MERGE)
    kept = services.definition_of(pipeline)
    assert "deletes" not in kept
    pipeline.deletes = "soft"
    marked = services.definition_of(pipeline)
    assert marked["deletes"] == "soft"
    # What is in the target stays right: nothing has to be written anew.
    assert services.fingerprint_of(marked) == services.fingerprint_of(kept)
    copy = services.duplicate(pipeline, by=None)
    assert copy.deletes == "soft"


@pytest.mark.parametrize(
    ("definition", "given", "expected"),
    [
        ({}, {}, True),
        ({"incremental": True}, {}, False),
        ({"query": "SELECT 1 WHERE x < @data_interval_end"}, {}, False),
        ({"query": "SELECT @country"}, {}, True),
        ({"query": "SELECT @country"}, {"country": "DE"}, True),
        ({"query": "SELECT @country"}, {"country": "FR"}, False),
        ({"query": "SELECT 1"}, {"country": "FR"}, True),
    ],
)
def test_a_run_sees_all_rows_if_it_reads_what_every_run_reads(definition, given, expected):
    known = {
        "source": {"query": definition.get("query", "")},
        "incremental": definition.get("incremental", False),
        "parameters": {"country": {"type": "STRING", "default": "DE"}},
    }
    assert deletions.sees_all(known, {"parameters": given}) is expected


HISTORY = {"write_disposition": "history", "merge_key": ["id"]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cursor_column": "at"}, set()),
        ({"cursor_column": "at", "incremental": True, "lookback": 60}, set()),
        ({"merge_key": []}, {("merge_key_missing", "merge_key")}),
        ({"deletes": "soft"}, {("only_for_merge", "deletes")}),
        ({"primary_key": ["id"]}, {("history_unique", "primary_key")}),
        ({"indexes": [{"columns": ["a"], "unique": True}]}, {("history_unique", "indexes")}),
        ({"indexes": [{"columns": ["a"]}]}, set()),
        ({"partition_column": "day"}, {("partition_not_in_key", "merge_key")}),
        ({"partition_column": "day", "merge_key": ["id", "day"]}, set()),
    ],
)
def test_a_history_needs_a_key_and_has_nothing_unique_in_it(make_pipeline, changes, expected):
    assert refused(make_pipeline("P"), **{**HISTORY, **changes}) == expected


def test_a_history_is_another_definition_than_a_merge_of_the_same(make_pipeline):
    merge, history = (
        make_pipeline(name, **kind, target_table="t" + name) for name, kind in (("a", MERGE), ("b", HISTORY))
    )
    history.target_table, history.source_table = merge.target_table, merge.source_table
    prints = [services.fingerprint_of(services.definition_of(each)) for each in (merge, history)]
    assert prints[0] != prints[1]
    history.cursor_column = "at"  # decides what holds when
    assert services.fingerprint_of(services.definition_of(history)) != prints[1]
    history.cursor_column, history.merge_key = "", ["other"]
    assert services.fingerprint_of(services.definition_of(history)) != prints[1]
