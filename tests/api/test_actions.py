"""Actions of runs, and decisions about held ones, through the API."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from connectors.column import Column
from runs.models import Run
from runs.states import RunStatus

pytestmark = pytest.mark.django_db


@pytest.fixture
def merging(make_pipeline: Any) -> Any:
    columns = [asdict(Column("n", "INT64"))]
    return make_pipeline(
        write_disposition="merge", merge_key=["id"], cursor_column="n", incremental=True, source_columns=columns
    )


def trigger(api: Any, pipeline: Any, **body: Any) -> Any:
    return api.post(f"/api/v1/pipelines/{pipeline.pk}/runs/", body, format="json")


def test_a_run_can_be_asked_to_do_something_else(api: Any, merging: Any) -> None:
    assert trigger(api, merging).json()["action"] == "load"
    assert trigger(api, merging, action="full_refresh").json()["action"] == "full_refresh"
    answer = trigger(api, merging, action="set_watermark", watermark=" 007 ")
    assert answer.status_code == 201
    assert Run.objects.get(pk=answer.json()["id"]).action_options == {"watermark": "7"}


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"action": "dance"}, "action", "invalid_choice"),
        ({"action": "set_watermark"}, "watermark", "watermark_needed"),
        ({"watermark": "7"}, "watermark", "watermark_needed"),
        ({"action": "set_watermark", "watermark": "seven"}, "watermark", "cursor_value"),
    ],
)
def test_what_makes_no_sense_is_said_of_its_field(api: Any, merging: Any, body: Any, field: str, code: str) -> None:
    answer = trigger(api, merging, **body)
    assert answer.status_code == 400
    assert answer.json()["fields"][field][0]["code"] == code
    assert not Run.objects.exists()


def test_a_replace_has_no_use_for_a_watermark(api: Any, make_pipeline: Any) -> None:
    answer = trigger(api, make_pipeline(), action="set_watermark", watermark="7")
    assert answer.json()["fields"]["action"][0]["code"] == "action_of_no_use"


@pytest.mark.parametrize(("door", "decision"), [("approve", "publish"), ("discard", "discard")])
def test_a_held_run_is_decided_on(api: Any, merging: Any, operator: Any, door: str, decision: str) -> None:
    run = Run.objects.create(pipeline=merging, revision_id=merging.revision_id, trigger="manual", status=RunStatus.HELD)
    answer = api.post(f"/api/v1/runs/{run.pk}/{door}/", {"note": "looked at it"}, format="json")
    assert answer.status_code == 200
    run.refresh_from_db()
    assert (run.decision, run.decided_by, run.decision_note) == (decision, operator, "looked at it")
    again = api.post(f"/api/v1/runs/{run.pk}/{door}/", {}, format="json")
    assert (again.status_code, again.json()["code"]) == (409, "not_held")


def test_a_viewer_decides_on_nothing(viewer_api: Any, merging: Any) -> None:
    run = Run.objects.create(pipeline=merging, revision_id=merging.revision_id, trigger="manual", status=RunStatus.HELD)
    assert viewer_api.post(f"/api/v1/runs/{run.pk}/approve/").status_code == 403
    run.refresh_from_db()
    assert run.status == RunStatus.HELD


def test_a_failed_run_is_marked_as_done_with_a_note_and_cleared(api: Any, merging: Any) -> None:
    run = Run.objects.create(
        pipeline=merging, revision_id=merging.revision_id, trigger="manual", status=RunStatus.FAILED
    )
    url = f"/api/v1/runs/{run.pk}/"
    assert api.get(url).json()["done"] is None
    refused = api.post(f"{url}mark-done/", {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "note_missing")
    marked = api.post(f"{url}mark-done/", {"note": "Loaded by hand"}, format="json").json()
    assert (marked["status"], marked["done"]["by"], marked["done"]["note"]) == ("failed", "olga", "Loaded by hand")
    cleared = api.post(f"{url}clear/", {"note": "Once more"}, format="json").json()
    assert (cleared["status"], cleared["done"]) == ("queued", None)
    again = api.post(f"{url}clear/", {}, format="json")
    assert (again.status_code, again.json()["code"]) == (409, "run_not_ended")


@pytest.mark.parametrize("door", ["clear", "mark-done"])
def test_a_viewer_settles_nothing(viewer_api: Any, merging: Any, door: str) -> None:
    run = Run.objects.create(
        pipeline=merging, revision_id=merging.revision_id, trigger="manual", status=RunStatus.FAILED
    )
    assert viewer_api.post(f"/api/v1/runs/{run.pk}/{door}/", {"note": "x"}, format="json").status_code == 403


def test_the_api_wants_a_full_refresh_of_a_history_confirmed(api, make_pipeline):
    pipeline = make_pipeline("P", write_disposition="history", merge_key=["id"])
    address = f"/api/v1/pipelines/{pipeline.pk}/runs/"
    refused = api.post(address, {"action": "full_refresh"})
    assert (refused.status_code, refused.json()["code"]) == (409, "history_begins_anew")
    assert api.post(address, {"action": "full_refresh", "force": True}).status_code == 201
    refused = api.post(address, {"action": "keep"})
    assert (refused.status_code, refused.json()["code"]) == (409, "keep_deletes")
    assert api.post(address, {"action": "keep", "force": True}).status_code == 201
