"""What is shown of pipelines in near real time, and what is kept of their many micro-batches."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from connectors.billing import Bill
from connectors.writing import Fence, Owner, Target
from datamantri.management.commands import doctor
from pipelines import objections
from pipelines.models import AlertRule, Mode, Pipeline, Revision
from runs import board_queries, freshness, micro_batches, page_queries, realtime_queries, services
from runs.alerts import judging, watching
from runs.models import Alert, LastEnd, Ledger, Poll, PollDay, Process, Run
from runs.services import Claim
from runs.states import RunStatus
from runs.superseding import superseded_by
from tests.runs.days import one_day
from tests.runs.pages import *  # noqa: F403

__all__ = ["one_day"]
pytestmark = pytest.mark.django_db
NEW = {
    **{"mode": Mode.REALTIME, "poll_every_s": 2, "incremental": True, "cursor_column": "at"},
    **{"write_disposition": "merge", "merge_key": ["id"], "lookback": 60},
}
Make = Callable[..., Any]


@pytest.fixture
def live(make_pipeline: Make) -> Make:
    def live(name: str = "Orders", **changes: Any) -> Pipeline:
        return make_pipeline(name, **{**NEW, **changes})

    return live


@pytest.fixture
def micro(make_run: Make) -> Make:
    """A micro-batch that went well."""

    def micro(pipeline: Pipeline, status: RunStatus = RunStatus.SUCCEEDED, **changes: Any) -> Run:
        given = {"trigger": "realtime", "action_options": {"because": "changed"}, "rows": 5, **changes}
        return make_run(pipeline, status, **given)

    return micro


def receipt(watermark: str, type_: str = "TIMESTAMP", billed: int = 0) -> dict[str, Any]:
    source = {"bytes_billed": billed, "cursor_bytes_billed": 10 * 2**20, "bytes_processed": 7}
    return {"watermark_after": watermark, "interval": {"type": type_}, "rows": 5, "source": source}


# Definitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"incremental": False, "lookback": 0}, "realtime_needs_cursor"),
        ({"watch_every_s": 60}, "realtime_watches"),
        ({"source_table": "", "source_query": "SELECT @data_interval_start AS at, 1 AS id"}, "realtime_interval"),
        ({}, ""),
    ],
)
def test_what_stands_against_near_real_time_is_told_by_field(live, changes, code):
    pipeline = live()
    for name, value in changes.items():
        setattr(pipeline, name, value)
    assert [each.code for each in objections.against(pipeline)] == ([code] if code else [])


def test_the_database_too_keeps_what_reads_all_rows_out_of_it(make_pipeline):
    with pytest.raises(objections.PipelineRefused) as refused:
        make_pipeline("Orders", mode=Mode.REALTIME)
    assert refused.value.code == "realtime_needs_cursor"


def test_revisions_from_before_stay_as_they_are(make_pipeline, live):
    before = make_pipeline("Old")
    assert not {"mode", "poll_every_s", "stream_every_s", "force_read_every"} & set(before.revision.definition)
    pipeline = live(force_read_every=None)
    told = Revision.objects.get(pk=pipeline.revision_id).definition
    assert {name: told.get(name) for name in ("mode", "poll_every_s", "stream_every_s", "force_read_every")} == {
        **{"mode": "realtime", "poll_every_s": 2, "stream_every_s": None, "force_read_every": None}
    }
    assert "force_read_every" in told
    assert "stream_every_s" not in told, "it is as usual"
    assert page_queries.revisions_of(pipeline)[0].changed == []
    pipeline.poll_every_s = 5
    from pipelines import services as definitions

    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert page_queries.revisions_of(pipeline)[0].changed == ["poll_every_s"]


# Pages ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_day")
def test_the_page_shows_freshness_polls_and_cost(live, micro, viewer_client, settings):
    settings.PRICE_PER_TIB = 16.0  # what was billed was billed at another price
    pipeline = live()
    run = micro(pipeline, receipt=receipt("2026-11-20 06:00:00+00:00"))
    Process.objects.create(name="poller@here", kind="poller", slots=1)
    Poll.objects.create(
        pipeline=pipeline, seen_at=timezone.now(), asked_at=timezone.now(), run=run, unseen="lake.sales.view"
    )
    today = datetime.now(UTC).date()
    PollDay.objects.create(pipeline=pipeline, day=today, runs=3, rows=7, bytes_billed=2**39, cost=4)
    PollDay.objects.create(
        pipeline=pipeline, day=today - timedelta(days=1), runs=40, failed=1, bytes_billed=2**39, cost=4
    )
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    assert "Its source is asked every 2 s" in page
    assert 'datetime="2026-11-20T06:00:00+00:00"' in page
    assert "No record tells when rows change in lake.sales.view" in page
    assert "They are read about every 2 h all the same, after 3,600 polls" in page
    assert "3 micro-batches, 7 rows" in page
    assert "about <b>4</b>" in page
    assert "43 micro-batches" in page
    assert "about <b>8</b>" in page
    assert "None: it follows its source." in page
    assert "No poller is alive" not in page
    assert "The source has changed" in viewer_client.get(reverse("run", args=[run.pk])).text


def test_how_fresh_each_load_left_the_target_is_a_picture(live, micro, viewer_client):
    pipeline = live()
    address = reverse("pipeline", args=[pipeline.pk])
    for minute in (1, 2, 9):
        told = receipt("2026-11-20 06:00:00+00:00") | {"published_at": f"2026-11-20T06:0{minute}:00+00:00"}
        run = micro(pipeline, receipt=told)
        if minute == 1:
            assert "How old the newest row was" not in viewer_client.get(address).text  # one is no history
    page = viewer_client.get(address).text
    assert "Last 3 loads: half of them at most 2 min, the worst 9 min" in page
    assert f'<a href="{reverse("run", args=[run.pk])}" class="s-running" tabindex="-1"><title>9 min old' in page
    numbers = live("Numbers")
    for _ in range(3):
        micro(numbers, receipt=receipt("7", "INT64") | {"published_at": "2026-11-20T06:00:00+00:00"})
    assert freshness.picture_of(numbers) is None


def test_what_keeps_polls_from_going_on_is_said_on_the_page(live, viewer_client):
    pipeline = live()
    told = {"error_code": "unreachable", "error_message": "BigQuery cannot be reached.", "error_hint": "Check <it>."}
    Poll.objects.create(pipeline=pipeline, failures=4, refusal="A run is held: nothing is read.", **told)
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    for text in ("BigQuery cannot be reached.", "Check &lt;it&gt;.", "Failed so far: 4", "A run is held"):
        assert text in page
    assert "No poller is alive" in page


@pytest.mark.parametrize(
    ("watermark", "type_", "moment"),
    [
        ("2026-11-20 06:00:00.5+00:00", "TIMESTAMP", datetime(2026, 11, 20, 6, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-20 06:00:00", "DATETIME", datetime(2026, 11, 20, 6, tzinfo=UTC)),
        ("2026-11-20", "DATE", datetime(2026, 11, 21, tzinfo=UTC)),
        ("20261120", "INT64", None),
    ],
)
def test_freshness_is_the_age_of_the_newest_cursor_that_was_committed(live, micro, watermark, type_, moment):
    pipeline = live()
    micro(pipeline, receipt=receipt("1999-01-01 00:00:00+00:00"))
    micro(pipeline, receipt=receipt(watermark, type_))
    micro(pipeline, RunStatus.FAILED)
    fresh = realtime_queries.freshness_of([pipeline])[pipeline.pk]
    assert (fresh.watermark, fresh.moment) == (watermark, moment)
    if moment is not None:
        assert fresh.seconds == pytest.approx((timezone.now() - moment).total_seconds(), abs=60)


def test_the_dashboard_shows_freshness_and_a_poller_that_is_missing(live, micro, make_pipeline, viewer_client):
    make_pipeline("Batch")
    home = reverse("dashboard")
    assert "No poller is alive" not in viewer_client.get(home).text
    pipeline = live()
    micro(pipeline, receipt=receipt("2026-11-20 06:00:00+00:00"))
    page = viewer_client.get(home).text
    assert "Near real time, every 2 s" in page
    assert 'Newest row <time datetime="2026-11-20T06:00:00+00:00"' in page
    assert "No poller is alive" in page
    Process.objects.create(name="poller@here", kind="poller")
    assert "No poller is alive" not in viewer_client.get(home).text


def test_without_near_real_time_pages_ask_no_more(make_pipeline):
    pipelines = [make_pipeline("A"), make_pipeline("B")]
    with CaptureQueriesContext(connection) as asked:
        assert realtime_queries.freshness_of(pipelines) == {}
        assert realtime_queries.standing_of(pipelines[0]) is None
    assert len(asked) == 0


def test_micro_batches_in_a_row_are_one_line_and_leave_room_for_other_runs(live, micro, make_run, viewer_client):
    pipeline, other = live(), live("Other", target_table="other")
    for _ in range(4):
        micro(pipeline)
    failed = micro(pipeline, RunStatus.FAILED, error_code="odd", error_message="It went wrong.")
    micro(pipeline)
    by_hand = make_run(other, RunStatus.SUCCEEDED)
    found = micro_batches.grouped(page_queries.runs_of(pipeline))
    assert [len(entry.runs) if isinstance(entry, micro_batches.MicroBatches) else entry.status for entry in found] == [
        "succeeded",
        "failed",
        4,
    ]
    assert found[2].rows == 20
    page = viewer_client.get(reverse("pipeline", args=[pipeline.pk])).text
    assert "4 micro-batches" in page
    assert "It went wrong." in page
    one_by_one = viewer_client.get(found[2].address).text
    assert "micro-batches</a>" not in one_by_one
    assert all(reverse("run", args=[run.pk]) in one_by_one for run in found[2].runs)
    everything = viewer_client.get(reverse("runs")).text
    assert "are left out" in everything
    assert reverse("run", args=[by_hand.pk]) in everything
    assert reverse("run", args=[failed.pk]) not in everything
    assert reverse("run", args=[failed.pk]) in viewer_client.get(reverse("runs"), {"status": "failed"}).text
    assert [run.pk for run in board_queries.recent_runs()] == [by_hand.pk]


@pytest.mark.usefixtures("one_day")
def test_the_api_tells_how_it_goes(live, micro, make_pipeline, operator_client, viewer_client):
    pipeline = live()
    address = f"/api/v1/pipelines/{pipeline.pk}/realtime/"
    first = viewer_client.get(address).json()
    assert (first["is_polled"], first["watermark"], first["freshness_s"], first["run"]) == (False, "", None, None)
    run = micro(pipeline, receipt=receipt("2026-11-20 06:00:00+00:00"))
    told = {"error_code": "unreachable", "error_message": "Away.", "error_hint": ""}
    Poll.objects.create(pipeline=pipeline, run=run, failures=2, **told)
    PollDay.objects.create(
        pipeline=pipeline, day=datetime.now(UTC).date(), runs=3, rows=7, bytes_billed=2**40, cost=6.25
    )
    answer = viewer_client.get(address).json()
    assert answer["freshness_s"] > 0
    assert (answer["run"], answer["because"]) == (str(run.pk), "changed")
    assert answer["problem"] == {"code": "unreachable", "message": "Away.", "hint": "", "failures": 2}
    assert answer["today"] == {"runs": 3, "failed": 0, "rows": 7, "bytes_billed": 2**40, "money": 6.25}
    batch = make_pipeline("Batch")
    refused = viewer_client.get(f"/api/v1/pipelines/{batch.pk}/realtime/")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_realtime")
    assert viewer_client.get("/api/v1/runs/").json()["count"] == 0
    assert viewer_client.get("/api/v1/runs/", {"trigger": "realtime"}).json()["count"] == 1
    assert operator_client.get(f"/api/v1/pipelines/{pipeline.pk}/").json()["mode"] == "realtime"


# What is kept ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_day")
def test_what_a_micro_batch_came_to_is_counted_once_with_its_end(live, claim):
    pipeline = live()
    for to in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.SUCCEEDED):
        services.request_run(pipeline, trigger="realtime", by=None, options={"because": "changed"})
        claimed: Claim = claim()
        for told in (50, 100):  # a total, noted twice, also of one that fails
            services.note_bill(claimed, Bill(told, 2**20))
        done = receipt("2026-11-20 06:00:00+00:00", billed=100) if to == RunStatus.SUCCEEDED else None
        services.finish(claimed, to, receipt=done)
        with pytest.raises(services.StaleToken):
            services.finish(claimed, to, receipt=done)
    services.request_run(pipeline, trigger="manual", by=None)
    by_hand = claim()
    services.note_bill(by_hand, Bill(10**9, 0))
    services.finish(by_hand, RunStatus.SUCCEEDED, receipt=receipt("x", billed=10**9))
    (day,) = PollDay.objects.all()
    assert (day.runs, day.failed, day.rows, day.bytes_billed) == (3, 1, 10, 3 * (100 + 2**20))
    spent = Ledger.objects.get()
    assert spent.cost - day.cost == pytest.approx(Decimal(10**9 / 2**40 * 6.25), abs=Decimal("1e-6"))
    assert day.day == datetime.now(UTC).date()


def test_uneventful_micro_batches_go_after_a_day_and_the_newest_stays(live, micro, make_run, settings):
    pipeline = live()
    old = {"created_at": timezone.now() - timedelta(hours=25), "finished_at": timezone.now() - timedelta(hours=25)}
    gone = [micro(pipeline, attempt=1) for _ in range(3)]
    kept = [
        micro(pipeline, RunStatus.FAILED, attempt=1),
        micro(pipeline, attempt=2),
        micro(pipeline, attempt=1, decision="publish"),
        make_run(pipeline, RunStatus.SUCCEEDED, attempt=1),
    ]
    Run.objects.update(**old)
    newest = micro(pipeline, attempt=1)
    Run.objects.filter(pk=newest.pk).update(created_at=timezone.now() - timedelta(hours=24.5))
    assert services.trim() >= 3
    assert set(Run.objects.values_list("pk", flat=True)) == {newest.pk, *(run.pk for run in kept)}
    assert not {run.pk for run in gone} & set(Run.objects.values_list("pk", flat=True))
    assert LastEnd.objects.filter(pipeline=pipeline).exists()
    assert services.trim() == 0


@pytest.mark.parametrize(
    ("trigger", "status", "changes", "forgotten"),
    [
        ("realtime", "succeeded", {}, True),
        ("realtime", "failed", {}, False),
        ("manual", "succeeded", {}, False),
        ("realtime", "succeeded", {"undo_depth": 1}, False),
        ("realtime", "succeeded", {"write_disposition": "append"}, False),
    ],
)
def test_only_a_micro_batch_that_has_ended_is_forgotten_at_the_destination(
    live, micro, claim, trigger, status, changes, forgotten
):
    pipeline = live()
    former = micro(pipeline, RunStatus(status), trigger=trigger)
    services.request_run(pipeline, trigger="realtime", by=None, options={"because": "changed"})
    claimed = claim()
    claimed = replace(claimed, definition={**claimed.definition, **changes})
    owner = Owner(uuid.uuid4(), pipeline.pk, claimed.run, claimed.token)
    fence = Fence(Target("public", "t"), owner, 1, last_run=former.pk, fingerprint="", applied=None)
    assert superseded_by(claimed, fence) == (former.pk if forgotten else None)
    assert superseded_by(replace(claimed, options={}), fence) is None


# Alerts ---------------------------------------------------------------------------------------


def test_no_number_of_rows_is_unusual_for_a_micro_batch(live, micro):
    pipeline = live()
    AlertRule.objects.create(name="Odd", kinds=["unusual_rows"], every_pipeline=True)
    for _ in range(15):
        micro(pipeline)
    micro(pipeline, rows=10**6)
    judging.judge()
    assert Alert.objects.count() == 0


@pytest.mark.parametrize(("seen_h", "stale"), [(1, False), (30, True)])
def test_it_is_stale_when_neither_a_load_nor_a_poll_succeeded(live, micro, seen_h, stale):
    pipeline = live()
    Pipeline.objects.update(active_from=timezone.now() - timedelta(days=3))
    micro(pipeline)
    Run.objects.update(finished_at=timezone.now() - timedelta(hours=30))
    Poll.objects.create(pipeline=pipeline, seen_at=Now() - timedelta(hours=seen_h))
    AlertRule.objects.create(name="Old", kinds=["stale"], stale_after_h=24, every_pipeline=True)
    watching.watch()
    assert Alert.objects.filter(pipeline=pipeline).exists() is stale


# Processes ------------------------------------------------------------------------------------


def test_doctor_misses_a_poller_only_where_one_is_needed(live):
    assert doctor.poller().good
    live()
    assert not doctor.poller().good
    Process.objects.create(name="poller@here", kind="poller")
    assert doctor.poller().text == "poller@here; 1 pipeline in near real time"


def test_who_waits_or_polls_nothing_loads_neither_django_nor_googles_clients():
    def loaded(code: str) -> set[str]:
        tell = "import sys; print(*{name.split('.')[0] for name in sys.modules}, *sys.modules)"
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "datamantri.settings", "DATAMANTRI_PAGES": "0"}
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; {tell}"], capture_output=True, text=True, check=True, env=environment
        )
        return set(done.stdout.split())

    assert not {"django.db", "celery", "grpc", "pyarrow"} & loaded("import datamantri.poller")
    polling = loaded("import django; django.setup(); import runs.polling.poller")
    assert not {"grpc", "pyarrow", "google.cloud.bigquery"} & polling
