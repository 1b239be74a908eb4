"""Revisions in the admin: what differs between two, and the way back to one."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from pipelines import lookups, queries, services
from pipelines.lookups import Finding
from pipelines.models import Connection, Pipeline
from pipelines.revisions import changes
from pipelines.specs import ScheduleSpec

DAILY = ScheduleSpec("cron", "30 6 * * 1-5", "Europe/Berlin")
HOURLY = ScheduleSpec("interval", every_s=3600)
QUERY = "SELECT id,\r\n  amount\r\nFROM sales.orders"
NO_TABLE = Finding(code="x", message="There is no such table.", hint="", field="source_table", definite=True)


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the live systems say; stands for those systems."""
    found: list[Finding] = []
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: list(found))
    return found


@pytest.fixture
def pipeline(make_pipeline: Any, operator: User) -> Pipeline:
    """Three revisions; the third is in force."""
    made = make_pipeline(
        schedules=[DAILY], source_table="", source_query=QUERY, guard_shrink_percent=None,
        indexes=[{"columns": ["id"], "unique": False}],
    )  # fmt: skip
    made.retries, made.source_columns = 5, [{"name": "id", "type": "INT64"}]
    services.save_pipeline(made, schedules=[DAILY, HOURLY], by=operator)
    made.source_query = QUERY.replace("amount", "amount, vat")
    made.name, made.description, made.priority = "Sales", "Kept", 10
    made.column_rules = {"vat": {"skip": True}}
    services.save_pipeline(made, schedules=[HOURLY], by=operator)
    return made


def url(pipeline: Pipeline, number: int, page: str = "revision") -> str:
    return reverse(f"admin:pipelines_pipeline_{page}", args=[pipeline.pk, number])


def told(before: int, after: int) -> list[tuple[str, str, str]]:
    rows = {each.number: each for each in Pipeline.objects.get().revisions.all()}
    return [(each.sign, each.label, each.words) for each in changes(rows.get(before), rows[after])]


def test_what_differs_is_told_in_the_words_of_the_form(pipeline):
    assert told(1, 2) == [
        ("~", "Retries", "3 → 5"),
        ("+", "Schedule", "Every hour"),
        ("+", "Source column id", "INT64"),
    ]
    assert told(2, 3) == [
        ("~", "Name", "Orders → Sales"),
        ("~", "Source query", ""),
        ("+", "Column vat", "skipped"),
        ("-", "Schedule", "At 06:30, Monday through Friday (Europe/Berlin)"),
        ("-", "Source column id", "INT64"),
    ]
    assert ("+", "Hold what takes away more than (%)", "empty") in told(0, 1)
    lines = changes(*reversed(pipeline.revisions.all()[:2]))[1].lines
    assert lines == (" SELECT id,", "-  amount", "+  amount, vat", " FROM sales.orders")


def test_the_page_shows_it_against_the_one_before_or_any_other(admin_client, pipeline):
    page = admin_client.get(url(pipeline, 2)).content.decode()
    assert "What is different from revision 1" in page
    assert "Every hour" in page
    assert "Revert to this revision" in page
    page = admin_client.get(url(pipeline, 3), {"against": 1}).content.decode()
    assert "What is different from revision 1" in page
    assert '<span class="desk-ins">+  amount, vat' in page
    assert "Revert to this revision" not in page
    assert "What it said" in admin_client.get(url(pipeline, 1)).content.decode()
    assert admin_client.get(url(pipeline, 1), {"against": 9}).status_code == 404
    assert admin_client.get(url(pipeline, 1), {"against": "x"}).status_code == 200


def test_the_list_names_what_each_changed(admin_client, pipeline, findings):
    page = admin_client.get(reverse("admin:pipelines_pipeline_change", args=[pipeline.pk])).content.decode()
    assert "Retries, Schedule, Source column id" in page
    assert "Name, Source query, Column vat, Schedule and 1 more" in page


def test_going_back_makes_a_new_revision_that_is_the_old_one(admin_client, pipeline, findings):
    page = admin_client.get(url(pipeline, 1, "revert")).content.decode()
    assert "Sales" in page
    assert "Every hour" in page
    assert "Source column" not in page
    assert pipeline.revisions.count() == 3
    answer = admin_client.post(url(pipeline, 1, "revert"), {"now": 3})
    assert answer.status_code == 302
    pipeline = Pipeline.objects.get()
    first = pipeline.revisions.get(number=1)
    assert (pipeline.revision.number, pipeline.revision.created_by.username) == (4, "admin")
    assert pipeline.revision.definition == first.definition
    assert pipeline.revision.fingerprint == first.fingerprint
    assert (pipeline.description, pipeline.priority) == ("Kept", 10)
    assert {ScheduleSpec.of(each) for each in queries.current_schedules()} == {DAILY}
    assert LogEntry.objects.latest("pk").change_message == "Reverted to revision 1."
    answer = admin_client.get(url(pipeline, 4, "revert"))
    assert answer.url == reverse("admin:pipelines_pipeline_change", args=[pipeline.pk])


def test_going_back_asks_again_when_the_pipeline_was_changed_meanwhile(admin_client, pipeline, findings):
    answer = admin_client.post(url(pipeline, 1, "revert"), {"now": 2})
    assert "The pipeline was changed meanwhile" in answer.content.decode()
    assert pipeline.revisions.count() == 3


def test_what_the_live_systems_refuse_is_shown_and_not_saved(admin_client, pipeline, findings):
    findings.append(NO_TABLE)
    page = admin_client.get(url(pipeline, 1, "revert")).content.decode()
    assert "There is no such table." in page
    assert ">Revert<" not in "".join(page.split())
    assert admin_client.post(url(pipeline, 1, "revert"), {"now": 3}).status_code == 200
    assert pipeline.revisions.count() == 3


def test_what_moves_nothing_else_goes_back_with_a_warning(admin_client, make_pipeline, operator, findings):
    pipeline = make_pipeline(indexes=[{"columns": ["id"], "unique": False}])
    pipeline.retries = 9
    services.save_pipeline(pipeline, schedules=None, by=operator)
    findings.append(NO_TABLE)
    answer = admin_client.post(url(pipeline, 1, "revert"), {"now": 2}, follow=True)
    assert "There is no such table." in answer.content.decode()
    assert Pipeline.objects.get().retries == 3


def test_what_stands_against_it_here_is_told_before_anybody_is_asked(
    admin_client, pipeline, make_pipeline, monkeypatch
):
    def nobody(pipeline: Pipeline) -> None:
        raise AssertionError

    monkeypatch.setattr(lookups, "validate_pipeline", nobody)
    make_pipeline("Orders", target_table="other")
    other = Connection.objects.create(name="Gone", kind="bigquery", options={"project": "p"})
    first = pipeline.revisions.get(number=1)
    first.definition["source"]["connection"] = str(other.pk)
    first.save()
    other.delete()
    page = admin_client.post(url(pipeline, 1, "revert"), {"now": 3}).content.decode()
    assert "Another pipeline has this name." in page
    assert "The source of revision 1 was deleted." in page
    assert "a connection that was deleted" in page
    services.archive([pipeline], by=None)
    assert "Sales is archived." in admin_client.get(url(pipeline, 1, "revert")).content.decode()
    assert pipeline.revisions.count() == 3


def test_a_definition_from_before_an_option_has_its_default(admin_client, pipeline, findings):
    first = pipeline.revisions.get(number=1)
    for name in ("load_method", "held_days"):
        del first.definition[name]
    first.save()
    assert told(1, 2)[0] == ("~", "Retries", "3 → 5")
    admin_client.post(url(pipeline, 1, "revert"), {"now": 3})
    assert (Pipeline.objects.get().held_days, Pipeline.objects.get().revision.number) == (7, 4)


def test_only_who_may_change_a_pipeline_goes_back(client, pipeline, operator, findings):
    User.objects.filter(pk=operator.pk).update(is_staff=True)
    client.force_login(operator)
    assert client.get(url(pipeline, 1)).status_code == 403
    operator.user_permissions.add(Permission.objects.get(codename="view_pipeline"))
    page = client.get(url(pipeline, 1))
    assert page.status_code == 200
    assert "Revert to this revision" not in page.content.decode()
    for send in (client.get, client.post):
        assert send(url(pipeline, 1, "revert"), {"now": 3}).status_code == 403
    assert pipeline.revisions.count() == 3
