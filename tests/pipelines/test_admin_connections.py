"""Connections on the desk: drawn from their options, tested before they are saved, kept while they are used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.checks import run_checks
from django.test import Client
from django.urls import reverse

from pipelines import lookups
from pipelines.models import Connection

ADD = "/admin/pipelines/connection/add/"
LIST = "/admin/pipelines/connection/"
WORKS = [{"name": "Log in", "passed": True, "detail": "", "hint": "", "field": "", "transient": False}]


def options(warehouse: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the form of a PostgreSQL connection sends."""
    typed = {f"option_{name}": value for name, value in warehouse.items()}
    return {"name": "Shop", **typed, **{f"option_{name}": value for name, value in changes.items()}}


def change_url(connection: Connection) -> str:
    return reverse("admin:pipelines_connection_change", args=[connection.pk])


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options that a look-up was asked to test; stands for systems that say yes to everything."""
    asked: list[dict[str, Any]] = []

    def test_connection(kind: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append(options)
        return WORKS

    monkeypatch.setattr(lookups, "test_connection", test_connection)
    return asked


def test_the_kind_is_chosen_first(admin_client: Client):
    page = admin_client.get(ADD)
    assert page.status_code == 200
    assert b"?kind=bigquery" in page.content
    assert b"?kind=postgres" in page.content
    assert b"What do you want to connect" in admin_client.get(ADD, {"kind": "oracle"}).content


def test_the_form_is_drawn_from_the_options(admin_client: Client):
    page = admin_client.get(ADD, {"kind": "postgres"}).content.decode()
    for label in ("Host", "Database", "Port", "Password", "TLS", "Root certificate"):
        assert label in page
    assert 'type="password"' in page
    assert 'value="5432"' in page
    assert "Remove the stored" not in page


@pytest.mark.django_db
@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
class TestWithALivePostgres:
    def test_a_connection_that_works_is_saved_with_its_secret_encrypted(self, admin_client, warehouse):
        answer = admin_client.post(f"{ADD}?kind=postgres", options(warehouse))
        assert answer.status_code == 302
        saved = Connection.objects.get(name="Shop")
        assert saved.secrets == {"password": warehouse["password"]}
        assert "password" not in saved.options
        assert saved.options["port"] == warehouse["port"]

    def test_a_wrong_password_is_refused_with_its_steps_and_the_old_one_stays(
        self, admin_client, warehouse, living_destination
    ):
        url = change_url(living_destination)
        answer = admin_client.post(url, options(warehouse, password="not-the-password"))
        page = answer.content.decode()
        assert answer.status_code == 200
        assert "Reach the server" in page
        assert "refused the password" in page
        assert "not-the-password" not in page
        living_destination.refresh_from_db()
        assert living_destination.secrets == {"password": warehouse["password"]}

    def test_saving_anyway_does_not_help_against_a_definite_refusal(self, admin_client, warehouse):
        answer = admin_client.post(
            f"{ADD}?kind=postgres", {**options(warehouse, password="not-the-password"), "save_anyway": "on"}
        )
        assert answer.status_code == 200
        assert not Connection.objects.exists()

    def test_an_unreachable_system_is_saved_only_when_the_person_insists(self, admin_client, warehouse):
        closed = options(warehouse, port=1)
        answer = admin_client.post(f"{ADD}?kind=postgres", closed)
        assert answer.context["adminform"].form.undecided
        assert not Connection.objects.exists()
        answer = admin_client.post(f"{ADD}?kind=postgres", {**closed, "save_anyway": "on"}, follow=True)
        assert Connection.objects.get().options["port"] == 1
        assert "without a test that passed" in answer.content.decode()

    def test_the_test_button_answers_with_steps_and_saves_nothing(self, admin_client, warehouse):
        answer = admin_client.post("/admin/pipelines/connection/test/?kind=postgres", options(warehouse)).json()
        assert answer["ok"]
        assert [step["passed"] for step in answer["steps"]][:2] == [True, True]
        assert not Connection.objects.exists()

    def test_the_test_button_says_once_what_a_step_found(self, admin_client, warehouse):
        answer = admin_client.post("/admin/pipelines/connection/test/?kind=postgres", options(warehouse, password="no"))
        said = answer.json()
        assert (said["ok"], said["errors"], said["message"]) == (False, [], "")
        assert "refused the password" in said["steps"][-1]["detail"]

    def test_the_test_button_uses_the_stored_secret_when_none_is_typed(
        self, admin_client, warehouse, living_destination
    ):
        url = f"/admin/pipelines/connection/test/?connection={living_destination.pk}"
        assert admin_client.post(url, options(warehouse, password="")).json()["ok"]

    def test_a_malformed_key_is_an_error_of_its_field(self, admin_client):
        typed = {"name": "Lake", "option_project": "demo-project", "option_credentials_json": "{not json"}
        answer = admin_client.post(f"{ADD}?kind=bigquery", typed)
        errors = answer.context["adminform"].form.errors
        assert "not JSON" in errors["option_credentials_json"][0]
        assert "{not json" not in answer.content.decode()


def test_the_test_button_names_the_fields_that_keep_it_from_testing(admin_client, tests):
    said = admin_client.post("/admin/pipelines/connection/test/?kind=postgres", {"option_port": "many"}).json()
    assert said["errors"] == [
        "Host: This field is required.",
        "Database: This field is required.",
        "User: This field is required.",
        "Port: Enter a whole number.",
    ]
    assert tests == []


def test_an_empty_secret_keeps_what_is_stored(admin_client, destination, tests):
    typed = options(destination.options, dbname="store", password="")
    assert admin_client.post(change_url(destination), typed).status_code == 302
    destination.refresh_from_db()
    assert destination.secrets == {"password": "s3cret"}
    assert destination.options["dbname"] == "store"
    assert tests == [{**destination.options, "password": "s3cret"}]


def test_a_stored_secret_is_not_sent_to_another_address(admin_client, destination, tests):
    moved = {"name": "Shop", **{f"option_{name}": value for name, value in destination.options.items()}}
    moved["option_host"] = "thief.example.com"
    page = admin_client.post(change_url(destination), moved)
    assert b"the address that it is sent to has changed" in page.content
    assert tests == []
    destination.refresh_from_db()
    assert destination.options["host"] == "127.0.0.1"
    assert admin_client.post(change_url(destination), {**moved, "option_password": "typed"}).status_code == 302
    assert tests[0]["password"] == "typed"


def test_the_key_for_masks_is_checked_stays_at_another_address_and_is_never_shown(admin_client, destination, tests):
    key = "0123456789abcdef" * 2
    typed = options(destination.options, mask_key=key[:31])
    page = admin_client.post(change_url(destination), typed)
    assert "could be found by trying" in page.context["adminform"].form.errors["option_mask_key"][0]
    assert key[:31] not in page.content.decode()
    assert admin_client.post(change_url(destination), options(destination.options, mask_key=key)).status_code == 302
    moved = options(destination.options, host="other.example.com", password="typed")
    assert admin_client.post(change_url(destination), moved).status_code == 302
    destination.refresh_from_db()
    assert destination.secrets == {"password": "typed", "mask_key": key}
    assert key not in admin_client.get(change_url(destination)).content.decode()


def test_a_stored_secret_can_be_removed(admin_client, destination, tests):
    typed = {**options(destination.options), "clear_password": "on"}
    assert admin_client.post(change_url(destination), typed).status_code == 302
    destination.refresh_from_db()
    assert destination.secrets == {}


def test_a_secret_is_never_sent_to_the_page(admin_client, destination):
    page = admin_client.get(change_url(destination)).content.decode()
    assert "s3cret" not in page
    assert "A value is stored" in page


def test_a_new_name_alone_is_saved_without_a_test(admin_client, destination, tests):
    assert (
        admin_client.post(change_url(destination), {**options(destination.options), "name": "New"}).status_code == 302
    )
    assert Connection.objects.get().name == "New"
    assert tests == []


@pytest.mark.parametrize(
    ("change", "field"),
    [({"port": "many"}, "option_port"), ({"host": ""}, "option_host"), ({"sslmode": "maybe"}, "option_sslmode")],
)
def test_options_have_types(admin_client, tests, change, field):
    typed = options({"host": "db", "port": 5432, "dbname": "shop", "user": "mover", "password": "x"}, **change)
    answer = admin_client.post(f"{ADD}?kind=postgres", typed)
    assert field in answer.context["adminform"].form.errors
    assert not Connection.objects.exists()
    assert tests == []


def test_the_test_button_needs_a_post_and_a_kind(admin_client):
    assert admin_client.get("/admin/pipelines/connection/test/?kind=postgres").status_code == 405
    assert admin_client.post("/admin/pipelines/connection/test/?kind=oracle").status_code == 404
    assert admin_client.post("/admin/pipelines/connection/test/?connection=nonsense").status_code == 404


def test_when_no_worker_answers_the_person_may_save_anyway(admin_client, destination, monkeypatch):
    def silent(kind: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        raise lookups.LookupFailed("no_worker", "No worker took up the question.", "Start a worker.")

    monkeypatch.setattr(lookups, "test_connection", silent)
    typed = options(destination.options, port=2, password="s3cret")
    answer = admin_client.post(change_url(destination), typed)
    assert "No worker took up the question." in answer.content.decode()
    assert admin_client.post(change_url(destination), {**typed, "save_anyway": "on"}).status_code == 302
    destination.refresh_from_db()
    assert destination.options["port"] == 2


def test_a_connection_that_has_gone_leads_back_with_a_message(admin_client):
    for pk in ("nonsense", "0f0f0f0f-0000-4000-8000-000000000000"):
        answer = admin_client.get(f"{LIST}{pk}/change/", follow=True)
        assert "Perhaps it was deleted?" in answer.content.decode()


# Deletion -------------------------------------------------------------------------------------


def test_a_connection_in_use_is_not_deleted_and_its_pipelines_are_named(admin_client, make_pipeline, destination):
    pipeline = make_pipeline("Orders")
    link = reverse("admin:pipelines_pipeline_change", args=[pipeline.pk])
    url = reverse("admin:pipelines_connection_delete", args=[destination.pk])
    for page in (admin_client.get(url), admin_client.post(url, {"post": "yes"})):
        assert f'href="{link}">Orders</a>' in page.content.decode()
    assert Connection.objects.filter(pk=destination.pk).exists()


def test_deleting_several_is_refused_when_one_is_in_use(admin_client, make_pipeline, destination):
    make_pipeline("Orders")
    idle = Connection.objects.create(name="Idle", kind="bigquery", options={"project": "idle-project"})
    chosen = {"action": "delete_selected", "_selected_action": [destination.pk, idle.pk], "post": "yes"}
    answer = admin_client.post(LIST, chosen)
    assert "Orders" in answer.content.decode()
    assert Connection.objects.filter(pk__in=[destination.pk, idle.pk]).count() == 2


def test_an_idle_connection_is_deleted(admin_client, source):
    url = reverse("admin:pipelines_connection_delete", args=[source.pk])
    assert admin_client.post(url, {"post": "yes"}).status_code == 302
    assert not Connection.objects.exists()


# Lost keys ------------------------------------------------------------------------------------


@pytest.fixture
def lost(destination: Connection, settings: Any) -> Connection:
    """A connection whose key is no longer set."""
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    destination.refresh_from_db()
    assert destination.has_lost_secrets
    return destination


def test_lost_keys_are_named_on_the_list_on_the_form_and_by_a_check(admin_client, lost, source):
    for url in (LIST, change_url(lost)):
        page = admin_client.get(url).content.decode()
        assert "cannot be read" in page
        assert lost.name in page
    found = run_checks(databases=["default"])
    assert [warning.id for warning in found] == ["pipelines.W001"]
    assert lost.name in found[0].msg
    assert source.name not in found[0].msg


def test_a_lost_secret_is_asked_for_again_before_options_change(admin_client, lost, tests):
    typed = options(lost.options, port=6432)
    answer = admin_client.post(change_url(lost), typed)
    assert "option_password" in answer.context["adminform"].form.errors
    assert tests == []
    assert admin_client.post(change_url(lost), {**typed, "option_password": "anew"}).status_code == 302
    lost.refresh_from_db()
    assert lost.secrets == {"password": "anew"}


def test_renaming_keeps_what_is_stored_under_the_lost_key(admin_client, lost, tests, settings):
    token = lost.secrets.token
    assert admin_client.post(change_url(lost), {**options(lost.options), "name": "Renamed"}).status_code == 302
    lost.refresh_from_db()
    assert (lost.name, lost.secrets.token) == ("Renamed", token)
    assert tests == []


def test_no_page_or_dump_holds_a_secret(admin_client, destination, django_assert_max_num_queries):
    with django_assert_max_num_queries(12):
        page = admin_client.get(LIST).content.decode()
    assert "s3cret" not in page
    assert "s3cret" not in json.dumps(destination.options)
