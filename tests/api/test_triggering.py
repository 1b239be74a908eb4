"""Runs are triggered through the API once per idempotency key."""

from __future__ import annotations

import uuid

import pytest

from pipelines import services
from runs.models import Run


def trigger(client, pipeline, body=None, **headers):
    return client.post(f"/api/v1/pipelines/{pipeline.pk}/runs/", body, headers=headers)


def test_a_trigger_queues_a_run(api, make_pipeline, operator):
    pipeline = make_pipeline()
    response = trigger(api, pipeline)
    assert response.status_code == 201
    run = Run.objects.get()
    answer = response.json()
    assert response["Location"].endswith(f"/api/v1/runs/{run.pk}/")
    assert (answer["id"], answer["pipeline"], answer["revision"]) == (str(run.pk), str(pipeline.pk), 1)
    assert (answer["status"], answer["trigger"], answer["requested_by"]) == ("queued", "api", "olga")
    assert answer["created_at"] is not None
    assert run.requested_by == operator


def test_the_same_key_gives_the_same_run(api, make_pipeline):
    pipeline = make_pipeline()
    first = trigger(api, pipeline, **{"Idempotency-Key": "once"})
    again = trigger(api, pipeline, **{"Idempotency-Key": "once"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert Run.objects.count() == 1


@pytest.mark.parametrize("changed", ["pipeline", "body"])
def test_the_same_key_with_another_request_is_a_conflict(api, make_pipeline, changed):
    pipeline, other = make_pipeline(), make_pipeline("Customers")
    trigger(api, pipeline, **{"Idempotency-Key": "once"})
    if changed == "pipeline":
        response = trigger(api, other, **{"Idempotency-Key": "once"})
    else:
        response = trigger(api, pipeline, {"note": "again"}, **{"Idempotency-Key": "once"})
    assert response.status_code == 409
    assert response.json()["code"] == "idempotency_key_reused"
    assert Run.objects.count() == 1


def test_keys_of_different_people_do_not_meet(api, make_pipeline, client_of, django_user_model):
    pipeline = make_pipeline()
    admin = client_of(django_user_model.objects.create_superuser("ada"))
    assert trigger(api, pipeline, **{"Idempotency-Key": "once"}).status_code == 201
    assert trigger(admin, pipeline, **{"Idempotency-Key": "once"}).status_code == 201


def test_a_key_that_is_too_long_is_refused(api, make_pipeline):
    response = trigger(api, make_pipeline(), **{"Idempotency-Key": "x" * 201})
    assert response.status_code == 400
    assert response.json()["fields"]["Idempotency-Key"][0]["code"] == "max_length"


def test_an_archived_pipeline_is_not_run(api, make_pipeline, operator):
    pipeline = make_pipeline()
    services.archive([pipeline], by=operator)
    response = trigger(api, pipeline)
    assert (response.status_code, response.json()["code"]) == (409, "pipeline_archived")


def test_a_pipeline_that_is_not_there_is_not_found(api, db):
    response = api.post(f"/api/v1/pipelines/{uuid.uuid4()}/runs/")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_viewers_trigger_nothing(viewer_api, make_pipeline):
    response = trigger(viewer_api, make_pipeline())
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
    assert not Run.objects.exists()


def test_a_trigger_takes_few_queries(api, make_pipeline, django_assert_max_num_queries):
    pipeline = make_pipeline()
    trigger(api, pipeline)
    # token, two for permissions, pipeline, savepoint and insert
    with django_assert_max_num_queries(7):
        trigger(api, pipeline)
