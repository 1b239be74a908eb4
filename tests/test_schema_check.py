"""A control database that another version made is noticed, named, and left as it is."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from datamantri import schema_check
from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.product import Product
from datamantri.management.commands import doctor

pytestmark = pytest.mark.django_db


def change(statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statements)


def test_a_database_of_this_version_has_no_difference_and_is_prepared_again_and_again() -> None:
    assert schema_check.differences() == []
    call_command("prepare")
    call_command("prepare")
    assert schema_check.differences() == []
    assert doctor.migrations().good


OF_ANOTHER_VERSION = {
    "ALTER TABLE pipelines_pipeline DROP COLUMN undo_depth": "pipelines_pipeline lacks the column undo_depth",
    "ALTER TABLE runs_run ADD COLUMN colour text NOT NULL": "runs_run has a column colour",
    "ALTER TABLE runs_run ALTER error_code TYPE varchar(9)": "runs_run.error_code is character varying(9) NOT NULL",
    "ALTER TABLE runs_run ALTER error_hint DROP NOT NULL": "runs_run.error_hint is text, not text NOT NULL",
    "DROP TABLE runs_pollday": "the table runs_pollday is missing",
    "DROP INDEX run_newest": "runs_run lacks run_newest",
    "INSERT INTO django_migrations (app, name, applied) VALUES ('runs', '0099_x', now())": "runs.0099_x is not known",
}


def test_a_database_of_another_version_is_named_and_nothing_is_done_to_it() -> None:
    change("; ".join(OF_ANOTHER_VERSION))
    found = schema_check.differences()
    for said in OF_ANOTHER_VERSION.values():
        assert any(said in each for each in found), said
    with pytest.raises(CommandError) as refused:
        call_command("prepare")
    assert refused.value.returncode == 3
    for words in ("runs.0099_x is not known", "Nothing was changed.", "manage.py export", "[control_schema_differs]"):
        assert words in str(refused.value)
    assert not doctor.migrations().good


def test_functions_and_triggers_are_known_by_the_statements_that_made_them() -> None:
    call_command("prepare")
    change('COMMENT ON TABLE django_migrations IS \'{"runs.0007_ledger": "another"}\'')
    assert schema_check.differences() == ["runs.0007_ledger makes other functions or triggers by now"]


def test_it_is_noticed_before_a_pending_migration_fails_on_it() -> None:
    change("DELETE FROM django_migrations WHERE app = 'runs' AND name = '0007_ledger'; DROP TABLE runs_watch CASCADE")
    with pytest.raises(CommandError, match="the table runs_watch is missing"):
        call_command("prepare")


def test_up_says_that_it_is_the_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    product = Product(data_dir=tmp_path, say=lambda text: None)
    monkeypatch.setattr(product, "run", lambda *argv: 3)
    with pytest.raises(EmbeddedError) as refused:
        product._prepare()
    assert refused.value.code == "control_schema_differs"
