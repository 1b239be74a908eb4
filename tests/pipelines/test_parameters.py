"""Declaring parameters and names that follow the run: in the form, in revisions, in files; refused field by field."""

from __future__ import annotations

import io

import pytest
from django.core.management import call_command
from django.urls import reverse

from pipelines import objections, revisions, services
from pipelines.forms.parameters import ParametersField
from pipelines.forms.pipelines import UncheckedForm
from pipelines.models import Pipeline, Revision

LINES = 'country STRING = DE\nday DATE\ntags ARRAY<STRING> = ["a", "b"]\nempty STRING = ""'
DECLARED = {
    "country": {"type": "STRING", "default": "DE"},
    "day": {"type": "DATE"},
    "tags": {"type": "ARRAY<STRING>", "default": ["a", "b"]},
    "empty": {"type": "STRING", "default": ""},
}
QUERY = "SELECT @country AS c"


def told(pipeline) -> list[tuple[str, str]]:
    return [(refused.code, refused.field) for refused in objections.against(pipeline)]


def test_lines_become_parameters_and_lines_again():
    field = ParametersField()
    assert field.to_python(LINES) == DECLARED
    assert field.prepare_value(DECLARED) == LINES
    assert not field.has_changed(DECLARED, LINES)


@pytest.mark.parametrize(
    "line",
    ["country", "country TEXT", "country STRING DE", "n INT64 = x", "a STRING\na STRING", "a ARRAY<INT64> = 1,2"],
)
def test_a_line_that_is_none_is_refused_in_words(line, make_pipeline):
    form = UncheckedForm({"parameters": line}, instance=make_pipeline())
    assert form.errors["parameters"]


def test_the_forms_help_shows_an_example_that_works():
    text = ParametersField().help_text
    assert "country STRING = DE" in text
    assert ParametersField().to_python('tags ARRAY<STRING> = ["a", "b"]')


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"parameters": {"a": {"type": "X"}}}, ("parameter", "parameters")),
        ({"target_table": "t_{country"}, ("name_template", "target_table")),
        ({"target_table": "t_{run_id}"}, ("name_template", "target_table")),
        ({"target_schema": "s_{other}"}, ("name_template", "target_schema")),
        ({"target_table": "t_{day}"}, ("parameter", "parameters")),
        ({"target_table": "t_{tags}"}, ("name_template", "target_table")),
        ({"parameters": {"country": {"type": "STRING", "default": "a/b"}}, "target_table": "t_{country}"},
         ("name_value", "parameters")),
        ({"parameters": {"country": {"type": "STRING", "default": "x" * 62}}, "target_table": "t_{country}"},
         ("name_too_long", "target_table")),
        ({"target_table": "t_{country}", "write_disposition": "append", "incremental": True, "cursor_column": "at"},
         ("name_template", "target_table")),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_its_field(make_pipeline, changes, expected):
    pipeline = make_pipeline(source_table="", source_query=QUERY, parameters=DECLARED)
    assert told(pipeline) == []
    for name, value in changes.items():
        setattr(pipeline, name, value)
    assert expected in told(pipeline)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("events_{data_interval_start:%Y%m}", "events_202601"),
        ("events_202601", "events_{data_interval_start:%Y%m}"),
        ("events_{data_interval_start:%Y%m}", "events_{data_interval_end:%Y%m}"),
    ],
)
def test_two_pipelines_cannot_come_to_write_the_same_table(make_pipeline, one, other):
    make_pipeline("One", target_table=one, source_table="d.t")
    pipeline = make_pipeline("Other", target_table="elsewhere")
    pipeline.target_table = other
    assert ("target_taken", "target_table") in told(pipeline)
    pipeline.target_schema = "sales"
    assert told(pipeline) == []


def test_a_declaration_is_part_of_the_revision_and_of_its_fingerprint(make_pipeline):
    pipeline = make_pipeline(source_table="", source_query=QUERY)
    before = pipeline.revision
    pipeline.parameters = {"country": {"type": "string", "default": "DE"}}
    after = services.save_pipeline(pipeline, schedules=None, by=None)
    assert after.number == before.number + 1
    assert after.fingerprint != before.fingerprint
    assert after.definition["parameters"] == {"country": {"type": "STRING", "default": "DE"}}
    (change,) = revisions.changes(before, after)
    assert (change.label, change.after) == ("Parameter country", 'STRING, "DE"')
    revisions.revert(revisions.prepare(before), by=None)
    pipeline.refresh_from_db()
    assert pipeline.parameters == {}
    assert pipeline.revision.fingerprint == before.fingerprint


def test_definitions_from_before_parameters_keep_their_fingerprint(make_pipeline):
    definition = make_pipeline().revision.definition
    old = {name: value for name, value in definition.items() if name != "parameters"}
    assert services.fingerprint_of(old) == services.fingerprint_of(definition)


def test_files_hold_parameters_in_any_spelling_and_settle(make_pipeline, tmp_path):
    make_pipeline(source_table="", source_query=QUERY, parameters=DECLARED, target_table="t_{country}")
    out = io.StringIO()
    call_command("export", stdout=out)
    file = tmp_path / "definitions.yaml"
    file.write_text(out.getvalue().replace("type: DATE", "type: date"))
    again = io.StringIO()
    call_command("apply", str(file), "--yes", stdout=again, no_color=True)
    assert "Nothing to change" in again.getvalue()
    file.write_text(out.getvalue().replace("default: DE", "default: FR"))
    call_command("apply", str(file), "--yes", stdout=again, no_color=True)
    assert 'STRING, "DE" → STRING, "FR"' in again.getvalue()
    assert Pipeline.objects.get().parameters["country"]["default"] == "FR"
    assert Revision.objects.count() == 2


@pytest.mark.usefixtures("lookups_worker")
@pytest.mark.xdist_group("lookups")
def test_a_query_with_parameters_is_looked_at_with_their_defaults(make_pipeline, living_destination, admin_client):
    pipeline = make_pipeline(
        source_table="",
        source_query="SELECT @country AS c, @data_interval_start AS s, @run_id AS r",
        parameters=DECLARED,
        destination=living_destination,
        target_table="looked_at_{data_interval_start:%Y%m%d}",
    )
    answer = admin_client.post(
        reverse("admin:pipelines_desk_describe"),
        {"connection": pipeline.source_id, "query": pipeline.source_query, "parameters": LINES},
    )
    assert [(column["name"], column["type"]) for column in answer.json()["columns"]] == [
        ("c", "STRING"),
        ("s", "TIMESTAMP"),
        ("r", "STRING"),
    ]
    wrong = admin_client.post(
        reverse("admin:pipelines_desk_describe"),
        {"connection": pipeline.source_id, "query": pipeline.source_query, "parameters": "x"},
    )
    assert wrong.json()["error"]["code"] == "parameter"
