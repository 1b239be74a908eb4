"""A receipt as people read it, as a file, and in the API."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from pipelines import tokens
from runs import receipts
from runs.templatetags.pages import with_runs
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import VIEW, allow, logged_in

MERGED = {
    "rows": 1_234,
    "source_rows": 1_240,
    "bytes": 5_000_000,
    "method": "merge",
    "disposition": "merge",
    "target": {"schema": "public", "table": "orders"},
    "changes": {"inserted": 4, "updated": 0, "unchanged": 1_229, "deleted": 0, "duplicates": 1, "stale": 0},
    "repaired": {"note": 2},
    "snapshot_time": "2026-01-02T03:04:05.678901+00:00",
    "published_at": "2026-01-02T03:04:09+00:00",
    "lock_wait_ms": 0.1,
    "lock_held_ms": 1234.56,
    "source": {"job": "datamantri_1", "bytes_billed": 10_485_760, "cache_hit": False, "session": "projects/p/s"},
    "seconds": {"plan": 0.25, "load": 75.0, "publish": 1.0},
    "interval": {
        "column": "day",
        "type": "DATE",
        "low": "2026-01-01",
        "high": "2026-01-02",
        "includes_low": False,
        "rows": 1_240,
        "through": 5_000,
        "below": 3_760,
        "nulls": 0,
        "left": 3,
        "late": 0,
    },
    "watermark_before": "2026-01-01",
    "watermark_after": "2026-01-02",
    "token": 7,
    "revision": 3,
    "something_new": [1, 2],
}


def said(receipt: dict[str, object]) -> dict[str, dict[str, str]]:
    return {group.title: {fact.name: fact.text for fact in group.facts} for group in receipts.groups(receipt)}


def test_a_receipt_is_said_in_groups_with_units() -> None:
    assert said(MERGED) == {
        "Rows": {
            "In the source, at the snapshot": "1,240",
            "Read and staged": "1,234",
            "Inserted": "4",
            "Updated": "0",
            "The same already": "1,229",
            "Deleted": "0",
            "More than one for a key": "1",
            "Mended in note": "2 values",
        },
        "Source": {
            "As it was at": "2026-01-02 03:04:05.678901 UTC",
            "Billed": "10.5 MB",
            "From BigQuery's cache": "no",
        },
        "Cursor": {
            "Column": "day",
            "Read above": "2026-01-01",
            "Read up to": "2026-01-02",
            "Late rows, net": "0",
            "Left to settle": "3",
            "Watermark before": "2026-01-01",
            "Watermark after": "2026-01-02",
        },
        "Target": {
            "Table": "public.orders",
            "Method": "Rows were merged by key",
            "Mode": "Merge",
            "Written": "5 MB",
            "Published at": "2026-01-02 03:04:09 UTC",
            "Waited for the lock": "0.1 ms",
            "Held the lock": "1,234.6 ms",
        },
        "Time": {"Plan": "0.25 s", "Load": "1 min 15 s", "Publish": "1 s"},
        "For a search in other systems": {
            "Query job": "datamantri_1",
            "Read session": "projects/p/s",
            "Type of the cursor": "DATE",
            "Rows in what was read of the cursor": "1,240",
            "Rows up to its end": "5,000",
            "Rows up to the watermark before": "3,760",
            "Its lower end was read too": "no",
            "Token": "7",
            "Something new": "1, 2",
        },
    }


def test_phases_are_told_as_they_followed_one_another() -> None:
    told = said({"rows": 1, "seconds": {"load": 1.0, "plan": 1.0, "publish": 1.0, "new": 1.0}})
    assert list(told["Time"]) == ["Plan", "Load", "Publish", "New"]


def test_a_new_table_says_nothing_of_rows_it_could_not_change() -> None:
    renamed = {"rows": 0, "method": "rename", "changes": {"inserted": 0, "updated": 0, "unchanged": 0, "deleted": 0}}
    assert said(renamed)["Rows"] == {"Read and staged": "0", "Inserted": "0"}


@pytest.mark.parametrize(
    ("method", "changes", "told"),
    [
        ("merge", {"deleted": 2, "marked": 2}, {"Marked as deleted": "2"}),
        ("merge", {"deleted": 3, "marked": 1}, {"Deleted": "2", "Marked as deleted": "1"}),
        ("merge", {"deleted": 2}, {"Deleted": "2"}),
        ("history", {"deleted": 2}, {"Ended or removed": "2"}),
    ],
)
def test_what_is_marked_or_has_ended_is_not_said_to_be_deleted(method, changes, told) -> None:
    receipt = {"rows": 1, "method": method, "changes": {"inserted": 1, **changes}}
    assert said(receipt)["Rows"] == {"Read and staged": "1", "Inserted": "1", **told}


def test_runs_that_a_text_names_are_links_and_all_else_is_text() -> None:
    pk = "223ece13-9a1e-4b5d-8c3a-0f2e5d7c1b9a"
    assert with_runs(f"<b> as run {pk} left it & run 7") == (
        f'&lt;b&gt; as <a href="{reverse("run", args=[pk])}">run {pk}</a> left it &amp; run 7'
    )


@pytest.fixture
def run(make_pipeline, make_run):
    return make_run(make_pipeline("Örders"), receipt=MERGED)


def test_the_page_shows_the_receipt_and_its_file(run, viewer_client) -> None:
    page = viewer_client.get(reverse("run", args=[run.pk])).text
    assert "2026-01-02 03:04:05.678901 UTC" in page
    assert "{&quot;" not in page
    file = viewer_client.get(reverse("run_receipt", args=[run.pk]))
    assert file["Content-Disposition"] == f'attachment; filename="run-{run.pk}-receipt.json"'
    document = json.loads(file.content)
    assert document["receipt"] == MERGED
    assert (document["run"], document["pipeline_name"], document["action"]) == (str(run.pk), "Örders", "load")


def test_only_who_may_see_runs_gets_the_file(run, make_pipeline, make_run, viewer_client, client) -> None:
    address = reverse("run_receipt", args=[run.pk])
    assert client.get(address).status_code == 401
    assert logged_in(User.objects.create_user("otto")).get(address).status_code == 403
    nothing_done = make_run(make_pipeline("Refunds"), "failed")
    assert viewer_client.get(reverse("run_receipt", args=[nothing_done.pk])).status_code == 404


def test_the_api_gives_the_whole_receipt(run, client) -> None:
    _, plain = tokens.create_token(allow(User.objects.create_user("ada"), *VIEW), "tests")
    answer = client.get(f"/api/v1/runs/{run.pk}/", headers={"Authorization": f"Bearer {plain}"})
    assert answer.json()["receipt"] == MERGED


def test_a_receipt_says_that_it_was_loaded_in_parts() -> None:
    told = said({**MERGED, "source": {"table": "a.b", "parts": 1200, "generation": 2}})
    assert told["Source"]["Loaded in parts"] == "1,200"
    assert told["For a search in other systems"]["Attempt that made the plan"] == "2"
