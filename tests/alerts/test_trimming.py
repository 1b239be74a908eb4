"""Alerts that are long over go; what is open, or still to be sent, stays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from pipelines.models import AlertKind
from runs import services
from runs.models import Alert, AlertDelivery

pytestmark = pytest.mark.django_db


def test_what_is_over_goes_after_its_time_and_nothing_else(make_pipeline, make_rule, end, settings):
    settings.RETENTION = timedelta(days=90)
    make_rule(AlertKind.FAILED)
    over, lasting = make_pipeline("Over"), make_pipeline("Lasting")
    for pipeline in (over, lasting):
        end(pipeline, "failed")
    end(over, "succeeded")
    assert services.trim() == 0
    long_ago = Now() - timedelta(days=91)
    Alert.objects.update(opened_at=long_ago)
    Alert.objects.filter(pipeline=over).update(closed_at=long_ago)
    AlertDelivery.objects.filter(alert__pipeline=over).update(state="sent", ended_at=long_ago)
    assert services.trim() == 2
    assert [alert.pipeline for alert in Alert.objects.all()] == [lasting]
    assert AlertDelivery.objects.get().alert == Alert.objects.get()


def test_runs_go_and_leave_their_alerts(make_pipeline, make_rule, end, settings):
    settings.RETENTION = timedelta(days=90)
    make_rule(AlertKind.FAILED)
    run = end(make_pipeline(), "failed")
    type(run).objects.filter(pk=run.pk).update(finished_at=Now() - timedelta(days=91))
    services.trim()
    assert Alert.objects.get().run is None
