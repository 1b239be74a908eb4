"""How costs grow with pipelines and history: `python -m bench scale` writes bench/results/scale.json."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from bench.history import RUNS_EACH, History
from bench.place import median, percentile, say, seconds_of
from datamantri import processes
from datamantri.embedded.product import CHECKOUT
from datamantri.embedded.stack import EmbeddedStack

RESULTS = Path(__file__).parent / "results" / "scale.json"
SMALL, LARGE = 100, 10_000
TICKS = 15
DUE_SHARE = 300  # pipelines that tick every five minutes: one of so many is due every second
REQUESTS = 9
CLAIMS = 50
TRIMS = 10
DUE_LIMIT_S = 60.0
REASON = "made due by the bench"
# What the large side's figures are called among the results, where that is not their own name.
RESULT_NAMES = {"tick_ms": "tick_ms_10k", "tick_queries": "tick_queries_10k", "due_s": "due_10k_s"}


@contextmanager
def control_database() -> Iterator[EmbeddedStack]:
    """PostgreSQL and Valkey with an empty control database, and Django set up in this process against it."""
    with tempfile.TemporaryDirectory(prefix="datamantri-bench-", ignore_cleanup_errors=True) as folder:
        stack = EmbeddedStack(Path(folder))
        try:
            os.environ.update(stack.start())
            os.environ["PUBLIC_URL"] = "http://127.0.0.1:8000"
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
            import django
            from django.core.management import call_command

            django.setup()
            call_command("prepare", login=Path(folder) / "password", stdout=io.StringIO())
            yield stack
        finally:
            stack.stop()


def measure() -> int:
    """Measure at both sizes, print how figures grow, and write those of the large one."""
    with control_database() as stack:
        assert stack.postgres is not None
        history = History(stack.postgres)
        sides = []
        for pipelines in (SMALL, LARGE):
            began = time.perf_counter()
            history.grow_to(pipelines)
            took = time.perf_counter() - began
            say(f"{pipelines:,} pipelines, {pipelines * RUNS_EACH:,} past runs (made in {took:.0f} s)")
            sides.append(_measure_at(history))
    _tell(*sides)
    RESULTS.parent.mkdir(exist_ok=True)
    figures = {RESULT_NAMES.get(name, name): round(value, 4) for name, value in sides[1].items()}
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    say(f"Written to {RESULTS}")
    return 0


def _measure_at(history: History) -> dict[str, float]:
    figures = {**_measure_ticks(history), **_measure_pages(history, ""), **_measure_retention()}
    figures |= _measure_due(history)
    # Now every pipeline has a run that waits.
    figures |= _measure_pages(history, "_queued")
    figures |= _measure_claims()
    _forget_what_waits()
    return figures


# Ticks ----------------------------------------------------------------------------------------


def _measure_ticks(history: History) -> dict[str, float]:
    """A round of beat when as many schedules are due as become due in a second, and when none is."""
    from datamantri.celery import app
    from datamantri.celery_beat import Ticker
    from runs.models import Run

    beat = Ticker(app=app)
    due = max(1, history.pipelines // DUE_SHARE)
    busy, idle, queries = [], [], []
    for number in range(TICKS):
        _make_due(_this_minute(), due)
        if number < 3:
            queries.append(_queries_of(beat.tick))
        else:
            busy.append(seconds_of(beat.tick) * 1000)
        assert Run.objects.filter(status="queued").count() == due * (number + 1)
        idle.append(seconds_of(beat.tick) * 1000)
    _forget_what_waits()
    return {
        "tick_ms": median(busy),
        "tick_max_ms": max(busy),
        "tick_queries": max(queries),
        "tick_idle_ms": median(idle),
    }


def _measure_due(history: History) -> dict[str, float]:
    """All schedules are due at one instant: until the beat process has made all their runs."""
    from runs.models import Run

    at = _this_minute() + timedelta(minutes=1)
    if (at - _now()).total_seconds() < 20:
        at += timedelta(minutes=1)
    _make_due(at, history.pipelines)
    spec = processes.beat()
    with tempfile.TemporaryFile() as log:
        beat = subprocess.Popen(spec.argv, env={**os.environ, **spec.env}, cwd=CHECKOUT, stdout=log, stderr=log)
        try:
            while (_now() - at).total_seconds() < DUE_LIMIT_S:
                if Run.objects.filter(scheduled_for=at).count() == history.pipelines:
                    seconds = (_now() - at).total_seconds()
                    break
                time.sleep(0.05)
            else:
                log.seek(0)
                raise SystemExit(f"Not all runs were made in {DUE_LIMIT_S:.0f} s:\n{log.read().decode()[-2000:]}")
        finally:
            beat.terminate()
            beat.wait(20)
    return {"due_s": seconds}


def _make_due(at: datetime, count: int) -> None:
    """Let `count` schedules that do not do so yet tick at `at`, a whole minute."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipelines_schedule SET cron = %s, ticked_through = %s, next_due = %s
            WHERE id IN (SELECT id FROM pipelines_schedule WHERE next_due > now() AND cron <> %s
                         ORDER BY random() LIMIT %s)
            """,
            [cron := f"{at.minute} * * * *", at - timedelta(seconds=1), at, cron, count],
        )


def _now() -> datetime:
    from runs import queries

    return queries.database_now()


def _this_minute() -> datetime:
    return _now().replace(second=0, microsecond=0)


# Pages and lists ------------------------------------------------------------------------------


def _measure_pages(history: History, suffix: str) -> dict[str, float]:
    """Server time of pages and lists, with nothing cached."""
    from django.core.cache import cache
    from django.test import Client

    from pipelines.models import Pipeline
    from runs.models import Run

    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(history.operator)
    some = Pipeline.objects.get(name="Pipeline 7")
    run = Run.objects.filter(pipeline=some).first()
    middle = Run.objects.order_by("created_at")[Run.objects.count() // 2].created_at
    pages = {
        "dashboard": "/",
        "monitor": "/monitor/",
        "pipelines": "/pipelines/",
        "pipelines_failed": "/pipelines/?last=failed",
        "pipelines_search": "/pipelines/?text=eline+99",
        "pipeline": f"/pipelines/{some.pk}/",
        "run_list": "/runs/",
        "run_list_failed": "/runs/?status=failed",
        "run_list_held": "/runs/?status=held",
        "run_list_by_api": "/runs/?trigger=api",
        "run_list_failed_by_hand": "/runs/?status=failed&trigger=manual",
        "run_list_of_all": "/runs/?text=pipeline",
        "run_list_of_few": "/runs/?text=pipeline+77",
        "run_list_of_none": "/runs/?text=nothing",
        "run_list_middle": f"/runs/?before={middle.isoformat()}_{some.pk}".replace("+", "%2B"),
        "run": f"/runs/{run.pk}/",
        "api_runs": "/api/v1/runs/",
        "api_runs_failed": "/api/v1/runs/?status=failed",
        "api_runs_far": "/api/v1/runs/?offset=5000",
        "api_pipelines": "/api/v1/pipelines/",
        "admin_runs": "/admin/runs/run/",
        "admin_runs_search": "/admin/runs/run/?q=pipeline+77",
        "admin_pipelines": "/admin/pipelines/pipeline/",
    }
    figures: dict[str, float] = {}
    for name, path in pages.items():

        def get(path: str = path) -> None:
            cache.clear()
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.status_code, answer.content[:500])

        queries = _queries_of(get)
        figures[f"{name}{suffix}_ms"] = median([seconds_of(get) for _ in range(REQUESTS)]) * 1000
        figures[f"{name}{suffix}_queries"] = queries
    return figures


# Workers and housekeeping ---------------------------------------------------------------------


def _measure_claims() -> dict[str, float]:
    from runs import services

    times = []
    for _ in range(CLAIMS):
        began = time.perf_counter()
        assert services.claim(process="", worker="bench", task_id="bench") is not None
        times.append((time.perf_counter() - began) * 1000)
    return {"claim_p95_ms": percentile(times, 0.95)}


def _measure_retention() -> dict[str, float]:
    """Batches of what is old: of a history of 80 days, log lines are kept for 30 days, and runs for 79 here."""
    from django.conf import settings

    from runs import services

    kept, settings.RETENTION = settings.RETENTION, timedelta(days=79)
    times, rows = [], 0
    for _ in range(TRIMS):
        began = time.perf_counter()
        rows += services.trim()
        times.append((time.perf_counter() - began) * 1000)
    settings.RETENTION = kept
    return {"trim_max_ms": max(times), "trim_rows": rows}


def _forget_what_waits() -> None:
    from runs.models import Run

    Run.objects.filter(finished_at=None).delete()


def _queries_of(work: Callable[[], object]) -> int:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        work()
    return len(captured)


def _tell(small: dict[str, float], large: dict[str, float]) -> None:
    say(f"{'':28} {SMALL:>10,} {LARGE:>10,} {'growth':>8}")
    for name, value in large.items():
        growth = f"{value / small[name]:8.2f}" if small[name] else ""
        say(f"{name:28} {small[name]:10.1f} {value:10.1f} {growth}")
