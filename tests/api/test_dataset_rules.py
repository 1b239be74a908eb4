"""Dataset rules by API, and in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from pipelines.models import DatasetRule
from runs import looking_bell
from runs.models import DatasetLook, TableEvent

URL = "/api/v1/dataset-rules/"


@pytest.fixture(autouse=True)
def rung(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rung: list[int] = []
    monkeypatch.setattr(looking_bell, "ring", lambda: rung.append(1))
    return rung


@pytest.fixture
def rules_api(django_user_model: Any, client_of: Any) -> Any:
    user = django_user_model.objects.create_user("pia")
    wanted = [f"{verb}_datasetrule" for verb in ("view", "add", "change", "delete")]
    user.user_permissions.add(*Permission.objects.filter(codename__in=[*wanted, "add_pipeline"]))
    return client_of(user)


@pytest.fixture
def body(make_pipeline: Any, source: Any) -> dict[str, Any]:
    template = make_pipeline()
    return {"name": "Sales", "source": str(source.pk), "dataset": "sales", "template": str(template.pk)}


def test_a_rule_is_made_read_changed_asked_to_look_and_deleted(rules_api, body, rung):
    made = rules_api.post(URL, body)
    assert made.status_code == 201, made.json()
    told = made.json()
    assert told == told | body | {"new_state": "paused", "most_at_once": 20, "enabled": True}
    assert rung == [1], "it looks at once"
    url = f"{URL}{told['id']}/"
    assert rules_api.patch(url, {"include": ["orders_*"], "enabled": False}).json()["include"] == ["orders_*"]
    assert rules_api.post(f"{url}look/").status_code == 202
    assert DatasetRule.objects.get().asked
    look = DatasetLook.objects.create(rule_id=told["id"], tables=3, vanished=1)
    TableEvent.objects.create(look=look, rule_id=told["id"], kind="vanished", table="orders_de")
    assert rules_api.get(f"{url}looks/").json()["results"][0]["tables"] == 3
    (event,) = rules_api.get(f"{url}events/").json()["results"]
    assert (event["kind"], event["table"], event["pipeline"]) == ("vanished", "orders_de", None)
    assert rules_api.delete(url).status_code == 204


@pytest.mark.parametrize(
    ("sent", "field", "code"),
    [
        ({"dataset": "a.b.c"}, "dataset", "dataset_name"),
        ({"every_s": 5}, "every_s", "min_value"),
        ({"pattern": "x"}, "pattern", "unknown_field"),
    ],
)
def test_what_is_no_rule_is_refused_field_by_field(rules_api, body, sent, field, code):
    answer = rules_api.post(URL, {**body, **sent})
    assert answer.status_code == 400
    assert answer.json()["fields"][field][0]["code"] == code
    assert not DatasetRule.objects.exists()


def test_a_name_is_taken_once(rules_api, body):
    assert rules_api.post(URL, body).status_code == 201
    answer = rules_api.post(URL, body)
    assert answer.json()["fields"]["name"][0]["code"] == "name_taken"


def test_who_may_not_sees_and_does_nothing(django_user_model, client_of, rules_api, body):
    made = rules_api.post(URL, body).json()
    nobody = client_of(django_user_model.objects.create_user("nora"))
    for method, path in (("get", ""), ("get", f"{made['id']}/looks/"), ("post", f"{made['id']}/look/")):
        assert getattr(nobody, method)(f"{URL}{path}").status_code == 403


def test_who_may_not_add_pipelines_lets_no_rule_do_so(django_user_model, client_of, body, admin_client):
    user = django_user_model.objects.create_user("rita", is_staff=True)
    user.user_permissions.add(*Permission.objects.filter(codename__endswith="_datasetrule"))
    assert client_of(user).post(URL, body).status_code == 403
    admin_client.force_login(user)
    sent = {"source_dataset" if name == "dataset" else name: value for name, value in body.items()}
    sent |= {"include": "", "exclude": "", "new_state": "paused", "most_at_once": 5, "every_s": 600}
    assert admin_client.post(reverse("admin:pipelines_datasetrule_add"), sent).status_code == 403
    assert not DatasetRule.objects.exists()


def test_a_rule_is_made_on_the_desk_and_shows_what_its_looks_found(
    admin_client, body, rung, django_capture_on_commit_callbacks
):
    page = admin_client.get(reverse("admin:pipelines_datasetrule_add")).content.decode()
    assert "*_[0-9]" in page, "tables of a day each are left alone unless somebody says otherwise"
    sent = {"source_dataset" if name == "dataset" else name: value for name, value in body.items()}
    sent |= {"enabled": "on", "include": "orders_*, first", "exclude": "", "new_state": "active"}
    sent |= {"most_at_once": 5, "every_s": 600, "name_prefix": "Lake "}
    with django_capture_on_commit_callbacks(execute=True):
        answer = admin_client.post(reverse("admin:pipelines_datasetrule_add"), sent)
        assert (answer.status_code, rung) == (302, []), "a worker is called once there is something to see"
    rule = DatasetRule.objects.get()
    assert (rule.include, rule.exclude, rule.new_state, rung) == (["orders_*", "first"], [], "active", [1])
    assert rule.name_prefix == "Lake ", "with its blank"
    look = DatasetLook.objects.create(rule=rule, tables=3, made=1, vanished=1)
    for kind, table in (("made", "orders_de"), ("vanished", "<b>first</b>")):
        TableEvent.objects.create(look=look, rule=rule, kind=kind, table=table, pipeline=rule.template)
    change = reverse("admin:pipelines_datasetrule_change", args=[rule.pk])
    page = admin_client.get(change).content.decode()
    for said in ("Appeared, and has a pipeline now", "orders_de", "&lt;b&gt;first&lt;/b&gt;", ">Orders</a>"):
        assert said in page
    listed = admin_client.get(reverse("admin:pipelines_datasetrule_changelist")).content.decode()
    assert "3 tables, 1 made, 1 vanished" in listed
    admin_client.post(reverse("admin:pipelines_datasetrule_look_now", args=[rule.pk]), {"confirmed": "1"})
    assert DatasetRule.objects.get().asked


def test_many_rules_are_listed_with_as_many_queries_as_one(
    admin_client, body, make_pipeline, django_assert_num_queries
):

    url = reverse("admin:pipelines_datasetrule_changelist")
    values = {"source_id": body["source"], "template_id": body["template"], "dataset": "sales"}
    counts = []
    for number in range(5):
        rule = DatasetRule.objects.create(name=f"Rule {number}", **values)
        DatasetLook.objects.create(rule=rule)
        if number in (0, 4):
            with CaptureQueriesContext(
                connection,
            ) as caught:
                assert admin_client.get(url).status_code == 200
            counts.append(len(caught))
    assert counts[1] <= counts[0]
