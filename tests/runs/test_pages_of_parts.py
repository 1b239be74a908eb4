"""What people see of a run that is loaded in parts: its page, the monitor, the words for its attempts."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from runs import part_queries, queries
from runs.models import Attempt, PartLoad, Run
from runs.states import RunStatus, Step
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import divide

FAILED = {"status": "failed", "failures": 4, "error_code": "bad", "error_message": "The <stream> broke."}
LOST = {"status": "waiting", "losses": 2, "rows": 300}


@pytest.fixture
def run(make_pipeline, make_run) -> Run:
    return make_run(make_pipeline("Orders"), RunStatus.RUNNING)


def page_of(run: Run, client, **headers: str) -> str:
    return client.get(reverse("run", args=[run.pk]), headers=headers).text


def cells(page: str) -> list[tuple[str, str]]:
    return re.findall(r'<span class="part ([^"]+)" role="img" title="([^"]+)">', page)


def picture(run: Run) -> part_queries.Picture:
    found = part_queries.picture_of(Run.objects.get(pk=run.pk))
    assert found is not None
    return found


# The run's page --------------------------------------------------------------------------------


def test_each_part_has_a_cell_that_tells_all_of_it(run, viewer_client):
    divide(run, "done", "running", LOST, {**FAILED, "name": ""}, "waiting")
    page = page_of(run, viewer_client)
    assert "1 of 5 parts is staged, 1 is loading, 1 failed, 1 waits for another try, 1 waits." in page
    drawn = cells(page)
    assert [look for look, _ in drawn] == ["is-d f8 w2", "is-r f4 w2", "is-a f2 w2", "is-f f0 w2", "is-w f0 w2"]
    assert [title for _, title in drawn] == [
        "Part 1 (day 0): staged on worker@there:2, 1,000 rows, in 10 s",
        "Part 2 (day 1): loading on worker@here:1, 500 of about 1,000 rows",
        "Part 3 (day 2): waiting for another try, 300 of about 1,000 rows, lost its worker twice",
        "Part 4: failed 4 times. The &lt;stream&gt; broke.",
        "Part 5 (day 4): waiting",
    ]
    told = page.split('class="named"')[1].split("</ul>")[0]
    assert re.findall(r"<b>(.*?)</b>", told) == ["Part 4", "Part 2", "Part 3"]
    assert "day 1: loading on worker@here:1, 500 of about 1,000 rows" in told


def test_a_run_in_one_go_has_no_parts(run, viewer_client):
    page = page_of(run, viewer_client)
    assert '<div data-live="parts"></div>' in page
    assert queries.run_state(run)["parts"] is None


def test_parts_of_much_more_rows_than_the_others_are_wider(run):
    sizes = [100, 1000, 1000, 1000, 1000, 2500, 9000]
    divide(run, *({"status": "waiting", "estimated_rows": size} for size in sizes))
    assert picture(run).codes == "w01w02w02w02w02w03w04"
    divide(run, *({"status": "waiting", "estimated_rows": None} for _ in range(3)))
    assert picture(run).codes == "w02w02w02"
    # What is staged has as many rows as it has, whatever was guessed.
    divide(run, *({"status": "done", "rows": rows, "estimated_rows": 10} for rows in (0, 100, 100, 600)))
    assert picture(run).codes == "d81d82d82d84"


def test_many_parts_share_cells_and_what_is_urgent_in_one_is_seen(run, viewer_client):
    divide(run, *(["done"] * 400 + ["waiting"] * 200 + ["running"] + ["waiting"] * 397 + [FAILED, "done"]))
    drawn = cells(page_of(run, viewer_client))
    assert len(drawn) == 250 <= part_queries.MOST_CELLS
    states = "".join(look[3] for look, _ in drawn)
    assert states == "d" * 100 + "w" * 50 + "r" + "w" * 98 + "f"
    assert drawn[150][1] == "Parts 601 to 604: 1 loading, 3 waiting; 500 of about 4,000 rows"
    assert drawn[249][1] == "Parts 997 to 1000: 1 staged, 2 waiting, 1 failed; 1,000 of about 4,000 rows"
    state = queries.run_state(Run.objects.get())
    assert len(json.dumps(state["parts"])) < 1000


def test_only_some_of_those_that_load_are_named(run):
    divide(run, *(["running"] * 20))
    shown = picture(run)
    assert (len(shown.named), shown.not_named) == (part_queries.NAMED, 20 - part_queries.NAMED)


@pytest.mark.parametrize(
    ("status", "step", "parts", "said"),
    [
        ("running", Step.PARTS, ["waiting"] * 3, "None of 3 parts is staged, 3 wait."),
        ("running", Step.PARTS, ["done", "done", "waiting"], "2 of 3 parts are staged, 1 waits."),
        ("running", Step.PUBLISH, ["done"] * 3, "All 3 parts are staged."),
        ("running", Step.PUBLISH, ["done", FAILED, "waiting"], "1 of 3 parts is staged, 1 failed, 1 was not finished."),
        ("held", Step.PUBLISH, ["done"] * 3, "All 3 parts are staged."),
        ("retrying", Step.WHOLE, ["done", FAILED], "1 of 2 parts is staged, 1 failed."),
        ("succeeded", Step.PUBLISH, ["done"] * 3, "All 3 parts were loaded."),
        ("failed", Step.PUBLISH, ["done", "done", FAILED], "2 of 3 parts were staged, 1 failed."),
        ("cancelled", Step.PUBLISH, ["waiting", LOST], "None of 2 parts was staged, 2 were not finished."),
    ],
)
def test_counts_are_said_as_they_stand(run, status, step, parts, said):
    divide(run, *parts, step=step, status=status)
    assert picture(run).words == said


def test_while_a_new_plan_is_made_the_parts_of_the_old_one_are_not_shown(run):
    divide(run, "done", FAILED, step=Step.WHOLE)
    assert queries.run_state(Run.objects.get())["parts"] is None


def test_the_header_says_what_is_done_now(run, viewer_client):
    divide(run, "running")
    page = page_of(run, viewer_client)
    assert "loading in parts</span>" in page
    assert "attempt 1 of" not in page  # the plan was one, the publish is another, and nothing failed
    divide(run, "done", step=Step.PUBLISH)
    assert "publishing</span>" in page_of(run, viewer_client)


def test_the_monitor_says_how_the_parts_stand_and_who_loads_them(run, worker_alive, viewer_client):
    worker_alive("worker@here:1", slots=2)
    worker_alive("worker@there:2", slots=4)
    elsewhere = {"status": "running", "worker": "worker@there:2:9"}
    divide(run, "done", "running", "running", {**elsewhere}, LOST)
    page = viewer_client.get("/monitor/").text
    line = page.split('class="lines"')[1].split("</li>")[0]
    assert "loading in parts" in line
    assert "1 of 5 parts is staged, 3 are loading, 1 waits for another try." in line
    assert "worker@here:1, worker@there:2" in line
    assert '<td class="number">2 of 2</td>' in page
    assert '<td class="number">1 of 4</td>' in page
    assert "<dt>Slots in use</dt><dd>3 of 6</dd>" in page


def test_a_slot_that_is_no_longer_leased_is_not_in_use(run, worker_alive, viewer_client):
    worker_alive("worker@here:1", slots=2)
    divide(run, {"status": "running", "lease_until": timezone.now() - timedelta(seconds=5)})
    assert "<dt>Slots in use</dt><dd>0 of 2</dd>" in viewer_client.get("/monitor/").text


def test_attempts_say_that_they_planned(run, viewer_client):
    divide(run, "done", "done", step=Step.PUBLISH, generation=2)
    for number, outcome in ((2, "divided"), (3, "divided"), (4, "succeeded"), (5, "")):
        Attempt.objects.create(run=run, number=number, token=number, worker="w", outcome=outcome)
    page = page_of(run, viewer_client)
    for number, said in (
        (1, "Planned: divided into parts<"),
        (2, "Planned: divided into 2 parts<"),
        (3, "Found parts that were not whole: they are loaded again<"),
        (4, "Succeeded<"),
        (5, "Goes on<"),
    ):
        assert f"<b>{number}</b> {said}" in page


def test_the_speed_of_a_run_in_parts_is_that_of_its_parts(run):
    parts = divide(run, "done", "done", step=Step.PUBLISH, rows=2000, attempt=2)
    Attempt.objects.create(run=run, number=2, token=2, worker="w")
    PartLoad.objects.filter(pk=parts[1].pk).update(finished_at=parts[0].started_at)
    progress = queries.progress_of(Run.objects.get())
    assert progress["rows_per_s"] == pytest.approx(200, rel=0.01)  # 10 s, however long the publish takes


# Cost -----------------------------------------------------------------------------------------


def test_parts_cost_the_same_few_queries(run, make_pipeline, make_run, viewer_client):
    def counted() -> list[int]:
        numbers = []
        for address in (reverse("run", args=[run.pk]), "/monitor/"):
            viewer_client.get(address)
            with CaptureQueriesContext(connection) as captured:
                viewer_client.get(address)
            numbers.append(len(captured))
        return numbers

    divide(run, "running", "done", "waiting")
    few = counted()
    divide(run, *(["running", "done", LOST, FAILED, "waiting"] * 60))
    other = make_run(make_pipeline("Other"), RunStatus.RUNNING)
    divide(other, *(["running"] * 50))
    assert counted() == few
