"""Schedules, runs that failed and new tables, as a person meets them: in a browser, with real beat and workers."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from datamantri.demo import loader
from pipelines.models import Calendar, DatasetRule, Pipeline, Schedule
from runs.models import Run, TableEvent
from runs.states import RunStatus
from tests.acceptance import browser
from tests.acceptance.conftest import PROJECT, ended, numbers
from tests.acceptance.product import wait_for
from tests.acceptance.test_journey import page

__all__ = ["page"]
pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="Chromium is not installed")


def test_a_schedule_is_typed_previewed_and_kept_from_closed_times(product, page, make_pipeline, source_table):
    pipeline, mark = make_pipeline(source_table(numbers(10))), secrets.token_hex(3)
    page.goto(f"{product.url}/admin/pipelines/calendar/add/")
    page.locator("[name=name]").fill(f"Off {mark}")
    page.locator("[name=closed]").fill("every day Everything stands still")
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: Calendar.objects.filter(name=f"Off {mark}").exists(), saying="the calendar is saved")

    page.goto(f"{product.url}/admin/pipelines/pipeline/{pipeline.pk}/change/")
    meaning = page.locator("#schedules-group [data-desk-meaning]").first
    page.locator("[name=schedules-0-cron]").fill("30 2 * * *")
    page.locator("[name=schedules-0-zone]").fill("Australia/Lord_Howe")
    expect(meaning.locator("li")).to_have_count(10)
    expect(meaning.locator("li").first).to_contain_text("UTC")
    expect(meaning).to_contain_text("the clocks go")
    expect(meaning).to_contain_text("30 min")
    # A schedule that ticks every two seconds, and each time into closed times.
    page.locator("[name=schedules-0-zone]").fill("UTC")
    page.locator("#schedules-group .desk-picker select").first.select_option("interval")
    page.get_by_label("Every", exact=True).fill("2")
    page.get_by_label("Unit").select_option("1")
    page.locator("[name=schedules-0-calendar]").select_option(label=f"Off {mark}")
    page.locator("[name=schedules-0-jitter_s]").fill("1")
    expect(meaning).to_contain_text(f"but for Off {mark}, spread over 1 second")
    expect(meaning).to_contain_text(f"skipped: Off {mark}, Everything stands still")
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: Schedule.objects.filter(pipeline=pipeline).exists(), saying="the schedule is saved")
    skip = wait_for(lambda: pipeline.skips.filter(reason="calendar", ticks__gte=2).first(), saying="ticks are skipped")
    assert skip.calendar == f"Off {mark}"
    assert not pipeline.runs.exists()

    Calendar.objects.filter(name=f"Off {mark}").update(closed=[])
    run = wait_for(pipeline.runs.order_by("created_at").first, saying="what is open runs")
    Pipeline.objects.filter(pk=pipeline.pk).update(state="paused")
    assert ended(run).status == RunStatus.SUCCEEDED
    assert run.scheduled_for <= run.due < run.scheduled_for + timedelta(seconds=1)
    assert run.data_interval_start < skip.last, "with the data of the closed times"
    page.goto(f"{product.url}/pipelines/{pipeline.pk}/")
    page.get_by_text("Skipped ticks").click()
    expect(page.get_by_text(f"Off {mark}").last).to_be_visible()


def test_a_failed_run_is_marked_and_cleared_on_its_page(product, page, make_pipeline, source_table, run_now):
    pipeline = make_pipeline("shop.not_yet_there")
    run = ended(run_now(pipeline))
    assert run.status == RunStatus.FAILED
    page.goto(f"{product.url}/runs/{run.pk}/")
    page.get_by_text("Clear it, or mark it as done").click()
    page.get_by_label("Why").fill("Nobody needs it")
    page.get_by_role("button", name="Mark as done").click()
    expect(page.get_by_text("Marked as done by olga")).to_be_visible()
    table = source_table(numbers(10))
    Pipeline.objects.filter(pk=pipeline.pk).update(source_table=table)
    pipeline.refresh_from_db()
    from pipelines import services as definitions

    definitions.save_pipeline(pipeline, schedules=None, by=None)
    page.get_by_text("Clear it, or mark it as done").click()
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.get_by_text("The run is tried again.")).to_be_visible()
    expect(page.locator(".badge.large")).to_contain_text("Succeeded")
    assert ended(run).attempts.count() == 2
    assert Run.objects.filter(pipeline=pipeline).count() == 1


def test_a_table_that_appears_gets_a_pipeline_from_a_worker(
    product, page, make_pipeline, source, bigquery_client, source_table, warehouse_cursor
):
    template, mark = make_pipeline(source_table(numbers(1)), state="paused"), secrets.token_hex(3)
    # A dataset of its own: tests that run beside this one make tables, too.
    dataset = f"new_{mark}"

    def make_table(name: str) -> None:
        loader.load(bigquery_client, f"{PROJECT}.{dataset}.{name}", {"id": "INT64", "name": "STRING"}, numbers(10))

    loader.ensure_dataset(bigquery_client, dataset)
    make_table("old")
    page.goto(f"{product.url}/admin/pipelines/datasetrule/add/")
    page.locator("[name=name]").fill(f"New {mark}")
    page.locator("[name=source]").select_option(label=source.name)
    page.locator("[name=source_dataset]").fill(dataset)
    page.locator("[name=name_prefix]").fill(f"{mark} ")
    page.locator("[name=template]").select_option(label=template.name)
    page.get_by_role("button", name="Save", exact=True).click()
    rule = wait_for(lambda: DatasetRule.objects.filter(name=f"New {mark}").first(), saying="the rule is saved")
    wait_for(lambda: rule.looks.exists(), saying="the first look")
    assert not Pipeline.objects.filter(name__startswith=mark).exists()
    table = f"fresh_{mark}"
    make_table(table)
    page.goto(f"{product.url}/admin/pipelines/datasetrule/{rule.pk}/change/")
    page.get_by_role("link", name="Look now").click()
    made = wait_for(lambda: Pipeline.objects.filter(name=f"{mark} {table}").first(), saying="its pipeline is made")
    assert (made.state, made.source_table, made.target_table) == ("paused", f"{dataset}.{table}", table)
    assert TableEvent.objects.get(rule=rule, pipeline=made).at > datetime.now(UTC) - timedelta(minutes=1)
    wait_for(lambda: rule.looks.filter(made=1).exists(), saying="the look is written down")
    page.reload()
    expect(page.get_by_role("link", name=re.compile(f"^{mark} {table}$"))).to_be_visible()
    rule.delete()
