"""Runs that wait while their pipeline is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipelines import services as definitions
from pipelines.models import Pipeline
from runs.models import Run, RunAction
from runs.states import RunStatus

pytestmark = pytest.mark.django_db


def change(pipeline: Pipeline, **values: Any) -> None:
    for name, value in values.items():
        setattr(pipeline, name, value)
    definitions.save_pipeline(pipeline, schedules=None, by=None)


@pytest.mark.parametrize(
    ("values", "follows"),
    [
        ({}, True),
        ({"status": RunStatus.BLOCKED}, True),
        ({"status": RunStatus.HELD, "error_code": "over_budget"}, True),
        ({"status": RunStatus.HELD, "error_code": "check_failed"}, False),
        ({"status": RunStatus.RETRYING}, False),
        ({"status": RunStatus.SUCCEEDED}, False),
        ({"action": RunAction.FULL_REFRESH}, False),
    ],
)
def test_a_load_that_has_not_begun_goes_by_the_mask_that_was_just_saved(
    queue: Callable[..., Run], values: dict[str, Any], follows: bool
) -> None:
    run = queue(**values)
    change(run.pipeline, column_rules={"email": {"mask": "redact"}})
    run.refresh_from_db()
    assert (run.revision_id == run.pipeline.revision_id) == follows


def test_a_load_with_values_of_other_parameters_stays_as_it_was_asked_for(queue: Callable[..., Run]) -> None:
    run = queue()
    change(run.pipeline, parameters={"country": {"type": "STRING", "default": "DE"}})
    run.refresh_from_db()
    assert run.revision_id != run.pipeline.revision_id
