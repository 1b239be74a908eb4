"""Budgets in the form, the API, files and revisions; what a dry run and the schedules make of them."""

from __future__ import annotations

from typing import Any

import pytest
from django import forms
from django.contrib.auth.models import Group
from django.utils import timezone

from pipelines import calendars, prices, services, upcoming
from pipelines.files import fields
from pipelines.forms.bytes import BytesField, with_unit
from pipelines.forms.pipelines import UncheckedForm
from pipelines.models import Calendar, Pipeline
from pipelines.revisions import changes
from pipelines.specs import ScheduleSpec

GB = 10**9


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("500 GiB", 500 * 2**30),
        ("1.5tb", 1_500_000_000_000),
        ("2,000 MB", 2_000_000_000),
        ("1000000", 1_000_000),
        ("", None),
        ("0.5 KiB", 512),
    ],
)
def test_bytes_are_typed_with_a_unit(typed: str, value: int | None) -> None:
    field = BytesField(required=False)
    assert field.clean(typed) == value
    assert field.clean(field.prepare_value(value) or "") == value


@pytest.mark.parametrize("typed", ["many", "5 apples", "-1 GB", "1e9", "GB"])
def test_what_is_no_number_of_bytes_is_refused(typed: str) -> None:
    with pytest.raises(forms.ValidationError):
        BytesField(required=False).clean(typed)


def test_bytes_are_shown_in_the_largest_exact_unit() -> None:
    assert [with_unit(n) for n in (500 * 2**30, 2 * 10**12, 1_234_567, 3 * 2**20)] == [
        *("500 GiB", "2 TB", "1234567", "3 MiB")
    ]


@pytest.mark.django_db
def test_a_budget_is_in_revisions_copies_and_files(make_pipeline: Any, operator: Any) -> None:
    pipeline = make_pipeline(run_budget_bytes=10 * GB)
    pipeline.month_budget_bytes = 300 * GB
    revision = services.save_pipeline(pipeline, schedules=None, by=operator)
    first = pipeline.revisions.get(number=1)
    (change,) = changes(first, revision)
    assert (change.label, change.before, change.after) == ("Budget of a month", "empty", "300000000000")
    copy = services.duplicate(pipeline, by=operator)
    assert (copy.run_budget_bytes, copy.month_budget_bytes) == (10 * GB, 300 * GB)
    schema = {field.name: field.schema for field in fields.PIPELINE}["month_budget_bytes"]
    assert schema == {"type": ["integer", "null"], "minimum": 1, "maximum": 2**60}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("rules", "runs"),
    [
        ([ScheduleSpec("cron", "0 6 * * *")], 30),
        ([ScheduleSpec("cron", "0 6 * * *"), ScheduleSpec("cron", "0 6,18 * * *")], 60),
        ([ScheduleSpec("cron", "*/5 * * * *")], 8640),
        ([ScheduleSpec("interval", every_s=10)], 259_200),
    ],
)
def test_the_runs_of_a_month_are_counted_or_reckoned(make_pipeline: Any, rules: Any, runs: int) -> None:
    pipeline = make_pipeline(schedules=rules)
    now = timezone.now()
    assert upcoming.count_within(pipeline.schedules.all(), now, 30) == pytest.approx(runs, rel=0.01)


@pytest.mark.django_db
def test_an_outlook_says_what_a_run_bills_and_what_the_schedules_make_of_it(make_pipeline: Any, settings: Any) -> None:
    settings.PRICE_PER_TIB, settings.STORAGE_PRICE_PER_TIB = 10.0, 1.0
    pipeline: Pipeline = make_pipeline(schedules=[ScheduleSpec("cron", "0 6 * * *")])
    assert prices.outlook(pipeline) is None
    pipeline.cost_estimate = {"query_bytes": 2**39, "storage_bytes": 2**40, "why": "", "is_least": False}
    told = prices.outlook(pipeline)
    assert told is not None
    assert (told.money, told.money_a_month) == (6.0, 180.0)
    assert told.lines() == [
        "A run bills about 1.65 TB: 6.00.",
        "Its schedules start 30 runs in the next 30 days: about 180.00.",
    ]
    pipeline.incremental = True
    assert prices.outlook(pipeline).lines()[0] == "The first run, which reads all rows, bills about 1.65 TB: 6.00."
    pipeline.cost_estimate |= {"query_bytes": None, "why": "The dry run does not tell."}
    assert prices.outlook(pipeline).lines() == ["What a run bills is not known. The dry run does not tell."]


@pytest.mark.django_db
def test_closed_times_do_not_count(make_pipeline: Any) -> None:
    calendars.save_calendar(Calendar(name="Nights", zone="UTC", closed=["every day 00:00-06:00"]), by=None)
    pipeline = make_pipeline(schedules=[ScheduleSpec("cron", "0 * * * *", calendar="Nights")])
    assert upcoming.count_within(pipeline.schedules.select_related("calendar"), timezone.now(), 30) == 30 * 18


@pytest.mark.django_db
def test_only_admins_approve_costs_unless_somebody_is_told_to() -> None:
    having = Group.objects.filter(permissions__codename="approve_cost").values_list("name", flat=True)
    assert list(having) == ["admin"]


@pytest.mark.django_db
def test_the_form_refuses_a_higher_budget_at_its_field(make_pipeline: Any, operator: Any) -> None:
    pipeline = make_pipeline(run_budget_bytes=10 * GB)

    class Form(UncheckedForm):
        by = operator

    typed = {"run_budget_bytes": "11 GB", **form_values(pipeline)}
    form = Form(typed, instance=pipeline)
    assert form.errors == {
        "run_budget_bytes": [
            "A budget is raised or lifted by somebody who may approve costs. Ask for it, or leave it as it is."
        ]
    }
    assert Form({**typed, "run_budget_bytes": "9.5 GB"}, instance=Pipeline.objects.get(pk=pipeline.pk)).is_valid()


def form_values(pipeline: Pipeline) -> dict[str, Any]:
    """What the form sends of a pipeline as it is, but for the budgets."""
    form = UncheckedForm(instance=pipeline)
    found = {name: form[name].value() for name in form.fields if not name.endswith("_budget_bytes")}
    return {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in found.items()
        if value is not None and value is not False
    }
