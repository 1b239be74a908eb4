"""The table of columns in a browser: what is chosen there is written into the plain field, and read from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from connectors.column import Column
from connectors.preflight import look_ahead
from tests.pipelines.test_admin_picker import CHROMIUM, FLAGS, PATIENCE_MS, STATIC

COLUMNS = [
    Column("id", "INT64"),
    Column("Email", "STRING"),
    Column("at", "DATETIME"),
    Column("<b>", "BIGNUMERIC", True),
]
HTML = """
<script id="desk-urls" type="application/json">{"columns": "/columns/", "preview": "/preview/"}</script>
<form>
  <input name="csrfmiddlewaretoken" value="x">
  <select id="id_source"><option value="7">Lake</option></select>
  <div class="grow relative"><textarea id="id_column_rules"></textarea></div>
  <select id="id_text_policy"><option>fail</option><option>strip</option></select>
</form>
<script type="module">
  import { showColumns } from "/admin_desk/columns.js";
  const [rules, source] = ["id_column_rules", "id_source"].map((id) => document.getElementById(id));
  showColumns(rules, source, () => ({ table: "a.b" }));
</script>
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def answer(route: Route) -> None:
    """Serve the page and our scripts, and say of columns what the server says."""
    path = urlsplit(route.request.url).path
    if path == "/":
        route.fulfill(body=HTML, content_type="text/html")
    elif path.startswith("/admin_desk/"):
        route.fulfill(path=STATIC / path.removeprefix("/admin_desk/"), content_type="text/javascript")
    else:
        asked = {name: values[0] for name, values in parse_qs(route.request.post_data or "").items()}
        assert (asked["connection"], asked["table"]) == ("7", "a.b")
        if path == "/preview/":
            assert json.loads(asked["rules"])["Email"]["mask"] == "keep_last"
            shown = {"columns": [{"name": "mail", "type": "text"}], "rows": [["****.org"], [None]]}
            return route.fulfill(body=json.dumps(shown), content_type="application/json")
        told = asdict(look_ahead(COLUMNS, json.loads(asked.get("rules") or "{}"), asked["text_policy"]))
        route.fulfill(body=json.dumps(told), content_type="application/json")


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page()
        page.route("**/*", answer)
        expect.set_options(timeout=PATIENCE_MS)
        yield page
        browser.close()


@pytest.fixture
def page(browser_page: Page) -> Page:
    browser_page.goto("http://desk.test/")
    browser_page.get_by_role("button", name="Look at columns").click()
    browser_page.wait_for_selector(".desk-rules")
    return browser_page


def rules(page: Page) -> dict[str, dict[str, object]]:
    return json.loads(page.input_value("#id_column_rules") or "{}")


def test_each_column_is_shown_with_what_becomes_of_it(page):
    rows = page.locator(".desk-rules tbody tr")
    expect(rows).to_have_count(len(COLUMNS))
    expect(rows.nth(0)).to_contain_text("INT64")
    assert page.get_by_label("Type of id").get_attribute("placeholder") == "bigint"
    expect(rows.nth(1)).to_contain_text("a NUL character ends the run")
    expect(rows.nth(3)).to_contain_text("<b>")
    expect(rows.nth(3)).to_contain_text("takes the most work to write")
    page.select_option("#id_text_policy", "strip")
    expect(rows.nth(1)).to_contain_text("NUL characters are removed")


def test_a_column_is_skipped_and_read_again(page):
    page.get_by_label("Read Email").uncheck()
    expect(page.locator(".desk-rules tr", has_text="Email")).to_contain_text("Not read.")
    assert rules(page) == {"Email": {"skip": True}}
    page.get_by_label("Read Email").check()
    expect(page.locator(".desk-rules tr", has_text="Email")).to_contain_text("by value")
    assert rules(page) == {}


def test_a_type_is_chosen_and_the_usual_one_is_no_rule(page):
    page.get_by_label("Type of id").fill("integer")
    page.get_by_label("Type of id").blur()
    expect(page.locator(".desk-rules tbody tr").nth(0)).to_contain_text("ends the run")
    assert rules(page) == {"id": {"type": "integer"}}
    page.get_by_label("Type of id").fill("bigint")
    page.get_by_label("Type of id").blur()
    expect(page.locator(".desk-rules tbody tr").nth(0)).not_to_contain_text("ends the run")
    assert rules(page) == {}


def test_what_is_half_typed_is_no_rule_when_an_answer_comes_which_is_shown_after_it(page):
    late: list[Route] = []
    page.route("**/columns/", lambda route: late.append(route))
    with page.expect_request("**/columns/"):
        page.get_by_label("Read at").uncheck()
    typed = page.get_by_label("Type of Email")
    typed.press_sequentially("x")
    page.unroute("**/columns/")
    with page.expect_response("**/columns/"):
        answer(late[0])
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    typed.press("Backspace")
    typed.blur()
    expect(page.locator(".desk-rules tbody tr").nth(2)).to_contain_text("Not read.")
    assert rules(page) == {"at": {"skip": True}}


def test_a_time_that_changes_its_kind_asks_for_its_zone(page):
    page.get_by_label("Type of at").fill("timestamptz")
    page.get_by_label("Type of at").blur()
    expect(page.locator(".desk-rules")).to_contain_text("needs the zone")
    page.get_by_label("Time zone of at").fill("Europe/Berlin")
    page.get_by_label("Time zone of at").blur()
    expect(page.locator(".desk-rules")).not_to_contain_text("needs the zone")
    assert rules(page) == {"at": {"type": "timestamptz", "zone": "Europe/Berlin"}}


def test_what_is_typed_into_the_field_is_shown(page):
    page.fill("#id_column_rules", '{"EMAIL": {"skip": true}, "id": {"type": "uuid"}, "gone": {"skip": true}}')
    expect(page.locator(".desk-finder").first).to_contain_text("The source has no column gone")
    expect(page.locator(".desk-rules tr", has_text="Email")).to_contain_text("Not read.")
    expect(page.locator(".desk-rules tbody tr").nth(1)).to_contain_text("cannot be stored as uuid")
    assert page.get_by_label("Type of id").input_value() == "uuid"
    page.get_by_label("Read Email").check()
    expect(page.locator(".desk-rules tr", has_text="Email")).to_contain_text("by value")
    assert "EMAIL" not in rules(page)


def test_a_name_and_a_mask_are_chosen_and_the_first_rows_shown_with_them(page):
    email = page.locator(".desk-rules tbody tr").nth(1)
    page.get_by_label("Name of Email").fill("mail")
    page.get_by_label("Name of Email").blur()
    page.get_by_label("Type of Email").fill("varchar(9)")
    page.get_by_label("Type of Email").blur()
    expect(email).to_contain_text("a longer text ends the run")
    assert rules(page) == {"Email": {"name": "mail", "type": "varchar(9)"}}
    page.get_by_label("Mask of Email").select_option("keep_last")
    expect(email).to_contain_text("counting NULLs only")
    expect(page.get_by_label("Type of Email")).to_be_disabled()
    assert rules(page) == {"Email": {"name": "mail", "mask": "keep_last", "keep": 4}}
    page.get_by_label("Characters kept of Email").fill("3")
    page.get_by_label("Characters kept of Email").blur()
    page.get_by_role("button", name="Preview by these rules").click()
    expect(page.locator(".desk-preview")).to_contain_text("****.org")
    assert rules(page)["Email"]["keep"] == 3
    page.get_by_label("Mask of Email").select_option("hmac")
    expect(page.locator(".desk-preview")).to_have_count(0)
    assert rules(page) == {"Email": {"name": "mail", "mask": "hmac"}}
    page.get_by_label("Mask of Email").select_option("")
    page.get_by_label("Name of Email").fill("Email")
    page.get_by_label("Name of Email").blur()
    expect(email).to_contain_text("by value")
    assert rules(page) == {}
