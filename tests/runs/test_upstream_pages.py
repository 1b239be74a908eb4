"""Dependencies on pages and in the API: what waits for what, the graph, running from here down."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from pipelines import services as definitions
from runs import services
from runs.models import Run
from tests.runs.pages import *  # noqa: F403
from tests.runs.test_upstreams import HOURLY, NOON, blocked, end, fail, runs_of, succeed, wait_for

__all__ = ["wait_for"]
pytestmark = pytest.mark.django_db


@pytest.fixture
def held_up(make_pipeline: Any, wait_for: Any) -> Run:
    """A run that is blocked by an upstream that failed."""
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    fail(orders, NOON)
    services.settle()
    return run


def test_a_runs_page_says_what_blocks_it_and_has_a_button_to_start_anyway(held_up, operator_client):
    page = operator_client.get(reverse("run", args=[held_up.pk])).text
    assert "Waiting because upstream Orders failed at" in page
    assert "Waits until it has succeeded for the data from" in page
    assert "the run fails" in page
    assert 'class="badge large s-blocked"' in page
    operator_client.post(reverse("start_run_anyway", args=[held_up.pk]))
    held_up.refresh_from_db()
    assert held_up.status == "queued"
    page = operator_client.get(reverse("run", args=[held_up.pk])).text
    assert "was not waited for" in page
    assert "Start anyway" not in page


def test_viewers_see_the_reason_and_no_button(held_up, viewer_client):
    page = viewer_client.get(reverse("run", args=[held_up.pk])).text
    assert "because upstream Orders failed" in page
    assert "Start anyway" not in page
    assert viewer_client.post(reverse("start_run_anyway", args=[held_up.pk])).status_code == 403
    assert viewer_client.get(reverse("run_downstream", args=[held_up.pipeline_id])).status_code == 403


def test_the_monitor_lists_what_is_blocked_with_the_reason(held_up, viewer_client):
    page = viewer_client.get(reverse("monitor")).text
    assert "Blocked by upstreams" in page
    assert "Waiting because upstream Orders failed at" in page
    assert "Sales" in viewer_client.get(reverse("runs"), {"status": "blocked"}).text


def test_a_pipelines_page_shows_what_is_above_and_below_it(held_up, operator_client):
    sales = operator_client.get(reverse("pipeline", args=[held_up.pipeline_id])).text
    assert "Its scheduled runs wait until" in sales
    assert "has succeeded for the same data interval; gives up after 24 h: the run fails" in sales
    assert "Run from here down" not in sales
    upstream = held_up.prerequisites.get().upstream
    orders = operator_client.get(reverse("pipeline", args=[upstream.pk])).text
    assert "1 waits for it" in orders
    assert reverse("run_downstream", args=[upstream.pk]) in orders


def test_a_pipeline_without_schedule_says_that_upstreams_start_it(make_pipeline, wait_for, viewer_client):
    sales = wait_for("Sales", make_pipeline("Orders"))
    page = viewer_client.get(reverse("pipeline", args=[sales.pk])).text
    assert "None: it starts when its upstreams have succeeded." in page


def test_from_here_down_says_first_what_runs_and_then_runs_it(make_pipeline, wait_for, operator_client):
    orders = make_pipeline("Orders")
    resting = wait_for("Resting", orders)
    wait_for("Sales", orders)
    definitions.pause([resting], by=None)
    address = reverse("run_downstream", args=[orders.pk])
    page = operator_client.get(address).text
    assert "each when those above it have succeeded: Orders, Sales." in page
    assert "Left out, because it is paused or waits for nothing else: Resting." in page
    assert not Run.objects.exists()
    answer = operator_client.post(address)
    (head,) = runs_of(orders)
    assert answer.url == reverse("run", args=[head.pk])
    assert "From here down" in operator_client.get(answer.url).text
    assert Run.objects.count() == 2


def test_the_graph_shows_each_pipeline_with_its_state_as_colour_and_word(
    make_pipeline, wait_for, viewer_client, django_assert_max_num_queries
):
    orders, items = make_pipeline("Orders"), make_pipeline("Items <b>")
    sales = wait_for("Sales", orders, items)
    wait_for("Report", sales)
    make_pipeline("Beside")
    fail(orders, NOON)
    succeed(items, NOON)
    definitions.pause([sales], by=None)
    page = viewer_client.get(reverse("graph")).text
    boxes = re.findall(r'aria-label="([^"]+)"><g class="box (s-\w+)', page)
    assert sorted(boxes) == [
        ("Items &lt;b&gt;: Succeeded", "s-succeeded"),
        ("Orders: Failed", "s-failed"),
        ("Report: Never ran; waits for Sales", "s-none"),
        ("Sales: Paused; waits for Items &lt;b&gt;, Orders", "s-paused"),
    ]
    assert page.count('marker-end="url(#tip)"') == 3
    assert "Beside" not in page
    assert reverse("pipeline", args=[orders.pk]) in page
    around = viewer_client.get(reverse("graph"), {"pipeline": orders.pk}).text
    assert "Above and below Orders" in around
    assert "Items" not in around
    with django_assert_max_num_queries(7):
        viewer_client.get(reverse("graph"))


def test_an_empty_graph_says_where_dependencies_are_made(viewer_client, make_pipeline):
    assert "No pipeline waits for another" in viewer_client.get(reverse("graph")).text
    alone = make_pipeline("Alone")
    assert "Alone waits for no other" in viewer_client.get(reverse("graph"), {"pipeline": alone.pk}).text
    assert viewer_client.get(reverse("graph"), {"pipeline": "nonsense"}).status_code == 302


# The API --------------------------------------------------------------------------------------


def test_the_api_tells_what_a_run_waits_for(held_up, operator_client):
    found = operator_client.get(f"/api/v1/runs/{held_up.pk}/").json()
    assert found["status"] == "blocked"
    assert found["waiting"].startswith("Waiting because upstream Orders failed at")
    assert [each["pipeline"] for each in found["waiting_on"]] == ["Orders"]
    (upstream,) = found["upstreams"]
    assert (upstream["name"], upstream["is_met"], upstream["met_by"]) == ("Orders", False, None)
    assert operator_client.post(f"/api/v1/runs/{held_up.pk}/start/").json()["status"] == "queued"
    refused = operator_client.post(f"/api/v1/runs/{held_up.pk}/start/")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_blocked")


def test_the_api_runs_a_pipeline_and_all_below_once_for_a_key(make_pipeline, wait_for, operator_client, viewer_client):
    orders = make_pipeline("Orders")
    wait_for("Sales", orders)
    address = f"/api/v1/pipelines/{orders.pk}/runs/downstream/"
    assert viewer_client.post(address).status_code == 403
    night = {"headers": {"Idempotency-Key": "night"}, "content_type": "application/json"}
    first = operator_client.post(address, **night)
    assert first.status_code == 201
    assert [(run["pipeline_name"], run["status"]) for run in first.json()] == [
        ("Orders", "queued"),
        ("Sales", "blocked"),
    ]
    again = operator_client.post(address, **night)
    assert again.status_code == 200
    assert [run["id"] for run in again.json()] == [run["id"] for run in first.json()]
    other = operator_client.post(f"/api/v1/pipelines/{orders.pk}/runs/", **night)
    assert other.status_code == 409


def test_lists_of_runs_take_the_same_queries_however_many_are_blocked(
    held_up, operator_client, wait_for, make_pipeline
):
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            operator_client.get(reverse("monitor"))
        return len(queries)

    before = count()
    for number in range(4):
        blocked(wait_for(f"More {number}", make_pipeline(f"Up {number}"), schedules=[HOURLY]), NOON)
    assert count() == before


def test_old_runs_go_with_what_they_waited_for(make_pipeline, wait_for, settings):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    succeed(orders, NOON)
    services.settle()
    end(runs_of(sales)[0])
    settings.RETENTION = timedelta(seconds=-1)
    services.trim()
    assert not Run.objects.exists()
