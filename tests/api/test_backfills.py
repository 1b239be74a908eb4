"""Backfills through the API: told before, started, paused, cancelled, tried again; for those who may."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runs import services
from runs.backfill_plans import Wish, plan
from runs.models import Backfill, Run
from runs.states import RunStatus

QUERY = "SELECT 1 AS id, @country AS c, @data_interval_start AS s"
WISH = {"low": "2026-01-01", "high": "2026-01-04", "step": "1 day", "zone": "Europe/Berlin"}


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline(
        source_table="",
        source_query=QUERY,
        write_disposition="merge",
        merge_key=["id"],
        parameters={"country": {"type": "STRING", "default": "DE"}},
    )


def of(pipeline) -> str:
    return f"/api/v1/pipelines/{pipeline.pk}/backfills/"


def test_a_backfill_is_started_and_told_of(api, pipeline):
    answer = api.post(of(pipeline), {**WISH, "parameters": {"country": "FR"}}, format="json")
    assert answer.status_code == 201, answer.json()
    told = answer.json()
    assert told["slices"] == {"waiting": 2, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert (told["low"], told["state"], told["created_by"]) == ("2025-12-31 23:00:00+00:00", "running", "olga")
    assert api.get(answer["Location"]).json() == told
    assert [each["id"] for each in api.get(f"/api/v1/backfills/?pipeline={pipeline.pk}").json()["results"]] == [
        told["id"]
    ]
    slices = api.get(f"{answer['Location']}slices/").json()["results"]
    assert [each["status"] for each in slices] == ["running", "waiting", "waiting"]
    run = api.get(f"/api/v1/runs/{slices[0]['run']}/").json()
    assert (run["trigger"], run["action"], run["parameters"]) == ("backfill", "backfill", {"country": "FR"})
    assert api.post(of(pipeline), WISH, format="json").status_code == 409


def test_it_is_paused_resumed_cancelled_and_tried_again(api, pipeline):
    address = api.post(of(pipeline), WISH, format="json")["Location"]
    assert api.post(f"{address}pause/").json()["state"] == "paused"
    assert api.post(f"{address}resume/").json()["state"] == "running"
    ended = datetime.now(UTC)
    Run.objects.filter(status=RunStatus.QUEUED).update(status=RunStatus.FAILED, finished_at=ended)
    services.advance_backfills()
    told = api.post(f"{address}cancel/").json()
    assert (told["state"], told["slices"]["failed"]) == ("cancelled", 1)
    assert api.post(f"{address}resume/").json()["code"] == "backfill_ended"
    told = api.post(f"{address}retry/").json()
    assert (told["state"], told["slices"]["failed"], told["slices"]["running"]) == ("running", 0, 1)


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"low": "soon"}, "low", "cursor_value"),
        ({"low": ""}, "low", "blank"),
        ({"high": "2025-01-01"}, "high", "backfill_range"),
        ({"step": "often"}, "step", "backfill_step"),
        ({"step": "1 minute"}, "step", "backfill_too_many"),
        ({"zone": "Nowhere"}, "zone", "bad_rule"),
        ({"parameters": {"country": 5}}, "parameters.country", "parameter_value"),
        ({"until": "2026-01-01"}, "until", "unknown_field"),
    ],
)
@pytest.mark.parametrize("door", ["", "preview/"])
def test_a_bad_wish_is_answered_at_its_field_and_nothing_begins(api, pipeline, changes, field, code, door):
    answer = api.post(of(pipeline) + door, {**WISH, **changes}, format="json")
    assert answer.status_code == 400
    assert answer.json()["fields"][field][0]["code"] == code
    assert not Backfill.objects.exists()


def test_what_cannot_be_filled_in_is_answered_with_a_hint(api, make_pipeline):
    answer = api.post(of(make_pipeline()), WISH, format="json")
    assert answer.status_code == 400
    (told,) = answer.json()["fields"]["non_field_errors"]
    assert told["code"] == "backfill_no_range"
    assert told["hint"]


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
def test_a_preview_says_what_it_takes(api, pipeline, queue_ended, settings):
    settings.PRICE_PER_TIB = 5.0
    queue_ended(pipeline, seconds=20)
    told = api.post(f"{of(pipeline)}preview/", WISH, format="json").json()
    assert (told["kind"], told["slices"], told["seconds"], told["price_per_tib"]) == ("interval", 3, 60.0, 5.0)
    assert told["problem"] == ""
    assert not Backfill.objects.exists()


def test_bytes_become_money(api, pipeline, monkeypatch, settings):
    from pipelines import lookups

    settings.PRICE_PER_TIB = 5.0
    monkeypatch.setattr(lookups, "range_bytes", lambda *_: [1 << 40, 3 << 40])
    told = api.post(f"{of(pipeline)}preview/", WISH, format="json").json()
    assert (told["bytes"], told["money"], told["seconds"]) == (6 << 40, 30.0, None)


def test_who_may_only_look_looks(viewer_api, outsider_api, api, pipeline):
    address = api.post(of(pipeline), WISH, format="json")["Location"]
    assert viewer_api.get(address).status_code == 200
    assert viewer_api.get(f"{address}slices/").status_code == 200
    for door in ("pause", "resume", "cancel", "retry"):
        assert viewer_api.post(f"{address}{door}/").status_code == 403
    assert viewer_api.post(of(pipeline), WISH, format="json").status_code == 403
    assert viewer_api.post(f"{of(pipeline)}preview/", WISH, format="json").status_code == 403
    assert outsider_api.get(address).status_code == 403


@pytest.fixture
def queue_ended(db):
    from datetime import timedelta

    def make(pipeline, seconds) -> Run:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        return Run.objects.create(
            pipeline=pipeline,
            revision_id=pipeline.revision_id,
            trigger="manual",
            status=RunStatus.SUCCEEDED,
            started_at=start,
            finished_at=start + timedelta(seconds=seconds),
        )

    return make


def test_a_list_reads_no_slice_of_any(api, make_pipeline, django_assert_max_num_queries):
    for number in range(4):
        pipeline = make_pipeline(
            f"P{number}", source_table="", source_query=QUERY.replace("@country", "1"), target_table=f"t{number}",
            write_disposition="merge", merge_key=["id"],
        )  # fmt: skip
        services.start_backfill(pipeline, plan(pipeline, Wish(**{**WISH, "parameters": {}})), by=None)
    with django_assert_max_num_queries(8) as captured:
        found = api.get("/api/v1/backfills/").json()["results"]
    assert [sum(each["slices"].values()) for each in found] == [3] * 4
    assert sum("runs_backfillslice" in query["sql"] for query in captured.captured_queries) == 1
