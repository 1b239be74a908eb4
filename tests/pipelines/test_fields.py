"""Whatever a pipeline can be told stands in the admin's form, with its help, and can be told through the API."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User

from pipelines import lookups
from pipelines.forms.pipelines import PipelineForm
from pipelines.models import Pipeline, Pool
from pipelines.serializers import PipelineSerializer
from tests.pipelines.test_admin_pipelines import ADD

pytestmark = pytest.mark.django_db
FIELDS = PipelineForm.Meta.fields
# These say enough by their names.
PLAIN = {"name", "description", "state", "source", "destination", "target_schema"}
# What answers hold besides, and what every example has.
TOLD = {
    "id",
    "revision",
    "next_due",
    "created_at",
    "updated_at",
    "name",
    "description",
    "state",
    "source",
    "destination",
}

MERGES = {
    "name": "Merges", "description": "All orders", "state": "paused", "source_query": "SELECT @n AS n",
    "parameters": {"n": {"type": "INT64", "default": 1}}, "target_schema": "shop", "target_table": "merged",
    "adopt_target": True, "write_disposition": "merge", "merge_key": ["id", "day"], "deletes": "soft",
    "cursor_column": "at", "column_rules": {"email": {"mask": "redact"}}, "schema_policy": "freeze",
    "text_policy": "strip", "quarantine": True, "quarantine_rows": 5, "quarantine_percent": 6,
    "quarantine_beyond": "hold", "quarantine_days": 7, "primary_key": ["id", "day"],
    "indexes": [{"columns": ["day"], "unique": False}], "partition_column": "day", "partition_unit": "day",
    "analyze": "full", "sql_before": "SELECT 1", "sql_after": "SELECT 2", "sql_role": "lesser", "sql_limit_s": 8,
    "guard_zero_rows": False, "guard_shrink_percent": 9, "held_days": 3, "undo_depth": 2, "priority": "high",
    "overlap": "queue", "missed": "all", "retries": 1, "retry_delay_s": 11, "give_up_after_s": 12,
    "time_limit_s": 1300, "run_budget_bytes": 14, "month_budget_bytes": 15, "load_method": "staged",
}  # fmt: skip
POLLS = {
    "name": "Polls", "source_table": "sales.orders", "row_filter": "day > '2024-01-01'", "target_table": "polled",
    "write_disposition": "merge", "merge_key": ["id"], "cursor_column": "at", "incremental": True, "lookback": 16,
    "initial_value": "2024-01-01", "mode": "realtime", "poll_every_s": 2, "stream_every_s": 17, "force_read_every": 18,
}  # fmt: skip
WATCHES = {
    "name": "Watches", "source_table": "sales.orders", "target_table": "watched", "write_disposition": "append",
    "cursor_column": "at", "incremental": True, "settle": 19, "watch_every_s": 60,
}  # fmt: skip


def test_each_field_is_in_the_form_with_its_help(admin_client: Any) -> None:
    page = admin_client.get(ADD).content.decode()
    form = PipelineForm()
    assert [name for name in FIELDS if f'name="{name}"' not in page] == []
    helps = {name: str(form.fields[name].help_text) for name in FIELDS}
    assert {name for name, text in helps.items() if not text} == PLAIN
    # Some of it is markup, the rest is text.
    assert [name for name, text in helps.items() if text not in page and html.escape(text) not in page] == []


@pytest.mark.parametrize("told", [MERGES, POLLS, WATCHES], ids=lambda told: told["name"].lower())
def test_each_field_can_be_set_through_the_api(
    client: Any, admin_user: User, source: Any, destination: Any, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: [])
    client.force_login(admin_user)
    ends = {"source": str(source.pk), "destination": str(destination.pk)}
    body = {**told, **ends, **({"pool": str(Pool.objects.create(name="few").pk)} if told is MERGES else {})}
    answer = client.post("/api/v1/pipelines/", body, content_type="application/json")
    assert answer.status_code == 201, answer.json()
    assert {name: answer.json()[name] for name in body} == body
    read = client.get(answer["Location"]).json()
    assert {name: read[name] for name in body} == body


def test_the_three_of_them_set_every_field() -> None:
    usual = {name: field.get_default() for name in FIELDS if (field := Pipeline._meta.get_field(name))}
    told = [name for each in (MERGES, POLLS, WATCHES) for name, value in each.items() if value != usual[name]]
    assert set(FIELDS) - set(told) == {"source", "destination", "pool"}


def test_the_docs_of_the_api_name_every_field_of_a_pipeline() -> None:
    docs = (settings.BASE_DIR / "docs" / "api.md").read_text()
    assert [name for name in PipelineSerializer().fields if name not in TOLD and f"`{name}`" not in docs] == []
