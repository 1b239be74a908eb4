"""Full refresh, keep and set watermark: pages that say first what will be done, and the API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from connectors.column import Column
from pipelines import services as definitions
from pipelines.models import Pipeline
from pipelines.specs import ScheduleSpec
from runs import services
from runs.models import Run, RunAction, Trigger
from runs.states import RunStatus

pytestmark = pytest.mark.django_db

CURSOR = asdict(Column("at", "TIMESTAMP"))


@pytest.fixture
def merging(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    return make_pipeline(
        write_disposition="merge", merge_key=["id"], cursor_column="at", incremental=True, source_columns=[CURSOR]
    )


@pytest.fixture
def browser(client: Client, operator: User) -> Client:
    names = ("view_run", "view_pipeline", "change_pipeline", "run_pipeline")
    operator.user_permissions.add(*Permission.objects.filter(codename__in=names))
    operator.is_staff = True
    operator.save()
    client.force_login(operator)
    return client


def test_looking_at_the_question_starts_nothing(browser: Client, merging: Pipeline) -> None:
    for name in ("full-refresh", "keep", "watermark"):
        page = browser.get(f"/pipelines/{merging.pk}/start/{name}/")
        assert page.status_code == 200
    assert not Run.objects.exists()


def test_a_full_refresh_says_what_it_replaces_and_starts(browser: Client, merging: Pipeline) -> None:
    page = browser.get(f"/pipelines/{merging.pk}/start/full-refresh/").content.decode()
    assert "take the place of all rows" in page
    answer = browser.post(f"/pipelines/{merging.pk}/start/full-refresh/")
    run = Run.objects.get()
    assert answer.headers["Location"] == run.get_absolute_url()
    assert run.action == RunAction.FULL_REFRESH


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"write_disposition": "merge", "deletes": "hard"}, "those rows are deleted, in this run already"),
        ({"write_disposition": "merge", "deletes": "soft"}, "those rows are marked as deleted"),
        ({"write_disposition": "history"}, "their current versions end"),
        ({"write_disposition": "merge"}, ""),
    ],
)
def test_who_keeps_rows_is_told_which_of_them_go_all_the_same(
    browser: Client, make_pipeline: Callable[..., Pipeline], changes: dict[str, str], said: str
) -> None:
    pipeline = make_pipeline(merge_key=["id"], **changes)
    page = browser.get(f"/pipelines/{pipeline.pk}/start/keep/").content.decode()
    assert ("counts as gone" in page) == bool(said)
    assert said in page
    address = f"/pipelines/{pipeline.pk}/start/keep/"
    if said:
        assert "This field is required" in browser.post(address).content.decode()
    assert not Run.objects.exists()
    browser.post(address, {"confirm": "on"} if said else {})
    run = Run.objects.get()
    assert run.action == RunAction.KEEP
    if said:
        with pytest.raises(services.RunRefused) as refused:
            services.run_again(run, by=None)
        assert refused.value.code == "keep_deletes"


def test_what_was_confirmed_of_another_definition_is_not_cleared(
    browser: Client, make_pipeline: Callable[..., Pipeline], operator: User
) -> None:
    pipeline = make_pipeline(merge_key=["id"], write_disposition="merge", deletes="hard")
    browser.post(f"/pipelines/{pipeline.pk}/start/keep/", {"confirm": "on"})
    run = Run.objects.get()
    Run.objects.filter(pk=run.pk).update(status=RunStatus.FAILED)
    services.clear_run(run, by=operator)
    Run.objects.filter(pk=run.pk).update(status=RunStatus.FAILED)
    pipeline.row_filter = "id > 1"
    definitions.save_pipeline(pipeline, schedules=None, by=operator)
    with pytest.raises(services.RunRefused) as refused:
        services.clear_run(run, by=operator)
    assert refused.value.code == "keep_deletes"


def test_a_watermark_is_kept_in_one_form_and_nonsense_is_an_error_of_the_field(
    browser: Client, merging: Pipeline
) -> None:
    address = f"/pipelines/{merging.pk}/start/watermark/"
    assert "is not a value of a TIMESTAMP" in browser.post(address, {"watermark": "yesterday"}).content.decode()
    assert not Run.objects.exists()
    browser.post(address, {"watermark": "2026-01-31T06:00+02:00"})
    run = Run.objects.get()
    assert (run.action, run.action_options) == ("set_watermark", {"watermark": "2026-01-31 04:00:00+00:00"})


def test_a_history_begins_anew_only_once_somebody_has_ticked_that(browser: Client, make_pipeline: Any) -> None:
    keeping = make_pipeline(write_disposition="history", merge_key=["id"])
    address = f"/pipelines/{keeping.pk}/start/full-refresh/"
    assert "Every version in public.orders is deleted" in browser.get(address).content.decode()
    assert "This field is required" in browser.post(address).content.decode()
    assert not Run.objects.exists()
    browser.post(address, {"confirm": "on"})
    run = Run.objects.get()
    assert (run.action, run.action_options) == ("full_refresh", {})
    with pytest.raises(services.RunRefused, match="deletes every version") as refused:
        services.run_again(run, by=None)
    assert refused.value.code == "history_begins_anew"


def test_a_pipeline_that_reads_all_rows_has_no_watermark(browser: Client, make_pipeline: Any) -> None:
    replacing = make_pipeline()
    assert browser.get(f"/pipelines/{replacing.pk}/start/watermark/").status_code == 404
    assert browser.get(f"/pipelines/{replacing.pk}/start/keep/").status_code == 404
    assert browser.get(f"/pipelines/{replacing.pk}/start/nonsense/").status_code == 404
    desk = browser.get(f"/admin/pipelines/pipeline/{replacing.pk}/set-watermark", follow=True).content.decode()
    assert "no watermark to set" in desk


def test_a_viewer_starts_nothing(client: Client, operator: User, merging: Pipeline) -> None:
    operator.user_permissions.add(*Permission.objects.filter(codename__in=("view_run", "view_pipeline")))
    client.force_login(operator)
    assert client.get(f"/pipelines/{merging.pk}/start/full-refresh/").status_code == 403
    assert client.post(f"/pipelines/{merging.pk}/start/full-refresh/").status_code == 403
    assert not Run.objects.exists()


def test_the_desk_shows_the_watermark_of_the_last_publish(browser: Client, merging: Pipeline, operator: User) -> None:
    run, _ = services.request_run(merging, trigger=Trigger.MANUAL, by=operator)
    receipt = {"watermark_after": "2026-01-01 00:00:00+00:00", "rows": 3}
    Run.objects.filter(pk=run.pk).update(status="succeeded", receipt=receipt)
    for address in (f"/admin/pipelines/pipeline/{merging.pk}/change/", f"/pipelines/{merging.pk}/"):
        assert "2026-01-01 00:00:00+00:00" in browser.get(address).content.decode()


@pytest.mark.parametrize("schedules", [[ScheduleSpec("cron", "0 6 * * *")], []], ids=["scheduled", "by hand"])
def test_resuming_promises_a_time_only_where_there_is_one(
    browser: Client, make_pipeline: Callable[..., Pipeline], schedules: list[ScheduleSpec]
) -> None:
    pipeline = make_pipeline(state="paused")
    definitions.save_pipeline(pipeline, schedules=schedules, by=None)
    page = browser.post(f"/pipelines/{pipeline.pk}/resume/", follow=True).text
    assert f"{pipeline.name} is active" in page
    assert ("next scheduled time" in page) == bool(schedules)
