"""An undo: a run of its own kind that puts back what a former run of its pipeline had loaded."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.urls import reverse

from pipelines import answers, lookups
from pipelines import services as definitions
from pipelines.models import Pipeline, PipelineState
from runs import page_queries, queries, receipts, services, undoing
from runs.models import LastEnd, Run, RunAction, Trigger
from runs.services import RunRefused
from runs.states import RunStatus
from tests.runs.memory import Script
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import OPERATE, VIEW, allow
from tests.runs.test_executor import log_of, start

pytestmark = pytest.mark.django_db(transaction=True)
Work = Callable[..., int]


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks up in this process what a worker would: the destination is the real one."""
    monkeypatch.setattr(lookups, "_ask", lambda what, **details: answers._LOOKS[what](**details))


@pytest.fixture
def replaced(moving: Callable[..., Pipeline], work: Work, script: Script) -> Pipeline:
    """A pipeline whose table had three rows, and has one."""
    pipeline = moving(write_disposition="replace", undo_depth=2, guard_shrink_percent=None)
    for rows in (3, 1):
        script.rows = rows
        start(pipeline)
        work()
    return pipeline


def undo(pipeline: Pipeline, by: Any = None) -> Run:
    (state, *_) = undoing.former_states(pipeline)
    return undoing.request(pipeline, state, trigger=Trigger.MANUAL, by=by)[0]


def test_it_puts_the_former_rows_back_and_pauses_the_pipeline(
    replaced: Pipeline, work: Work, rows_of: Any, operator: User, viewer_client: Any
) -> None:
    first, second = Run.objects.order_by("created_at")
    run = undo(replaced, operator)
    replaced.refresh_from_db()
    assert replaced.state == PipelineState.PAUSED  # before anything is at the destination
    assert rows_of(replaced) == 1
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, rows_of(replaced)) == (RunStatus.SUCCEEDED, "", 3)
    assert run.receipt["undo"]["as_left_by"] == str(first.pk)
    assert run.receipt["undo"]["redefined"] is False
    assert run.receipt["undo"]["in_place_of"] == str(second.pk)
    assert run.receipt["kept"]["tables"] == 1
    assert "3 rows are back in" in log_of(run)
    # Both name the run that left it so: as a link on the page.
    page = viewer_client.get(reverse("run", args=[run.pk])).text
    link = f'<a href="{reverse("run", args=[first.pk])}">run '
    assert f"{link}{first.pk}</a> left it" in page
    assert f"{link}{str(first.pk)[:8]}</a>" in page
    assert "The pipeline is paused" in page
    told = {fact.name: fact.text for group in receipts.groups(run.receipt) for fact in group.facts}
    assert (told["Rows that are back"], told["Of the same definition"]) == ("3", "yes")
    assert "Read and staged" not in told
    assert not queries.run_state(run)["can_run_again"]
    assert LastEnd.objects.get(pipeline=replaced).run_id == second.pk  # it is no load
    (state,) = undoing.former_states(replaced)
    assert state.made_by is not None
    assert (state.made_by.pk, state.rows) == (second.pk, None)
    again = undo(replaced)
    work()
    again.refresh_from_db()
    assert (again.status, rows_of(replaced)) == (RunStatus.SUCCEEDED, 1)


def test_a_worker_that_dies_behind_the_commit_leaves_it_done_once_and_paused(
    replaced: Pipeline, work: Work, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from connectors.postgres.undo import Undo

    run = undo(replaced)
    commit = Undo.commit

    def die(load: Undo) -> None:
        commit(load)
        raise SystemExit  # as a killed process: nothing is written down

    monkeypatch.setattr(Undo, "commit", die)
    with pytest.raises(SystemExit):
        work()
    monkeypatch.setattr(Undo, "commit", commit)
    replaced.refresh_from_db()
    assert (rows_of(replaced), replaced.state) == (3, PipelineState.PAUSED)
    Run.objects.filter(pk=run.pk).update(lease_until=Now() - timedelta(seconds=1))
    services.sweep()
    work()
    run.refresh_from_db()
    assert (run.status, rows_of(replaced)) == (RunStatus.SUCCEEDED, 3)


def test_a_load_that_is_under_way_forbids_it_and_one_that_waits_is_cancelled(
    replaced: Pipeline, queue: Any, operator: User
) -> None:
    active = queue(replaced, status=RunStatus.RUNNING)
    with pytest.raises(RunRefused) as refused:
        undo(replaced, operator)
    assert refused.value.code == "pipeline_busy"
    replaced.refresh_from_db()
    assert (replaced.state, Run.objects.filter(action=RunAction.UNDO).count()) == (PipelineState.ACTIVE, 0)
    Run.objects.filter(pk=active.pk).update(status=RunStatus.FAILED)
    waiting = queue(replaced)
    undo(replaced, operator)
    waiting.refresh_from_db()
    assert waiting.status == RunStatus.CANCELLED


def test_a_run_that_came_first_is_not_taken_back_with_the_other(
    replaced: Pipeline, work: Work, rows_of: Any, script: Script
) -> None:
    run = undo(replaced)
    script.rows = 7
    first = start(replaced)
    Run.objects.filter(pk=first.pk).update(priority=1)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, rows_of(replaced)) == (RunStatus.FAILED, "undo_overtaken", 7)


def test_it_is_asked_for_anew_and_not_run_again(replaced: Pipeline, work: Work) -> None:
    run = undo(replaced)
    work()
    for again in (services.run_again, services.clear_run):
        with pytest.raises(RunRefused) as refused:
            again(run, by=None)
        assert refused.value.code in ("run_not_cleared", "run_succeeded")


def test_a_comparison_afterwards_goes_by_the_run_whose_rows_are_back(
    replaced: Pipeline, work: Work, script: Script
) -> None:
    first = Run.objects.order_by("created_at")[0]
    undo(replaced)
    work()
    script.rows = 3
    run, _ = services.request_run(replaced, trigger=Trigger.MANUAL, by=None, action=RunAction.COMPARE)
    work()
    run.refresh_from_db()
    assert (run.receipt["run"], run.receipt["answer"]) == (str(first.pk), "equal")


def test_pages_tell_what_is_kept_and_an_operator_puts_it_back(
    replaced: Pipeline, work: Work, rows_of: Any, client: Any, operator: User
) -> None:
    allow(operator, *VIEW)
    client.force_login(operator)
    assert client.get(f"/pipelines/{replaced.pk}/undo/").status_code == 403
    assert "1 former state," in client.get(f"/pipelines/{replaced.pk}/").content.decode()
    allow(operator, *OPERATE)
    page = client.get(f"/pipelines/{replaced.pk}/undo/").content.decode()
    assert "on disk" in page
    assert "The pipeline is paused first" in page
    assert "another definition" not in page
    (state,) = undoing.former_states(replaced)
    stale = client.post(f"/pipelines/{replaced.pk}/undo/", {"state": f"{state.kept}.{uuid.uuid4()}"})
    assert "Something was published since" in stale.content.decode()
    answer = client.post(f"/pipelines/{replaced.pk}/undo/", {"state": state.value})
    assert answer.status_code == 302
    work()
    assert rows_of(replaced) == 3
    replaced.undo_depth = 0
    replaced.save()
    assert "Kept for an undo" not in client.get(f"/pipelines/{replaced.pk}/").content.decode()


def test_the_page_tells_of_a_state_that_a_mask_of_today_was_not_made_for(
    replaced: Pipeline, client: Any, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(operator, *VIEW, *OPERATE)
    client.force_login(operator)
    ask = lookups._ask
    other = {"is_redefined": True}
    monkeypatch.setattr(lookups, "_ask", lambda what, **details: [{**one, **other} for one in ask(what, **details)])
    page = client.get(f"/pipelines/{replaced.pk}/undo/").content.decode()
    assert "Written under another definition than what is there now" in page


def test_what_is_kept_is_looked_for_in_so_many_receipts(
    replaced: Pipeline, queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(replaced, status=RunStatus.SUCCEEDED)
    for most, tables in ((1, 0), (2, 1)):
        monkeypatch.setattr(page_queries, "KEPT_LOOKED_AT", most)
        assert page_queries.kept_of(replaced)["tables"] == tables


def test_the_api_lists_and_undoes(replaced: Pipeline, work: Work, rows_of: Any, client: Any, operator: User) -> None:
    address = f"/api/v1/pipelines/{replaced.pk}/undo/"
    allow(operator, *VIEW)
    client.force_login(operator)
    assert client.get(address).status_code == 403
    allow(operator, *OPERATE)
    (state,) = client.get(address).json()
    assert (state["table"], state["is_there"], state["is_copy"]) == (replaced.target_table, True, False)
    assert state["is_redefined"] is False
    wish = {"kept": state["kept"], "expected": str(uuid.uuid4())}
    refused = client.post(address, wish, content_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (409, "undo_overtaken")
    wish["expected"] = state["expected"]
    made = client.post(address, wish, content_type="application/json", headers={"Idempotency-Key": "once"})
    assert (made.status_code, made.json()["action"]) == (201, "undo")
    again = client.post(address, wish, content_type="application/json", headers={"Idempotency-Key": "once"})
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    work()
    assert rows_of(replaced) == 3
    late = client.post(address, wish, content_type="application/json", headers={"Idempotency-Key": "once"})
    assert (late.status_code, late.json()["id"]) == (200, made.json()["id"])


def test_a_trigger_in_the_api_is_no_way_around(replaced: Pipeline, client: Any, operator: User) -> None:
    allow(operator, *VIEW, *OPERATE)
    client.force_login(operator)
    answer = client.post(f"/api/v1/pipelines/{replaced.pk}/runs/", {"action": "undo"}, content_type="application/json")
    assert answer.status_code == 400


def test_former_states_of_an_archived_pipeline_are_shown_and_dropped_with_who_did(
    replaced: Pipeline, client: Any, operator: User, viewer_client: Any
) -> None:
    allow(operator, *OPERATE, *VIEW)
    client.force_login(operator)
    definitions.archive([replaced], by=operator)
    page = client.get(replaced.get_absolute_url()).content.decode()
    assert "Look, drop …" in page
    address = reverse("undo_pipeline", args=[replaced.pk])
    page = client.get(address).content.decode()
    assert "Until somebody drops them, these stay." in page
    assert "Put it back" not in page
    drop = reverse("drop_former", args=[replaced.pk])
    assert viewer_client.post(drop).status_code == 403
    assert "1 former state was dropped." in client.post(drop, follow=True).content.decode()
    assert undoing.former_states(replaced) == []
    assert LogEntry.objects.filter(user=operator, change_message__startswith="Drops the former tables").count() == 1
    assert client.delete(f"/api/v1/pipelines/{replaced.pk}/undo/").json() == {"dropped": 0, "left": []}
    assert viewer_client.delete(f"/api/v1/pipelines/{replaced.pk}/undo/").status_code == 403
