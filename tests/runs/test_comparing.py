"""A run that compares: claimed, stopped and tried again like any run, and a reader only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from connectors.errors import TransientError
from pipelines import services as definitions
from pipelines.models import Overlap, Pipeline
from runs import board_queries, page_queries, queries, receipts, services
from runs.models import Run, RunAction, Skip, Trigger
from runs.states import RunStatus
from tests.runs.clockwork import Clock, at, clock, cron
from tests.runs.memory import Script, nothing, raising
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import OPERATE, VIEW, allow
from tests.runs.test_executor import log_of, outcomes, start

__all__ = ["clock"]
Moving = Callable[..., Pipeline]
Work = Callable[..., int]
BY_ID = {"write_disposition": "replace", "merge_key": ["id"]}


def compare(pipeline: Pipeline, **options: Any) -> Run:
    run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None, action=RunAction.COMPARE, options=options)
    return run


def after(run: Run, work: Work) -> Run:
    assert work() == 1
    run.refresh_from_db()
    return run


@pytest.fixture
def loaded(moving: Moving, work: Work) -> Pipeline:
    pipeline = moving(**BY_ID)
    start(pipeline)
    assert work() == 1
    return pipeline


def test_it_says_that_both_sides_are_equal_and_keeps_that(loaded: Pipeline, work: Work, script: Script) -> None:
    load = Run.objects.get()
    run = after(compare(loaded), work)
    assert (run.status, run.error_code, run.rows, run.bytes) == (RunStatus.SUCCEEDED, "", 0, 0)
    found = run.receipt
    assert (found["method"], found["answer"], found["agrees"]) == ("compare", "equal", True)
    assert (found["run"], found["counts"]) == (str(load.pk), {"then": 3, "now": 3, "target": 3})
    assert [column["name"] for column in found["columns"]] == ["id", "name"]
    assert found["source"]["bytes_billed"] == 2000
    assert log_of(run).endswith(found["findings"][-1]["text"])
    assert script.requests[-1].labels["datamantri_run"] == run.pk.hex
    assert run.phase == ""


def test_it_says_what_differs(loaded: Pipeline, work: Work, warehouse_cursor: Any) -> None:
    warehouse_cursor.execute(f"UPDATE {loaded.target_table} SET name = 'mine' WHERE id = 1")
    found = after(compare(loaded), work).receipt
    assert (found["answer"], found["agrees"]) == ("target_changed", False)
    assert [column["differs"] for column in found["columns"]] == [False, True]
    assert found["keys"]["shown"] == [{"where": "both", "key": ["1"], "values": {"name": ["row 1", "mine"]}, "more": 0}]
    assert after(compare(loaded, keys=False), work).receipt["keys"] is None


def test_it_neither_raises_the_fence_nor_writes(loaded: Pipeline, work: Work, warehouse_cursor: Any) -> None:
    state = "SELECT h.*, a.run, h.xmin, a.xmin FROM _datamantri.head h, _datamantri.applied a"
    warehouse_cursor.execute(state)
    before = warehouse_cursor.fetchall()
    after(compare(loaded), work)
    warehouse_cursor.execute(state)
    assert warehouse_cursor.fetchall() == before


def test_before_the_first_run_there_is_nothing_to_compare(moving: Moving, work: Work) -> None:
    run = after(compare(moving()), work)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "nothing_published")


def test_what_came_by_another_definition_is_compared_by_that_one(loaded: Pipeline, work: Work, script: Script) -> None:
    loaded.source_table = "d.other"
    definitions.save_pipeline(loaded, schedules=None, by=None)
    run = after(compare(loaded), work)
    assert (run.receipt["answer"], script.requests[-1].table) == ("equal", "d.t")
    assert "What is there came by revision 1" in log_of(run)
    Run.objects.filter(action=RunAction.LOAD).delete()
    run = after(compare(loaded), work)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "definition_changed")


def test_how_the_published_run_wrote_is_what_counts(loaded: Pipeline, work: Work, warehouse_cursor: Any) -> None:
    warehouse_cursor.execute(f"INSERT INTO {loaded.target_table} VALUES (9, 'nine')")
    loaded.write_disposition = "merge"
    definitions.save_pipeline(loaded, schedules=None, by=None)
    assert after(compare(loaded), work).receipt["answer"] == "target_changed"
    services.request_run(loaded, trigger=Trigger.MANUAL, by=None, action=RunAction.KEEP)
    assert work() == 1
    assert after(compare(loaded), work).receipt["answer"] == "equal_by_key"
    warehouse_cursor.execute(f"DELETE FROM {loaded.target_table} WHERE id = 1")
    found = after(compare(loaded), work).receipt["findings"][0]
    assert found["code"] == "differs"
    assert "rows of a former definition" in found["text"]


def test_as_it_is_now_and_no_more_than_was_told(loaded: Pipeline, work: Work, script: Script) -> None:
    run = after(compare(loaded, at="now", maximum_bytes_billed=5000), work)
    assert (run.receipt["answer"], run.receipt["counts"]["then"]) == ("equal_now", None)
    assert script.requests[-1].maximum_bytes_billed == 5000


def test_a_passing_failure_is_tried_again(loaded: Pipeline, work: Work, script: Script) -> None:
    script.on_survey = [raising(TransientError("Busy.", code="rate_limited")), nothing]
    run = after(compare(loaded), work)
    assert (run.status, run.error_code) == (RunStatus.RETRYING, "rate_limited")
    assert after(run, work).status == RunStatus.SUCCEEDED
    assert outcomes(run) == ["retrying", "succeeded"]


def test_a_snapshot_that_is_gone_ends_it_with_what_to_do(loaded: Pipeline, work: Work, script: Script) -> None:
    script.on_survey = [raising(TransientError("Too old.", code="snapshot_gone"))]
    run = after(compare(loaded), work)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "snapshot_gone")
    assert run.error_hint.startswith("Compare with the source as it is now")


def test_it_can_be_cancelled_while_it_reads(loaded: Pipeline, work: Work, script: Script, operator: User) -> None:
    run = compare(loaded)

    def cancel(stop: Any) -> None:
        services.cancel_run(run, by=operator)
        stop.obey(services.read_flags(run.pk, Run.objects.get(pk=run.pk).token, process=""))
        stop.check()

    script.on_digest = [cancel]
    assert after(run, work).status == RunStatus.CANCELLED


def test_a_lost_worker_starts_it_over(
    loaded: Pipeline, work: Work, claim: Callable[..., Any], lose: Callable[[Any], None]
) -> None:
    run = compare(loaded)
    lose(claim())
    run = after(run, work)
    assert (run.status, run.attempt, run.losses) == (RunStatus.SUCCEEDED, 2, 1)
    assert "The comparison starts over." in log_of(run)
    assert "A comparison publishes nothing: starting over." in log_of(run)
    assert outcomes(run) == ["lost", "succeeded"]


def test_a_pipeline_archived_meanwhile_is_not_compared(loaded: Pipeline, work: Work) -> None:
    run = compare(loaded)
    definitions.archive([loaded], by=None)
    run = after(run, work)
    assert (run.status, run.error_code) == (RunStatus.CANCELLED, "pipeline_archived")


def test_loads_of_the_pipeline_wait_for_it(loaded: Pipeline, claim: Callable[..., Any]) -> None:
    compare(loaded)
    load = start(loaded)
    assert claim().action == RunAction.COMPARE
    assert claim() is None
    assert queries.why_waiting(load).startswith("Waiting for this pipeline's run that is running now")


def test_run_again_compares_again(loaded: Pipeline, work: Work) -> None:
    first = after(compare(loaded, at="now"), work)
    again = services.run_again(first, by=None)
    assert (again.action, again.action_options) == (RunAction.COMPARE, {"at": "now"})


# Lists, charts and totals ----------------------------------------------------------------------


@pytest.fixture
def compared(make_pipeline: Callable[..., Pipeline], make_run: Callable[..., Run]) -> tuple[Pipeline, Run, Run]:
    pipeline = make_pipeline("Orders")
    load = make_run(pipeline)
    found = {"method": "compare", "agrees": False}
    return pipeline, load, make_run(pipeline, action=RunAction.COMPARE, rows=0, receipt=found)


def test_it_is_no_load_in_cards_charts_and_totals(compared: tuple[Pipeline, Run, Run], make_run: Callable[..., Run]):
    pipeline, load, _ = compared
    (card,) = page_queries.cards([page_queries.find_pipelines().get()])
    assert (card.last_success, card.shown_run) == (load, load)
    assert [run.pk for run in card.runs] == [load.pk]
    assert board_queries.runs_of_today()["succeeded"] == 1
    failed = make_run(pipeline, RunStatus.FAILED, action=RunAction.COMPARE)
    assert page_queries.find_pipelines(last="succeeded").exists()
    assert failed not in board_queries.attention(board_queries.workforce(), []).failed


def test_lists_say_what_it_found(compared: tuple[Pipeline, Run, Run], viewer_client: Any):
    pipeline, load, run = compared
    for address in ("/", "/runs/", f"/pipelines/{pipeline.pk}/"):
        assert "Compare: differs</span>" in viewer_client.get(address).text, address
    assert [one.pk for one in viewer_client.get("/runs/?action=compare").context["found"].runs] == [run.pk]
    charts = viewer_client.get(f"/pipelines/{pipeline.pk}/").context["runs"]
    assert [one.pk for one in charts] == [load.pk]


@pytest.mark.django_db
def test_a_tick_is_not_skipped_for_it(clock: Clock) -> None:
    pipeline = clock.pipeline(cron("0 * * * *"), overlap=Overlap.SKIP)
    Run.objects.create(
        pipeline=pipeline,
        revision_id=pipeline.revision_id,
        trigger=Trigger.MANUAL,
        action=RunAction.COMPARE,
        status=RunStatus.RUNNING,
        lease_until=timezone.now(),
    )
    assert clock.tick_at(at(13)) == 1
    assert not Skip.objects.exists()


def test_only_who_may_run_the_pipeline_compares_it(make_pipeline: Callable[..., Pipeline], viewer_client: Any) -> None:
    pipeline = make_pipeline("Orders")
    address = f"/pipelines/{pipeline.pk}/compare/"
    assert viewer_client.get(address).status_code == viewer_client.post(address).status_code == 403
    assert address not in viewer_client.get(f"/pipelines/{pipeline.pk}/").text
    assert not Run.objects.exists()


# Who sees rows ---------------------------------------------------------------------------------


def test_rows_are_for_those_who_may_run_the_pipeline(
    loaded: Pipeline, work: Work, warehouse_cursor: Any, operator: User, client: Any
) -> None:
    warehouse_cursor.execute(f"UPDATE {loaded.target_table} SET name = 'confidential' WHERE id = 1")
    run = after(compare(loaded), work)
    viewer = allow(User.objects.create_user("victor"), *VIEW)
    addresses = (f"/runs/{run.pk}/", f"/runs/{run.pk}/receipt.json", f"/api/v1/runs/{run.pk}/")
    for who, sees in ((viewer, False), (allow(operator, *VIEW, *OPERATE), True)):
        client.force_login(who)
        for address in addresses:
            assert ("confidential" in client.get(address).text) is sees, (who, address)
    assert "confidential" not in str(queries.run_state(run))
    assert "confidential" not in log_of(run)
    assert receipts.public(run)["keys"]["differing"] == 1


def test_the_page_shows_both_sides_by_column(loaded: Pipeline, work: Work, warehouse_cursor: Any, admin_client: Any):
    warehouse_cursor.execute(f"UPDATE {loaded.target_table} SET name = '<b>' WHERE id = 1")
    warehouse_cursor.execute(f"UPDATE {loaded.target_table} SET name = NULL WHERE id = 2")
    run = after(compare(loaded), work)
    page = admin_client.get(f"/runs/{run.pk}/")
    lines = page.context["comparison"].lines
    assert [(line.name, line.differs) for line in lines] == [("name", True), ("id", False)]
    assert [nulls for nulls, _ in lines[0].cells] == ["0", "0", "1"]
    assert "&lt;b&gt;" in page.text
    assert "something else changed the target" in page.text
    assert '<span class="quiet">NULL</span>' in page.text
    assert admin_client.get(f"/admin/runs/run/{run.pk}/change/").status_code == 200
