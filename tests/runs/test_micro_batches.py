"""Micro-batches are many: lists of all runs leave them out, and what is old of them goes a batch at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runs.models import PollDay, Run, Trigger
from runs.page_queries import runs_page
from runs.services import run_again
from runs.services.retention import trim
from runs.states import RunStatus

pytestmark = pytest.mark.django_db


@pytest.fixture
def runs(make_pipeline):
    pipeline = make_pipeline("Orders")
    return [
        Run.objects.create(
            pipeline=pipeline, revision_id=pipeline.revision_id, trigger=trigger, status=RunStatus.SUCCEEDED
        )
        for trigger in (Trigger.REALTIME, Trigger.MANUAL)
    ]


@pytest.mark.parametrize(("asked", "number"), [("", 1), ("action__exact=load", 1), ("status__exact=succeeded", 2)])
def test_the_admins_list_leaves_them_out_unless_they_are_asked_for(runs, client, admin_user, asked, number):
    client.force_login(admin_user)
    found = client.get(f"/admin/runs/run/?{asked}")
    assert found.context["cl"].result_count == number
    assert client.get(f"/admin/runs/run/{runs[0].pk}/change/").status_code == 200


@pytest.mark.parametrize(("asked", "number"), [("", 1), ("trigger=realtime", 1), ("status=succeeded", 2)])
def test_the_apis_list_leaves_them_out_unless_they_are_asked_for(runs, client, admin_user, asked, number):
    client.force_login(admin_user)
    assert len(client.get(f"/api/v1/runs/?{asked}").json()["results"]) == number


def test_one_that_is_run_again_by_hand_is_none(runs):
    Run.objects.filter(pk=runs[0].pk).update(action_options={"because": "changed"})
    runs[0].refresh_from_db()
    again = run_again(runs[0], by=None)
    assert (again.trigger, again.action_options) == ("manual", {})


def test_words_find_runs_of_many_pipelines_without_them(runs):
    assert [run.trigger for run in runs_page(text="ord").runs] == ["manual"]


def test_days_of_polling_go_a_batch_at_a_time(make_pipeline):
    pipeline = make_pipeline("Orders")
    long_ago = datetime.now(UTC).date() - timedelta(days=1000)
    PollDay.objects.bulk_create(PollDay(pipeline=pipeline, day=long_ago + timedelta(days=n)) for n in range(3))
    trim(batch=2)
    assert PollDay.objects.count() == 1
