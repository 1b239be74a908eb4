"""SQL around the load, from the form to the destination: who may write it, and that a run runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from pipelines import dataset_rules, revisions
from pipelines import services as definitions
from pipelines.models import DatasetRule, Pipeline
from pipelines.objections import PipelineRefused
from runs import receipts, services
from runs.models import Decision, Run
from runs.states import RunStatus
from tests.runs.memory import Script
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import OPERATE, VIEW, allow
from tests.runs.test_executor import start

pytestmark = pytest.mark.django_db(transaction=True)


def may(user: User, *more: str) -> User:
    return User.objects.get(pk=allow(user, *VIEW, *OPERATE, *more).pk)  # permissions are remembered


@pytest.mark.parametrize("method", ["direct", "staged"])
def test_a_run_runs_it_once_in_one_go_and_in_parts(
    moving: Callable[..., Pipeline],
    work: Any,
    script: Script,
    warehouse_cursor: Any,
    warehouse: dict[str, Any],
    method: str,
) -> None:
    warehouse_cursor.execute(f"CREATE TABLE ran (rows bigint); GRANT ALL ON ran TO {warehouse['user']}")
    try:
        script.parts = 2
        sql = {
            "sql_before": "INSERT INTO ran VALUES (0);",
            "sql_after": "INSERT INTO ran SELECT count(*) FROM sql_target",
        }
        start(moving(write_disposition="replace", load_method=method, target_table="sql_target", **sql))
        while work():
            pass
        run = Run.objects.get()
        assert (run.status, run.error_message) == (RunStatus.SUCCEEDED, "")
        warehouse_cursor.execute("SELECT rows FROM ran ORDER BY ctid")
        assert warehouse_cursor.fetchall() == [(0,), (3,)]
        assert [
            fact.name
            for group in receipts.groups(run.receipt)
            if group.title == "SQL around the load"
            for fact in group.facts
        ] == [
            "Statement 1 before",
            "Statement 1 after",
        ]
    finally:
        warehouse_cursor.execute("DROP TABLE ran")


def test_rows_in_parts_are_published_by_the_sql_that_was_corrected_once_somebody_approves(
    moving: Callable[..., Pipeline], work: Any, script: Script, rows_of: Any, operator: User
) -> None:
    script.parts = 2
    pipeline = moving(write_disposition="replace", load_method="staged", sql_after="SELECT 1 / 0")
    start(pipeline)
    while work():
        pass
    run = Run.objects.get()
    assert (run.status, run.error_code, rows_of(pipeline)) == (RunStatus.HELD, "sql_failed", None)
    assert "correct the pipeline's SQL" in run.error_hint
    pipeline.sql_after = "SELECT 1"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    services.decide(run, Decision.PUBLISH, by=operator)
    reads = script.reads
    while work():
        pass
    run.refresh_from_db()
    assert (run.status, rows_of(pipeline), script.reads) == (RunStatus.SUCCEEDED, 3, reads)
    assert [(said["when"], said["rows"]) for said in run.receipt["sql"]] == [("after", 1)]


def test_sql_that_was_corrected_stays_corrected_when_a_guard_holds_the_run_next(
    moving: Callable[..., Pipeline],
    work: Any,
    script: Script,
    rows_of: Any,
    operator: User,
    warehouse_cursor: Any,
) -> None:
    def approve(run: Run) -> None:
        run.refresh_from_db()
        services.decide(run, Decision.PUBLISH, by=operator)
        while work():
            pass
        run.refresh_from_db()

    pipeline = moving(write_disposition="replace", load_method="staged", target_table="leaned_on")
    start(pipeline)
    work()
    try:
        # A view: rows are replaced in place, and the guard looks after the SQL before them.
        warehouse_cursor.execute("CREATE VIEW leaning AS SELECT * FROM leaned_on")
        pipeline.sql_before = "SELECT 1 / 0"
        definitions.save_pipeline(pipeline, schedules=None, by=None)
        script.rows = 0
        run = start(pipeline)
        while work():
            pass
        run.refresh_from_db()
        assert (run.status, run.error_code) == (RunStatus.HELD, "sql_failed")
        pipeline.sql_before = "SELECT 1"
        definitions.save_pipeline(pipeline, schedules=None, by=None)
        approve(run)
        assert (run.status, run.error_code, rows_of(pipeline)) == (RunStatus.HELD, "guard_zero_rows", 3)
        approve(run)
        assert (run.status, run.error_message, rows_of(pipeline)) == (RunStatus.SUCCEEDED, "", 0)
    finally:
        warehouse_cursor.execute("DROP VIEW leaning")


def test_writing_it_takes_a_right_of_its_own(make_pipeline: Any, operator: User, destination: Any) -> None:
    pipeline = make_pipeline()
    someone, writer = may(operator), may(User.objects.create_user("wanda"), "sql_pipeline")
    pipeline.sql_after = "SELECT 1"

    def save(by: Any) -> None:
        definitions.save_pipeline(pipeline, schedules=None, by=by)

    with pytest.raises(PipelineRefused) as refused:
        save(someone)
    assert (refused.value.code, refused.value.field) == ("sql_not_allowed", "sql_after")
    save(writer)
    pipeline.description = "told"
    save(someone)  # leaves it as it is
    elsewhere = destination
    elsewhere.pk, elsewhere.name = None, "Elsewhere"
    elsewhere._state.adding = True
    elsewhere.save()
    pipeline.refresh_from_db()
    pipeline.destination = elsewhere
    with pytest.raises(PipelineRefused) as refused:
        save(someone)
    assert refused.value.field == "destination"
    pipeline.refresh_from_db()
    with pytest.raises(PipelineRefused):
        definitions.duplicate(pipeline, by=someone)
    assert definitions.duplicate(pipeline, by=writer).sql_after == "SELECT 1"


def test_going_back_to_a_revision_with_other_sql_takes_it_as_well(make_pipeline: Any, operator: User) -> None:
    pipeline = make_pipeline()
    someone = may(operator)
    first = pipeline.revision
    pipeline.sql_before = "DELETE FROM x"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    pipeline.refresh_from_db()
    (change,) = revisions.changes(first, pipeline.revision)
    assert "SQL before the rows" in str(change)
    second = pipeline.revision
    pipeline.sql_before = ""
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    assert "sql_before" not in first.definition  # what has none says nothing of it
    with pytest.raises(PipelineRefused) as refused:
        revisions.revert(revisions.prepare(second), by=someone)
    assert refused.value.code == "sql_not_allowed"


def test_what_a_dataset_rule_makes_has_none(make_pipeline: Any, source: Any) -> None:
    template = make_pipeline()
    template.sql_after, template.sql_role = "SELECT 1", "scribe"
    definitions.save_pipeline(template, schedules=None, by=None)
    rule = DatasetRule(name="All", source=source, dataset="sales", template=template)
    made = dataset_rules.pipeline_for(rule, "fresh")
    assert (made.sql_after, made.sql_role) == ("", "")


def test_the_form_and_the_api_let_only_those_write_it_who_may(
    make_pipeline: Any, operator: User, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.lookups.validate_pipeline", lambda pipeline: [])
    pipeline = make_pipeline()
    operator.is_staff = True
    operator.save()
    client.force_login(may(operator))
    page = client.get(f"/admin/pipelines/pipeline/{pipeline.pk}/change/").content.decode()
    assert "SQL around the load" in page
    assert 'name="sql_after"' not in page
    address, wish = f"/api/v1/pipelines/{pipeline.pk}/", {"sql_after": "SELECT 1"}
    answer = client.patch(address, wish, content_type="application/json")
    assert (answer.status_code, answer.json()["fields"]["sql_after"][0]["code"]) == (400, "sql_not_allowed")
    may(operator, "sql_pipeline")
    assert 'name="sql_after"' in client.get(f"/admin/pipelines/pipeline/{pipeline.pk}/change/").content.decode()
    refused = client.patch(address, {"sql_after": "SELECT 1; COMMIT"}, content_type="application/json")
    assert refused.json()["fields"]["sql_after"][0]["code"] == "sql_transaction"
    assert client.patch(address, wish, content_type="application/json").json()["sql_after"] == "SELECT 1"
