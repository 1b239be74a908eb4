"""What becomes of a pipeline's columns, in the API."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from connectors.column import Column
from pipelines.models import Pipeline

COLUMNS = [asdict(column) for column in (Column("id", "INT64"), Column("x" * 70, "JSON"), Column("email", "STRING"))]
RULES = {"id": {"type": "integer"}, "email": {"skip": True}}


def test_each_column_is_told_by_its_rule(viewer_api, make_pipeline):
    pipeline = make_pipeline(source_columns=COLUMNS, column_rules=RULES, text_policy="replace")
    answer = viewer_api.get(f"/api/v1/pipelines/{pipeline.pk}/columns/")
    assert answer.status_code == 200
    first, second, third = answer.json()["columns"]
    assert first == {
        "name": "id", "source_type": "INT64", "skip": False, "target_name": "id", "target_type": "integer",
        "is_renamed": False, "compared": "by value", "mind": ["a value that does not fit ends the run"],
        "cost": "low", "choices": ["bigint", "smallint", "integer", "numeric", "numeric(12,2)", "text"],
        "needs_zone": False, "zone": "", "usual_name": "id", "masked": "",
        "masks": ["hmac", "hmac_base64", "redact", "keep_last"], "error": "",
    }  # fmt: skip
    assert (second["is_renamed"], second["compared"]) == (True, "counted only")
    assert second["target_name"].startswith("x" * 54 + "_")
    assert "NUL characters are replaced by �" in second["mind"]
    assert (third["skip"], third["target_name"]) == (True, "")
    assert answer.json()["errors"] == []


def test_it_needs_a_right(outsider_api, make_pipeline):
    pipeline = make_pipeline(source_columns=COLUMNS)
    assert outsider_api.get(f"/api/v1/pipelines/{pipeline.pk}/columns/").status_code == 403


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
def test_a_source_that_nobody_looked_at_is_asked_and_may_refuse(api, make_pipeline):
    pipeline = make_pipeline(source_table="nowhere.nothing")
    answer = api.get(f"/api/v1/pipelines/{pipeline.pk}/columns/")
    assert (answer.status_code, answer.json()["code"]) == (409, "table_not_found")


def test_rules_are_set_shown_and_refused(api, make_pipeline, monkeypatch):
    monkeypatch.setattr("pipelines.lookups.validate_pipeline", lambda pipeline: [])
    pipeline = make_pipeline()
    address = f"/api/v1/pipelines/{pipeline.pk}/"
    assert api.patch(address, {"column_rules": RULES}, format="json").json()["column_rules"] == RULES
    assert Pipeline.objects.get().revision.definition["column_rules"] == RULES
    for wrong in ([], {"id": "integer"}, {"id": {"type": 5}}, None):
        refused = api.patch(address, {"column_rules": wrong}, format="json")
        assert (refused.status_code, list(refused.json()["fields"])) == (400, ["column_rules"])
    assert api.patch(address, {"column_rules": {}}, format="json").json()["column_rules"] == {}
