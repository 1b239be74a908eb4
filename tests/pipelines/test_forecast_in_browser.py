"""The button “What will a run do?” in a browser: the form is sent as it stands, the answer is text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from tests.pipelines.test_admin_picker import CHROMIUM, FLAGS, PATIENCE_MS, STATIC

HTML = """
<script id="desk-urls" type="application/json">{"forecast": "/forecast/"}</script>
<form>
  <input name="csrfmiddlewaretoken" value="x">
  <input name="source_query" value="SELECT 1">
  <div class="field-row"><select name="write_disposition" id="mode"><option>replace</option></select></div>
</form>
<script type="module">
  import { showForecast } from "/admin_desk/forecast.js";
  const mode = document.getElementById("mode");
  mode.form.addEventListener("formdata", ({ formData }) => formData.set("source_query", ""));
  showForecast(mode);
</script>
"""
FORECAST = {
    "method": "in_place", "why": "It stays, because view <b>late</b> depends on it.",
    "dependents": ["view <b>late</b>"], "makes": ["index on name"], "waits": ["Writers wait."], "minds": [],
    "last_lock": {"method": "in_place", "wait_ms": 0.25, "held_ms": 1234.5},
}  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def answers() -> Iterator[tuple[Page, list[str], dict[str, object]]]:
    sent: list[str] = []
    told: dict[str, object] = {}

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path == "/forecast/":
            sent.append(route.request.post_data or "")
            route.fulfill(body=json.dumps(told), content_type="application/json")
        elif path.startswith("/admin_desk/"):
            route.fulfill(path=STATIC / path.removeprefix("/admin_desk/"), content_type="text/javascript")
        else:
            route.fulfill(body=HTML, content_type="text/html")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page()
        page.route("**/*", answer)
        expect.set_options(timeout=PATIENCE_MS)
        yield page, sent, told
        browser.close()


PIPELINE = "0a1b2c3d-0000-4000-8000-000000000001"


def test_method_reason_dependents_and_waits_are_shown_as_text(answers):
    page, sent, told = answers
    told |= {"forecast": FORECAST, "findings": []}
    page.goto(f"http://desk.test/admin/pipelines/pipeline/{PIPELINE}/change/")
    page.get_by_role("button", name="What will a run do?").click()
    expect(page.locator(".desk-finder")).to_contain_text(
        "Replaces the rows in place. It stays, because view <b>late</b>"
    )
    for text in ("view <b>late</b>", "index on name", "Writers wait.", "Others waited for at most 1,234.5 ms"):
        expect(page.locator(".desk-facts")).to_contain_text(text)
    expect(page.locator(".desk-facts")).not_to_contain_text("To mind")
    assert PIPELINE in sent[-1]
    assert "SELECT 1" not in sent[-1]  # the page says what is meant, as when the form is saved


def test_what_stands_against_it_is_shown_instead(answers):
    page, _, told = answers
    told |= {"forecast": None, "findings": [{"message": "There is no schema x.", "hint": "Create it."}]}
    page.goto("http://desk.test/admin/pipelines/pipeline/add/")
    page.get_by_role("button", name="What will a run do?").click()
    expect(page.locator(".desk-note-error")).to_have_text("There is no schema x. Create it.")
