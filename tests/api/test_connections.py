"""Connections are read without their secrets, and only limits are written."""

from __future__ import annotations

import json

from pipelines.fields import LostSecrets
from pipelines.models import Connection

URL = "/api/v1/connections/"


def test_connections_have_options_and_no_secrets(api, source, destination):
    listed = api.get(URL).json()
    assert [(c["name"], c["kind"]) for c in listed["results"]] == [("Lake", "bigquery"), ("Shop", "postgres")]
    read = api.get(f"{URL}{destination.pk}/").json()
    assert read == listed["results"][1]
    assert read["options"] == {"host": "127.0.0.1", "port": 1, "dbname": "shop", "user": "mover"}
    assert "s3cret" not in json.dumps(listed)


def test_a_secret_among_the_options_is_not_shown(api, destination):
    destination.options["password"] = "s3cret"
    destination.save()
    assert "s3cret" not in api.get(f"{URL}{destination.pk}/").content.decode()


def test_a_connection_whose_key_is_lost_can_be_read(api, destination):
    Connection.objects.filter(pk=destination.pk).update(secrets=LostSecrets("gibberish"))
    assert api.get(f"{URL}{destination.pk}/").status_code == 200


def test_connections_are_filtered(api, source, destination):
    assert [c["name"] for c in api.get(URL, {"kind": "postgres"}).json()["results"]] == ["Shop"]


def test_of_a_connection_only_its_limit_is_written(django_user_model, client_of, destination):
    admin = client_of(django_user_model.objects.create_superuser("ada"))
    url = f"{URL}{destination.pk}/"
    responses = [admin.post(URL, {}), admin.put(url, {}), admin.delete(url)]
    assert [response.status_code for response in responses] == [405] * 3
    assert admin.patch(url, {}).json()["fields"]["max_running"][0]["code"] == "required"
    assert admin.patch(url, {"max_running": 0}).status_code == 400
    assert admin.patch(url, {"max_running": 2, "name": "Mine"}).json()["fields"]["name"][0]["code"] == "unknown_field"
    for limit in (3, None):
        assert admin.patch(url, {"max_running": limit}).json()["max_running"] == limit
    viewer = client_of(django_user_model.objects.create_user("vera"))
    assert viewer.patch(url, {"max_running": 3}).status_code == 403
    destination.refresh_from_db()
    assert destination.secrets == {"password": "s3cret"}
