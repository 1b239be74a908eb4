"""Connections are read without their secrets, and not written."""

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


def test_connections_are_not_written(django_user_model, client_of, destination):
    admin = client_of(django_user_model.objects.create_superuser("ada"))
    url = f"{URL}{destination.pk}/"
    responses = [admin.post(URL, {}), admin.patch(url, {}), admin.put(url, {}), admin.delete(url)]
    assert [response.status_code for response in responses] == [405] * 4
