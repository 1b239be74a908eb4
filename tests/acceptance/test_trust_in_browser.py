"""Trust and control as people see them: masks, checks, quarantine, changed columns, undo, budgets, freshness."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from playwright.sync_api import Page, expect

from pipelines import services as definitions
from pipelines.models import Pipeline
from runs.models import Run
from runs.states import RunStatus
from tests.acceptance import browser
from tests.acceptance.conftest import PROJECT, ended
from tests.acceptance.product import Product, wait_for
from tests.emulator_tables import EmulatorTables, SchemaField

pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="Chromium is not installed")
LIMIT_MS = 30_000
TYPES = {"id": "INT64", "email": "STRING", "seats": "INT64", "at": "TIMESTAMP"}


@pytest.fixture
def page(product: Product, operator: User) -> Iterator[Page]:
    """A page of an operator who may approve costs; an error on a page's console fails the test."""
    operator.user_permissions.add(Permission.objects.get(codename="approve_cost"))
    client = Client()
    client.force_login(operator)
    (cookie,) = client.cookies.values()
    with browser.browsing() as chromium:
        context = chromium.new_context(base_url=product.url)
        session = {"name": f"datamantri_session_{product.port}", "value": cookie.value, "url": product.url}
        context.add_cookies([session])
        page = context.new_page()
        page.set_default_timeout(LIMIT_MS)
        expect.set_options(timeout=LIMIT_MS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        expect.set_options(timeout=5_000)
        assert not errors


@pytest.fixture
def lake(emulator: Any) -> Iterator[EmulatorTables]:
    tables = EmulatorTables(emulator["rest"], PROJECT)
    yield tables
    tables.close()


def bookings(lake: EmulatorTables, name: str, seats: list[int], more: str = "", bad: tuple[int, ...] = ()) -> str:
    """Make the table anew: a row for each number of seats; the emails of `bad` rows cannot be stored."""
    now = datetime.now(UTC).replace(microsecond=0)
    rows = {
        "id": pa.array(range(len(seats)), pa.int64()),
        "email": [f"anna{i}@example.com" + ("\0" if i in bad else "") for i in range(len(seats))],
        "seats": pa.array(seats, pa.int64()),
        "at": pa.array([now - timedelta(minutes=5)] * len(seats), pa.timestamp("us", "UTC")),
        **({more: pa.array([1] * len(seats), pa.int64())} if more else {}),
    }
    types = {**TYPES, **({more: "INT64"} if more else {})}
    lake.make(name, [SchemaField(*each) for each in types.items()], pa.table(rows))
    return name


def test_masks_and_a_check_from_the_form_to_the_published_rows(page, lake, source, destination, warehouse_cursor):
    mark = secrets.token_hex(3)
    table = bookings(lake, f"shop.bookings_{mark}", [2, 0, 4])
    page.goto("/admin/pipelines/pipeline/add/")
    page.locator("[name=name]").fill(f"bookings {mark}")
    page.locator("select[name=source]").select_option(label=source.name)
    page.locator("[name=source_table]").fill(table)
    page.locator("select[name=destination]").select_option(label=destination.name)
    page.locator("[name=target_table]").fill(f"bookings_{mark}")
    page.get_by_role("button", name="Look at columns").click()
    page.get_by_label("Mask of email").select_option("keep_last")
    page.get_by_role("button", name="Preview by these rules").click()
    expect(page.locator(".desk-preview")).to_contain_text("*.com")
    assert "anna" not in page.locator(".desk-preview").inner_text()
    group = page.locator("#checks-group")
    group.get_by_role("link", name="Add another").click()
    group.locator("[name=checks-0-kind]").select_option("range")
    group.locator("[name=checks-0-columns]").fill("seats")
    group.locator("[name=checks-0-minimum]").fill("one")

    # What is refused says so at its field, which is in sight; what was typed into a fold is not folded away.
    page.get_by_text("Retries", exact=True).first.click()
    page.locator("[name=retries]").fill("0")
    page.locator("[name=give_up_after_s]").fill("-1")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("[name=give_up_after_s]")).to_be_focused()
    expect(page.locator("[name=give_up_after_s]")).to_be_in_viewport()
    expect(page.locator("[name=retries]")).to_be_visible()
    page.locator("[name=give_up_after_s]").fill("")
    page.locator("[name=checks-0-minimum]").fill("1")
    page.get_by_role("button", name="Save", exact=True).click()
    pipeline = wait_for(lambda: Pipeline.objects.filter(name=f"bookings {mark}").first(), saying="it is saved")

    page.goto(f"/pipelines/{pipeline.pk}/")
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("Approve and publish")).to_be_visible()
    expect(page.get_by_text("1 row of 3 has a value of seats below 1.").first).to_be_visible()
    bad = page.get_by_role("region", name="Bad rows")
    expect(bad).to_contain_text("*.com")
    assert "anna" not in page.content()
    page.get_by_label("Why").fill("a test booking")
    page.get_by_role("button", name="Approve and publish").click()
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    warehouse_cursor.execute(f"SELECT count(*), count(*) FILTER (WHERE email LIKE '*%%.com') FROM bookings_{mark}")
    assert warehouse_cursor.fetchone() == (3, 3)
    page.goto(f"/pipelines/{pipeline.pk}/")
    expect(page.locator(".checks svg rect")).to_have_count(1)


def test_changed_columns_bad_rows_former_states_budgets_and_freshness(
    page, lake, make_pipeline, run_now, warehouse_cursor
):
    mark = secrets.token_hex(3)
    names = [f"shop.{what}_{mark}" for what in ("frozen", "bad", "kept", "dear", "live")]
    frozen_table, bad_table, kept_table, dear_table, live_table = names
    for name in names:
        bookings(lake, name, [1, 2, 3], bad=(1,) if name == bad_table else ())
    frozen = make_pipeline(frozen_table, schema_policy="freeze")
    bad = make_pipeline(bad_table, write_disposition="merge", merge_key=["id"], quarantine=True)
    kept = make_pipeline(kept_table, undo_depth=1)
    dear = make_pipeline(dear_table, run_budget_bytes=1)
    new = {"incremental": True, "cursor_column": "at", "write_disposition": "merge", "merge_key": ["id"]}
    live = make_pipeline(live_table, mode="realtime", **new)
    first = [run_now(pipeline) for pipeline in (frozen, bad, kept, live, dear)]
    assert [ended(run).status for run in first[:4]] == [RunStatus.SUCCEEDED] * 4
    bookings(lake, frozen_table, [1, 2, 3], more="gate")
    bookings(lake, kept_table, [1, 2])
    second = [run_now(frozen), run_now(kept)]

    # A run beyond its budget waits for somebody who may say yes.
    page.goto(f"/runs/{first[4].pk}/")
    expect(page.get_by_text("Nothing of this run was read yet")).to_be_visible()
    page.get_by_role("button", name="Approve the cost").click()
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()

    # A column came: the run failed before a row moved, and saving the form accepts it.
    assert ended(second[0]).error_code == "schema_frozen"
    page.goto(f"/pipelines/{frozen.pk}/")
    expect(page.locator("[data-key=schema-changes]")).to_contain_text("+ gate INT64")
    page.get_by_role("link", name="Accept them").click()
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: frozen.revisions.count() == 2, saying="the form is saved")
    page.goto(f"/pipelines/{frozen.pk}/")
    page.get_by_role("button", name="Run now").click()
    page.wait_for_url("**/runs/**")
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()

    # A row that could not be stored is looked at, and replayed once the pipeline mends it.
    bad.text_policy = "strip"
    definitions.save_pipeline(bad, schedules=None, by=None)
    page.goto(f"/pipelines/{bad.pk}/")
    page.get_by_role("link", name="quarantine", exact=True).click()
    expect(page.locator(".reasons")).to_contain_text("nul_character")
    page.get_by_label("Choose the row id 1").check()
    page.get_by_role("button", name="Replay").click()
    page.get_by_role("button", name="Replay them").click()
    page.wait_for_url("**/runs/**")
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    warehouse_cursor.execute(f"SELECT email FROM {bad.target_table} WHERE id = 1")
    assert warehouse_cursor.fetchone() == ("anna1@example.com",)

    # What was replaced is put back, with a receipt that leads to the run that left it so.
    assert ended(second[1]).status == RunStatus.SUCCEEDED
    page.goto(f"/pipelines/{kept.pk}/")
    page.get_by_role("link", name="Look, undo").click()
    page.locator("input[name=state]").check()
    page.get_by_role("button", name="Put it back").click()
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    expect(page.locator(".receipt").get_by_role("link", name=f"run {str(first[2].pk)[:8]}")).to_be_visible()
    warehouse_cursor.execute(f"SELECT count(*) FROM {kept.target_table}")
    assert warehouse_cursor.fetchone() == (3,)
    expect(page.get_by_text("The pipeline is paused, so that")).to_be_visible()

    # How fresh the target is stands where near real time does.
    page.goto(f"/pipelines/{live.pk}/")
    # Its newest row was five minutes old when this test began.
    expect(page.locator("[data-key=realtime]")).to_contain_text(re.compile("[5-9] min ago"))
    assert Run.objects.filter(pipeline=live).count() == 1
