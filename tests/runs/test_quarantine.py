"""A pipeline with a quarantine, from its run over the page and the API to the replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from pipelines import answers, lookups
from pipelines import services as definitions
from pipelines.models import Pipeline
from runs import quarantining, receipts, services
from runs.models import Run, RunAction
from runs.states import RunStatus
from tests.runs.memory import Script
from tests.runs.pages import *  # noqa: F403
from tests.runs.test_executor import log_of, start

pytestmark = pytest.mark.django_db(transaction=True)
Work = Callable[..., int]


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks up in this process what a worker would: the destination is the real one."""
    monkeypatch.setattr(lookups, "_ask", lambda what, **details: answers._LOOKS[what](**details))


@pytest.fixture
def loaded(
    moving: Callable[..., Pipeline], work: Work, script: Script, monkeypatch: pytest.MonkeyPatch
) -> tuple[Pipeline, Run]:
    """A run of ten rows, of which 1, 4 and 7 hold a NUL."""

    def batch(ids: Any) -> pa.RecordBatch:
        names = [f"row {n}{chr(0) if n % 3 == 1 else ''}" for n in ids]
        return pa.record_batch({"id": pa.array(ids, pa.int64()), "name": pa.array(names, pa.string())})

    monkeypatch.setattr("tests.runs.memory.batch", batch)
    pipeline = moving(write_disposition="append", quarantine=True)
    script.rows = 10
    run = start(pipeline)
    work()
    run.refresh_from_db()
    return pipeline, run


def mend(pipeline: Pipeline) -> None:
    pipeline.text_policy = "strip"
    definitions.save_pipeline(pipeline, schedules=None, by=None)


def chosen(pipeline: Pipeline, do: str = "replay") -> dict[str, str]:
    """What the page sends for everything that it showed."""
    seen = lookups.quarantined(pipeline, {})["as_of"]
    return {"do": do, "everything": "1", "as_of": json.dumps(seen)}


def test_a_run_with_bad_rows_succeeds_and_says_so(loaded: Any, rows_of: Any, operator_client: Client) -> None:
    pipeline, run = loaded
    assert (run.status, run.receipt["rows"], rows_of(pipeline)) == (RunStatus.SUCCEEDED, 7, 7)
    assert run.receipt["quarantined"] == {"name: nul_character": 3}
    assert "3 rows went into quarantine: name: nul_character (3)." in log_of(run)
    (rows,) = [group for group in receipts.groups(run.receipt) if group.title == "Rows"]
    assert ("In quarantine: name: nul_character", "3") in [(fact.name, fact.text) for fact in rows.facts]
    page = operator_client.get(run.get_absolute_url()).content.decode()
    assert f"{reverse('quarantine', args=[pipeline.pk])}?run={run.pk}" in page


def test_the_page_shows_reasons_with_counts_and_the_rows_to_those_who_may_run_it(
    loaded: Any, operator_client: Client, viewer_client: Client
) -> None:
    pipeline, _ = loaded
    address = reverse("quarantine", args=[pipeline.pk])
    page = operator_client.get(address).content.decode()
    assert "nul_character" in page
    assert "row 4\\u0000" in page
    assert "Replay …" in page
    told = viewer_client.get(address).content.decode()
    assert "nul_character" in told
    assert "row 4" not in told
    assert viewer_client.post(reverse("decide_quarantine", args=[pipeline.pk]), {"do": "discard"}).status_code == 403
    assert "No row is like that" in operator_client.get(f"{address}?state=replayed").content.decode()


def test_rows_are_replayed_once_somebody_has_said_yes(
    loaded: Any, operator_client: Client, work: Work, rows_of: Any
) -> None:
    pipeline, _ = loaded
    mend(pipeline)
    decide = reverse("decide_quarantine", args=[pipeline.pk])
    asked = operator_client.post(decide, chosen(pipeline))
    assert "Replay 3 rows?" in asked.content.decode()
    assert Run.objects.count() == 1
    answer = operator_client.post(decide, {**chosen(pipeline), "confirmed": "1"})
    run = Run.objects.get(action=RunAction.REPLAY)
    assert answer["Location"] == run.get_absolute_url()
    work()
    run.refresh_from_db()
    assert (run.status, run.receipt["replayed"], rows_of(pipeline)) == (RunStatus.SUCCEEDED, 3, 10)
    again = operator_client.post(decide, chosen(pipeline), follow=True).content.decode()
    assert "None of these rows is open any more." in again


def test_nothing_is_replayed_while_a_run_waits_for_a_decision(loaded: Any, operator_client: Client) -> None:
    pipeline, run = loaded
    Run.objects.filter(pk=run.pk).update(status=RunStatus.HELD, error_code="check_failed")
    decide = reverse("decide_quarantine", args=[pipeline.pk])
    answer = operator_client.post(decide, {**chosen(pipeline), "confirmed": "1"}, follow=True)
    assert "Approve or discard it first." in answer.content.decode()
    assert not Run.objects.filter(action=RunAction.REPLAY).exists()
    Run.objects.filter(pk=run.pk).update(error_code="over_budget")  # nothing of that is staged
    operator_client.post(decide, {**chosen(pipeline), "confirmed": "1"})
    assert Run.objects.filter(action=RunAction.REPLAY).exists()


def test_rows_of_a_table_that_is_written_no_longer_are_not_replayed(loaded: Any) -> None:
    pipeline, _ = loaded
    pipeline.target_table = "elsewhere"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    with pytest.raises(services.RunRefused) as refused:
        quarantining.request_replay(pipeline, {}, trigger="manual", by=None)
    assert refused.value.code == "former_target"


@pytest.mark.parametrize("action", [RunAction.REPLAY, RunAction.SET_WATERMARK])
def test_what_was_asked_for_before_a_load_was_held_leaves_the_load_its_rows(
    loaded: Any, queue: Any, work: Work, rows_of: Any, action: str
) -> None:
    pipeline, _ = loaded
    mend(pipeline)
    target = {"schema": pipeline.target_schema, "table": pipeline.target_table}
    options = {"target": target, "quarantine": {"state": "open"}, "watermark": "1"}
    asked = queue(pipeline, action=action, action_options=options)
    load = queue(pipeline, status=RunStatus.HELD, error_code="check_failed")
    work()
    asked.refresh_from_db()
    load.refresh_from_db()
    assert (asked.status, asked.error_code, load.status) == (RunStatus.FAILED, "run_held", RunStatus.HELD)
    assert f"Run {load.pk} of this pipeline waits for a decision" in asked.error_message
    assert rows_of(pipeline) == 7
    with pytest.raises(services.RunRefused):
        services.request_run(pipeline, trigger="manual", by=None, action=RunAction.SET_WATERMARK)
    Run.objects.filter(pk=load.pk).update(error_code="over_budget")  # nothing of that is staged
    services.request_run(pipeline, trigger="manual", by=None, action=RunAction.SET_WATERMARK)


def test_a_replay_is_no_reason_to_drop_what_waits_for_its_cost(
    loaded: Any, operator_client: Client, work: Work
) -> None:
    pipeline, _ = loaded
    mend(pipeline)
    waiting = start(pipeline)
    Run.objects.filter(pk=waiting.pk).update(status=RunStatus.HELD, error_code="over_budget")
    operator_client.post(reverse("decide_quarantine", args=[pipeline.pk]), {**chosen(pipeline), "confirmed": "1"})
    work()
    assert Run.objects.get(action=RunAction.REPLAY).status == RunStatus.SUCCEEDED
    waiting.refresh_from_db()
    assert waiting.status == RunStatus.HELD


def test_rows_that_came_since_the_page_was_shown_are_not_discarded_unseen(
    loaded: Any, operator_client: Client, work: Work
) -> None:
    pipeline, _ = loaded
    everything = chosen(pipeline, "discard")
    start(pipeline)
    work()
    decide = reverse("decide_quarantine", args=[pipeline.pk])
    asked = operator_client.post(decide, everything).content.decode()
    assert "Discard 3 rows?" in asked
    assert "3 more like these came since they were listed: they stay open." in asked
    answer = operator_client.post(decide, {**everything, "confirmed": "1"}, follow=True).content.decode()
    assert "3 rows were discarded." in answer
    assert "3 rows like these came since, and stay open." in answer
    assert [lookups.quarantined(pipeline, {"state": state})["total"] for state in ("open", "discarded")] == [3, 3]
    answer = operator_client.post(decide, {"do": "discard", "everything": "1", "confirmed": "1"}, follow=True)
    assert "did not say which rows were looked at" in answer.content.decode()


def test_rows_are_discarded_with_who_when_and_why(loaded: Any, operator_client: Client, operator: User) -> None:
    pipeline, _ = loaded
    ids = [row["id"] for row in lookups.quarantined(pipeline, {})["rows"]][:2]
    decide = reverse("decide_quarantine", args=[pipeline.pk])
    operator_client.post(decide, {"do": "discard", "ids": ids, "confirmed": "1", "note": "test data"})
    rows = lookups.quarantined(pipeline, {"state": "discarded"})["rows"]
    assert {row["id"] for row in rows} == set(ids)
    assert {(row["decided_by"], row["note"]) for row in rows} == {(operator.username, "test data")}
    assert LogEntry.objects.get(user=operator).change_message == "Discards 2 rows of the quarantine. test data"
    assert lookups.quarantined(pipeline, {"state": "open"})["total"] == 1


def test_programs_list_replay_and_discard(
    loaded: Any, operator_client: Client, viewer_client: Client, work: Work, rows_of: Any
) -> None:
    pipeline, run = loaded
    mend(pipeline)
    address = f"/api/v1/pipelines/{pipeline.pk}/quarantine/"
    found = operator_client.get(f"{address}?code=nul_character&state=open").json()
    assert (found["total"], found["counts"][0]["rows"]) == (3, 3)
    assert viewer_client.get(address).status_code == 403
    key = {"HTTP_IDEMPOTENCY_KEY": "once"}
    one = {"ids": [found["rows"][0]["id"]]}
    for expected in (201, 200):
        answer = operator_client.post(f"{address}replay/", one, content_type="application/json", **key)
        assert answer.status_code == expected
    work()
    assert rows_of(pipeline) == 8
    answer = operator_client.post(f"{address}replay/", one, content_type="application/json", **key)
    assert answer.status_code == 200  # although none of the rows is open any more
    rest = {"run": str(run.pk), "note": "no use"}
    answer = operator_client.post(f"{address}discard/", rest, content_type="application/json")
    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["as_of"])
    rest["as_of"] = found["as_of"]
    answer = operator_client.post(f"{address}discard/", rest, content_type="application/json")
    assert answer.json() == {"discarded": 2, "later": 0}
    for nothing in ({}, {"ids": []}, {"note": "all?"}):  # an empty list is no wish for all
        for door in ("discard", "replay"):
            told = {name: value for name, value in nothing.items() if door == "discard" or name != "note"}
            answer = operator_client.post(f"{address}{door}/", told, content_type="application/json")
            assert (answer.status_code, list(answer.json()["fields"])) == (400, ["ids"])
    everything = {"everything": True, "as_of": found["as_of"]}
    answer = operator_client.post(f"{address}replay/", everything, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_quarantined")
