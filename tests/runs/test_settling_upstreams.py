"""What clearing and marking as done mean for pipelines that wait for one another."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from runs import services
from runs.models import Prerequisite, Run, RunAction
from tests.runs.test_upstreams import HOUR, HOURLY, NOON, blocked, fail, runs_of, status_of, succeed, wait_for

__all__ = ["wait_for"]
pytestmark = pytest.mark.django_db


def test_what_waits_for_a_run_goes_on_when_it_is_marked_as_done(make_pipeline, wait_for, operator):
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    failed = fail(orders, NOON)
    services.settle()
    assert status_of(run) == "blocked"
    failed.refresh_from_db()
    services.mark_done(failed, by=operator, note="Loaded by hand")
    assert services.settle() == 1
    assert status_of(run) == "queued"
    assert run.prerequisites.get().met_by == failed


def test_a_run_that_waits_later_finds_it_marked(make_pipeline, wait_for, operator):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders, schedules=[HOURLY])
    failed = fail(orders, NOON)
    failed.refresh_from_db()
    services.mark_done(failed, by=operator, note="Loaded by hand")
    services.settle()
    run = blocked(sales, NOON)
    services.settle()
    assert status_of(run) == "queued"


def test_a_mark_starts_what_has_no_schedule_of_its_own_once(make_pipeline, wait_for, operator):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    failed = fail(orders, NOON)
    failed.refresh_from_db()
    for _ in range(2):
        services.mark_done(failed, by=operator, note="Loaded by hand")
        services.settle()
        services.settle()
    assert [run.data_interval_end for run in runs_of(sales)] == [NOON]


def test_a_cleared_run_that_had_given_up_waits_for_its_upstreams_anew(make_pipeline, wait_for, operator):
    orders = make_pipeline("Orders")
    run = blocked(wait_for("Sales", orders, schedules=[HOURLY]), NOON)
    Prerequisite.objects.update(give_up_at=Now() - timedelta(seconds=1))
    services.settle()
    assert status_of(run) == "failed"
    services.clear_run(run, by=operator)
    assert run.status == "blocked"
    services.settle()
    assert status_of(run) == "blocked", "its time begins anew"
    assert run.prerequisites.get().give_up_at - run.due > 20 * HOUR
    succeed(orders, NOON)
    services.settle()
    assert status_of(run) == "queued"


def test_marking_a_comparison_as_done_starts_nobody(make_pipeline, wait_for, operator):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    failed = fail(orders, NOON)
    Run.objects.filter(pk=failed.pk).update(action=RunAction.COMPARE)
    failed.refresh_from_db()
    services.mark_done(failed, by=operator, note="Of no importance")
    services.settle()
    assert not runs_of(sales)


def test_a_run_that_is_cleared_after_it_was_marked_starts_nobody_yet(make_pipeline, wait_for, operator):
    orders = make_pipeline("Orders")
    sales = wait_for("Sales", orders)
    failed = fail(orders, NOON)
    failed.refresh_from_db()
    services.mark_done(failed, by=operator, note="Loaded by hand")
    services.clear_run(failed, by=operator)
    services.settle()
    assert not runs_of(sales)
