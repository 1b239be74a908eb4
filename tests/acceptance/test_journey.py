"""What a newcomer does, in a real browser: log in, connect, create, run, watch the log."""

from __future__ import annotations

import re
import secrets

import pytest
from playwright.sync_api import Page, expect

from pipelines.models import Connection, Pipeline
from runs.models import LogLine, Run
from runs.states import RunStatus
from tests.acceptance import browser
from tests.acceptance.conftest import SLOW, ended, numbers
from tests.acceptance.product import wait_for

pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="Chromium is not installed")
LIMIT_MS = 30_000


@pytest.fixture
def page(product, operator):
    """A page of the logged-in operator; an error on a page's console fails the test."""
    with browser.browsing() as chromium:
        page = chromium.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        browser.log_in(page, product.url, "olga", "a long enough password")
        expect.set_options(timeout=LIMIT_MS)
        yield page
        expect.set_options(timeout=5_000)
        assert not errors


def fill(page: Page, values: dict[str, str]) -> None:
    for name, value in values.items():
        page.locator(f"[name={name}]").fill(value)


def test_log_in_connect_create_run_and_watch(product, page, source_table, warehouse, warehouse_cursor):
    table = source_table(numbers(5000))
    mark = secrets.token_hex(3)

    page.goto(f"{product.url}/admin/pipelines/connection/add/?kind=bigquery")
    page.locator("[name=name]").fill(f"lake {mark}")
    page.get_by_label("Project", exact=False).first.fill("acceptance")
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: Connection.objects.filter(name=f"lake {mark}").exists(), saying="the source is saved")

    page.goto(f"{product.url}/admin/pipelines/connection/add/?kind=postgres")
    page.locator("[name=name]").fill(f"house {mark}")
    for label in ("host", "dbname", "user", "port", "password"):
        page.locator(f"input[name$={label}]").first.fill(str(warehouse[label]))
    page.locator("select[name$=sslmode]").select_option("disable")
    page.get_by_role("button", name="Test connection").click()
    expect(page.get_by_text("Log in", exact=False).first).to_be_visible()
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: Connection.objects.filter(name=f"house {mark}").exists(), saying="the destination is saved")
    assert warehouse["password"] not in page.content()

    page.goto(f"{product.url}/admin/pipelines/pipeline/add/")
    page.locator("[name=name]").fill(f"orders {mark}")
    page.locator("select[name=source]").select_option(label=f"lake {mark}")
    page.locator("[name=source_table]").fill(table)
    page.locator("select[name=destination]").select_option(label=f"house {mark}")
    fill(page, {"target_schema": "public", "target_table": f"orders_{mark}"})
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: Pipeline.objects.filter(name=f"orders {mark}").exists(), saying="the pipeline is saved")
    pipeline = Pipeline.objects.get(name=f"orders {mark}")
    assert [column["name"] for column in pipeline.source_columns] == ["id", "name"]

    page.goto(f"{product.url}/pipelines/{pipeline.pk}/")
    page.get_by_role("button", name="Run now").first.click()
    run = wait_for(lambda: Run.objects.filter(pipeline=pipeline).first(), saying="a run is queued")
    page.goto(f"{product.url}/runs/{run.pk}/")
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    ended(run)
    last = page.locator(f"[data-seq='{run.last_seq}']")
    expect(last).to_contain_text("5,000 rows")
    warehouse_cursor.execute(f"SELECT count(*) FROM public.orders_{mark}")
    assert warehouse_cursor.fetchone() == (5000,)


def test_log_lines_arrive_while_the_page_is_open(product, page, make_pipeline, source_table, run_now):
    pipeline = make_pipeline(source_table(numbers(10)))
    run = ended(run_now(pipeline))
    page.goto(f"{product.url}/pipelines/{pipeline.pk}/")
    # A run that waits, whose page is open before its first line is written.
    product.process("worker").suspend()
    for child in product.children():
        child.suspend()
    try:
        run = run_now(pipeline)
        page.goto(f"{product.url}/runs/{run.pk}/")
        expect(page.get_by_text(re.compile("Waiting")).first).to_be_visible()
        assert page.locator("[data-seq]").count() == 0
    finally:
        for child in product.children():
            child.resume()
        product.process("worker").resume()
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    ended(run)
    seqs = list(LogLine.objects.filter(run=run).order_by("seq").values_list("seq", flat=True))
    expect(page.locator("#log [data-seq]")).to_have_count(len(seqs))
    shown = page.locator("#log [data-seq]").evaluate_all("lines => lines.map(line => Number(line.dataset.seq))")
    assert shown == seqs
    page.reload()
    expect(page.locator("#log [data-seq]")).to_have_count(len(seqs))


def test_a_definite_mistake_is_told_at_its_field(product, page, source, destination):
    page.goto(f"{product.url}/admin/pipelines/pipeline/add/")
    mark = secrets.token_hex(3)
    page.locator("[name=name]").fill(f"wrong {mark}")
    page.locator("select[name=source]").select_option(label=source.name)
    page.locator("[name=source_table]").fill("shop.nowhere")
    page.locator("select[name=destination]").select_option(label=destination.name)
    fill(page, {"target_schema": "public", "target_table": f"wrong_{mark}"})
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text(re.compile("nowhere.*(not|no )", re.IGNORECASE)).first).to_be_visible()
    assert not Pipeline.objects.filter(name=f"wrong {mark}").exists()


def test_cancel_from_the_page(product, page, make_pipeline, large_table, run_now, slow_target):
    run = run_now(slow_target(make_pipeline(large_table, **SLOW)))
    page.goto(f"{product.url}/runs/{run.pk}/")
    page.get_by_role("button", name="Cancel").first.click()
    assert ended(run).status == RunStatus.CANCELLED
    expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
