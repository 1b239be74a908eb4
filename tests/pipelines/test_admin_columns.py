"""Columns on the desk: what becomes of each is shown, and what is to be different is typed, checked and kept."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from pipelines.models import Pipeline
from tests.emulator_tables import EmulatorTables
from tests.pipelines.test_admin_pipelines import ADD, DESK, again, change_url, findings, form_errors, typed

__all__ = ["findings"]

RULES = {"email": {"skip": True}, "amount": {"type": "numeric(12,2)"}}


def test_rules_are_kept_and_shown_again(admin_client, source, destination, findings):
    answer = admin_client.post(ADD, typed(source, destination, column_rules=json.dumps(RULES)))
    assert answer.status_code == 302
    pipeline = Pipeline.objects.get()
    assert pipeline.column_rules == RULES
    assert "&quot;numeric(12,2)&quot;" in admin_client.get(change_url(pipeline)).text
    answer = admin_client.post(change_url(pipeline), again(pipeline, column_rules=json.dumps(RULES, indent=1)))
    assert (answer.status_code, pipeline.revisions.count()) == (302, 1)


def test_an_empty_field_means_no_rules(admin_client, make_pipeline, findings):
    pipeline = make_pipeline(column_rules=RULES)
    assert admin_client.post(change_url(pipeline), again(pipeline, column_rules=" ")).status_code == 302
    pipeline.refresh_from_db()
    assert pipeline.column_rules == {}
    page = admin_client.get(change_url(pipeline)).text
    assert "null</textarea>" not in page
    assert "{}</textarea>" not in page


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", ["This is not JSON, at line 1, character 2: Expecting property name"]),
        (
            '{"a": {"skip": true},\n "b": {"skip": tru}}',
            ["This is not JSON, at line 2, character 16: Expecting value."],
        ),
        ("[1]", ["The rules are not an object."]),
        ("null", []),
        ('{"a": 1, "b": {"typo": 1}}', ["The rule for column a is not", "The rule for column b is not"]),
    ],
)
def test_what_is_no_rule_is_told_column_by_column(admin_client, source, destination, findings, given, said):
    answer = admin_client.post(ADD, typed(source, destination, column_rules=given))
    if not said:
        assert answer.status_code == 302
        return
    errors = form_errors(answer)["column_rules"]
    assert [found.startswith(text) for found, text in zip(errors, said, strict=True)] == [True] * len(said)


def test_a_column_of_the_key_cannot_be_skipped(admin_client, source, destination, findings):
    changes = {"write_disposition": "merge", "merge_key": "email", "column_rules": json.dumps(RULES)}
    answer = admin_client.post(ADD, typed(source, destination, **changes))
    assert form_errors(answer) == {
        "column_rules": ["Column email is skipped, and stands in the key. Read it, or leave it out there."]
    }


@pytest.fixture(scope="module")
def people(emulator):
    tables = EmulatorTables(emulator["rest"])
    fields = [SchemaField("id", "INT64"), SchemaField("email", "STRING"), SchemaField("amount", "NUMERIC")]
    rows = pa.table({"id": [1], "email": ["a@b"], "amount": pa.array([1], pa.decimal128(38, 9))})
    tables.make("desk_columns.people", fields, rows)
    yield "desk_columns.people"
    tables.close()


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
class TestLive:
    def test_what_becomes_of_each_column_is_told_while_rules_are_typed(self, admin_client, source, people):
        asked = {"connection": source.pk, "table": people, "text_policy": "strip"}
        answer = admin_client.post(f"{DESK}columns/", {**asked, "rules": json.dumps(RULES | {"gone": {"skip": True}})})
        told = answer.json()
        assert [text.split(",")[0] for text in told["errors"]] == ["The source has no column gone"]
        id_, email, amount = told["columns"]
        assert (id_["target_type"], id_["compared"], id_["skip"]) == ("bigint", "by value", False)
        assert email["skip"] is True
        assert (amount["source_type"], amount["target_type"]) == ("NUMERIC", "numeric(12,2)")
        assert amount["mind"] == ["never rounded: a value that does not fit ends the run"]
        without = admin_client.post(f"{DESK}columns/", asked).json()
        assert without["columns"][1]["mind"] == ["NUL characters are removed"]

    def test_rules_that_cannot_be_read_are_told(self, admin_client, source, people):
        answer = admin_client.post(f"{DESK}columns/", {"connection": source.pk, "table": people, "rules": "{"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "column_rule")

    def test_the_live_source_says_what_a_rule_cannot_be(self, admin_client, source, living_destination, people):
        def save(**rules):
            data = typed(source, living_destination, source_table=people, column_rules=json.dumps(rules))
            answer = admin_client.post(ADD, data)
            return [] if answer.status_code == 302 else form_errors(answer)["column_rules"]

        wrong = {"type": "uuid"}
        assert [text.split(".")[0] for text in save(id=wrong, gone={"skip": True}, amount={"type": "float8"})] == [
            "The source has no column gone, which has a rule",
            "Column id (INT64) cannot be stored as uuid",
            "Column amount (NUMERIC) cannot be stored as float8",
        ]
        assert save(**RULES) == []
        assert [column["name"] for column in Pipeline.objects.get().source_columns] == ["id", "email", "amount"]


def test_only_those_who_define_pipelines_may_look(client, operator, source):
    client.force_login(operator)
    operator.is_staff = True
    operator.save()
    assert client.post(f"{DESK}columns/", {"connection": source.pk, "table": "a.b"}).status_code == 403
