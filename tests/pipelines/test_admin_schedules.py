"""Windows, calendars and jitter on the desk."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.urls import reverse

from pipelines import calendars
from pipelines.forms.schedules import ScheduleForm
from pipelines.models import Calendar, Schedule
from tests.runs.clockwork import cron

CALENDARS = "/admin/pipelines/calendar/"
DESK = "/admin/pipelines/pipeline/desk/"
RULE = {"kind": "cron", "cron": "30 6 * * *", "zone": "Europe/Berlin", "every_s": ""}

pytestmark = pytest.mark.django_db


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def holidays() -> Calendar:
    return calendars.save_calendar(
        Calendar(name="Holidays", zone="Europe/Berlin", closed=["every 12-25 Noël"]), by=None
    )


def test_a_window_is_typed_on_the_clocks_of_the_schedules_zone(holidays):
    window = {"active_from": "2027-03-28T02:30", "active_until": "2027-07-01T00:00"}
    form = ScheduleForm({**RULE, **window, "calendar": str(holidays.pk), "jitter_s": "600"})
    assert form.is_valid(), form.errors
    # 02:30 does not exist on that day: 03:00 is the first that does.
    assert form.spec.active_from == moment("2027-03-28T01:00")
    assert form.spec.active_until == moment("2027-06-30T22:00")
    assert (form.spec.calendar, form.spec.jitter_s) == ("Holidays", 600)


def test_a_schedule_that_is_shown_and_saved_again_is_not_changed(make_pipeline, holidays):
    rule = cron("30 6 * * *", "Asia/Kolkata", active_from=moment("2027-01-01T00:00"), calendar="Holidays", jitter_s=90)
    stored = make_pipeline(schedules=[rule]).schedules.get()
    shown = ScheduleForm(instance=stored)
    assert 'value="2027-01-01T05:30:00"' in str(shown["active_from"])
    sent = {name: shown[name].value() or "" for name in shown.fields}
    sent |= {"active_from": "2027-01-01T05:30", "calendar": str(holidays.pk)}
    again = ScheduleForm(sent, instance=Schedule.objects.get())
    assert again.is_valid(), again.errors
    assert again.has_changed() is False
    assert again.spec == rule.tidy()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"active_from": "tomorrow"}, "active_from"),
        ({"active_from": "0001-01-01T00:00"}, "active_from"),
        ({"active_until": "9999-12-31T23:59"}, "active_until"),
        ({"active_from": "2027-01-02T00:00", "active_until": "2027-01-01T00:00"}, "active_until"),
        ({"jitter_s": "30000"}, "jitter_s"),
        ({"calendar": "00000000-0000-0000-0000-000000000000"}, "calendar"),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(wrong, field):
    form = ScheduleForm({**RULE, **wrong})
    assert field in form.errors


def test_the_preview_tells_window_calendar_and_jitter(admin_client, holidays):
    window = {"active_from": "2030-12-24T00:00", "active_until": "2030-12-26T12:00"}
    asked = {**RULE, **window, "calendar": str(holidays.pk), "jitter_s": "600"}
    told = admin_client.get(f"{DESK}schedule/", asked).json()
    assert told["words"] == (
        "At 06:30, every day (Europe/Berlin), from 24 Dec 2030, 00:00, to 26 Dec 2030, 12:00, but for Holidays, "
        "spread over 10 minutes"
    )
    assert [(time["local"][:15], time["closed"]) for time in told["next"]] == [
        ("Tue 24 Dec 2030", ""), ("Wed 25 Dec 2030", "skipped: Holidays, Noël"), ("Thu 26 Dec 2030", ""),
    ]  # fmt: skip
    assert told["ends"]


def test_a_calendar_is_made_read_and_used_on_the_desk(admin_client, make_pipeline):
    sent = {
        "name": "Freeze",
        "zone": "UTC",
        "closed": "2026-12-24 to 2026-12-31 Year end\r\n\r\nevery  Sun",
        "description": "",
    }
    assert admin_client.post(f"{CALENDARS}add/", sent).status_code == 302
    calendar = Calendar.objects.get()
    assert calendar.closed == ["2026-12-24 to 2026-12-31 Year end", "every Sun"]
    make_pipeline(schedules=[cron("@daily", calendar="Freeze")])
    page = admin_client.get(reverse("admin:pipelines_calendar_change", args=[calendar.pk])).content.decode()
    assert "2026-12-24 to 2026-12-31 Year end\nevery Sun" in page
    assert ">Orders</a>" in page
    assert "Freeze" in admin_client.get(CALENDARS).content.decode()
    refused = admin_client.post(reverse("admin:pipelines_calendar_delete", args=[calendar.pk]), {"post": "yes"})
    assert "Orders" in refused.content.decode()
    assert Calendar.objects.exists()
    pipelines = admin_client.get("/admin/pipelines/pipeline/").content.decode()
    assert "At 00:00, every day (UTC), but for Freeze" in pipelines


def test_every_line_that_is_none_is_told(admin_client):
    sent = {"name": "Freeze", "zone": "Mars", "closed": "2026-02-30\nevery Sun\nnever", "description": ""}
    page = admin_client.post(f"{CALENDARS}add/", sent).content.decode()
    for said in ("2026-02-30", "&quot;never&quot; cannot be read", "Mars is not a time zone"):
        assert said in page
    assert not Calendar.objects.exists()
