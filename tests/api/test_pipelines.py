"""Pipelines are listed, made and changed through the API as in the admin."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from pipelines import lookups, services
from pipelines.lookups import Finding, LookupFailed
from pipelines.models import Pipeline, PipelineState
from pipelines.specs import ScheduleSpec

URL = "/api/v1/pipelines/"
DAILY = ScheduleSpec("cron", "30 6 * * 1-5", "Europe/Berlin")


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding | LookupFailed]:
    """What the live systems would say; tests/pipelines asks them, test_live_systems.py here does once."""
    said: list[Finding | LookupFailed] = []

    def validate(pipeline: Pipeline) -> list[Finding]:
        for finding in said:
            if isinstance(finding, LookupFailed):
                raise finding
        return list(said)

    monkeypatch.setattr(lookups, "validate_pipeline", validate)
    return said


@pytest.fixture
def body(source: Any, destination: Any) -> dict[str, Any]:
    return {
        "name": "Orders",
        "source": str(source.pk),
        "source_table": "sales.orders",
        "destination": str(destination.pk),
        "target_table": "orders",
        "schedules": [{"cron": "30 6 * * 1-5", "zone": "Europe/Berlin"}, {"kind": "interval", "every_s": 900}],
    }


def problems(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 400, response.content
    return {name: [problem["code"] for problem in found] for name, found in response.json()["fields"].items()}


def test_a_pipeline_is_made_whole(api, body, findings, operator):
    response = api.post(URL, body)
    assert response.status_code == 201, response.content
    answer = response.json()
    pipeline = Pipeline.objects.get()
    assert response["Location"].endswith(f"{URL}{pipeline.pk}/")
    assert (answer["id"], answer["state"], answer["revision"]) == (str(pipeline.pk), "active", 1)
    assert answer["warnings"] == []
    assert (answer["target_schema"], answer["write_disposition"], answer["retries"]) == ("public", "replace", 3)
    assert [schedule["words"] for schedule in answer["schedules"]] == [
        "At 06:30, Monday through Friday (Europe/Berlin)",
        "Every 15 minutes",
    ]
    assert answer["next_due"] == min(schedule["next_due"] for schedule in answer["schedules"])
    assert pipeline.revision.created_by == operator
    assert api.get(f"{URL}{pipeline.pk}/").json() == {k: v for k, v in answer.items() if k != "warnings"}


def test_a_merge_has_its_key_and_cursor(api, body, findings):
    merge = {"write_disposition": "merge", "merge_key": ["order_id", "line"], "cursor_column": "updated_at"}
    answer = api.post(URL, {**body, **merge}).json()
    assert {name: answer[name] for name in merge} == merge
    assert {name: Pipeline.objects.get().revision.definition[name] for name in merge} == merge


def test_a_pipeline_can_be_made_paused(api, body, findings):
    assert api.post(URL, {**body, "state": "paused"}).json()["next_due"] is None
    assert Pipeline.objects.get().state == PipelineState.PAUSED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, {"name": ["null"]}),
        ({"name": "x" * 201}, {"name": ["max_length"]}),
        ({"source": str(uuid.uuid4())}, {"source": ["does_not_exist"]}),
        ({"source": "lake"}, {"source": ["invalid"]}),
        ({"source_query": "SELECT 1"}, {"source_table": ["table_or_query"]}),
        ({"source_table": ""}, {"source_table": ["table_or_query"]}),
        ({"write_disposition": "swap"}, {"write_disposition": ["invalid_choice"]}),
        ({"write_disposition": "merge"}, {"merge_key": ["merge_key_missing"]}),
        ({"write_disposition": "merge", "merge_key": ["id", "ID"]}, {"merge_key": ["merge_key_twice"]}),
        ({"write_disposition": "replace", "merge_key": ["id", "ID"]}, {"merge_key": ["merge_key_twice"]}),
        ({"write_disposition": "merge", "merge_key": "id"}, {"merge_key": ["not_a_list"]}),
        ({"write_disposition": "append", "merge_key": ["id"]}, {"merge_key": ["only_for_merge"]}),
        ({"cursor_column": "at"}, {"cursor_column": ["only_for_merge"]}),
        ({"retries": 21}, {"retries": ["max_value"]}),
        ({"time_limit_s": 1}, {"time_limit_s": ["min_value"]}),
        ({"state": "archived"}, {"state": ["invalid_choice"]}),
        ({"target_table": "nul\x00"}, {"target_table": ["null_characters_not_allowed"]}),
        ({"schedules": [{"cron": "0 0 31 2 *"}]}, {"schedules.0.cron": ["bad_rule"]}),
        ({"schedules": [{"cron": "@daily"}, {"cron": "@daily", "zone": "X"}]}, {"schedules.1.zone": ["bad_rule"]}),
        ({"schedules": [{"kind": "interval"}]}, {"schedules.0.every_s": ["bad_rule"]}),
        ({"schedules": [{"kind": "interval", "every_s": 0}]}, {"schedules.0.every_s": ["min_value"]}),
        ({"schedules": ["@daily"]}, {"schedules.0": ["invalid"]}),
        ({"schedules": "@daily"}, {"schedules": ["not_a_list"]}),
        ({"schedule": "@daily"}, {"schedule": ["unknown_field"]}),
        ({"schedules": [{"crn": "@daily"}]}, {"schedules.0.crn": ["unknown_field"]}),
    ],
)
def test_what_is_wrong_is_told_field_by_field(api, body, findings, change, expected):
    assert problems(api.post(URL, {**body, **change})) == expected
    assert not Pipeline.objects.exists()


def test_source_and_destination_are_connections_that_can_be_that(api, body, findings):
    swapped = {**body, "source": body["destination"], "destination": body["source"]}
    assert problems(api.post(URL, swapped)) == {"source": ["does_not_exist"], "destination": ["does_not_exist"]}


def test_names_and_targets_are_taken_once(api, body, findings):
    api.post(URL, body)
    response = api.post(URL, body)
    assert problems(response) == {"name": ["name_taken"], "target_table": ["target_taken"]}
    response = api.post(URL, {**body, "name": "Orders too"})
    assert problems(response) == {"target_table": ["target_taken"]}
    assert "Orders" in response.json()["fields"]["target_table"][0]["message"]


def test_what_live_systems_are_sure_of_refuses_a_pipeline(api, body, findings):
    findings.append(Finding("source_table", "table_not_found", "There is no such table.", "Check its name."))
    findings.append(Finding("destination", "unreachable", "Nobody answers.", definite=False))
    response = api.post(URL, body)
    assert problems(response) == {"source_table": ["table_not_found"]}
    assert response.json()["fields"]["source_table"][0]["hint"] == "Check its name."
    assert not Pipeline.objects.exists()


@pytest.mark.parametrize(
    "said",
    [
        Finding("destination", "unreachable", "Nobody answers.", "Is it up?", definite=False),
        LookupFailed("unreachable", "Nobody answers.", "Is it up?", "destination"),
    ],
)
def test_what_nobody_could_check_is_saved_with_a_warning(api, body, findings, said):
    findings.append(said)
    response = api.post(URL, body)
    assert response.status_code == 201
    assert response.json()["warnings"] == [
        {"field": "destination", "code": "unreachable", "message": "Nobody answers.", "hint": "Is it up?"}
    ]


def test_a_change_makes_a_revision_and_leaves_the_rest(api, make_pipeline, findings):
    pipeline = make_pipeline(schedules=[DAILY])
    response = api.patch(f"{URL}{pipeline.pk}/", {"retries": 0, "source_table": "sales.orders_v2"})
    assert response.status_code == 200, response.content
    answer = response.json()
    assert (answer["revision"], answer["retries"], answer["source_table"]) == (2, 0, "sales.orders_v2")
    assert [schedule["cron"] for schedule in answer["schedules"]] == ["30 6 * * 1-5"]


def test_schedules_are_replaced_as_a_whole(api, make_pipeline, findings):
    pipeline = make_pipeline(schedules=[DAILY])
    response = api.patch(f"{URL}{pipeline.pk}/", {"schedules": [{"cron": "@hourly"}]})
    assert [schedule["cron"] for schedule in response.json()["schedules"]] == ["@hourly"]
    assert api.patch(f"{URL}{pipeline.pk}/", {"schedules": []}).json()["schedules"] == []


def test_only_a_change_of_what_moves_asks_the_live_systems(api, make_pipeline, findings):
    pipeline = make_pipeline()
    findings.append(Finding("source_table", "table_not_found", "There is no such table."))
    assert api.patch(f"{URL}{pipeline.pk}/", {"description": "Told to people."}).status_code == 200
    refused = api.patch(f"{URL}{pipeline.pk}/", {"target_table": "other"})
    assert problems(refused) == {"source_table": ["table_not_found"]}
    assert Pipeline.objects.get().target_table == "orders"


def test_pausing_and_resuming_are_actions(api, make_pipeline, findings):
    pipeline = make_pipeline(schedules=[DAILY])
    url = f"{URL}{pipeline.pk}/"
    assert problems(api.patch(url, {"state": "paused"})) == {"state": ["read_only"]}
    for _ in range(2):
        response = api.post(f"{url}pause/")
        assert (response.status_code, response.json()["state"], response.json()["next_due"]) == (200, "paused", None)
    assert api.patch(url, {"state": "paused", "retries": 1}).json()["state"] == "paused"
    response = api.post(f"{url}resume/")
    assert (response.json()["state"], response.json()["next_due"] is None) == ("active", False)


def test_an_archived_pipeline_does_not_change(api, make_pipeline, operator):
    pipeline = make_pipeline()
    services.archive([pipeline], by=operator)
    url = f"{URL}{pipeline.pk}/"
    for response in (api.patch(url, {"retries": 1}), api.post(f"{url}pause/"), api.post(f"{url}resume/")):
        assert (response.status_code, response.json()["code"]) == (409, "pipeline_archived")


def test_lists_are_filtered_and_paged(api, make_pipeline, operator):
    orders, customers = make_pipeline("Orders"), make_pipeline("Customers")
    services.pause([customers], by=operator)
    assert [p["name"] for p in api.get(URL).json()["results"]] == ["Customers", "Orders"]
    assert [p["name"] for p in api.get(URL, {"state": "active"}).json()["results"]] == ["Orders"]
    assert [p["name"] for p in api.get(URL, {"name__icontains": "cust"}).json()["results"]] == ["Customers"]
    page = api.get(URL, {"limit": 1, "offset": 1}).json()
    assert (page["count"], [p["id"] for p in page["results"]]) == (2, [str(orders.pk)])
    assert problems(api.get(URL, {"state": "asleep"})) == {"state": ["invalid_choice"]}


def test_a_list_takes_the_same_queries_however_long(api, make_pipeline, django_assert_num_queries):
    def queries_for_a_list() -> int:
        with django_assert_num_queries(8) as captured:
            assert api.get(URL).status_code == 200
        return len(captured)

    make_pipeline(schedules=[DAILY])
    api.get(URL)
    first = queries_for_a_list()
    for number in range(5):
        make_pipeline(f"Table {number}", schedules=[DAILY, ScheduleSpec("interval", every_s=60)])
    assert queries_for_a_list() == first


def test_viewers_read_and_change_nothing(viewer_api, make_pipeline, body):
    pipeline = make_pipeline()
    url = f"{URL}{pipeline.pk}/"
    assert viewer_api.get(URL).status_code == viewer_api.get(url).status_code == 200
    refused = [
        viewer_api.post(URL, body), viewer_api.patch(url, {"retries": 0}),
        viewer_api.post(f"{url}pause/"), viewer_api.post(f"{url}resume/"),
    ]  # fmt: skip
    assert [response.status_code for response in refused] == [403] * 4


def test_there_is_no_deleting_and_no_replacing(api, make_pipeline, django_user_model, client_of):
    admin = client_of(django_user_model.objects.create_superuser("ada"))
    url = f"{URL}{make_pipeline().pk}/"
    assert [admin.delete(url).status_code, admin.put(url, {}).status_code] == [405, 405]


def test_the_form_of_the_target_is_given_and_shown(api, body, findings):
    form = {
        "primary_key": ["id", "day"],
        "indexes": [{"columns": ["customer"], "unique": False}, {"columns": ["number", "day"], "unique": True}],
        "partition_column": "day",
        "partition_unit": "day",
        "analyze": "off",
    }
    answer = api.post(URL, {**body, **form}).json()
    assert {name: answer[name] for name in form} == form
    assert Pipeline.objects.get().revision.definition["target_options"] == form
    changed = api.patch(f"{URL}{answer['id']}/", {"indexes": [{"columns": ["customer"]}]}).json()
    assert changed["indexes"] == [{"columns": ["customer"], "unique": False}]
    assert problems(api.patch(f"{URL}{answer['id']}/", {"primary_key": ["id"]})) == {
        "primary_key": ["partition_not_in_key"]
    }
    assert problems(api.patch(f"{URL}{answer['id']}/", {"indexes": [{"columns": []}]})).keys() == {"indexes.0.columns"}
