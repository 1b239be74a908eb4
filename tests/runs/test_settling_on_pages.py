"""Clearing and marking as done, on the run's page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from runs.models import DoneMark, Run, RunAction
from runs.states import RunStatus
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import logged_in

pytestmark = pytest.mark.django_db


def test_a_failed_run_is_settled_on_its_page(
    operator_client: Client, make_run: Callable[..., Run], make_pipeline: Any
) -> None:
    run = make_run(make_pipeline(), status=RunStatus.FAILED)
    page = operator_client.get(reverse("run", args=[run.pk])).content.decode()
    assert reverse("clear_run", args=[run.pk]) in page
    operator_client.post(reverse("mark_done", args=[run.pk]), {"note": ""})
    assert not DoneMark.objects.exists()
    operator_client.post(reverse("mark_done", args=[run.pk]), {"note": "Loaded <b>by hand</b>"})
    page = operator_client.get(reverse("run", args=[run.pk])).content.decode()
    assert "Marked as done by olga" in page
    assert "Loaded &lt;b&gt;by hand&lt;/b&gt;" in page
    operator_client.post(reverse("clear_run", args=[run.pk]), {"note": "Once more"})
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.QUEUED])
def test_other_runs_are_not_to_be_settled(
    operator_client: Client,
    make_run: Callable[..., Run],
    make_pipeline: Any,
    status: RunStatus,
) -> None:
    run = make_run(make_pipeline(), status=status)
    page = operator_client.get(reverse("run", args=[run.pk])).content.decode()
    assert reverse("clear_run", args=[run.pk]) not in page


def test_a_viewer_settles_nothing(viewer_client: Client, make_run: Callable[..., Run], make_pipeline: Any) -> None:
    run = make_run(make_pipeline(), status=RunStatus.FAILED)
    assert reverse("clear_run", args=[run.pk]) not in viewer_client.get(reverse("run", args=[run.pk])).content.decode()
    for door in ("clear_run", "mark_done"):
        assert viewer_client.post(reverse(door, args=[run.pk]), {"note": "x"}).status_code == 403
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED


def test_many_are_cleared_in_the_list_of_runs(admin_client: Client, make_run: Any, make_pipeline: Any) -> None:
    pipeline = make_pipeline()
    failed = [make_run(pipeline, status=RunStatus.FAILED) for _ in range(2)]
    done = make_run(pipeline, status=RunStatus.SUCCEEDED)
    chosen = {"action": "clear", "_selected_action": [str(run.pk) for run in [*failed, done]]}
    page = admin_client.post(reverse("admin:runs_run_changelist"), chosen, follow=True).content.decode()
    assert "2 runs cleared." in page
    assert "Left as they are: 1." in page
    assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.QUEUED, RunStatus.SUCCEEDED}


def test_the_list_clears_loads_only_and_so_many_at_once(
    admin_client: Client, make_run: Any, make_pipeline: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("runs.admin.CLEARED_AT_ONCE", 2)
    pipeline = make_pipeline()
    refresh = make_run(pipeline, status=RunStatus.FAILED, action=RunAction.FULL_REFRESH)
    loads = [make_run(pipeline, status=RunStatus.FAILED) for _ in range(3)]
    chosen = {"action": "clear", "_selected_action": [str(run.pk) for run in [refresh, *loads]]}
    page = admin_client.post(reverse("admin:runs_run_changelist"), chosen, follow=True).content.decode()
    assert "2 runs cleared." in page
    assert "Left as they are: 1." in page
    assert "Left for the next time: 1." in page
    statuses = [Run.objects.get(pk=run.pk).status for run in [refresh, *loads]]
    assert statuses == ["failed", "queued", "queued", "failed"]


def test_a_viewer_clears_none_in_the_list(viewer: Any, make_run: Callable[..., Run], make_pipeline: Any) -> None:
    viewer.is_staff = True
    viewer.save()
    run = make_run(make_pipeline(), status=RunStatus.FAILED)
    logged_in(viewer).post(reverse("admin:runs_run_changelist"), {"action": "clear", "_selected_action": [str(run.pk)]})
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED
