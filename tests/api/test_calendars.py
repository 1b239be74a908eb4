"""Calendars, windows and jitter by API."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission

from pipelines.models import Calendar

URL = "/api/v1/calendars/"
PREVIEW = "/api/v1/schedules/preview/"


@pytest.fixture
def calendars_api(django_user_model: Any, client_of: Any) -> Any:
    user = django_user_model.objects.create_user("pia")
    wanted = [f"{verb}_calendar" for verb in ("view", "add", "change", "delete")]
    wanted += ["view_pipeline", "change_pipeline"]
    user.user_permissions.add(*Permission.objects.filter(codename__in=wanted))
    return client_of(user)


def test_a_calendar_is_made_read_changed_and_deleted(calendars_api, make_pipeline):
    made = calendars_api.post(URL, {"name": "Freeze", "closed": ["2026-12-24  to 2026-12-26 Year end"]})
    assert made.status_code == 201
    calendar = made.json()
    assert calendar["closed"] == ["2026-12-24 to 2026-12-26 Year end"]
    url = f"{URL}{calendar['id']}/"
    assert calendars_api.patch(url, {"zone": "Asia/Tokyo"}).json()["zone"] == "Asia/Tokyo"
    pipeline = make_pipeline()
    rule = {"cron": "0 6 * * *", "zone": "Europe/Berlin", "calendar": calendar["id"], "jitter_s": 300}
    window = {"active_from": "2026-12-01T06:00:00+01:00", "active_until": "2027-12-01T05:00:00Z"}
    saved = calendars_api.patch(f"/api/v1/pipelines/{pipeline.pk}/", {"schedules": [{**rule, **window}]})
    assert saved.status_code == 200, saved.json()
    (schedule,) = saved.json()["schedules"]
    assert schedule == schedule | rule | {"active_from": "2026-12-01T05:00:00Z", "active_until": "2027-12-01T05:00:00Z"}
    assert "but for Freeze" in schedule["words"]
    refused = calendars_api.delete(url)
    assert (refused.status_code, refused.json()["code"]) == (409, "calendar_in_use")
    assert calendars_api.patch(f"/api/v1/pipelines/{pipeline.pk}/", {"schedules": []}).status_code == 200
    assert calendars_api.delete(url).status_code == 204
    assert not Calendar.objects.exists()


@pytest.mark.parametrize(
    ("sent", "field", "code"),
    [
        ({"name": "Freeze"}, "name", "name_taken"),
        ({"name": "Other", "closed": ["never"]}, "closed", "bad_rule"),
        ({"name": "Other", "zone": "Mars"}, "zone", "bad_rule"),
        ({"name": "Other", "days": []}, "days", "unknown_field"),
    ],
)
def test_what_is_no_calendar_is_refused_field_by_field(calendars_api, sent, field, code):
    Calendar.objects.create(name="Freeze")
    answer = calendars_api.post(URL, sent)
    assert answer.status_code == 400
    assert answer.json()["fields"][field][0]["code"] == code


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
@pytest.mark.parametrize("field", ["after", "active_from", "active_until"])
def test_a_time_far_outside_is_refused_at_its_field(calendars_api, field, moment):
    rule = {"cron": "30 2 * * *", "zone": "America/New_York", field: moment}
    answer = calendars_api.post(PREVIEW, rule)
    assert answer.status_code == 400
    assert answer.json()["fields"][field][0]["code"] == "bad_rule"


def test_the_next_times_of_a_rule_are_told_and_nothing_is_saved(calendars_api):
    calendar = Calendar.objects.create(name="Freeze", closed=["2026-10-26"])
    rule = {"cron": "30 2 * * *", "zone": "Europe/Berlin", "calendar": str(calendar.pk)}
    told = calendars_api.post(PREVIEW, {**rule, "after": "2026-10-24T12:00:00Z", "count": 3})
    assert told.status_code == 200, told.json()
    answer = told.json()
    assert answer["words"] == "At 02:30, every day (Europe/Berlin), but for Freeze"
    assert [(time["at"], time["local"], time["note"], time["closed"]) for time in answer["next"]] == [
        (
            "2026-10-25T00:30:00Z",
            "2026-10-25T02:30:00+02:00",
            "the clocks go back by 1 h on this day, the first of two",
            False,
        ),
        ("2026-10-26T01:30:00Z", "2026-10-26T02:30:00+01:00", "", True),
        ("2026-10-27T01:30:00Z", "2026-10-27T02:30:00+01:00", "", False),
    ]
    assert answer["clock_change"].startswith("On Sunday 25 October 2026")
    assert len(calendars_api.post(PREVIEW, {"cron": "@hourly"}).json()["next"]) == 10
    refused = calendars_api.post(PREVIEW, {"cron": "0 0 30 2 *"})
    assert (refused.status_code, list(refused.json()["fields"])) == (400, ["cron"])


def test_the_next_run_of_a_pipeline_leaves_closed_ticks_out(calendars_api, make_pipeline):
    from tests.runs.clockwork import cron

    Calendar.objects.create(name="Freeze", closed=["every day 00:00-12:00"])
    pipeline = make_pipeline(schedules=[cron("0 */6 * * *", calendar="Freeze")])
    due = calendars_api.get(f"/api/v1/pipelines/{pipeline.pk}/").json()["next_due"]
    assert due[11:16] in ("12:00", "18:00")


def test_who_may_not_see_pipelines_gets_no_preview(django_user_model, client_of):
    nobody = client_of(django_user_model.objects.create_user("nora"))
    assert nobody.post(PREVIEW, {"cron": "@daily"}).status_code == 403
    assert nobody.get(URL).status_code == 403
