"""What a pipeline says of its quarantine: in definitions, the API, copies, and with checks that need it."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.checks import Check, CheckKind, Severity
from connectors.quarantine import Beyond, QuarantineRule
from pipelines import checks, lookups, quarantines, revisions, services
from pipelines.models import Pipeline

pytestmark = pytest.mark.django_db
SET = {
    "quarantine": True, "quarantine_rows": None, "quarantine_percent": 5, "quarantine_beyond": "hold",
    "quarantine_days": 7,
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: [])


def test_a_definition_without_it_says_nothing_and_means_the_usual(make_pipeline: Any) -> None:
    pipeline = make_pipeline()
    definition = services.definition_of(pipeline)
    assert not [name for name in definition if name.startswith("quarantine")]
    assert quarantines.rule_of(definition) == QuarantineRule(most_rows=1000)
    revision = pipeline.revisions.get()
    for name, value in SET.items():
        setattr(pipeline, name, value)
    services.save_pipeline(pipeline, schedules=None, by=None)
    now = pipeline.revisions.first()
    assert now.fingerprint == revision.fingerprint  # the rows that belong in the target are the same
    assert quarantines.rule_of(now.definition) == QuarantineRule(True, None, 5, Beyond.HOLD, 7)
    labels = {change.label for change in revisions.changes(revision, now)}
    assert "Put rows that cannot be stored into quarantine" in labels
    revisions.revert(revisions.prepare(revision), by=None)
    assert not Pipeline.objects.get().quarantine


def test_a_copy_has_it_too(make_pipeline: Any) -> None:
    copy = services.duplicate(make_pipeline(**SET), by=None)
    assert quarantines.fields(copy) == SET


def test_the_api_sets_it_and_says_what_is_wrong(admin_client: Any, make_pipeline: Any) -> None:
    address = f"/api/v1/pipelines/{make_pipeline().pk}/"
    answer = admin_client.patch(address, SET, content_type="application/json")
    assert {name: answer.json()[name] for name in SET} == SET
    wrong = {"quarantine_percent": 101, "quarantine_days": 0, "quarantine_beyond": "shout"}
    answer = admin_client.patch(address, wrong, content_type="application/json")
    assert (answer.status_code, set(answer.json()["fields"])) == (400, set(wrong))


def test_a_check_whose_bad_rows_go_there_needs_it(make_pipeline: Any) -> None:
    check = Check(CheckKind.NOT_NULL, columns=("id",), severity=Severity.QUARANTINE)
    against = [error for _, error in checks.against(make_pipeline(), [check])]
    assert [(error.code, error.field) for error in against] == [("check_invalid", "severity")]
    assert checks.against(make_pipeline("With one", quarantine=True), [check]) == []


def test_the_form_says_what_it_means_and_stands_folded(admin_client: Any, make_pipeline: Any) -> None:
    page = admin_client.get(f"/admin/pipelines/pipeline/{make_pipeline().pk}/change/").content.decode()
    for name in SET:
        assert f'name="{name}"' in page
    assert "The run publishes all other rows." in page
