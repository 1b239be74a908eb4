"""What the pages say, whatever the names and messages in them look like."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import timedelta
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache
from django.db import connection
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from connectors.column import Column
from pipelines import services as definitions
from pipelines.models import Connection, PipelineState
from pipelines.specs import ScheduleSpec
from runs.models import Process, Run
from runs.states import RunStatus
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import skip, write

MARKUP = "<script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""
HOURLY = [ScheduleSpec("cron", cron="0 * * * *", zone="Europe/Berlin")]


def alive() -> None:
    Process.objects.create(name="worker@here", kind="worker", slots=2)
    Process.objects.create(name="beat@here", kind="beat")


# Text stays text ------------------------------------------------------------------------------


def every_address(pipeline, run) -> list[str]:
    of = {"pipeline": pipeline.pk, "run": run.pk}
    names = ("dashboard", "monitor", "pipelines", "runs", "pipeline", "run", "profile")
    return [reverse(name, args=[of[name]] if name in of else []) for name in names]


@pytest.fixture
def marked(make_pipeline, make_run, viewer_client):
    """A pipeline and a run whose every text looks like markup, seen by a viewer."""
    pipeline = make_pipeline(MARKUP, target_table="<b>", description=MARKUP, schedules=HOURLY)
    failed = {"error_code": "odd", "error_message": MARKUP, "error_hint": MARKUP}
    run = make_run(pipeline, RunStatus.FAILED, receipt={MARKUP: {MARKUP: MARKUP}}, **failed)
    run.attempts.update(error_message=MARKUP, worker=MARKUP)
    write(run, MARKUP, "</script><script>alert(2)</script>", level="error")
    make_run(pipeline, RunStatus.HELD, **failed)
    skip(pipeline, run)
    return pipeline, run


def test_markup_in_names_and_messages_is_text(marked, viewer_client):
    for address in every_address(*marked):
        page = viewer_client.get(address).text
        assert "<script>alert" not in page, address
        assert "<img src=x" not in page, address
        if address != reverse("profile"):
            assert "&lt;script&gt;alert" in page, address


def test_pages_run_nothing_but_files_of_our_own(marked, viewer_client):
    for address in every_address(*marked):
        response = viewer_client.get(address)
        assert response["Content-Security-Policy"].startswith("default-src 'self';")
        for tag in re.findall(r"<script[^>]*>", response.text):
            assert 'src="/static/' in tag or 'type="application/json"' in tag, address
        tags = "".join(re.findall(r"<[a-z][^>]*>", response.text))
        assert not re.search(r"\s(style|on\w+)=", re.sub(r'"[^"]*"', '""', tags)), address
        assert not re.search(r'(src|href|action)="(https?:)?//', tags), address


def test_what_the_run_page_hands_to_its_script_cannot_end_it(marked, viewer_client):
    _, run = marked
    page = viewer_client.get(reverse("run", args=[run.pk])).text
    handed = re.search(r'<script id="run-page" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert json.loads(handed[1])["pipeline"] == MARKUP


# The dashboard --------------------------------------------------------------------------------


def test_a_newcomer_is_shown_three_steps(operator_client):
    page = operator_client.get("/").text
    assert "Three steps to your first table" in page
    assert reverse("admin:pipelines_pipeline_add") in page


def test_a_card_says_what_moves_how_and_when(make_pipeline, make_run, operator_client):
    alive()
    pipeline = make_pipeline("Orders", schedules=HOURLY)
    make_run(pipeline)
    page = operator_client.get("/").text
    for said in ("Orders", "sales.orders", "public.orders", "Lake", "Shop", "Replace", "Every hour (Europe/Berlin)"):
        assert said in page
    assert "1.23 M" in page
    assert reverse("run_pipeline", args=[pipeline.pk]) in page
    assert "Succeeded" in page
    assert "Needs attention" not in page


def test_what_needs_attention_is_named(make_pipeline, make_run, viewer_client):
    failing, fine, paused = make_pipeline("Failing"), make_pipeline("Fine"), make_pipeline("Paused", state="paused")
    earlier = timezone.now() - timedelta(hours=1)
    make_run(failing, created_at=earlier)
    make_run(failing, RunStatus.FAILED, error_code="gone", error_message="The table is gone.")
    make_run(failing, RunStatus.QUEUED)
    make_run(fine, RunStatus.FAILED, error_code="old", error_message="Long past.", created_at=earlier)
    make_run(fine)
    make_run(paused, RunStatus.FAILED, error_code="off", error_message="Nobody cares.")
    make_run(fine, RunStatus.HELD, error_code="overtaken", error_message="Someone wrote to it.")
    lost = Connection.objects.create(name="Lost one", kind="postgres")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipelines_connection SET secrets = 'gAAAAAB' WHERE id = %s", [lost.pk])
    attention = viewer_client.get("/").text.split("Needs attention")[1].split("</section>")[0]
    for said in ("The table is gone.", "Someone wrote to it.", "Lost one", "No worker is alive", "scheduler is silent"):
        assert said in attention
    for past in ("Long past.", "Nobody cares."):
        assert past not in attention


def test_a_worker_that_fell_silent_is_not_alive(make_pipeline, viewer_client):
    make_pipeline("Orders")
    alive()
    assert "No worker is alive" not in viewer_client.get("/").text
    Process.objects.update(seen_at=timezone.now() - timedelta(minutes=2))
    assert "No worker is alive" in viewer_client.get("/").text
    assert "Silent" in viewer_client.get("/monitor/").text


# Pipelines ------------------------------------------------------------------------------------


def test_pipelines_are_found_by_words_state_connection_and_last_run(make_pipeline, make_run, viewer_client):
    orders, refunds = make_pipeline("Orders of 2026"), make_pipeline("Refunds", state=PipelineState.PAUSED)
    make_run(orders, RunStatus.FAILED)
    make_run(orders, RunStatus.RUNNING)
    make_run(refunds)

    def found(query: str) -> set[str]:
        return {card.pipeline.name for card in viewer_client.get(f"/pipelines/?{query}").context["cards"]}

    assert found("") == {"Orders of 2026", "Refunds"}
    assert found("text=2026+ord") == {"Orders of 2026"}
    assert found("text=sales.refunds") == {"Refunds"}
    assert found("state=paused") == {"Refunds"}
    assert found("last=failed") == {"Orders of 2026"}
    assert found(f"connection={orders.source.pk}") == {"Orders of 2026", "Refunds"}
    assert found("text=nothing") == set()
    assert found("state=nonsense&connection=nonsense&page=nonsense") == {"Orders of 2026", "Refunds"}


def test_a_pipeline_page_tells_times_revisions_and_skips(make_pipeline, make_run, viewer_client, operator):
    daily = [ScheduleSpec("cron", cron="30 6 * * *", zone="Asia/Kolkata")]
    pipeline = make_pipeline("Orders", schedules=daily)
    pipeline.retries = 7
    definitions.save_pipeline(pipeline, schedules=None, by=operator)
    skip(pipeline, make_run(pipeline))
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    assert page.count(", 06:30") == 5  # in the schedule's zone
    assert "Asia/Kolkata" in page
    assert "<dt>Loaded</dt><dd>By itself, from the size</dd>" in page
    assert "A run was active or waiting" in page
    assert re.search(r"<b>2</b>.*?by olga.*?Retries", page, re.DOTALL)


# Runs -----------------------------------------------------------------------------------------


def test_pages_of_runs_show_each_run_once_in_order(make_pipeline, viewer_client):
    pipeline = make_pipeline("Orders")
    now = timezone.now()
    # Runs of one instant, as ticks make them, must not hide behind each other.
    Run.objects.bulk_create(
        Run(
            pipeline=pipeline,
            revision=pipeline.revision,
            trigger="schedule",
            created_at=now - timedelta(minutes=n // 40),
        )
        for n in range(120)
    )
    seen, page = [], viewer_client.get("/runs/").context["found"]
    pages = [page]
    while page.older:
        page = viewer_client.get("/runs/", {"before": page.older}).context["found"]
        pages.append(page)
    for page in pages:
        seen += [run.pk for run in page.runs]
    assert [len(page.runs) for page in pages] == [50, 50, 20]
    assert seen == list(Run.objects.order_by("-created_at", "-pk").values_list("pk", flat=True))
    back = viewer_client.get("/runs/", {"after": pages[2].newer}).context["found"]
    assert [run.pk for run in back.runs] == [run.pk for run in pages[1].runs]
    assert back.newer
    first = viewer_client.get("/runs/", {"after": back.newer}).context["found"]
    assert [run.pk for run in first.runs] == [run.pk for run in pages[0].runs]
    assert not first.newer


def test_runs_are_filtered(make_pipeline, make_run, viewer_client):
    orders, refunds = make_pipeline("Orders"), make_pipeline("Refunds")
    one = make_run(orders, RunStatus.FAILED, trigger="api")
    two = make_run(refunds, RunStatus.SUCCEEDED, trigger="schedule")

    def found(query: str) -> set[object]:
        return {run.pk for run in viewer_client.get(f"/runs/?{query}").context["found"].runs}

    assert found("status=failed") == {one.pk}
    assert found("trigger=schedule") == {two.pk}
    assert found(f"pipeline={orders.pk}") == {one.pk}
    assert found("text=refu") == {two.pk}
    assert found("status=failed&text=refu") == set()
    assert found(f"before=nonsense&after=2026_x&status=odd&pipeline={uuid4()}") == {one.pk, two.pk}


def test_the_run_page_shows_state_error_receipt_and_the_end_of_the_log(make_pipeline, make_run, operator_client):
    receipt = {
        "rows": 1234567,
        "bytes": 5_000_000,
        "target": {"schema": "public", "table": "orders"},
        "lock_held_ms": 3.2,
    }
    failed = {"error_code": "missing_grant", "error_message": "No right to write.", "error_hint": "GRANT it."}
    run = make_run(make_pipeline("Orders"), RunStatus.FAILED, receipt=receipt, **failed)
    write(run, *(f"line {n}" for n in range(1, 701)))
    page = operator_client.get(reverse("run", args=[run.pk])).text
    for said in (
        "No right to write.",
        "missing_grant",
        "GRANT it.",
        "1,234,567",
        "public.orders",
        "3.2 ms",
        "line 700",
    ):
        assert said in page
    assert ">line 200<" not in page
    assert ">line 201<" in page
    assert reverse("run_again", args=[run.pk]) in page
    assert reverse("cancel_run", args=[run.pk]) not in page


def test_who_cancelled_too_late_only_asked(make_pipeline, make_run, operator, operator_client):
    pipeline = make_pipeline("Orders")
    for status, said in ((RunStatus.CANCELLED, "Cancelled by"), (RunStatus.SUCCEEDED, "Cancelling asked for by")):
        run = make_run(pipeline, status, cancelled_by=operator)
        assert f"<dt>{said}</dt>" in operator_client.get(reverse("run", args=[run.pk])).text


def test_a_run_that_waits_says_why(make_pipeline, make_run, operator_client):
    pipeline = make_pipeline("Orders")
    waits = make_run(pipeline, RunStatus.QUEUED)
    page = operator_client.get(reverse("run", args=[waits.pk])).text
    assert "Waiting because no worker is running." in page
    assert reverse("cancel_run", args=[waits.pk]) in page
    make_run(pipeline, RunStatus.RUNNING)
    reason = "Waiting for this pipeline&#x27;s run that is running now."
    assert reason in operator_client.get(reverse("run", args=[waits.pk])).text
    assert reason in operator_client.get("/monitor/").text


def test_the_log_is_fetched_from_either_side(make_pipeline, make_run, viewer_client):
    run = make_run(make_pipeline("Orders"), RunStatus.RUNNING)
    write(run, *(f"line {n}" for n in range(1, 1501)))
    address = reverse("run_log", args=[run.pk])

    def seqs(query: str) -> list[int]:
        answer = viewer_client.get(f"{address}?{query}").json()
        assert answer["state"]["last_seq"] == 1500
        return [line["seq"] for line in answer["lines"]]

    assert seqs("after=0") == list(range(1, 1001))
    assert seqs("after=1498") == [1499, 1500]
    assert seqs("after=999999999999999999") == []
    assert seqs("before=3") == [1, 2]
    assert seqs("before=1501") == seqs("") == seqs(f"after={'9' * 5000}") == list(range(501, 1501))


def test_the_whole_log_can_be_downloaded(make_pipeline, make_run, viewer):
    run = make_run(make_pipeline("Orders"))
    write(run, *(f"line {n}" for n in range(1, 2501)))

    async def download() -> str:
        client = AsyncClient()
        await client.aforce_login(viewer)
        response = await client.get(reverse("run_log_text", args=[run.pk]))
        assert response["Content-Disposition"] == f'attachment; filename="run-{run.pk}.log"'
        return b"".join([part async for part in response.streaming_content]).decode()

    lines = async_to_sync(download)().splitlines()
    assert len(lines) == 2500
    assert lines[-1].endswith("INFO line 2500")


@pytest.mark.parametrize(
    "query",
    [
        "text=%00&page=%00&before=%00",
        "page=-1",
        f"page={'9' * 5000}",
        "before=9999-12-31T23:59:59-23:59_00000000-0000-4000-8000-000000000000",
        "after=0001-01-01T00:00:00%2B23:59_00000000-0000-4000-8000-000000000000",
        "status=%27%3B&pipeline=%ff&connection=0&state=%F0%9F%98%80&text=%25_%5C",
    ],
)
def test_no_address_breaks_a_list(make_pipeline, make_run, viewer_client, query):
    make_run(make_pipeline("Orders"))
    for address in ("/runs/", "/pipelines/"):
        assert viewer_client.get(f"{address}?{query}").status_code == 200


# Cost -----------------------------------------------------------------------------------------


def test_the_number_of_queries_does_not_grow(make_pipeline, make_run, operator_client):
    def queries() -> dict[str, int]:
        counted = {}
        for address in every_address(first, run):
            operator_client.get(address)
            cache.clear()
            with CaptureQueriesContext(connection) as captured:
                assert operator_client.get(address).status_code == 200
            counted[address] = len(captured)
        return counted

    def add(name: str):
        pipeline = make_pipeline(name, schedules=HOURLY)
        run = make_run(pipeline, RunStatus.RUNNING)
        make_run(pipeline, RunStatus.FAILED)
        make_run(pipeline, RunStatus.HELD)
        make_run(pipeline, RunStatus.QUEUED)
        write(run, "one", "two")
        skip(pipeline, run)
        return pipeline, run

    alive()
    first, run = add("Number 0")
    few = queries()
    for number in range(1, 12):
        add(f"Number {number}")
        make_run(first, RunStatus.FAILED)
        make_run(first, RunStatus.QUEUED)
        skip(first, run)
        definitions.save_pipeline(first, schedules=None, by=None)
    many = queries()
    assert many == few
    assert max(many.values()) <= 24, many


# Columns --------------------------------------------------------------------------------------


def test_a_pipelines_page_says_what_becomes_of_its_columns(make_pipeline, viewer_client):
    columns = [asdict(column) for column in (Column("id", "INT64"), Column(MARKUP, "JSON"), Column("secret", "STRING"))]
    rules = {"id": {"type": "integer"}, "secret": {"skip": True}}
    pipeline = make_pipeline(source_columns=columns, column_rules=rules, text_policy="strip")
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    assert "What becomes of 3 columns" in page
    for told in ("integer", "counted only", "NUL characters are removed", "not read", "&lt;script&gt;alert"):
        assert told in page
    assert "<script>alert" not in page


def test_a_page_without_known_columns_says_nothing_of_them(make_pipeline, viewer_client):
    assert "What becomes of" not in viewer_client.get(reverse("pipeline", args=[make_pipeline().pk])).text


def test_a_pipelines_page_says_what_form_its_table_gets(make_pipeline, viewer_client):
    form = {"primary_key": ["id", "<day>"], "indexes": [{"columns": ["name", "city"], "unique": True}]}
    pipeline = make_pipeline(**form, partition_column="<day>", partition_unit="year")
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    for told in ("id, &lt;day&gt;</dd>", "<dt>Unique index</dt><dd>name, city", "A year of &lt;day&gt; each"):
        assert told in page
    plain = viewer_client.get(reverse("pipeline", args=[make_pipeline("Plain").pk])).text
    assert "Primary key" not in plain
    assert "Partitions" not in plain
