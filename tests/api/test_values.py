"""Values and data interval of a run, as programs give them: a bad one is named, and nothing is queued."""

from __future__ import annotations

import pytest

from runs.models import Run
from tests.api.test_triggering import trigger

QUERY = "SELECT * FROM d.t WHERE country = @country AND at >= @data_interval_start"
PARAMETERS = {"country": {"type": "STRING", "default": "DE"}, "day": {"type": "DATE", "default": "2026-01-31"}}
INTERVAL = {"data_interval_start": "2026-03-01T00:00:00+01:00", "data_interval_end": "2026-03-02T00:00:00+01:00"}


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline(source_table="", source_query=QUERY, parameters=PARAMETERS)


def test_a_run_is_given_values_and_an_interval(api, pipeline):
    answer = trigger(api, pipeline, {"parameters": {"country": "FR"}, **INTERVAL})
    assert answer.status_code == 201, answer.json()
    told = answer.json()
    assert told["parameters"] == {"country": "FR", "day": "2026-01-31"}
    assert told["data_interval_start"].startswith("2026-02-28T23:00:00")
    run = Run.objects.get()
    assert run.action_options == {"parameters": {"country": "FR"}}
    detail = api.get(f"/api/v1/runs/{run.pk}/").json()
    assert (detail["parameters"], detail["data_interval_end"]) == (told["parameters"], told["data_interval_end"])


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"parameters": {"day": "31.1.2026"}, **INTERVAL}, "parameters.day", "parameter_value"),
        ({"parameters": {"country": 5}, **INTERVAL}, "parameters.country", "parameter_value"),
        ({"parameters": {"land": "DE"}, **INTERVAL}, "parameters.land", "no_such_parameter"),
        ({"parameters": ["DE"], **INTERVAL}, "parameters", "not_a_dict"),
        ({"data_interval_start": INTERVAL["data_interval_start"]}, "data_interval_end", "interval_needed"),
        ({**INTERVAL, "data_interval_end": "2026-02-01T00:00:00Z"}, "data_interval_end", "interval_empty"),
        ({**INTERVAL, "data_interval_end": "tomorrow"}, "data_interval_end", "invalid"),
        ({}, "data_interval_start", "interval_needed"),
        ({"action": "compare", "parameters": {"country": "FR"}}, "parameters.country", "values_of_no_use"),
        ({"action": "compare", **INTERVAL}, "data_interval_start", "values_of_no_use"),
    ],
)
def test_a_bad_value_is_named_and_nothing_is_queued(api, pipeline, body, field, code):
    answer = trigger(api, pipeline, body)
    assert answer.status_code == 400
    assert answer.json()["fields"][field][0]["code"] == code
    assert not Run.objects.exists()


@pytest.mark.parametrize("value", ["a/b", "x" * 60])
def test_a_value_that_makes_no_name_is_named(api, make_pipeline, value):
    pipeline = make_pipeline(
        source_table="", source_query="SELECT @country AS c", parameters=PARAMETERS, target_table="sales_{country}"
    )
    answer = trigger(api, pipeline, {"parameters": {"country": value}})
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["parameters.country"]
    assert not Run.objects.exists()


def test_the_same_key_with_other_values_is_a_conflict(api, pipeline):
    for country, status in (("FR", 201), ("FR", 200), ("IT", 409)):
        body = {"parameters": {"country": country}, **INTERVAL}
        assert trigger(api, pipeline, body, **{"Idempotency-Key": "once"}).status_code == status


def test_parameters_are_declared_through_the_api(api, pipeline):
    address = f"/api/v1/pipelines/{pipeline.pk}/"
    assert api.get(address).json()["parameters"] == PARAMETERS
    wrong = api.patch(address, {"parameters": {"country": {"type": "TEXT"}}}, format="json")
    assert wrong.status_code == 400
    assert wrong.json()["fields"]["parameters"][0]["code"] == "parameter"
    wrong = api.patch(address, {"target_table": "orders_{land}"}, format="json")
    assert wrong.json()["fields"]["target_table"][0]["code"] == "name_template"


def test_what_would_be_there_twice_is_refused_but_with_force(api, make_pipeline):
    pipeline = make_pipeline(source_table="", source_query=QUERY, parameters=PARAMETERS, write_disposition="append")
    assert trigger(api, pipeline, INTERVAL).status_code == 201
    refused = trigger(api, pipeline, INTERVAL)
    assert (refused.status_code, "interval_loaded" in refused.content.decode()) == (409, True)
    assert Run.objects.count() == 1
    assert trigger(api, pipeline, {**INTERVAL, "force": True}).status_code == 201


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-05:00"])
def test_moments_far_outside_are_refused_with_their_field(api, pipeline, moment):
    name = "data_interval_start" if moment.startswith("0") else "data_interval_end"
    answer = trigger(api, pipeline, {**INTERVAL, name: moment})
    assert answer.status_code == 400
    assert name in answer.content.decode()
    assert not Run.objects.exists()
