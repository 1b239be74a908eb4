"""The schedule picker in a browser: the picker writes the plain fields, and the fields write the picker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, sync_playwright

STATIC = Path(__file__).parents[2] / "static" / "admin_desk"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 30_000
HTML = """
<script id="desk-urls" type="application/json">{"schedule": "/schedule/"}</script>
<form data-desk-schedule>
  <div class="group">
    <select name="x-kind"><option value="cron">Cron</option><option value="interval">Interval</option></select>
  </div>
  <div class="group"><input name="x-cron"></div>
  <div class="group"><input name="x-zone" value="UTC"></div>
  <div class="group"><input name="x-every_s" type="number"></div>
  <div class="group"><input name="x-active_from" type="datetime-local"><input name="x-jitter_s"></div>
  <div class="group">
    <select name="x-calendar"><option value="">None</option><option value="17">Holidays</option></select>
  </div>
  <p data-desk-meaning></p>
</form>
<script type="module" src="/admin_desk/schedule_page.js"></script>
"""

NEXT = [{"local": "<i>soon</i>", "utc": "later", "note": "the clocks go back", "closed": "skipped: Holidays"}]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def answer(route: Route) -> None:
    """Serve the page, our scripts from where they lie, and for the server's words an echo of what was asked."""
    path = urlsplit(route.request.url).path
    if path == "/":
        route.fulfill(body=HTML, content_type="text/html")
    elif path.startswith("/admin_desk/"):
        route.fulfill(path=STATIC / path.removeprefix("/admin_desk/"), content_type="text/javascript")
    else:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(route.request.url).query).items()}
        words = f"<b>{asked.get('cron') or asked.get('every_s')}</b>"
        route.fulfill(
            body=json.dumps({"words": words, "next": NEXT, "change": "", "ends": ""}), content_type="application/json"
        )


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page()
        page.route("**/*", answer)
        yield page
        browser.close()


@pytest.fixture
def page(browser_page: Page) -> Page:
    browser_page.goto("http://desk.test/")
    browser_page.wait_for_selector(".desk-picker")
    return browser_page


def fields(page: Page) -> tuple[str, str, str]:
    return tuple(page.input_value(f"[name=x-{name}]") for name in ("kind", "cron", "every_s"))  # type: ignore[return-value]


def mode(page: Page) -> str:
    return page.input_value(".desk-picker select >> nth=0")


@pytest.mark.parametrize(
    ("choice", "given", "written"),
    [
        ("minutes", {"Every": "15"}, ("cron", "*/15 * * * *", "")),
        ("minutes", {"Every": "1"}, ("cron", "* * * * *", "")),
        ("minutes", {"Every": "45"}, ("interval", "", "2700")),
        ("minutes", {"Every": "90"}, ("interval", "", "5400")),
        ("hourly", {"At minute": "20"}, ("cron", "20 * * * *", "")),
        ("daily", {"At": "06:05"}, ("cron", "5 6 * * *", "")),
        ("weekdays", {"At": "23:59"}, ("cron", "59 23 * * 1-5", "")),
        ("weekly", {"At": "07:00"}, ("cron", "0 7 * * 1", "")),
        ("monthly", {"At": "00:30", "On day": "31"}, ("cron", "30 0 31 * *", "")),
        ("interval", {"Every": "2"}, ("interval", "", "120")),
    ],
)
def test_the_picker_writes_the_fields(page, choice, given, written):
    page.select_option(".desk-picker select >> nth=0", choice)
    for label, value in given.items():
        page.get_by_label(label, exact=True).fill(value)
    assert fields(page) == written
    assert mode(page) == choice


@pytest.mark.parametrize(
    ("cron", "shown"),
    [
        ("*/20 * * * *", "minutes"),
        ("*/7 * * * *", "cron"),
        ("5 * * * *", "hourly"),
        ("5 6 * * *", "daily"),
        ("5 6 * * 1-5", "weekdays"),
        ("5 6 * * 0,3", "weekly"),
        ("5 6 15 * *", "monthly"),
        ("5 6 1 1 *", "cron"),
        ("5 6 1 * 1", "cron"),
        ("@daily", "cron"),
        ("", ""),
    ],
)
def test_a_typed_cron_text_writes_the_picker_and_stays_as_typed(page, cron, shown):
    page.fill("[name=x-cron]", cron)
    assert mode(page) == shown
    assert fields(page) == ("cron", cron, "")


def test_typing_a_cron_text_ends_an_interval(page):
    page.select_option(".desk-picker select >> nth=0", "interval")
    assert not page.locator("[name=x-zone]").is_visible()
    page.fill("[name=x-cron]", "0 6 * * *")
    assert fields(page) == ("cron", "0 6 * * *", "")
    assert page.locator("[name=x-zone]").is_visible()


def test_a_number_that_cannot_be_changes_no_rule_and_does_not_stay(page):
    page.select_option(".desk-picker select >> nth=0", "minutes")
    for nonsense in ("-5", "0", ""):
        page.get_by_label("Every", exact=True).fill(nonsense)
        page.focus("[name=x-zone]")
        assert page.input_value(".desk-picker [type=number]:visible") == "15"
        assert fields(page) == ("cron", "*/15 * * * *", "")


def test_the_days_of_a_week_are_ticked(page):
    page.fill("[name=x-cron]", "0 6 * * 2,4")
    ticked = page.eval_on_selector_all(".desk-picker [type=checkbox]", "boxes => boxes.map((box) => box.checked)")
    assert ticked == [False, False, True, False, True, False, False]
    page.get_by_label("Sat").check()
    assert fields(page) == ("cron", "0 6 * * 2,4,6", "")


def test_the_meaning_follows_and_is_text(page):
    page.fill("[name=x-cron]", "0 6 * * *")
    page.wait_for_function("document.querySelector('[data-desk-meaning]').textContent.includes('0 6 * * *')")
    assert page.inner_text("[data-desk-meaning] strong") == "<b>0 6 * * *</b>"
    assert page.get_attribute("[data-desk-meaning]", "aria-live") == "polite"
    assert page.eval_on_selector_all("[data-desk-meaning] li *", "all => all.map((each) => each.textContent)") == [
        "<i>soon</i>", "later", "skipped: Holidays, the clocks go back",
    ]  # fmt: skip


def test_the_meaning_is_asked_for_with_all_that_goes_with_the_rule(page):
    page.fill("[name=x-cron]", "0 6 * * *")
    for name, value in (("active_from", "2026-12-01T06:00"), ("jitter_s", "600"), ("calendar", "17")):
        told = f"{name}={value.replace(':', '%3A')}"
        # What was asked a moment before may be on its way only now.
        with page.expect_request(
            lambda request, told=told: "/schedule/" in request.url and told in request.url
        ) as asked:
            if name == "calendar":
                page.select_option(f"[name=x-{name}]", value)
            else:
                page.fill(f"[name=x-{name}]", value)
        assert "cron=0+6" in asked.value.url
