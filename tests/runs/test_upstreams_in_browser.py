"""Dependencies in a real browser: chosen in the form, seen in the graph, run from here down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse

from pipelines import services as definitions
from runs import services
from tests.runs.browser import *  # noqa: F403
from tests.runs.pages import *  # noqa: F403
from tests.runs.test_pages_in_browser import opened
from tests.runs.test_upstreams import HOURLY, NOON, blocked, fail, succeed, wait_for

__all__ = ["wait_for"]
pytestmark = pytest.mark.django_db(transaction=True)
OVERFLOWS = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture
def page(web: Any, browser: Any, operator: Any) -> Iterator[Any]:
    operator.is_staff = operator.is_superuser = True
    operator.save()
    with opened(web, browser, operator) as page:
        yield page


@pytest.fixture
def graph(make_pipeline: Any, wait_for: Any) -> dict[str, Any]:
    found = {
        name: make_pipeline(name)
        for name in ("Orders", "Order items", "Customers", "Exchange rates of the central bank")
    }
    orders, items, customers, rates = found.values()
    found["Sales"] = wait_for("Sales", orders, items, schedules=[HOURLY])
    found["Customers, cleaned"] = wait_for("Customers, cleaned", customers)
    found["Revenue"] = wait_for("Revenue", found["Sales"], rates)
    found["Board report"] = wait_for("Board report", found["Revenue"], found["Customers, cleaned"], orders)
    found["Paused one"] = wait_for("Paused one", found["Sales"])
    definitions.pause([found["Paused one"]], by=None)
    blocked(found["Sales"], NOON)
    fail(orders, NOON)
    succeed(items, NOON)
    succeed(customers, NOON)
    services.settle()
    return found


def test_an_upstream_is_chosen_in_the_form_and_a_cycle_is_shown_there(page, graph, shot):
    page.goto(reverse("admin:pipelines_pipeline_change", args=[graph["Orders"].pk]))
    page.get_by_role("link", name="Add another dependency").click()
    page.locator("#id_dependencies-0-upstream + .select2 .select2-selection").click()
    page.locator(".select2-search__field").fill("Board")
    page.get_by_role("option", name="Board report").click()
    shot(page, "form")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("These would wait for each other for ever: Orders → Board report → Orders.").wait_for()
    shot(page, "form-cycle")
    assert not graph["Orders"].dependencies.exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_graph_leads_to_its_pipelines_and_does_not_widen_a_phone(page, graph, scheme, shot):
    page.emulate_media(color_scheme=scheme)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(reverse("graph"))
        page.get_by_role("link", name="Orders: Failed").wait_for()
        assert not page.evaluate(OVERFLOWS)
        shot(page, f"graph-{scheme}-{width}")
    for name in ("Sales", "Orders"):
        page.goto(reverse("pipeline", args=[graph[name].pk]))
        assert not page.evaluate(OVERFLOWS)
        shot(page, f"pipeline-{name}-{scheme}")
    page.goto(reverse("graph"))
    page.get_by_role("link", name="Orders: Failed").click()
    page.wait_for_url(f"**{reverse('pipeline', args=[graph['Orders'].pk])}")


def test_running_from_here_down_says_what_it_does_and_a_blocked_run_can_be_let_go(page, graph, shot):
    page.goto(reverse("pipeline", args=[graph["Sales"].pk]))
    page.get_by_role("link", name="Run from here down").click()
    page.get_by_text("each when those above it have succeeded: Sales, Revenue, Board report.").wait_for()
    shot(page, "ask")
    page.get_by_role("button", name="Run 3 pipelines").click()
    page.get_by_role("heading", name="From here down").wait_for()
    page.get_by_role("link", name="Revenue").click()
    page.get_by_text("Waiting for upstream Sales, whose run is queued.").wait_for()
    shot(page, "run-blocked")
    page.set_viewport_size({"width": 390, "height": 900})
    shot(page, "run-blocked-phone")
    page.get_by_role("button", name="Start anyway").click()
    page.get_by_text("was not waited for").wait_for()
    page.goto(reverse("monitor"))
    shot(page, "monitor")


@pytest.fixture
def shot() -> Any:
    """Keeps a picture of the page where somebody asked for them."""
    folder = os.environ.get("SCREENSHOTS")

    def shot(page: Any, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{folder}/{name}.png", full_page=True)

    return shot


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_webhooks_secret_is_shown_once_also_on_a_phone(page, make_pipeline, scheme, shot):
    pipeline = make_pipeline("Orders", watch_every_s=300)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(reverse("pipeline", args=[pipeline.pk]))
    page.get_by_role("heading", name="Changes of the source").wait_for()
    shot(page, f"source-{scheme}")
    page.get_by_role("link", name="Webhook").click()
    page.get_by_role("button", name="Make a webhook").click()
    assert page.locator("#secret").inner_text().startswith("whsec_")
    assert page.locator("#address").inner_text().endswith(f"/hooks/{pipeline.webhook.pk}/")
    assert not page.evaluate(OVERFLOWS)
    shot(page, f"webhook-{scheme}")
    page.set_viewport_size({"width": 1280, "height": 900})
    shot(page, f"webhook-{scheme}-wide")
    page.goto(reverse("webhook_page", args=[pipeline.pk]))
    assert page.locator("#secret").count() == 0
    page.get_by_role("button", name="Renew the secret").click()
    page.get_by_role("button", name="End the old one now").click()
    page.get_by_text("Only the newest secret counts now.").wait_for()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove the webhook").click()
    page.get_by_role("button", name="Make a webhook").wait_for()
