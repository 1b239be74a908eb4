"""The page that asks for values, and where they are shown afterwards."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from runs.models import Run

QUERY = "SELECT * FROM d.t WHERE country = @country AND at >= @data_interval_start"
PARAMETERS = {
    "country": {"type": "STRING", "default": "DE"},
    "tags": {"type": "ARRAY<STRING>", "default": ["a"]},
    "full": {"type": "BOOL", "default": False},
}
GIVEN = {
    "data_interval_start": "2026-03-01",
    "data_interval_end": "2026-03-02 06:00",
    "parameters.country": "FR",
    "parameters.tags": '["b"]',
    "parameters.full": "false",
}


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline(source_table="", source_query=QUERY, parameters=PARAMETERS)


@pytest.fixture
def browser(client, operator):
    codes = ("view_pipeline", "view_run", "run_pipeline")
    operator.user_permissions.add(*Permission.objects.filter(codename__in=codes))
    client.force_login(operator)
    return client


def address(pipeline) -> str:
    return reverse("run_with_values", args=[pipeline.pk])


def test_a_run_starts_with_what_was_typed_and_shows_it(browser, pipeline):
    page = browser.get(address(pipeline)).content.decode()
    assert 'value="DE"' in page
    answer = browser.post(address(pipeline), GIVEN)
    run = Run.objects.get()
    assert answer["Location"] == run.get_absolute_url()
    assert run.action_options == {"parameters": {"country": "FR", "tags": ["b"]}}  # what is as it would be is not kept
    assert run.data_interval_end == datetime(2026, 3, 2, 6, tzinfo=UTC)
    shown = browser.get(answer["Location"]).content.decode()
    assert "<code>@country</code></dt><dd><code>FR</code>" in shown
    assert "<code>@tags</code></dt><dd><code>[&quot;b&quot;]</code>" in shown


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("data_interval_start", "soon"),
        ("data_interval_end", "2026-02-01"),
        ("data_interval_end", ""),
        ("parameters.tags", "b"),
        ("parameters.tags", '["b", 5]'),
        ("parameters.full", "maybe"),
    ],
)
def test_a_bad_value_is_told_at_its_field_and_nothing_is_queued(browser, pipeline, field, typed):
    answer = browser.post(address(pipeline), {**GIVEN, field: typed})
    assert answer.status_code == 200
    assert list(answer.context["form"].errors) == [field]
    assert not Run.objects.exists()


def test_run_now_asks_for_the_interval_that_nothing_tells(browser, pipeline):
    answer = browser.post(reverse("run_pipeline", args=[pipeline.pk]))
    assert answer["Location"] == address(pipeline)
    assert not Run.objects.exists()


def test_a_pipeline_that_takes_values_offers_them(browser, pipeline, make_pipeline):
    page = browser.get(pipeline.get_absolute_url()).content.decode()
    assert address(pipeline) in page
    assert "<code>@country</code> <small>STRING</small>" in page
    plain = make_pipeline("Plain")
    assert address(plain) not in browser.get(plain.get_absolute_url()).content.decode()


def test_a_name_that_follows_the_run_is_shown_as_the_run_makes_it(browser, make_pipeline):
    pipeline = make_pipeline(
        source_table="", source_query="SELECT @country AS c", parameters=PARAMETERS, target_table="sales_{country}"
    )
    browser.post(address(pipeline), {"parameters.country": "FR"})
    assert "<code>public.sales_FR</code>" in browser.get(Run.objects.get().get_absolute_url()).content.decode()


def test_who_may_not_run_is_not_asked(client, django_user_model, pipeline):
    client.force_login(django_user_model.objects.create_user("vera"))
    assert client.post(address(pipeline), GIVEN).status_code == 403
    assert not Run.objects.exists()


def test_what_would_be_there_twice_is_confirmed_first(browser, make_pipeline):
    pipeline = make_pipeline(source_table="", source_query=QUERY, parameters=PARAMETERS, write_disposition="append")
    browser.post(address(pipeline), GIVEN)
    asked = browser.post(address(pipeline), GIVEN).content.decode()
    assert "rows would be there twice" in asked
    assert 'name="force"' in asked
    assert Run.objects.count() == 1
    assert browser.post(address(pipeline), {**GIVEN, "force": "on"})["Location"]
    assert Run.objects.count() == 2
