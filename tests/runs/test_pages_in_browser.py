"""The live pages in a real browser, against a real web server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.utils import timezone

from runs import live, services
from runs.models import PartLoad, Run, RunAction
from runs.states import RunStatus
from tests.runs.browser import *  # noqa: F403
from tests.runs.browser import Web, cookies_of, running_web
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import OPERATE, VIEW, allow, divide, write

pytestmark = pytest.mark.django_db(transaction=True)
# Less than what pages wait before they ask although they are told of changes: 15 s, and 20 s lists of runs.
A_LITTLE_MS = 14_000
LIVE = "[data-sign=live]"
SEQS = "() => [...document.querySelectorAll('#log .l')].map(line => Number(line.dataset.seq))"
LAST_IS = "last => Number([...document.querySelectorAll('#log .l')].at(-1)?.dataset.seq) === last"
AT_END = "() => log.scrollHeight - log.scrollTop - log.clientHeight < 2"
# Where the log is scrolled to once what came into view has been laid out.
STILL_AT = """async () => {
  for (let place = NaN, frames = 0; frames < 5; frames++) {
    await new Promise(requestAnimationFrame);
    if (log.scrollTop !== place) frames = 0;
    place = log.scrollTop;
  }
  return log.scrollTop;
}"""
# How the first cells look whenever the page fetches what it shows, and for how long they have looked so.
NOTE_FETCHES = """() => {
  const plain = window.fetch;
  let drawn = Infinity;
  window.fetches = [];
  window.fetch = (address, options) => {
    const cells = [...document.querySelectorAll('.parts .part')].slice(0, 4).map(cell => cell.className);
    if (options?.headers?.["X-Fragment"]) window.fetches.push({ cells, later: performance.now() - drawn });
    return plain(address, options);
  };
  new MutationObserver(() => { drawn = Math.min(drawn, performance.now()); })
    .observe(document.querySelector('.parts'), { subtree: true, attributeFilter: ['class'] });
}"""


@pytest.fixture
def page(web: Web, browser: Any, operator: Any) -> Iterator[Any]:
    """A page of an operator's session; the test fails on any error of a script."""
    with opened(web, browser, operator) as page:
        yield page


@contextmanager
def opened(web: Web, browser: Any, operator: Any) -> Iterator[Any]:
    allow(operator, *VIEW, *OPERATE)
    context = browser.new_context(base_url=web.url)
    context.add_cookies(cookies_of(operator, web))
    page = context.new_page()
    page.set_default_timeout(20_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def run(make_pipeline, make_run) -> Run:
    return make_run(make_pipeline("Orders"), RunStatus.RUNNING, rows=0)


def test_log_in_press_run_now_and_watch_the_log(web, browser, operator, make_pipeline):
    allow(operator, *VIEW, *OPERATE)
    make_pipeline("Orders")
    page = browser.new_page(base_url=web.url)
    page.goto("/")
    page.fill("[name=username]", "olga")
    page.fill("[name=password]", "correct horse")
    page.click("button.primary")
    page.click("[aria-label='Run Orders now']")
    page.wait_for_url("**/runs/*/")
    page.wait_for_selector(LIVE)
    run = Run.objects.get()
    assert page.url == f"{web.url}/runs/{run.pk}/"
    assert "Waiting because no worker is running." in page.inner_text("[data-live=status]")
    claimed = services.claim(process="worker@here", worker="worker@here/1", task_id="1")
    assert claimed is not None
    run.refresh_from_db()
    write(run, "<b id=hacked>Reading</b> <script>window.hacked = 1</script>")
    page.wait_for_function(LAST_IS, arg=1)
    assert "<b id=hacked>Reading</b> <script>" in page.inner_text("#log")
    assert page.evaluate("document.getElementById('hacked') === null && window.hacked === undefined")
    page.wait_for_selector(".status .badge.s-running")
    assert page.query_selector(".note.waiting") is None
    services.finish(claimed, RunStatus.SUCCEEDED, receipt={"rows": 42, "bytes": 1000})
    page.wait_for_selector(".status .badge.s-succeeded")
    page.wait_for_selector("text=Run again")
    assert page.inner_text("[data-live=facts] dd >> nth=0") == "42"
    assert page.title().startswith("Succeeded")


def test_progress_moves_without_a_reload(page, run):
    page.goto(f"/runs/{run.pk}/")
    page.wait_for_selector(LIVE)
    page.evaluate("window.sameDocument = true")
    assert page.evaluate("document.querySelector('progress').position") == -1  # nobody knows how many there are
    progress = services.Progress(rows=1_500_000, bytes=9_000_000, estimated_rows=2_000_000)
    services.write_lines(run.pk, [], token=1, progress=progress)
    live.push_run(run.pk)
    page.wait_for_function("() => document.querySelector('[data-value=rows]').textContent === '1,500,000'")
    assert page.inner_text("[data-value=percent]") == "75 %"
    assert page.evaluate("document.querySelector('progress').value") == 75
    assert page.evaluate("window.sameDocument")


def test_parts_are_followed_without_a_reload(page, run):
    page.goto(f"/runs/{run.pk}/")
    page.wait_for_selector(LIVE)
    page.evaluate("window.sameDocument = true")
    parts = divide(run, "done", "running", "running", *["waiting"] * 199)
    live.push_run(run.pk)
    page.wait_for_function("() => document.querySelectorAll('.parts .part').length === 202")
    assert page.get_by_role("img", name="Part 2 (day 1): loading on worker@here:1").count() == 1
    page.evaluate(NOTE_FETCHES)
    PartLoad.objects.filter(pk=parts[1].pk).update(status="done", rows=1000, lease_until=None)
    PartLoad.objects.filter(pk=parts[3].pk).update(status="failed", error_message="It broke.")
    live.push_run(run.pk)
    page.wait_for_selector("text=2 of 202 parts are staged, 1 is loading, 1 failed, 198 wait.")
    page.wait_for_selector(".named >> text=It broke.")
    # The cells came with the state; what is said of each is fetched a little later, at once for all.
    drawn = ["part is-d f8 w2", "part is-d f8 w2", "part is-r f4 w2", "part is-f f0 w2"]
    (fetched,) = page.evaluate("window.fetches")
    assert fetched["cells"] == drawn
    assert fetched["later"] > 1000
    Run.objects.filter(pk=run.pk).update(step="publish")
    live.push_run(run.pk)
    page.wait_for_selector("[data-value=phase] >> text=publishing")
    assert page.evaluate("window.sameDocument")


def test_where_nothing_is_pushed_pages_ask_and_are_right_a_little_later(
    browser, operator, run, make_run, make_pipeline, tmp_path
):
    with running_web(tmp_path, BROKER_URL="amqp://127.0.0.1:1//") as web, opened(web, browser, operator) as page:
        write(run, "one")
        page.goto(f"/runs/{run.pk}/")
        page.wait_for_selector(LIVE)
        board = page.context.new_page()
        board.goto("/")
        write(run, "two", "three")
        services.write_lines(run.pk, [], token=1, progress=services.Progress(rows=1_500_000, bytes=9_000_000))
        page.wait_for_function(LAST_IS, arg=3, timeout=A_LITTLE_MS)
        page.wait_for_function("() => document.querySelector('[data-value=rows]').textContent === '1,500,000'")
        services.move_run(run.pk, RunStatus.SUCCEEDED, token=1, finished_at=timezone.now())
        make_run(make_pipeline("Refunds"), RunStatus.QUEUED)
        page.wait_for_selector(".status .badge.s-succeeded", timeout=A_LITTLE_MS)
        assert page.evaluate(SEQS) == [1, 2, 3]
        board.wait_for_selector(".card .badge.s-succeeded", timeout=A_LITTLE_MS)
        board.wait_for_selector(".card >> text=Refunds", timeout=A_LITTLE_MS)


def test_the_log_is_complete_after_lost_pushes_and_a_lost_server(page, run, web, monkeypatch):
    write(run, "one")
    page.goto(f"/runs/{run.pk}/")
    page.wait_for_selector(LIVE)
    with monkeypatch.context() as silence:
        silence.setattr(live, "push_lines", lambda *_: None)
        write(run, "two", "three")
    write(run, "four")
    page.wait_for_function(LAST_IS, arg=4)
    web.stop()
    page.wait_for_selector("[data-sign=reconnecting]")
    write(run, *(f"line {n}" for n in range(5, 2000)))
    web.start()
    page.wait_for_function(LAST_IS, arg=1999)
    assert page.evaluate(SEQS) == list(range(1, 2000))
    page.reload()
    page.wait_for_selector(LIVE)
    assert page.evaluate(SEQS) == list(range(1500, 2000))


def test_a_long_log_stays_small_in_order_and_where_one_reads(page, run):
    page.goto(f"/runs/{run.pk}/")
    page.wait_for_selector(LIVE)
    for start in range(1, 12_001, 400):
        write(run, *(f"line {n} " + "x" * (n % 300) for n in range(start, start + 400)))
    page.wait_for_function(LAST_IS, arg=12_000)
    shown = page.evaluate(SEQS)
    assert shown == list(range(shown[0], 12_001))
    assert len(shown) <= 4000
    page.wait_for_function(AT_END)
    page.evaluate("log.scrollTop = 0")
    page.click("#earlier")
    page.wait_for_function("first => Number(document.querySelector('#log .l').dataset.seq) < first", arg=shown[0])
    more = page.evaluate(SEQS)
    assert more == list(range(shown[0] - 1000, 12_001))
    place = page.evaluate(STILL_AT)
    write(run, "while someone reads further up")
    page.wait_for_function(LAST_IS, arg=12_001)
    assert page.evaluate(STILL_AT) == place
    page.click("#jump")
    page.wait_for_function(AT_END)


def test_the_dashboard_follows_what_happens_elsewhere(page, run, make_pipeline, make_run):
    page.goto("/")
    page.wait_for_selector(".card .badge.s-running")
    page.evaluate("window.sameDocument = true")
    page.focus("[aria-label='Run Orders now']")
    time.sleep(1)  # the page has looked once since its socket opened
    services.move_run(run.pk, RunStatus.SUCCEEDED, token=1, finished_at=timezone.now())
    live.push_board(run.pk, run.pipeline_id, RunStatus.SUCCEEDED)
    page.wait_for_selector(".card .badge.s-succeeded", timeout=A_LITTLE_MS)
    assert page.evaluate("document.activeElement.ariaLabel") == "Run Orders now"
    make_run(make_pipeline("Refunds"), RunStatus.QUEUED)
    live.push_board(run.pk, run.pipeline_id, RunStatus.QUEUED)
    page.wait_for_selector(".card >> text=Refunds", timeout=A_LITTLE_MS)
    assert page.evaluate("window.sameDocument")


def test_a_logout_elsewhere_is_said(page, run):
    page.goto(f"/runs/{run.pk}/")
    page.wait_for_selector(LIVE)
    page.context.clear_cookies()
    page.evaluate("fetch('/')")
    services.move_run(run.pk, RunStatus.FAILED, token=1, finished_at=timezone.now())
    live.push_run(run.pk)
    page.wait_for_selector("text=You are logged out")


def test_pages_work_without_scripts(web, browser, operator, run):
    allow(operator, *VIEW, *OPERATE)
    write(run, "one", "two")
    context = browser.new_context(base_url=web.url, java_script_enabled=False)
    context.add_cookies(cookies_of(operator, web))
    page = context.new_page()
    page.goto("/")
    page.click("[aria-label='Run Orders now']")
    page.wait_for_selector(".messages >> text=The run is on its way.")
    page.goto(f"/runs/{run.pk}/")
    assert page.locator("#log .l").count() == 2
    page.click("text=Cancel")
    page.wait_for_selector("text=The run is being cancelled.")
    run.refresh_from_db()
    assert run.cancel_requested
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(web, page, run, width):
    divide(run, *["running", "waiting", "done"] * 80, {"status": "running", "estimated_rows": 99_000})
    page.set_viewport_size({"width": width, "height": 800})
    for address in ("/", "/pipelines/", "/monitor/", "/runs/", f"/runs/{run.pk}/", f"/pipelines/{run.pipeline_id}/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address


def test_what_a_recent_run_did_stands_beside_its_name(web, page, run):
    Run.objects.filter(pk=run.pk).update(action=RunAction.COMPARE)
    page.goto("/")
    tag, name, facts = (page.locator(f".recent {part}").bounding_box() for part in (".tag", "b", "small"))
    assert name["x"] + name["width"] <= tag["x"]
    assert tag["y"] + tag["height"] <= facts["y"] + 1


def test_a_chosen_theme_is_remembered(page):
    page.emulate_media(color_scheme="light")
    page.goto("/")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.click("[data-theme-switch]")
    page.click("[data-theme-switch]")
    dark = page.evaluate(ground)
    assert dark != light
    page.goto("/runs/")
    assert page.evaluate(ground) == dark
