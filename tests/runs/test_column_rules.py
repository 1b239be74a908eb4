"""Rules for columns, from a pipeline's definition to its table."""

from __future__ import annotations

from tests.runs.test_executor import log_of, start


def test_a_run_obeys_the_rules_of_its_revision(moving, work, rows_of):
    pipeline = moving(column_rules={"id": {"type": "text"}, "NAME": {"skip": True}})
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_message) == ("succeeded", "")
    assert rows_of(pipeline) == 3
    assert "Columns not read: NAME; stored by a rule: id as text." in log_of(run)


def test_a_rule_for_a_column_that_is_gone_ends_the_run_with_its_name(moving, work):
    run = start(moving(column_rules={"gone": {"type": "text"}}))
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == ("failed", "column_rule")
    assert "gone" in run.error_message
