"""How soon work starts, how soon a log line is seen, how many small runs a minute, how late schedules are."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.place import DATASET, PROJECT, median, percentile, say, warehouse_options
from datamantri.embedded.product import Product

NOOP_PIPELINES = 200
BURSTS = 3
START_RUNS = 100
LOG_LINES = 150
SCHEDULE_S = 30
# Figures come from the database's clock: looking more often would only take from the cores that are measured.
POLL_S = 0.05


class Bench:
    """Definitions and an API client in the measured product; needs Django to be set up."""

    def __init__(self, product: Product) -> None:
        from django.contrib.auth import get_user_model

        from pipelines import services, tokens
        from pipelines.models import Connection

        self.product = product
        self.operator = get_user_model().objects.get(username="operator")
        _, self.token = tokens.create_token(self.operator, "bench")
        warehouse = warehouse_options(product)
        hidden = {"password": warehouse.pop("password")}
        options = {"project": PROJECT, "location": "US"}
        self.source = Connection.objects.create(name="source", kind="bigquery", options=options)
        self.destination = Connection.objects.create(
            name="destination", kind="postgres", options=warehouse, secrets=hidden
        )
        self._save = services.save_pipeline
        self._client = threading.local()

    def pipeline(
        self, name: str, table: str, schedules: tuple[Any, ...] = (), checks: tuple[Any, ...] = (), **options: Any
    ) -> Any:
        from pipelines.models import Pipeline

        pipeline = Pipeline(
            name=name,
            source=self.source,
            source_table=f"{DATASET}.{table}",
            destination=self.destination,
            target_schema="public",
            target_table=f"run_{name}",
            **options,
        )
        self._save(pipeline, schedules=schedules, checks=checks, by=self.operator)
        return pipeline

    def trigger(self, pipeline: Any) -> str:
        """Start a run through the API; returns its id."""
        connection = getattr(self._client, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.product.env["PORT"], timeout=30)
            self._client.connection = connection
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request("POST", f"/api/v1/pipelines/{pipeline.pk}/runs/", "{}", headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == 201, body
        return body["id"]

    def run(self, pipeline: Any) -> Any:
        """Trigger a run and wait until it has ended."""
        from runs.models import Run
        from runs.states import TERMINAL, RunStatus

        pk = self.trigger(pipeline)
        while True:
            run = Run.objects.get(pk=pk)
            if run.status in TERMINAL:
                assert run.status == RunStatus.SUCCEEDED, run.error_message
                return run
            time.sleep(POLL_S)

    def full_run(self) -> Callable[[str], float]:
        """Trigger → succeeded, by the control database's clock."""
        pipelines = {name: self.pipeline(name, name) for name in ("narrow", "wide")}

        def measure(name: str) -> float:
            run = self.run(pipelines[name])
            return (run.finished_at - run.created_at).total_seconds()

        return measure


def measure_start(bench: Bench) -> dict[str, float]:
    """Trigger through the API → the worker's code has the run, one run at a time on idle, warm workers.

    `start` counts from the run's row on, `worker_start` from before the request was sent.
    """
    pipeline = bench.pipeline("start", "empty")
    for _ in range(10):
        bench.run(pipeline)
    waits: dict[str, list[float]] = {"start": [], "worker_start": []}
    for _ in range(START_RUNS):
        asked = time.time()
        run = bench.run(pipeline)
        waits["start"].append((run.started_at - run.created_at).total_seconds() * 1000)
        waits["worker_start"].append((run.started_at.timestamp() - asked) * 1000)
    figures = {
        "start_p50_ms": percentile(waits["start"], 0.5),
        "start_p95_ms": percentile(waits["start"], 0.95),
        "worker_start_p50_ms": percentile(waits["worker_start"], 0.5),
        "worker_start_p95_ms": percentile(waits["worker_start"], 0.95),
    }
    for name, value in figures.items():
        say(f"{name}: {value:.0f}")
    return figures


def measure_throughput(bench: Bench) -> dict[str, float]:
    """No-op runs triggered through the API until all are terminal: the middle one of some bursts."""
    rates = [_burst(bench, number) for number in range(BURSTS)]
    told = ", ".join(f"{rate:,.0f}" for rate in rates)
    say(f"no-op runs: {median(rates):,.0f} a minute, the middle one of {told}")
    return {"noop_runs_per_minute": median(rates)}


def _burst(bench: Bench, number: int) -> float:
    """Runs a minute, of pipelines that have not run before."""
    from runs.models import Run
    from runs.states import TERMINAL, RunStatus

    pipelines = [bench.pipeline(f"noop{number}_{i}", "empty") for i in range(NOOP_PIPELINES)]
    began = time.perf_counter()
    ids = [bench.trigger(pipeline) for pipeline in pipelines]
    while Run.objects.filter(pk__in=ids, status__in=TERMINAL).count() < len(ids):
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    assert Run.objects.filter(pk__in=ids, status=RunStatus.SUCCEEDED).count() == len(ids)
    say(f"{len(ids)} no-op runs in {seconds:.1f} s")
    return len(ids) / seconds * 60


def measure_lateness(bench: Bench) -> dict[str, float]:
    """Scheduled instant → the run starts, for pipelines that tick every second or two."""
    from django.utils import timezone

    from pipelines.specs import ScheduleSpec
    from runs.models import Run

    rules = [ScheduleSpec("interval", every_s=every) for every in (1, 2, 3, 5)]
    pipelines = [bench.pipeline(f"late{i}", "empty", (rule,)) for i, rule in enumerate(rules)]
    time.sleep(SCHEDULE_S)
    for pipeline in pipelines:
        pipeline.schedules.update(ends_at=timezone.now())
    time.sleep(3)
    runs = Run.objects.filter(pipeline__in=pipelines, started_at__isnull=False, scheduled_for__isnull=False)
    lateness = [(run.started_at - run.scheduled_for).total_seconds() for run in runs]
    p95 = percentile(lateness, 0.95)
    say(f"schedule → start: p95 {p95:.2f} s over {len(lateness)} ticks")
    return {"schedule_lateness_p95_s": p95}


WATCH = """
() => {
  window.seen = {};
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) {
      const lines = node.matches?.("[data-seq]") ? [node] : node.querySelectorAll?.("[data-seq]") ?? [];
      for (const line of lines) window.seen[line.dataset.seq] ??= Date.now();
    }
  }).observe(document.body, { childList: true, subtree: true });
}
"""


def measure_log(bench: Bench) -> dict[str, float]:
    """A line is logged in the process that owns a run → it stands in the browser's page."""
    # Its loop runs in this thread, where Django would refuse the ORM.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    from playwright.sync_api import sync_playwright

    from runs.models import LogLine

    pipeline = bench.pipeline("log", "empty")
    password = bench.product.password_file.read_text().strip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=[
                *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync"),
            ],
        )
        page = browser.new_page()
        page.goto(f"{bench.product.url}/accounts/login/")
        page.fill("input[name=username]", "operator")
        page.fill("input[name=password]", password)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{bench.product.url}/")
        run, writer = _owned_run(bench, pipeline)
        page.goto(f"{bench.product.url}/runs/{run}/")
        page.wait_for_selector("[data-seq]")
        page.evaluate(WATCH)
        time.sleep(1)
        for number in range(LOG_LINES):
            writer(f"line {number}")
            page.wait_for_timeout(random.choice((20, 60, 150, 300)))
        page.wait_for_timeout(2000)
        seen = page.evaluate("() => window.seen")
        browser.close()
    delays = []
    for line in LogLine.objects.filter(run_id=run, message__startswith="line "):
        assert str(line.seq) in seen, f"line {line.seq} never arrived"
        delays.append(seen[str(line.seq)] - line.at.timestamp() * 1000)
    p95 = percentile(delays, 0.95)
    say(f"log line → browser: p95 {p95:.0f} ms over {len(delays)} lines")
    return {"log_to_browser_p95_ms": p95}


def _owned_run(bench: Bench, pipeline: Any) -> tuple[Any, Callable[[str], None]]:
    """A run that this process owns as a worker does, and how it logs: the worker's own reporter."""
    from unittest import mock

    from django.conf import settings

    from runs import doorbell, services
    from runs.reporter import Reporter, scribe

    with mock.patch.object(doorbell, "ring"), mock.patch.object(settings, "LEASE_TTL", settings.LEASE_TTL * 20):
        claimed = None
        while claimed is None:
            # The ticker may have rung for it before this process took it: then ask for another.
            services.request_run(pipeline, trigger="manual", by=bench.operator)
            claimed = services.claim(process="", worker="bench", task_id="bench")
    reporter = Reporter(claimed)
    scribe().serve(reporter)
    reporter.log("info", "This run belongs to the bench.")
    return claimed.run, lambda message: reporter.log("info", message)
