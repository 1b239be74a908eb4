"""Filters of lists."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

LISTS = ("pipelines", "connections", "runs", "calendars", "pools", "backfills", "alerts")


@pytest.mark.parametrize("name", LISTS)
def test_a_misspelt_filter_does_not_answer_with_everything(api: APIClient, operator: object, name: str) -> None:
    operator.is_superuser = True  # type: ignore[attr-defined]
    operator.save()  # type: ignore[attr-defined]
    assert api.get(f"/api/v1/{name}/?limit=5&offset=0").status_code == 200
    answer = api.get(f"/api/v1/{name}/?limit=5&staus=held")
    assert answer.status_code == 400
    (told,) = answer.json()["fields"]["staus"]
    assert told["code"] == "unknown_field"
    assert told["hint"].startswith("This list has ")
