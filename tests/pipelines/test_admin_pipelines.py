"""Pipelines on the desk: saved whole, after the live systems were asked."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import CrontabSchedule
from google.cloud.bigquery import SchemaField

from pipelines import lookups, queries, services
from pipelines.lookups import Finding
from pipelines.models import Connection, Pipeline, PipelineState, Revision
from pipelines.specs import ScheduleSpec
from runs.models import Run
from tests.emulator_tables import EmulatorTables

ADD = "/admin/pipelines/pipeline/add/"
LIST = "/admin/pipelines/pipeline/"
DESK = "/admin/pipelines/pipeline/desk/"
DAILY = ScheduleSpec("cron", "30 6 * * 1-5", "Europe/Berlin")


def change_url(pipeline: Pipeline) -> str:
    return reverse("admin:pipelines_pipeline_change", args=[pipeline.pk])


def typed(source: Connection, destination: Connection, *schedules: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the form of a pipeline sends."""
    data: dict[str, Any] = {
        "name": "Orders", "description": "", "state": "active", "source": source.pk, "source_table": "sales.orders",
        "source_query": "", "destination": destination.pk, "target_schema": "public", "target_table": "orders",
        "write_disposition": "replace", "overlap": "coalesce", "missed": "latest", "text_policy": "fail",
        "deletes": "keep", "schema_policy": "evolve", "mode": "batch", "poll_every_s": 5, "stream_every_s": 10,
        "quarantine_rows": "1000", "quarantine_percent": "", "quarantine_beyond": "fail", "quarantine_days": "30",
        "load_method": "auto", "partition_unit": "month", "analyze": "quick", "priority": 20, "pool": "",
        "lookback": "0", "held_days": "7", "undo_depth": "0", "sql_limit_s": "60",
        "guard_zero_rows": "on", "guard_shrink_percent": "50",
        "retries": 3, "retry_delay_s": 5, "give_up_after_s": "", "time_limit_s": 3600,
        "schedules-TOTAL_FORMS": len(schedules), "schedules-INITIAL_FORMS": 0,
        "revisions-TOTAL_FORMS": 0, "revisions-INITIAL_FORMS": 0,
        "dependencies-TOTAL_FORMS": 0, "dependencies-INITIAL_FORMS": 0,
        "checks-TOTAL_FORMS": 0, "checks-INITIAL_FORMS": 0,
    }  # fmt: skip
    for number, schedule in enumerate(schedules):
        plain = {"kind": "cron", "cron": "", "zone": "UTC", "every_s": "", **schedule}
        data |= {f"schedules-{number}-{name}": value for name, value in plain.items()}
    data["schedules-INITIAL_FORMS"] = sum("id" in schedule for schedule in schedules)
    return data | changes


def again(pipeline: Pipeline, **changes: Any) -> dict[str, Any]:
    """What the form sends when nothing but `changes` was touched."""
    schedules = [
        {"id": s.pk, "kind": s.kind, "cron": s.cron, "zone": s.zone, "every_s": s.every_s or ""}
        for s in queries.current_schedules().filter(pipeline=pipeline)
    ]
    names = ("name", "state", "source_table", "source_query", "target_schema", "target_table")
    kept = {name: getattr(pipeline, name) for name in names}
    data = typed(pipeline.source, pipeline.destination, *schedules, **kept)
    data |= {f"schedules-{number}-pipeline": pipeline.pk for number in range(len(schedules))}
    data |= {"retries": pipeline.retries, "time_limit_s": pipeline.time_limit_s}
    data |= {"priority": pipeline.priority, "pool": pipeline.pool_id or ""}
    return data | changes


def current(pipeline: Pipeline) -> set[ScheduleSpec]:
    return {ScheduleSpec.of(schedule) for schedule in queries.current_schedules().filter(pipeline=pipeline)}


def form_errors(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    return {name: list(messages) for name, messages in answer.context["adminform"].form.errors.items()}


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the live systems say against a pipeline; nothing unless a test adds to it. Stands for those systems."""
    found: list[Finding] = []
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: list(found))
    return found


# Saving ---------------------------------------------------------------------------------------


def test_a_pipeline_is_saved_with_its_schedules_and_a_revision(admin_client, source, destination, findings):
    weekdays = {"cron": "30 6 * * 1-5", "zone": "Europe/Berlin"}
    every = {"kind": "interval", "cron": "", "every_s": "2700"}
    answer = admin_client.post(ADD, typed(source, destination, weekdays, every))
    assert answer.status_code == 302
    pipeline = Pipeline.objects.get()
    assert current(pipeline) == {DAILY, ScheduleSpec("interval", every_s=2700)}
    assert (pipeline.revision.number, pipeline.revision.created_by.username) == (1, "admin")


def test_a_pasted_name_that_is_too_long_is_not_cut_off_but_refused(admin_client, source, destination, findings):
    page = admin_client.get(ADD).content.decode()
    inputs = [tag for tag in re.findall("<input[^>]*>", page) if re.search('name="target_(schema|table)"', tag)]
    assert len(inputs) == 2
    assert not any("maxlength" in tag for tag in inputs)
    errors = form_errors(admin_client.post(ADD, typed(source, destination, target_table="x" * 64)))
    assert "at most 63" in errors["target_table"][0]


def test_after_an_error_what_was_typed_is_not_folded_away(admin_client, source, destination):
    data = typed(source, destination, merge_key="id", deletes="soft", undo_depth="3", retries=-1)
    answer = admin_client.post(ADD, data | {"write_disposition": "merge"})
    folded = {fieldset.name for fieldset in answer.context["adminform"] if fieldset.is_collapsible}
    assert not {"Rows that vanish", "Undo", "Retries"} & folded
    assert {"Guards", "Budget"} <= folded
    page = answer.text
    assert '<a href="#id_retries">Retries</a>: Ensure this value is greater than or equal to 0.' in page
    assert 'aria-describedby="id_retries_helptext id_retries_error"' in page
    assert 'id="id_retries_helptext"' in page
    assert 'id="id_retries_error"' in page


def test_an_untouched_schedule_form_means_no_schedule(admin_client, source, destination, findings):
    assert admin_client.post(ADD, typed(source, destination, {})).status_code == 302
    assert current(Pipeline.objects.get()) == set()


def test_saving_without_a_change_makes_no_revision_and_keeps_the_schedule(admin_client, make_pipeline, findings):
    pipeline = make_pipeline(schedules=[DAILY])
    schedule = pipeline.schedules.get()
    assert (
        admin_client.post(change_url(pipeline), again(pipeline, time_limit_s=pipeline.time_limit_s)).status_code == 302
    )
    assert Revision.objects.count() == 1
    schedule.refresh_from_db()
    assert schedule.ends_at is None


def test_a_changed_schedule_ends_and_another_starts(admin_client, make_pipeline, findings):
    pipeline = make_pipeline(schedules=[DAILY])
    changes = {"schedules-0-cron": "0 7 * * *"}
    assert admin_client.post(change_url(pipeline), again(pipeline, **changes)).status_code == 302
    assert current(pipeline) == {ScheduleSpec("cron", "0 7 * * *", "Europe/Berlin")}
    assert pipeline.schedules.count() == 2
    assert Revision.objects.filter(pipeline=pipeline).count() == 2


def test_a_deleted_schedule_ends(admin_client, make_pipeline, findings):
    pipeline = make_pipeline(schedules=[DAILY])
    assert admin_client.post(change_url(pipeline), again(pipeline, **{"schedules-0-DELETE": "on"})).status_code == 302
    assert current(pipeline) == set()
    assert pipeline.schedules.count() == 1


@pytest.mark.parametrize(
    ("schedule", "field", "words"),
    [
        ({"cron": "61 * * * *"}, "cron", "Minutes go from 0 to 59"),
        ({"cron": "0 6 * * *", "zone": "Mars/Olympus"}, "zone", "not a time zone"),
        ({"cron": "0 0 31 2 *"}, "cron", "never comes"),
        ({"kind": "interval", "every_s": ""}, "every_s", "interval"),
    ],
)
def test_a_rule_that_cannot_be_is_an_error_of_its_field(
    admin_client, source, destination, findings, schedule, field, words
):
    answer = admin_client.post(ADD, typed(source, destination, schedule))
    errors = answer.context["inline_admin_formsets"][0].formset.errors[0]
    assert words in errors[field][0]
    assert not Pipeline.objects.exists()


def test_the_same_schedule_twice_is_refused(admin_client, source, destination, findings):
    answer = admin_client.post(ADD, typed(source, destination, {"cron": "0 6 * * *"}, {"cron": "0  6 * * *"}))
    assert "there twice" in answer.content.decode()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source_table": ""}, "source_table"),
        ({"source_query": "SELECT 1"}, "source_table"),
        ({"retries": 99}, "retries"),
        ({"time_limit_s": 1}, "time_limit_s"),
        ({"target_table": "x" * 64}, "target_table"),
        ({"name": ""}, "name"),
    ],
)
def test_what_is_wrong_in_itself_is_an_error_of_its_field(admin_client, source, destination, findings, changes, field):
    assert field in form_errors(admin_client.post(ADD, typed(source, destination, **changes)))


def test_a_taken_target_names_the_pipeline_that_has_it(admin_client, make_pipeline, findings):
    pipeline = make_pipeline("First")
    data = typed(pipeline.source, pipeline.destination, target_table=pipeline.target_table)
    assert "First" in form_errors(admin_client.post(ADD, data))["target_table"][0]


def test_definite_findings_are_errors_of_their_fields(admin_client, source, destination, findings):
    findings.append(Finding("source_table", "table_not_found", "Table sales.orders was not found."))
    findings.append(Finding("target_schema", "schema_missing", "There is no schema public."))
    errors = form_errors(admin_client.post(ADD, typed(source, destination)))
    assert errors["source_table"] == ["Table sales.orders was not found."]
    assert errors["target_schema"] == ["There is no schema public."]
    assert not Pipeline.objects.exists()


def test_unreachable_systems_warn_and_the_pipeline_is_saved(admin_client, source, destination, findings):
    findings.append(Finding("destination", "unreachable", "Nobody answers on db.", definite=False))
    page = admin_client.post(ADD, typed(source, destination), follow=True).content.decode()
    assert "Not checked: Nobody answers on db." in page
    assert Pipeline.objects.exists()


def test_without_a_worker_the_pipeline_is_saved_with_a_warning(admin_client, source, destination, monkeypatch):
    def silent(pipeline: Pipeline) -> list[Finding]:
        raise lookups.LookupFailed("no_worker", "No worker took up the question.")

    monkeypatch.setattr(lookups, "validate_pipeline", silent)
    page = admin_client.post(ADD, typed(source, destination), follow=True).content.decode()
    assert "No worker took up the question." in page
    assert Pipeline.objects.exists()


def test_a_pipeline_whose_table_has_gone_can_still_be_paused(admin_client, make_pipeline, findings):
    pipeline = make_pipeline()
    findings.append(Finding("source_table", "table_not_found", "The table has gone."))
    page = admin_client.post(change_url(pipeline), again(pipeline, state="paused"), follow=True).content.decode()
    assert "The table has gone." in page
    pipeline.refresh_from_db()
    assert pipeline.state == PipelineState.PAUSED
    assert "source_table" in form_errors(
        admin_client.post(change_url(pipeline), again(pipeline, source_table="sales.x"))
    )


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
class TestWithLiveSystems:
    """The real worker asks the emulator and PostgreSQL."""

    @pytest.fixture(autouse=True)
    def tables(self, emulator):
        tables = EmulatorTables(emulator["rest"])
        rows = pa.table({"id": list(range(30)), "name": [None, *(f"n{i}" for i in range(29))]})
        tables.make("desk.orders", [SchemaField("id", "INT64"), SchemaField("name", "STRING")], rows)
        yield
        tables.close()

    def test_what_exists_is_saved_without_a_warning(self, admin_client, source, living_destination):
        data = typed(source, living_destination, source_table="desk.orders")
        page = admin_client.post(ADD, data, follow=True).content.decode()
        assert Pipeline.objects.exists()
        assert "Not checked" not in page

    def test_what_is_absent_is_named_field_by_field(self, admin_client, source, living_destination):
        data = typed(source, living_destination, source_table="desk.absent", target_schema="nowhere")
        errors = form_errors(admin_client.post(ADD, data))
        assert "desk.absent" in errors["source_table"][0]
        assert "nowhere" in errors["target_schema"][0]

    def test_a_query_that_is_no_select_is_refused(self, admin_client, source, living_destination):
        query = "DELETE FROM desk.orders WHERE TRUE"
        data = typed(source, living_destination, source_table="", source_query=query)
        assert "SELECT" in form_errors(admin_client.post(ADD, data))["source_query"][0]

    def test_an_unreachable_destination_warns(self, admin_client, source, destination):
        data = typed(source, destination, source_table="desk.orders")
        page = admin_client.post(ADD, data, follow=True).content.decode()
        assert Pipeline.objects.exists()
        assert "Not checked" in page

    def test_datasets_tables_preview_schemas_and_checks_answer_the_form(self, admin_client, source, living_destination):
        lake = {"connection": str(source.pk)}
        assert "desk" in admin_client.get(f"{DESK}datasets/", lake).json()["datasets"]
        tables = admin_client.get(f"{DESK}tables/", {**lake, "dataset": "desk"}).json()["tables"]
        assert "orders" in [table["name"] for table in tables]
        preview = admin_client.post(f"{DESK}preview/", {**lake, "table": "desk.orders"}).json()
        assert [column["name"] for column in preview["columns"]] == ["id", "name"]
        assert len(preview["rows"]) == 20
        checked = admin_client.post(f"{DESK}describe/", {**lake, "query": "SELECT id FROM desk.orders"}).json()
        assert [column["name"] for column in checked["columns"]] == ["id"]
        shop = {"connection": str(living_destination.pk)}
        assert "public" in admin_client.get(f"{DESK}schemas/", shop).json()["schemas"]

    def test_a_look_up_that_fails_says_why(self, admin_client, source):
        answer = admin_client.post(f"{DESK}preview/", {"connection": str(source.pk), "table": "desk.absent"})
        assert answer.status_code == 422
        assert "desk.absent" in answer.json()["error"]["message"]


def test_look_ups_need_a_connection_and_something_to_read(admin_client, source):
    assert admin_client.get(f"{DESK}datasets/", {"connection": "nonsense"}).json()["error"]["code"] == "no_connection"
    answer = admin_client.post(f"{DESK}preview/", {"connection": str(source.pk)})
    assert answer.json()["error"]["code"] == "nothing_to_read"
    assert admin_client.get(f"{DESK}preview/", {"connection": str(source.pk)}).status_code == 405


# Schedules while they are typed ---------------------------------------------------------------


def test_a_rule_is_said_in_words_with_its_next_ten_times_in_its_zone_and_in_utc(admin_client):
    rule = {"kind": "cron", "cron": "30 6 * * 1-5", "zone": "Europe/Berlin", "every_s": ""}
    answer = admin_client.get(f"{DESK}schedule/", rule).json()
    assert "06:30" in answer["words"]
    assert len(answer["next"]) == 10
    assert all("06:30 CE" in time["local"] and ":30 UTC" in time["utc"] for time in answer["next"])
    assert "the clocks go" in answer["change"]


def test_an_interval_is_said_in_words(admin_client):
    rule = {"kind": "interval", "cron": "", "zone": "UTC", "every_s": "2700"}
    assert admin_client.get(f"{DESK}schedule/", rule).json()["words"] == "Every 45 minutes"


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"kind": "cron", "cron": "nonsense", "zone": "UTC"}, "cron"),
        ({"kind": "cron", "cron": "* * * * *", "zone": "../etc"}, "zone"),
        ({"kind": "interval", "every_s": "-5", "zone": "UTC"}, "every_s"),
        ({"kind": "interval", "every_s": "9" * 40, "zone": "UTC"}, "every_s"),
        ({"kind": "interval", "every_s": "9" * 5000}, "every_s"),
    ],
)
def test_a_rule_that_cannot_be_says_so(admin_client, rule, field):
    assert admin_client.get(f"{DESK}schedule/", rule).json()["error"]["field"] == field


# Actions --------------------------------------------------------------------------------------


def act(client: Client, name: str, *pipelines: Pipeline, **more: Any) -> Any:
    chosen = {"action": name, "_selected_action": [pipeline.pk for pipeline in pipelines], **more}
    return client.post(f"{LIST}?state=all", chosen, follow=True)


def states() -> list[str]:
    return list(Pipeline.objects.order_by("name").values_list("state", flat=True))


def test_many_pipelines_are_paused_resumed_and_archived(admin_client, make_pipeline):
    pipelines = [make_pipeline("One"), make_pipeline("Two", schedules=[DAILY])]
    act(admin_client, "pause", *pipelines)
    assert states() == ["paused", "paused"]
    act(admin_client, "resume", pipelines[0])
    assert states() == ["active", "paused"]
    act(admin_client, "archive", *pipelines)
    assert states() == ["archived", "archived"]
    assert current(pipelines[1]) == set()


def test_many_pipelines_are_run(admin_client, make_pipeline):
    pipelines = [make_pipeline("One"), make_pipeline("Two"), make_pipeline("Old", state="archived")]
    page = act(admin_client, "run_now", *pipelines).content.decode()
    assert set(Run.objects.values_list("pipeline__name", "trigger")) == {("One", "manual"), ("Two", "manual")}
    assert "Old is archived." in page


def test_many_pipelines_get_one_schedule_on_a_page_of_its_own(admin_client, make_pipeline):
    pipelines = [make_pipeline("One", schedules=[DAILY]), make_pipeline("Two")]
    page = act(admin_client, "set_schedule", *pipelines).content.decode()
    assert "One" in page
    assert "Two" in page
    rule = {"schedule-kind": "cron", "schedule-cron": "0 5 * * *", "schedule-zone": "UTC", "schedule-every_s": ""}
    wrong = act(admin_client, "set_schedule", *pipelines, apply="1", **{**rule, "schedule-cron": "0 99 * * *"})
    assert "Hours go from 0 to 23" in wrong.content.decode()
    assert current(pipelines[0]) == {DAILY}
    act(admin_client, "set_schedule", *pipelines, apply="1", **rule)
    assert [current(pipeline) for pipeline in pipelines] == [{ScheduleSpec("cron", "0 5 * * *")}] * 2
    act(admin_client, "set_schedule", *pipelines, remove="1")
    assert [current(pipeline) for pipeline in pipelines] == [set(), set()]


def test_an_archived_pipeline_gets_no_schedule(admin_client, make_pipeline):
    pipelines = [make_pipeline("One"), make_pipeline("Two")]
    services.archive(pipelines[1:], by=None)
    rule = {"schedule-kind": "cron", "schedule-cron": "0 5 * * *", "schedule-zone": "UTC", "schedule-every_s": ""}
    chosen = {"action": "set_schedule", "_selected_action": [pipeline.pk for pipeline in pipelines]}
    page = admin_client.post(f"{LIST}?state=all", {**chosen, **rule, "apply": "1"}, follow=True)
    assert "1 pipeline given the schedule" in page.content.decode()
    assert [len(current(pipeline)) for pipeline in pipelines] == [1, 0]


@pytest.mark.parametrize("address", ["duplicate", "archive", "run-now"])
def test_reading_an_address_only_asks(admin_client, make_pipeline, address):
    pipeline = make_pipeline()
    page = admin_client.get(f"{LIST}{pipeline.pk}/{address}/")
    assert "<form" in page.content.decode()
    assert (Pipeline.objects.count(), Run.objects.count(), states()) == (1, 0, ["active"])


def test_a_duplicate_is_paused_and_opened(admin_client, make_pipeline):
    pipeline = make_pipeline("Orders", schedules=[DAILY])
    answer = admin_client.post(f"{LIST}{pipeline.pk}/duplicate/")
    copy = Pipeline.objects.exclude(pk=pipeline.pk).get()
    assert answer.headers["Location"] == change_url(copy)
    assert (copy.state, current(copy)) == (PipelineState.PAUSED, {DAILY})
    assert copy.target_table != pipeline.target_table


def test_one_pipeline_is_archived_and_run(admin_client, make_pipeline):
    pipeline = make_pipeline()
    answer = admin_client.post(f"{LIST}{pipeline.pk}/run-now/")
    assert answer.headers["Location"] == Run.objects.get(pipeline=pipeline).get_absolute_url()
    admin_client.post(f"{LIST}{pipeline.pk}/archive/")
    assert states() == ["archived"]
    answer = admin_client.post(f"{LIST}{pipeline.pk}/run-now/", follow=True)
    assert "is archived" in answer.content.decode()
    assert Run.objects.count() == 1


def test_an_address_without_its_pipeline_is_not_found(admin_client):
    for address in ("duplicate", "archive", "run-now"):
        assert admin_client.post(f"{LIST}nonsense/{address}/").status_code == 404


# Deletion -------------------------------------------------------------------------------------


def test_a_pipeline_that_never_ran_is_deleted_whole(admin_client, make_pipeline):
    pipeline = make_pipeline(schedules=[DAILY])
    url = reverse("admin:pipelines_pipeline_delete", args=[pipeline.pk])
    assert admin_client.post(url, {"post": "yes"}).status_code == 302
    assert not Pipeline.objects.exists()
    assert not CrontabSchedule.objects.exists()


def test_a_pipeline_with_runs_is_kept_and_archiving_is_offered(admin_client, make_pipeline):
    pipeline, other = make_pipeline("Orders"), make_pipeline("Idle")
    admin_client.post(f"{LIST}{pipeline.pk}/run-now/")
    url = reverse("admin:pipelines_pipeline_delete", args=[pipeline.pk])
    for page in (admin_client.get(url), admin_client.post(url, {"post": "yes"})):
        assert "Archive it instead" in page.content.decode()
    page = act(admin_client, "delete_selected", pipeline, other, post="yes").content.decode()
    assert "Orders</a>: 1 run<" in page
    assert Pipeline.objects.count() == 2


# Looking --------------------------------------------------------------------------------------


def test_the_list_says_what_moves_where_and_when_in_few_queries(
    admin_client, make_pipeline, django_assert_max_num_queries
):
    for number in range(5):
        make_pipeline(f"Pipeline {number}", schedules=[DAILY])
    make_pipeline("Retired", state="archived")
    with django_assert_max_num_queries(16):
        page = admin_client.get(LIST).content.decode()
    assert "Lake: sales.pipeline_0" in page
    assert "Shop: public.pipeline_0" in page
    assert "06:30" in page
    assert "Retired" not in page
    assert "Retired" in admin_client.get(LIST, {"state": "archived"}).content.decode()
    assert "Pipeline 3" not in admin_client.get(LIST, {"q": "Pipeline 2"}).content.decode()


def test_revisions_are_listed_and_can_be_read(admin_client, make_pipeline, findings):
    pipeline = make_pipeline()
    admin_client.post(change_url(pipeline), again(pipeline, retries=5))
    page = admin_client.get(change_url(pipeline)).content.decode()
    assert "Revision 1" in page
    assert "Revision 2" in page
    url = reverse("admin:pipelines_pipeline_revision", args=[pipeline.pk, 2])
    assert "&quot;retries&quot;: 5" in admin_client.get(url).content.decode()
    assert admin_client.get(url, {"format": "json"}).json()["retries"] == 5
    assert admin_client.get(url.replace("/2/", "/9/")).status_code == 404


def test_text_from_elsewhere_is_never_markup(admin_client, make_pipeline):
    evil = "<script>alert(1)</script>"
    pipeline = make_pipeline(evil, target_table="t")
    Connection.objects.filter(pk=pipeline.source_id).update(name=evil)
    for url in (LIST, change_url(pipeline), reverse("admin:pipelines_pipeline_revision", args=[pipeline.pk, 1])):
        assert evil not in admin_client.get(url).content.decode()


def test_the_source_list_offers_only_what_can_be_read(admin_client, source, destination):
    page = admin_client.get(ADD)
    form = page.context["adminform"].form
    assert list(form.fields["source"].queryset) == [source]
    assert list(form.fields["destination"].queryset) == [destination]


def test_a_log_entry_says_who_changed_what(admin_client, make_pipeline, findings):
    pipeline = make_pipeline()
    admin_client.post(change_url(pipeline), again(pipeline, retries=5))
    entry = LogEntry.objects.latest("action_time")
    assert entry.user == User.objects.get(username="admin")
    assert "Retries" in entry.get_change_message()
