"""Checks as definitions: through the form, the API and files, in revisions; and what is refused of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User

from connectors.checks import Check, CheckKind, Severity
from pipelines import checks, lookups, revisions, services
from pipelines.files.exporting import export
from pipelines.models import Connection, Pipeline
from pipelines.objections import PipelineRefused
from tests.pipelines.test_admin_pipelines import again, change_url
from tests.pipelines.test_files import applied, refused

pytestmark = pytest.mark.django_db

COLUMNS = [
    {"name": name, "type": type_, "repeated": repeated, "columns": []}
    for name, type_, repeated in (
        *(("id", "INT64", False), ("state", "STRING", False), ("at", "TIMESTAMP", False)),
        *(("tags", "STRING", True), ("doc", "JSON", False), ("email", "STRING", False)),
    )
]
ALL = [
    Check(CheckKind.NOT_NULL, columns=("id", "doc", "tags")),
    Check(CheckKind.UNIQUE, "ids are unique", ("id",)),
    Check(CheckKind.ACCEPTED, columns=("state",), severity=Severity.WARN, values=("open", "done, and gone")),
    Check(CheckKind.RANGE, columns=("id",), minimum="1", maximum="9.5"),
    Check(CheckKind.REGEX, columns=("state",), pattern="^[a-z]+$"),
    Check(CheckKind.RELATION, columns=("id", "state"), table="public.others", table_columns=("no", "state")),
    Check(CheckKind.SQL, query="SELECT * FROM {staged} WHERE id < 0"),
    Check(CheckKind.ROW_COUNT, percent=20, runs=5),
    Check(CheckKind.FRESHNESS, columns=("at",), max_age_s=3600, time_limit_s=60),
    Check(CheckKind.CHECKSUM),
]


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The live systems have nothing against anything; stands for those systems."""
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: [])


@pytest.fixture
def pipeline(make_pipeline: Any) -> Pipeline:
    return make_pipeline(source_columns=COLUMNS)


def set_checks(pipeline: Pipeline, *wanted: Check) -> None:
    services.save_pipeline(pipeline, schedules=None, checks=wanted, by=None)


def refusals(pipeline: Pipeline, *wanted: Check) -> list[tuple[int, str]]:
    return [(number, each.field) for number, each in checks.against(pipeline, wanted)]


def test_checks_are_part_of_a_revision_and_come_back_with_it(pipeline, operator):
    operator.user_permissions.add(Permission.objects.get(codename="sql_pipeline"))
    operator = User.objects.get(pk=operator.pk)  # whose permissions nobody has looked up yet
    before = services.definition_of(pipeline)
    assert "checks" not in before
    fingerprint = pipeline.revision.fingerprint
    set_checks(pipeline, *ALL)
    assert checks.checks_of(pipeline) == ALL
    assert pipeline.revision.fingerprint == fingerprint, "what is checked does not change which rows belong there"
    set_checks(pipeline, *ALL)
    assert pipeline.revisions.count() == 2, "the same again is no change"
    first, second = pipeline.revisions.order_by("number")
    told = {each.label: each.words for each in revisions.changes(first, second)}
    assert told["Check ids are unique"] == "Unique, on id"
    assert told["Check state: accepted values"] == "Accepted values, on state, one of open, done, and gone, only warns"
    assert len(told) == len(ALL)
    revisions.revert(revisions.prepare(first), by=operator)
    assert checks.checks_of(pipeline) == []
    assert services.definition_of(pipeline) == before
    revisions.revert(revisions.prepare(second), by=operator)
    assert checks.checks_of(pipeline) == ALL
    assert checks.checks_of(services.duplicate(pipeline, by=operator)) == ALL


def test_a_save_that_says_nothing_of_checks_leaves_them(pipeline):
    set_checks(pipeline, *ALL)
    services.save_pipeline(pipeline, schedules=None, by=None)
    assert checks.checks_of(pipeline) == ALL


@pytest.mark.parametrize(
    ("check", "field"),
    [
        (Check(CheckKind.NOT_NULL), "columns"),
        (Check(CheckKind.NOT_NULL, columns=("id", "ID")), "columns"),
        (Check(CheckKind.NOT_NULL, columns=("gone",)), "columns"),
        (Check(CheckKind.NOT_NULL, columns=("id",), pattern="x"), "pattern"),
        (Check(CheckKind.UNIQUE, columns=("tags",)), "columns"),
        (Check(CheckKind.ACCEPTED, columns=("state",)), "values"),
        (Check(CheckKind.ACCEPTED, columns=("id",), values=("1", "one")), "values"),
        (Check(CheckKind.ACCEPTED, columns=("state",), values=("", "open")), "values"),
        (Check(CheckKind.ACCEPTED, columns=("state",), values=("open ", "done")), "values"),
        (Check(CheckKind.ACCEPTED, columns=("state",), values=("two\nlines",)), "values"),
        (Check(CheckKind.RANGE, columns=("id", "at"), minimum="1"), "columns"),
        (Check(CheckKind.RANGE, columns=("id",)), "minimum"),
        (Check(CheckKind.RANGE, columns=("id",), minimum="low"), "minimum"),
        (Check(CheckKind.RANGE, columns=("doc",), minimum="1"), "columns"),
        (Check(CheckKind.REGEX, columns=("state",), pattern="("), "pattern"),
        (Check(CheckKind.RELATION, columns=("id",), table="a.b.c", table_columns=("id",)), "table"),
        (Check(CheckKind.RELATION, columns=("id",), table="b"), "table_columns"),
        (Check(CheckKind.SQL, query="SELECT 1"), "query"),
        (Check(CheckKind.ROW_COUNT), "percent"),
        (Check(CheckKind.ROW_COUNT, minimum="1.5"), "minimum"),
        (Check(CheckKind.FRESHNESS, columns=("id",), max_age_s=5), "columns"),
        (Check(CheckKind.FRESHNESS, columns=("at",)), "max_age_s"),
    ],
    ids=lambda value: f"{value.kind}" if isinstance(value, Check) else value,
)
def test_what_cannot_be_checked_is_refused_at_the_field_at_fault(pipeline, check, field):
    assert refusals(pipeline, check) == [(0, field)]
    with pytest.raises(PipelineRefused) as error:
        set_checks(pipeline, check)
    assert (error.value.code, error.value.field) == ("check_invalid", f"checks.0.{field}")


def test_two_checks_of_one_name_are_refused_and_those_without_one_get_their_own(pipeline):
    twice = Check(CheckKind.UNIQUE, "same", ("id",))
    assert refusals(pipeline, twice, twice) == [(1, "name")]
    plain = Check(CheckKind.UNIQUE, columns=("id",))
    set_checks(pipeline, plain, plain)
    assert len(checks.checks_of(pipeline)) == 2


@pytest.mark.parametrize("are_known", [True, False], ids=["columns are known", "nobody has seen the columns"])
def test_a_column_that_is_skipped_is_not_checked_and_not_skipped_while_it_is(pipeline, are_known):
    email = Check(CheckKind.NOT_NULL, columns=("email",))
    set_checks(pipeline, email)
    pipeline.column_rules = {"EMAIL": {"skip": True}}
    pipeline.source_columns = COLUMNS if are_known else None
    with pytest.raises(PipelineRefused, match="email"):
        services.save_pipeline(pipeline, schedules=None, by=None)


def test_sql_of_a_check_needs_the_right_to_write_sql(pipeline, destination, operator):
    asks = Check(CheckKind.SQL, query="SELECT * FROM {staged} WHERE id < 0")
    plain = Check(CheckKind.NOT_NULL, columns=("id",))

    def save(*wanted: Check) -> None:
        services.save_pipeline(pipeline, schedules=None, checks=wanted, by=operator)

    save(plain)
    with pytest.raises(PipelineRefused) as refused_it:
        save(plain, asks)
    assert (refused_it.value.code, refused_it.value.field) == ("sql_not_allowed", "checks")
    set_checks(pipeline, asks)
    save(asks, plain)  # as it is, it may stay
    with pytest.raises(PipelineRefused, match="may not write it"):
        save(replace(asks, query="SELECT * FROM secrets, {staged}"))
    with pytest.raises(PipelineRefused, match="may not write it"):
        services.duplicate(pipeline, by=operator)
    other = Connection.objects.create(name="Elsewhere", kind="postgres", options=destination.options)
    pipeline.destination = other
    with pytest.raises(PipelineRefused, match="run elsewhere"):
        services.save_pipeline(pipeline, schedules=None, by=operator)


def test_of_a_masked_column_only_what_the_mask_keeps_can_be_asked(pipeline):
    pipeline.column_rules = {"Email": {"mask": "hmac"}}
    kept = [Check(CheckKind.NOT_NULL, columns=("email",)), Check(CheckKind.UNIQUE, columns=("EMAIL",))]
    lost = [Check(CheckKind.REGEX, columns=("email",), pattern="@"), Check(CheckKind.CHECKSUM, columns=("email",))]
    assert refusals(pipeline, *kept) == []
    assert refusals(pipeline, *lost) == [(0, "columns"), (1, "columns")]


def test_a_renamed_column_is_checked_by_its_name_in_the_source(pipeline):
    pipeline.column_rules = {"state": {"name": "status"}}
    assert refusals(pipeline, Check(CheckKind.NOT_NULL, columns=("state",))) == []
    assert refusals(pipeline, Check(CheckKind.NOT_NULL, columns=("status",))) == [(0, "columns")]


def test_quarantine_is_for_checks_that_tell_single_rows(pipeline):
    aside = {"severity": Severity.QUARANTINE}
    assert refusals(pipeline, Check(CheckKind.NOT_NULL, columns=("id",), **aside)) == [(0, "severity")]
    pipeline.quarantine = True
    assert refusals(pipeline, Check(CheckKind.NOT_NULL, columns=("id",), **aside)) == []
    assert refusals(pipeline, Check(CheckKind.UNIQUE, columns=("id",), **aside)) == [(0, "severity")]
    set_checks(pipeline, Check(CheckKind.NOT_NULL, columns=("id",), **aside))
    pipeline.quarantine = False
    with pytest.raises(PipelineRefused) as still_needed:
        services.save_pipeline(pipeline, schedules=None, by=None)
    assert still_needed.value.field == "checks.0.severity"


def test_what_a_checksum_costs_is_told_before_it_is_billed(pipeline):
    assert checks.minds(pipeline) == []
    set_checks(pipeline, Check(CheckKind.CHECKSUM))
    pipeline.cost_estimate = {"query_bytes": 0, "storage_bytes": 3_000_000_000}
    assert checks.minds(pipeline) == [
        "A checksum reads columns of the source once more: BigQuery bills up to 3,000 MB for it at every run."
    ]


def post(client: Any, pipeline: Pipeline, *rows: dict[str, Any]) -> Any:
    """Send a pipeline's form as it is, with these checks."""
    values = again(pipeline)
    values |= {"checks-TOTAL_FORMS": len(rows), "checks-INITIAL_FORMS": pipeline.checks.count()}
    for number, row in enumerate(rows):
        values |= {f"checks-{number}-{name}": value for name, value in row.items()}
    return client.post(change_url(pipeline), values)


def typed(check: Check, **more: Any) -> dict[str, Any]:
    """A check as the form sends it, with what a browser leaves in fields that are hidden."""
    given = {name: value for name, value in asdict(check).items() if value not in ((), "", None)}
    lists = {name: value for name, value in given.items() if isinstance(value, tuple)}
    texts = {name: ("\n" if name == "values" else ", ").join(value) for name, value in lists.items()}
    return {"pattern": "left over", **given, **texts, **more}


def test_the_form_sets_changes_and_removes_checks(admin_client, pipeline):
    answer = post(admin_client, pipeline, *map(typed, ALL))
    assert answer.status_code == 302, answer.context["errors"]
    assert checks.checks_of(pipeline) == ALL
    shown = admin_client.get(change_url(pipeline)).content.decode()
    assert "done, and gone" in shown
    assert "stands for the rows that came" in shown
    kept = [{"id": row.pk, "pipeline": pipeline.pk, **typed(checks.spec_of(row))} for row in pipeline.checks.all()]
    wrong = [*kept[:2], {**kept[2], "columns": "gone"}, {**kept[3], "minimum": ""}, *kept[4:]]
    wrong[3]["maximum"] = "high"
    answer = post(admin_client, pipeline, *wrong)
    (formset,) = (each.formset for each in answer.context["inline_admin_formsets"] if each.formset.prefix == "checks")
    assert {number: list(form.errors) for number, form in enumerate(formset) if form.errors} == {
        2: ["columns"],
        3: ["maximum"],
    }
    assert post(admin_client, pipeline, kept[0], *({**row, "DELETE": "on"} for row in kept[1:])).status_code == 302
    assert checks.checks_of(pipeline) == ALL[:1]


def patch(client: Any, pipeline: Pipeline, value: Any) -> Any:
    address = f"/api/v1/pipelines/{pipeline.pk}/"
    return client.patch(address, {"checks": value}, content_type="application/json")


def test_the_api_sets_and_shows_checks_and_says_which_one_is_wrong(admin_client, pipeline):
    answer = patch(admin_client, pipeline, [check.to_json() for check in ALL])
    assert answer.status_code == 200, answer.json()
    assert checks.checks_of(pipeline) == ALL
    assert answer.json()["checks"][2]["values"] == ["open", "done, and gone"]
    answer = patch(admin_client, pipeline, [ALL[0].to_json(), {"kind": "range", "columns": ["id"]}])
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["checks.1.minimum"]
    assert patch(admin_client, pipeline, [{"kind": "range", "colums": ["id"]}]).status_code == 400
    assert checks.checks_of(pipeline) == ALL
    assert patch(admin_client, pipeline, []).json()["checks"] == []


def test_files_hold_checks_and_say_where_one_is_wrong(tmp_path: Path, pipeline):
    set_checks(pipeline, *ALL)
    content = export()
    assert "done, and gone" in content
    assert "Nothing to change" in applied(content, tmp_path)
    set_checks(pipeline)
    assert "Check ids are unique" in applied(content, tmp_path)
    assert checks.checks_of(pipeline) == ALL
    assert export() == content
    assert "checks/3/minimum: low is no number" in refused(content.replace("minimum: '1'", "minimum: low"), tmp_path)
    assert "checks/3" in refused(content.replace("kind: range", "kind: rage"), tmp_path)
