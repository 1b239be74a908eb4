"""A backfill as a person does it: asked for, previewed, started, watched, tried again."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pytest

from runs import services
from runs.models import Backfill, Run
from runs.states import RunStatus
from tests.runs.browser import *  # noqa: F403
from tests.runs.browser import cookies_of
from tests.runs.pages import *  # noqa: F403
from tests.runs.test_pages_in_browser import page  # noqa: F401

pytestmark = pytest.mark.django_db(transaction=True)
QUERY = "SELECT 1 AS id, @country AS c, @data_interval_start AS at"
SHOTS = os.environ.get("DATAMANTRI_SHOTS", "")


def end(status: RunStatus, **more: Any) -> None:
    moment = datetime.now(UTC)
    Run.objects.filter(status=RunStatus.QUEUED).update(status=status, started_at=moment, finished_at=moment, **more)
    services.advance_backfills()


def shoot(page: Any, name: str) -> None:  # noqa: F811
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def test_a_backfill_from_the_wish_to_the_end(page, make_pipeline):  # noqa: F811
    pipeline = make_pipeline(
        source_table="",
        source_query=QUERY,
        write_disposition="merge",
        merge_key=["id"],
        parameters={"country": {"type": "STRING", "default": "DE"}},
    )
    page.goto(f"/pipelines/{pipeline.pk}/")
    page.click("summary:has-text('More')")
    page.click("text=Backfill …")
    page.fill("[name=low]", "2026-01-01")
    page.fill("[name=high]", "2026-02-15")
    page.click("text=Preview")
    page.wait_for_selector("#estimate >> text=45, one after another")
    shoot(page, "preview")
    page.click("text=Start 45 runs")
    page.wait_for_selector("text=45 slices: 44 waiting, 1 under way")
    for number in range(20):
        end(
            RunStatus.FAILED if number % 7 == 3 else RunStatus.SUCCEEDED, rows=1000, error_message="The source is gone."
        )
    # Without a reload.
    page.wait_for_selector("text=17 succeeded, 3 failed")
    assert page.locator("a.part.is-f").count() == 3
    shoot(page, "progress")
    page.click("button:has-text('Pause')")
    page.wait_for_selector(".badge:has-text('Paused')")
    page.click("button:has-text('Try again what failed')")
    page.wait_for_selector("text=17 succeeded.")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, "progress-phone")
    page.click("button:has-text('Cancel')")
    page.wait_for_selector(".badge:has-text('Cancelled')")
    assert Backfill.objects.get().state == "cancelled"


def test_a_run_with_values(page, make_pipeline):  # noqa: F811
    pipeline = make_pipeline(
        source_table="",
        source_query=QUERY,
        target_table="sales_{country}",
        parameters={"country": {"type": "STRING", "default": "DE"}, "full": {"type": "BOOL", "default": False}},
    )
    page.goto(f"/pipelines/{pipeline.pk}/")
    shoot(page, "pipeline")
    page.click("text=Run with values …")
    page.fill("[name='parameters.country']", "a/b")
    page.fill("[name=data_interval_start]", "2026-01-01")
    page.fill("[name=data_interval_end]", "2026-01-02")
    page.click("text=Start the run")
    page.wait_for_selector("text=cannot be part of a target's name")
    shoot(page, "values")
    page.fill("[name='parameters.country']", "FR")
    page.click("text=Start the run")
    page.wait_for_selector("text=public.sales_FR")
    shoot(page, "run")


def test_parameters_are_typed_a_line_each(web, browser, django_user_model, make_pipeline):
    pipeline = make_pipeline(source_table="", source_query=QUERY, target_table="sales")
    admin = django_user_model.objects.create_superuser("ada", password="correct horse")
    context = browser.new_context(base_url=web.url, viewport={"width": 1280, "height": 900})
    context.add_cookies(cookies_of(admin, web))
    page = context.new_page()  # noqa: F811
    page.set_default_timeout(20_000)
    page.goto(f"/admin/pipelines/pipeline/{pipeline.pk}/change/")
    page.fill("[name=parameters]", "country STRING = DE\ndays INT64 = x")
    page.click("[name=_continue]")
    page.wait_for_selector("text='x' is no INT64.")
    page.wait_for_load_state()
    assert page.inner_text("body").count("tags ARRAY<STRING>") == 1  # the help is no markup
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, "form")
    page.fill("[name=parameters]", "country STRING = DE\ndays INT64 = 7")
    page.fill("[name=target_table]", "sales_{country}")
    page.click("[name=_continue]")
    page.wait_for_selector("text=was changed successfully")
    page.click("text=More runs")
    shoot(page, "more")
    page.wait_for_selector(f"a[href*='/{pipeline.pk}/backfill']", state="attached")
    pipeline.refresh_from_db()
    assert pipeline.parameters == {
        "days": {"type": "INT64", "default": 7},
        "country": {"type": "STRING", "default": "DE"},
    }
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"/pipelines/{pipeline.pk}/values/")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, "values-dark-phone")
    context.close()
