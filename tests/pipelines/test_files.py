"""Definitions as a file: written, read, compared and applied, all or nothing."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.core.management.base import CommandError
from jsonschema import Draft202012Validator

from pipelines import calendars, lookups, queries, services
from pipelines.files import fields, text
from pipelines.files.applying import Overtaken, apply, plan
from pipelines.files.exporting import export
from pipelines.files.schema import schema
from pipelines.files.work import Wish
from pipelines.forms.pipelines import PipelineForm
from pipelines.models import Calendar, Connection, Pipeline, PipelineState, Pool, Priority, Revision
from pipelines.specs import ScheduleSpec

pytestmark = pytest.mark.django_db
DAILY = ScheduleSpec("cron", "30 6 * * 1-5", "Europe/Berlin")
QUARTER = ScheduleSpec("interval", every_s=900)
WINDOW = ScheduleSpec(
    "cron",
    "0 * * * *",
    "Europe/Berlin",
    # The second of two: a wall time without an offset would be the first.
    active_from=datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    active_until=datetime(2027, 6, 1, 4, 0, 5, tzinfo=UTC),
    calendar="off",
    jitter_s=30,
)
QUERY = "SELECT id, -- no: 1e3\n\tamount \nFROM `sales.orders`\n\n  WHERE day > '2024-01-01'"


@pytest.fixture
def everything(make_pipeline: Any, source: Connection, destination: Connection, operator: User) -> list[Pipeline]:
    """Pipelines of which each field says something in one or the other, and one in which none does."""
    operator.user_permissions.add(Permission.objects.get(codename="sql_pipeline"))
    pool = Pool(name="no", slots=3, description="Shared: by all\nof them")
    services.save_pool(pool)
    closed = ["2026-12-24", "every Sun 02:00-04:00 no: #1"]
    calendars.save_calendar(Calendar(name="off", zone="Asia/Kolkata", closed=closed, description="~"), by=None)
    Connection.objects.filter(pk=source.pk).update(max_running=4)
    Connection.objects.filter(pk=destination.pk).update(
        options={**destination.options, "sslrootcert": "-----BEGIN-----\nMIIB\n-----END-----"}
    )
    full = make_pipeline(
        "1e3", schedules=[DAILY, QUARTER, WINDOW], source_table="", source_query=QUERY, description="# über\r\nzwei",
        state="paused", target_schema="on", target_table="orders", adopt_target=True, write_disposition="merge",
        merge_key=["id", "day"], cursor_column="2024-01-01", incremental=True, lookback=60, initial_value="2024-01-01",
        guard_zero_rows=False, guard_shrink_percent=None, held_days=3, undo_depth=2,
        sql_before="SELECT 1", sql_after="off; SELECT 2;", sql_role="yes", sql_limit_s=9, load_method="staged",
        text_policy="strip", schema_policy="freeze",
        quarantine=True, quarantine_rows=None, quarantine_percent=5, quarantine_beyond="hold", quarantine_days=7,
        column_rules={"yes": {"skip": True}, "amount": {"type": "numeric(12,2)"}}, primary_key=["id", "day"],
        indexes=[{"columns": ["day", "id"], "unique": True}, {"columns": ["null"], "unique": False}],
        partition_column="day", partition_unit="day", analyze="full", overlap="queue", missed="all", retries=0,
        time_limit_s=60, priority=Priority.HIGH, pool=pool, retry_delay_s=7, give_up_after_s=600,
        run_budget_bytes=10**9, month_budget_bytes=2**40, parameters={"day": {"type": "DATE", "default": "2024-01-01"}},
    )  # fmt: skip
    appends = make_pipeline(
        "On time", write_disposition="append", incremental=True, cursor_column="at", settle=5, schedules=[DAILY],
        watch_every_s=300, row_filter="day > 'no'",
    )  # fmt: skip
    polls = make_pipeline(
        "Polls", write_disposition="append", incremental=True, cursor_column="at", mode="realtime", poll_every_s=2,
        stream_every_s=30, force_read_every=99,
    )  # fmt: skip
    marks = make_pipeline("Marks", write_disposition="merge", merge_key=["id"], deletes="soft")
    make_pipeline("Retired", state="archived")
    return [full, appends, polls, marks, make_pipeline("Plain")]


def empty_the_installation() -> None:
    Pipeline.objects.update(revision=None)
    for model in (Pipeline, Connection, Pool, Calendar):
        model.objects.all().delete()


def applied(content: str, tmp_path: Path, *options: str, **more: Any) -> str:
    file = tmp_path / "definitions.yaml"
    file.write_text(content)
    out = io.StringIO()
    call_command("apply", str(file), "--yes", *options, stdout=out, no_color=True, **more)
    return out.getvalue()


def refused(content: str, tmp_path: Path, *options: str) -> str:
    with pytest.raises(CommandError) as error:
        applied(content, tmp_path, *options)
    assert error.value.returncode == 2
    return str(error.value)


# There and back -------------------------------------------------------------------------------


def test_each_field_says_something_in_one_of_them(everything):
    told = {name for pipeline in yaml.safe_load(export())["pipelines"].values() for name in pipeline}
    usual = {
        field.name: field.get_default() for field in Pipeline._meta.fields if field.name in PipelineForm.Meta.fields
    }
    said = {name for name, value in usual.items() if any(getattr(each, name) != value for each in everything)}
    assert said == set(PipelineForm.Meta.fields)
    assert said - told == {"name"}


def test_an_export_applied_to_an_empty_installation_exports_the_same_bytes(everything, tmp_path):
    before = export()
    definitions = {each.name: services.definition_of(each) for each in everything}
    empty_the_installation()
    said = applied(before, tmp_path)
    assert "9 to add, 0 to change, 0 to archive" in said
    assert export() == before
    for pipeline in Pipeline.objects.all():
        definition, old = services.definition_of(pipeline), definitions[pipeline.name]
        for end in ("source", "destination"):
            del definition[end]["connection"], old[end]["connection"]
        assert definition == old
        assert pipeline.revision.number == 1


def test_applying_twice_changes_nothing_and_says_so(everything, tmp_path):
    content = export()
    revisions = Revision.objects.count()
    schedules = list(queries.current_schedules().values_list("pk"))
    said = applied(content, tmp_path)
    assert "Nothing to change: 9 as the file says already." in said
    assert (Revision.objects.count(), list(queries.current_schedules().values_list("pk"))) == (revisions, schedules)
    assert Pipeline.objects.get(name="1e3").description == "# über\r\nzwei"  # written otherwise, and the same


def test_a_file_holds_every_field_of_the_form():
    assert {field.name for field in fields.PIPELINE} == {
        *PipelineForm.Meta.fields,
        "schedules",
        "dependencies",
        "checks",
    } - {"name"}


def test_a_file_is_short_readable_and_without_secrets(everything):
    content = export()
    assert "s3cret" not in content
    assert "password" not in content
    assert (
        "  Plain:\n    source: Lake\n    source_table: sales.plain\n    destination: Shop\n    target_table: plain\n"
    ) in content
    assert "source_query: |-\n      SELECT id, -- no: 1e3\n      \tamount \n" in content
    assert "      - cron: 30 6 * * 1-5\n        zone: Europe/Berlin\n      - every_s: 900\n" in content
    assert "merge_key: [id, day]" in content
    assert "Retired" not in content
    assert content.index("  Lake:") < content.index("  Shop:")


def test_other_readers_of_yaml_read_the_same(everything):
    """PyYAML's own loader goes by YAML 1.1, where no, on and dates without quotes are something else."""
    content = export()
    assert yaml.safe_load(content) == text.read(content).data


def test_an_export_keeps_to_its_schema(everything):
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(yaml.safe_load(export()))
    out = io.StringIO()
    call_command("export", "--schema", stdout=out)
    told = json.loads(out.getvalue())["properties"]["pipelines"]["additionalProperties"]["properties"]
    assert told["retries"]["maximum"] == 20
    assert told["retries"]["default"] == 3
    assert told["write_disposition"]["enum"] == ["replace", "append", "merge", "history"]
    assert told["missed"]["title"] == "Missed ticks"


TEXTS = [
    "no", "1e3", "0o7", "12:30:45", "2024-01-01", "null", "~", "", "y", ".5", "1_000", "a: b", "- a", "#x", " a", "a\n",
    "\n a\n\n", "a \n\tb\n", "\ta\nb", "a\r\nb", "x\x85y\nz", "\u2028\n", "é\n ü", "|\n>", "a\x07b\nc",
    "---\n...", "%a\n", "'\"\n", "<<", "=", "0x1F", "+1", "1.", "1:2", "!a", "?", "? a", "a #b", "a:", "[", "{}",
]  # fmt: skip


def test_every_text_survives():
    dice = random.Random(7)
    pieces = ["a", " ", "\n", "\t", ":", "#", "-", "'", '"', "é", "%", "\\", "  ", "|", "\x85", "\x07", "😀"]
    texts = TEXTS + ["".join(dice.choices(pieces, k=dice.randint(1, 12))) for _ in range(400)]
    data = {"texts": texts, "names": dict.fromkeys(texts, True), "deep": {"er": {each: each for each in texts}}}
    content = text.write(data, "Head")
    assert text.read(content).data == data
    assert yaml.safe_load(content) == data


def test_what_looks_like_something_else_is_text_when_read():
    read = text.read("a: no\nb: 2024-01-01\nc: 1e3\nd: 12:30:45\ne: true\nf: 0x1F\ng: 7\nh:\n").data
    assert read == {
        "a": "no",
        "b": "2024-01-01",
        "c": "1e3",
        "d": "12:30:45",
        "e": True,
        "f": "0x1F",
        "g": 7,
        "h": None,
    }


# Plans ----------------------------------------------------------------------------------------


def test_a_plan_tells_what_changes_in_the_words_of_the_form(everything, tmp_path):
    content = export().replace("retries: 0", "retries: 4").replace("overlap: queue", "overlap: skip")
    rule = "      - cron: 30 6 * * 1-5\n        zone: Europe/Berlin\n      - every_s: 900\n"
    content = content.replace(rule, "      - cron: '@daily'\n      - every_s: 900\n")
    content = content.replace("\tamount \n", "\tamount, vat\n").replace("type: numeric(12,2)", "type: text")
    said = applied(content, tmp_path)
    for line in (
        "~ pipeline 1e3\n",
        "    ~ Retries: 0 → 4\n",
        "    ~ Overlap: Every tick waits its turn → Skip ticks while a run is active\n",
        "    - Schedule: At 06:30, Monday through Friday (Europe/Berlin)\n",
        "    + Schedule: At 00:00, every day (UTC)\n",
        "    ~ Column amount: as numeric(12,2) → as text\n",
        "        -\tamount \n        +\tamount, vat\n",
        "0 to add, 1 to change, 0 to archive; 8 as the file says already.\n",
    ):
        assert line in said
    pipeline = Pipeline.objects.get(name="1e3")
    assert (pipeline.retries, pipeline.revision.number, pipeline.revision.created_by) == (4, 2, None)
    assert "\tamount, vat\n" in pipeline.source_query


def test_check_says_by_its_exit_status_whether_there_are_differences(everything, tmp_path):
    content = export()
    assert "Nothing to change" in applied(content, tmp_path, "--check")
    with pytest.raises(SystemExit) as ended:
        applied(content.replace("retries: 0", "retries: 4"), tmp_path, "--check")
    assert ended.value.code == 1
    assert Pipeline.objects.get(name="1e3").retries == 0


def test_nothing_is_changed_without_a_yes(everything, tmp_path, monkeypatch):
    file = tmp_path / "d.yaml"
    file.write_text(export().replace("retries: 0", "retries: 4"))
    with pytest.raises(CommandError, match="say --yes") as error:
        call_command("apply", str(file), stdout=io.StringIO())
    assert error.value.returncode == 2
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, retries in (("no", 0), ("yes", 4)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        if answer == "yes":
            call_command("apply", str(file), stdout=io.StringIO())
        else:
            with pytest.raises(SystemExit):
                call_command("apply", str(file), stdout=io.StringIO())
        assert Pipeline.objects.get(name="1e3").retries == retries


def test_a_plan_that_was_overtaken_is_not_applied(everything, operator):
    wish = Wish(text.read(export().replace("retries: 0", "retries: 4")))
    planned = plan(wish)
    other = Pipeline.objects.get(name="1e3")
    other.held_days = 9
    services.save_pipeline(other, schedules=None, by=operator)
    with pytest.raises(Overtaken):
        apply(wish, planned)
    assert Pipeline.objects.get(name="1e3").retries == 0


def test_no_file_speaks_to_the_terminal(everything, tmp_path):
    said = applied(export().replace("  Plain:\n", '  Plain:\n    description: "\\e[2Jgone"\n'), tmp_path)
    assert "+ Description" not in said
    assert "~ Description: empty → \N{REPLACEMENT CHARACTER}[2Jgone\n" in said


# What stays -----------------------------------------------------------------------------------


def test_pipelines_that_are_not_in_the_file_stay_unless_they_are_to_be_archived(everything, tmp_path):
    content = export()
    cut = content[: content.index("  Plain:")]
    assert "Nothing to change" in applied(cut, tmp_path)
    assert "- pipeline Plain (archived: not in the file)" in applied(cut, tmp_path, "--archive-missing")
    assert Pipeline.objects.get(name="Plain").state == PipelineState.ARCHIVED
    assert "Nothing to change" in applied(cut, tmp_path, "--archive-missing")


def test_a_pause_stays_unless_the_file_says_otherwise(everything, operator, tmp_path):
    content = export()
    services.pause(Pipeline.objects.filter(name="Plain"), by=operator)
    assert "Nothing to change" in applied(content, tmp_path)
    said = applied(content.replace("  Plain:\n", "  Plain:\n    state: active\n"), tmp_path)
    assert "~ State: Paused → Active" in said
    services.archive(Pipeline.objects.filter(name="Plain"), by=operator)
    assert "~ State: Archived → Active" in applied(content, tmp_path)


def test_stored_secrets_stay_and_missing_ones_are_named(everything, destination, tmp_path):
    said = applied(export().replace("user: mover", "user: shaker"), tmp_path)
    assert "~ User: mover → shaker" in said
    assert "! Lake has no secrets yet (Service account key)" in said
    destination.refresh_from_db()
    assert (destination.options["user"], destination.secrets) == ("shaker", {"password": "s3cret"})


def test_no_file_sends_stored_secrets_to_another_address(everything, destination, tmp_path):
    content = export().replace("host: 127.0.0.1", "host: evil.example.com").replace("retries: 0", "retries: 4")
    said = refused(content, tmp_path)
    line = content[: content.index("evil")].count("\n") + 1
    assert f"definitions.yaml:{line}: connections/Shop/options/host: Shop has secrets" in said
    assert "[secrets_elsewhere]" in said
    assert Pipeline.objects.get(name="1e3").retries == 0
    assert "~ Retries: 0 → 4" in applied(content, tmp_path, "--only", "pipelines", "pools")
    destination.refresh_from_db()
    assert destination.options["host"] == "127.0.0.1"


def test_what_was_called_otherwise_is_renamed_once(everything, tmp_path):
    pipeline = Pipeline.objects.get(name="Plain")
    content = export().replace("  Plain:\n", "  Fancy:\n    was: Plain\n")
    content = content.replace("  Lake:\n", "  Ocean:\n    was: Lake\n").replace("source: Lake", "source: Ocean")
    said = applied(content, tmp_path)
    assert "~ pipeline Fancy (called Plain so far)" in said
    assert "~ connection Ocean (called Lake so far)" in said
    pipeline.refresh_from_db()
    assert (pipeline.name, pipeline.source.name) == ("Fancy", "Ocean")
    assert "Nothing to change" in applied(content, tmp_path)


def test_what_is_there_under_both_names_is_two_things(everything, tmp_path):
    content = export().replace(
        "  Shop:\n", "  Ocean:\n    was: Lake\n    kind: bigquery\n    options:\n      project: p\n\n  Shop:\n"
    )
    assert "+ connection Ocean" in applied(content, tmp_path)
    assert set(Connection.objects.values_list("name", flat=True)) == {"Lake", "Ocean", "Shop"}


def test_tables_may_go_from_one_pipeline_to_another(everything, tmp_path):
    content = export()
    content = content.replace("target_table: plain", "target_table: p2").replace(
        "target_table: on_time", "target_table: plain"
    )
    assert "2 to change" in applied(content, tmp_path)
    assert Pipeline.objects.get(name="On time").target_table == "plain"


# What is refused ------------------------------------------------------------------------------


HEAD = """\
version: 1
pipelines:
  A:
    source: Lake
    destination: Shop
    source_table: a.b
    target_table: a
"""
LINK = "version: 1\nconnections:\n  L:\n    kind: "
AT = "    schedules:\n      - "


@pytest.mark.parametrize(
    ("content", "place", "code"),
    [
        (HEAD + "    retries: many\n", ":8: pipelines/A/retries: ", "wrong_kind"),
        (HEAD + "    retries: 21\n", ":8: pipelines/A/retries: ", "max_value"),
        (HEAD + "    retires: 2\n", ":8: pipelines/A/retires: ", "unknown_field"),
        (HEAD + "    initial_value: 2024\n", ":8: pipelines/A/initial_value: ", "wrong_kind"),
        (HEAD + "    overlap: never\n", ":8: pipelines/A/overlap: ", "invalid_choice"),
        (HEAD + "    retries: 1\n    retries: 2\n", ":9: pipelines/A/retries: ", "twice"),
        (HEAD + "    pool: none such\n", ":8: pipelines/A/pool: ", "no_such_name"),
        (HEAD + "    write_disposition: merge\n", ":3: pipelines/A/merge_key: ", "merge_key_missing"),
        (HEAD + AT + "cron: 61 * * * *\n", ":9: pipelines/A/schedules/0/cron: ", "bad_rule"),
        (HEAD + AT + "every_s: 5\n        calendar: Off\n", ":10: pipelines/A/schedules/0/calendar: ", "no_such_name"),
        (HEAD + AT + "every_s: 5\n        active_from: soon\n", ":10: pipelines/A/schedules/0/active_from: ",
         "bad_rule"),
        (HEAD + AT + "every_s: 5\n        jitter_s: 99999\n", ":10: pipelines/A/schedules/0/jitter_s: ", "max_value"),
        ("version: 1\ncalendars:\n  Off:\n    closed: [never]\n", ":4: calendars/Off/closed: ", "bad_rule"),
        (HEAD + AT + "cron: '@daily'\n        every_s: 5\n", ":9: pipelines/A/schedules/0: ", "bad_rule"),
        (HEAD + AT + "every_s: 5\n      - every_s: 5\n", ":10: pipelines/A/schedules/1: ", "twice"),
        (HEAD + AT + "cron: * * * * *\n", ":9: ", "bad_yaml"),
        (HEAD.replace("source: Lake", "source: Shop"), ":4: pipelines/A/source: ", "not_a_source"),
        (HEAD.replace("source: Lake", "source: Laek"), ":4: pipelines/A/source: ", "no_such_name"),
        (HEAD.replace("    source_table: a.b\n", ""), ":3: pipelines/A/source_table: ", "table_or_query"),
        (HEAD.replace("    target_table: a\n", ""), ":3: pipelines/A: ", "required"),
        (HEAD.replace("target_table: a", "target_table: plain"), ":7: pipelines/A/target_table: ", "target_taken"),
        (HEAD.replace("version: 1\n", ""), ":1: ", "required"),
        (HEAD.replace("version: 1", "version: 2"), ":1: version: ", "invalid_choice"),
        ("version: 1\nconnections: &a\n  L: *a\n", ":2: ", "bad_yaml"),
        ("version: 1\nconnections: !!python/none\n", ":2: connections: ", "bad_yaml"),
        (LINK + "postgres\n    options: {host: a, dbname: b, user: c, password: x}\n",
         ":5: connections/L/options/password: ", "secret_in_file"),
        (LINK + "mysql\n    options: {}\n", ":4: connections/L/kind: ", "invalid_choice"),
        (LINK.replace("L:", "Shop:") + "bigquery\n    options: {project: p}\n",
         ":4: connections/Shop/kind: ", "kind_stays"),
        ("version: 1\npools:\n  7: {slots: 1}\n", ":3: pools: ", "bad_yaml"),
        ("version: 1\npools:\n  A: {slots: 0}\n", ":3: pools/A/slots: ", "min_value"),
        pytest.param("[" * 2000, ":1: ", "bad_yaml", id="too deep"),
        ("version: 1\n---\nversion: 1\n", ":2: ", "bad_yaml"),
        ("version: 1\nx: \x01\n", ":1: ", "bad_yaml"),
        (HEAD + '    description: "\\0"\n', ":8: pipelines/A/description: ", "bad_yaml"),
        (HEAD + '    description: "\\ud800"\n', ":8: pipelines/A/description: ", "bad_yaml"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_place_and_code(make_pipeline, tmp_path, content, place, code):
    make_pipeline("Plain")
    before = export()
    said = refused(content, tmp_path)
    assert f"definitions.yaml{place}" in said
    assert f"[{code}]" in said
    assert export() == before


def test_a_tab_is_told_as_what_it_is(db, tmp_path):
    said = refused("version: 1\npools:\n  Heavy:\n\tslots: 1\n", tmp_path)
    assert "definitions.yaml:4: " in said
    assert "Indent by spaces" in said


def test_a_bad_file_is_refused_with_all_that_is_wrong_and_nothing_of_it_is_done(everything, tmp_path):
    content = HEAD + "    retires: 2\n    held_days: 0\npools:\n  Fine: {}\n"
    said = refused(content, tmp_path)
    assert "Did you mean retries?" in said
    assert "held_days" in said
    said = refused(
        HEAD + "  B:\n    source: X\n    destination: Y\n    target_table: b\npools:\n  Fine: {}\n", tmp_path
    )
    assert "There is no connection called X." in said
    assert "There is no connection called Y." in said
    assert not Pool.objects.filter(name="Fine").exists()
    assert not Pipeline.objects.filter(name="A").exists()


def test_a_file_that_is_not_there_and_a_user_who_is_not_are_told(tmp_path, db):
    for arguments in ([str(tmp_path / "none")], [str(Path(__file__)), "--user", "nobody"]):
        with pytest.raises(CommandError) as error:
            call_command("apply", *arguments)
        assert error.value.returncode == 2


# Who does it ----------------------------------------------------------------------------------


def test_a_user_needs_the_permissions_of_what_changes_only(everything, operator, tmp_path):
    content = export().replace("retries: 0", "retries: 4")
    assert "olga may not change pipelines, and 1e3 would be." in refused(content, tmp_path, "--user", "olga")
    assert Pipeline.objects.get(name="1e3").retries == 0
    operator.user_permissions.add(Permission.objects.get(codename="change_pipeline"))
    applied(content, tmp_path, "--user", "olga")
    revision = Pipeline.objects.get(name="1e3").revision
    assert (revision.number, revision.created_by) == (2, operator)
    entry = LogEntry.objects.latest("pk")
    assert (entry.user, entry.object_repr, entry.change_message) == (operator, "1e3", "Applied from definitions.yaml.")
    more = content.replace("slots: 3", "slots: 5")
    assert "may not change pools" in refused(more, tmp_path, "--user", "olga")
    User.objects.filter(pk=operator.pk).update(is_active=False)
    assert "no active user" in refused(content, tmp_path, "--user", "olga")


# The live systems -----------------------------------------------------------------------------


NO_TABLE = lookups.Finding(
    code="not_found", message="There is no such table.", hint="", field="source_table", definite=True
)


def test_with_live_what_the_systems_refuse_is_refused_at_its_line(everything, tmp_path, monkeypatch):
    asked = []

    def validate(pipeline: Pipeline) -> list[lookups.Finding]:
        """Stands for the systems."""
        asked.append(pipeline.name)
        pipeline.source_columns = [{"name": "id", "type": "INT64"}]
        return [NO_TABLE] if bad else []

    monkeypatch.setattr(lookups, "validate_pipeline", validate)
    content = export().replace("sales.plain", "sales.plane").replace("retries: 0", "retries: 4")
    bad = True
    said = refused(content, tmp_path, "--live")
    line = content[: content.index("sales.plane")].count("\n") + 1
    assert f":{line}: pipelines/Plain/source_table: There is no such table. [not_found]" in said
    bad = False
    applied(content, tmp_path, "--live")
    assert asked == ["Plain", "Plain"]  # the other change moves nothing
    assert Pipeline.objects.get(name="Plain").source_columns == [{"name": "id", "type": "INT64"}]


def test_with_live_and_nobody_to_answer_it_says_so(everything, tmp_path, monkeypatch):
    def nobody(pipeline: Pipeline) -> None:
        raise lookups.LookupFailed("no_worker", "No worker took up the question.", "Start lookups.")

    monkeypatch.setattr(lookups, "validate_pipeline", nobody)
    said = applied(export().replace("sales.plain", "sales.plane"), tmp_path, "--live")
    assert "! Plain: not checked: No worker took up the question. Start lookups." in said


# As people call it ----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_from_a_shell(make_pipeline, tmp_path):
    make_pipeline()
    name = settings.DATABASES["default"]["NAME"]
    environment = {**os.environ, "DATABASE_URL": f"{os.environ['DATABASE_URL'].rsplit('/', 1)[0]}/{name}"}

    def manage(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )

    exported = manage("export")
    assert (exported.returncode, exported.stderr) == (0, "")
    changed = exported.stdout + "    retries: 1\n"
    done = manage("apply", "-", "--yes", given=changed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "~ Retries: 3 → 1" in done.stdout
    assert Pipeline.objects.get().retries == 1
    bad = manage("apply", "-", "--yes", given=changed + "    nonsense: 1\n")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "standard input:" in bad.stderr
    assert "Traceback" not in bad.stderr
