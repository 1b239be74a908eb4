"""What happened becomes an alert: once while it lasts, counted, and over when it works again."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from pipelines.models import AlertKind, PipelineState
from runs import services
from runs.alerts import judging
from runs.models import Alert, AlertDelivery, AlertEvent, Run, RunAction, SchemaChange, Trigger
from runs.services import Failure
from runs.states import RunStatus
from tests.alerts.conftest import move

pytestmark = pytest.mark.django_db
FAILED, RECOVERED, HELD = AlertKind.FAILED, AlertKind.RECOVERED, AlertKind.HELD


def told() -> list[tuple[str, str]]:
    found = AlertDelivery.objects.order_by("created_at", "title")
    return [(each.event, each.title.removeprefix("[DataMantri] ")) for each in found]


def test_a_failure_is_told_once_while_it_lasts_and_its_end_with_how_long_it_was(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(FAILED, RECOVERED)
    for _ in range(3):
        end(pipeline, "failed")
    assert told() == [("opened", "Orders failed")]
    alert = Alert.objects.get()
    assert (alert.count, alert.closed_at, alert.code) == (3, None, "table_not_found")
    end(pipeline, "succeeded")
    assert told() == [("opened", "Orders failed"), ("recovered", "Orders works again")]
    alert.refresh_from_db()
    assert (alert.closing, alert.closed_at is None) == ("recovered", False)
    body = AlertDelivery.objects.get(event="recovered").body
    assert "Lasted: " in body
    assert "3 times" in body
    end(pipeline, "failed")
    assert [event for event, _ in told()] == ["opened", "recovered", "opened"]


def test_a_failure_that_a_person_calls_done_is_over(make_pipeline, make_rule, end, operator):
    make_rule(FAILED, RECOVERED)
    run = end(make_pipeline(), "failed")
    run.refresh_from_db()
    services.mark_done(run, by=operator, note="Loaded by hand")
    judging.judge()
    assert [event for event, _ in told()] == ["opened", "recovered"]
    assert Alert.objects.get().closed_at is not None


def test_a_message_says_pipeline_run_cause_hint_and_where_to_look(make_pipeline, make_rule, end, settings):
    settings.PUBLIC_URL = "https://mantri.example.com"
    make_rule(FAILED, name="All failures")
    run = end(make_pipeline("Orders"), "failed", error_hint="Check the name.")
    delivery = AlertDelivery.objects.get()
    assert delivery.body.splitlines() == [
        "Pipeline: Orders",
        "Cause: There is no table shop.orders. [table_not_found]",
        "What to do: Check the name.",
        f"Run: https://mantri.example.com/runs/{run.pk}/",
        "Rule: All failures",
    ]
    assert delivery.severity == "failure"


def test_no_stored_secret_is_told(make_pipeline, make_rule, end, destination):
    make_rule(FAILED)
    end(make_pipeline(), "failed", error_message="password s3cret was refused", error_hint="s3cret")
    delivery, alert = AlertDelivery.objects.get(), Alert.objects.get()
    assert "s3cret" not in delivery.body + delivery.title + alert.cause + alert.hint
    assert "password *** was refused" in delivery.body


def test_a_rule_is_about_its_pipelines_only(make_pipeline, make_rule, end):
    orders, refunds = make_pipeline("Orders"), make_pipeline("Refunds")
    make_rule(FAILED, pipelines=[orders])
    end(refunds, "failed")
    assert told() == []
    end(orders, "failed")
    assert told() == [("opened", "Orders failed")]


def test_two_rules_and_two_channels_are_each_told(make_pipeline, make_rule, make_channel, end):
    pipeline = make_pipeline()
    make_rule(FAILED).channels.add(make_channel("#more"))
    make_rule(FAILED)
    end(pipeline, "failed")
    assert Alert.objects.count() == 2
    assert AlertDelivery.objects.count() == 3


def test_without_the_wish_no_end_is_told(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(FAILED)
    end(pipeline, "failed")
    end(pipeline, "succeeded")
    assert told() == [("opened", "Orders failed")]
    assert Alert.objects.get().closing == "recovered"


def test_who_only_wants_to_know_that_it_works_again_hears_nothing_of_failures(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(RECOVERED)
    end(pipeline, "succeeded")
    assert told() == []
    end(pipeline, "failed")
    assert told() == []
    end(pipeline, "succeeded")
    assert told() == [("recovered", "Orders works again")]


@pytest.mark.parametrize("code", ["guard_zero_rows", "check_failed", "quarantine_limit"])
def test_a_held_run_is_told_and_that_somebody_decided(make_pipeline, make_rule, end, code):
    pipeline = make_pipeline()
    make_rule(HELD, RECOVERED)
    run = end(pipeline, "held", error_code=code, error_message="It would leave no rows.")
    assert told() == [("opened", "Orders is held")]
    assert f"It would leave no rows. [{code}]" in AlertDelivery.objects.get().body
    move(run, "retrying")
    assert told()[1:] == [("recovered", "Orders is no longer held")]


@pytest.mark.parametrize(
    ("code", "kind", "title"),
    [
        ("schema_frozen", AlertKind.SCHEMA_DRIFT, "Orders failed: its source's columns changed"),
        ("schema_incompatible", AlertKind.SCHEMA_DRIFT, "Orders failed: its source's columns changed"),
        ("bytes_billed_limit", AlertKind.OVER_BUDGET, "Orders failed: over budget"),
    ],
)
def test_drift_and_budget_are_told_as_such_by_who_watches_them(make_pipeline, make_rule, end, code, kind, title):
    pipeline = make_pipeline()
    make_rule(kind)
    end(pipeline, "failed")
    assert told() == []
    end(pipeline, "failed", error_code=code)
    assert told() == [("opened", title)]
    end(pipeline, "succeeded")
    assert Alert.objects.get().closing == "recovered"


def test_columns_that_a_target_followed_are_told_once_and_nothing_has_to_recover(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(AlertKind.SCHEMA_DRIFT, RECOVERED)
    changes = [{"change": "added", "column": "price", "before": "", "after": "NUMERIC"}]
    end(pipeline, "failed", error_code="schema_frozen")
    run = end(pipeline, "succeeded", judged=False)
    SchemaChange.objects.create(pipeline=pipeline, run=run, changes=changes, columns={})
    judging.judge()
    assert told() == [
        ("opened", "Orders failed: its source's columns changed"),
        ("recovered", "Orders works again"),
        ("opened", "Orders took other columns from its source"),
    ]
    assert "+ price NUMERIC" in AlertDelivery.objects.order_by("created_at").last().body
    assert not Alert.objects.filter(closed_at=None).exists()
    end(pipeline, "succeeded")
    assert len(told()) == 3


def test_a_run_that_waits_for_its_cost_is_told_as_over_budget_until_somebody_decides(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(AlertKind.OVER_BUDGET, HELD, RECOVERED)
    run = end(pipeline, "held", error_code="over_budget", error_message="This run would bill 25 GB.")
    assert told() == [("opened", "Orders waits: over budget")]
    assert AlertDelivery.objects.get().severity == "warning"
    move(run, "retrying")
    assert told()[1:] == [("recovered", "Orders is no longer held")]
    end(pipeline, "failed", error_code="bytes_billed_limit")
    assert told()[2:] == [("opened", "Orders failed: over budget")]


def test_who_watches_only_held_runs_is_told_of_one_that_waits_for_its_cost(make_pipeline, make_rule, end):
    make_rule(HELD)
    end(make_pipeline(), "held", error_code="over_budget")
    assert [title for _, title in told()] == ["Orders waits: over budget"]


def test_one_failure_is_not_told_twice_by_one_rule(make_pipeline, make_rule, end):
    make_rule(FAILED, AlertKind.SCHEMA_DRIFT, AlertKind.OVER_BUDGET)
    end(make_pipeline(), "failed", error_code="schema_frozen")
    assert told() == [("opened", "Orders failed: its source's columns changed")]


def loads(pipeline, rows: list[int], seconds: list[float]) -> None:
    for moved, took in zip(rows, seconds, strict=True):
        run = Run.objects.create(
            pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.MANUAL, rows=moved, started_at=Now()
        )
        move(run, "succeeded", seconds=took, judged=False)
    judging.judge()


USUAL_ROWS, USUAL_SECONDS = [1000, 1010, 990, 1005, 995] * 3, [60.0, 62.0, 58.0, 61.0, 59.0] * 3


@pytest.mark.parametrize(
    ("rows", "seconds", "expected"),
    [
        (1002, 60.5, []),
        (1100, 60.0, []),
        (12, 60.0, ["Orders moved an unusual number of rows"]),
        (90_000, 60.0, ["Orders moved an unusual number of rows"]),
        (1000, 300.0, ["Orders took unusually long"]),
        (1000, 1.0, []),
    ],
)
def test_a_load_far_from_usual_is_told_and_an_ordinary_one_is_not(
    make_pipeline, make_rule, end, rows, seconds, expected
):
    pipeline = make_pipeline()
    make_rule(AlertKind.UNUSUAL_ROWS, AlertKind.UNUSUAL_DURATION)
    loads(pipeline, USUAL_ROWS, USUAL_SECONDS)
    end(pipeline, "succeeded", seconds=seconds, rows=rows)
    assert [title for _, title in told()] == expected


def test_what_is_usual_is_explained(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(AlertKind.UNUSUAL_ROWS, RECOVERED)
    loads(pipeline, USUAL_ROWS, USUAL_SECONDS)
    end(pipeline, "succeeded", rows=12)
    cause = Alert.objects.get().cause
    assert cause == (
        "It moved 12 rows. The last 15 loads were around 1,000, as a rule no further than 50 from it. "
        "This is 20 times that distance away; the rule tells from 6 times on."
    )
    end(pipeline, "succeeded", rows=1000)
    assert [event for event, _ in told()] == ["opened", "recovered"]


def test_a_few_loads_out_of_line_do_not_make_that_usual(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(AlertKind.UNUSUAL_ROWS)
    loads(pipeline, [*USUAL_ROWS[:-3], 1, 5_000_000, 2], USUAL_SECONDS)
    AlertDelivery.objects.all().delete()
    Alert.objects.all().delete()
    end(pipeline, "succeeded", rows=12)
    assert len(told()) == 1


def test_nothing_is_unusual_before_there_are_ten_loads(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(AlertKind.UNUSUAL_ROWS)
    loads(pipeline, USUAL_ROWS[:9], USUAL_SECONDS[:9])
    end(pipeline, "succeeded", rows=1)
    assert told() == []
    end(pipeline, "succeeded", rows=1)
    assert len(told()) == 1


def test_comparisons_watermarks_and_backfills_tell_nothing(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(FAILED, RECOVERED, HELD)
    for action in (RunAction.COMPARE, RunAction.SET_WATERMARK, RunAction.BACKFILL):
        end(pipeline, "failed", action=action, judged=False)
    assert not AlertEvent.objects.exists()
    end(pipeline, "failed")
    end(pipeline, "succeeded", action=RunAction.BACKFILL)
    assert told() == [("opened", "Orders failed")]
    end(pipeline, "held", action=RunAction.BACKFILL)
    assert told()[1:] == [("opened", "Orders is held")]


# Nothing is lost, nothing is doubled, nothing is paid for what nobody asked for -------------------


def test_every_way_a_run_ends_leaves_its_event_in_the_same_transaction(make_pipeline, make_rule):
    pipeline = make_pipeline()
    make_rule(FAILED)
    run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)
    claimed = services.claim(process="worker@a:1", worker="worker@a:1:2", task_id="t")
    assert claimed is not None
    with transaction.atomic():
        services.finish(claimed, RunStatus.FAILED, failure=Failure("boom", "It broke."))
        assert AlertEvent.objects.filter(run=run).exists()
        transaction.set_rollback(True)
    assert not AlertEvent.objects.exists()
    services.finish(claimed, RunStatus.FAILED, failure=Failure("boom", "It broke."))
    assert judging.judge() == 1
    assert Alert.objects.get().cause == "It broke."


def test_a_judge_that_dies_loses_nothing_and_doubles_nothing(make_pipeline, make_rule, end, monkeypatch):
    pipeline = make_pipeline()
    make_rule(FAILED)
    end(pipeline, "failed", judged=False)

    judge = judging._judge

    def judge_and_die(*args: object) -> None:
        judge(*args)
        assert AlertDelivery.objects.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(judging, "_judge", judge_and_die)
        with pytest.raises(KeyboardInterrupt):
            judging.judge()
    assert (Alert.objects.count(), AlertDelivery.objects.count(), AlertEvent.objects.count()) == (0, 0, 1)
    assert (judging.judge(), judging.judge()) == (1, 0)
    assert (Alert.objects.count(), AlertDelivery.objects.count()) == (1, 1)


def test_a_run_that_no_rule_is_about_leaves_no_event_and_costs_no_query(make_pipeline, make_rule):
    orders, refunds = make_pipeline("Orders"), make_pipeline("Refunds")
    counts = []
    for rule_for in (None, [refunds]):
        if rule_for:
            make_rule(FAILED, pipelines=rule_for)
        services.request_run(orders, trigger=Trigger.MANUAL, by=None)
        claimed = services.claim(process="worker@a:1", worker="worker@a:1:2", task_id="t")
        assert claimed is not None
        with CaptureQueriesContext(connection) as queries:
            services.finish(claimed, RunStatus.FAILED, failure=Failure("boom", "It broke."))
        counts.append(len(queries))
    assert counts[0] == counts[1]
    assert not AlertEvent.objects.exists()


def test_a_rule_that_is_off_watches_nothing(make_pipeline, make_rule, end):
    make_rule(FAILED, enabled=False)
    end(make_pipeline(), "failed")
    assert told() == []


def test_the_number_of_queries_does_not_grow_with_ordinary_ends(make_pipeline, make_rule, end):
    make_rule(FAILED, AlertKind.UNUSUAL_ROWS)
    pipelines = [make_pipeline(f"P {number}") for number in range(12)]

    def count(some: list) -> int:
        for pipeline in some:
            end(pipeline, "succeeded", judged=False)
        with CaptureQueriesContext(connection) as queries:
            judging.judge()
        return len(queries)

    assert count(pipelines[:2]) == count(pipelines)


def test_pausing_does_not_end_a_failure(make_pipeline, make_rule, end):
    pipeline = make_pipeline()
    make_rule(FAILED)
    end(pipeline, "failed")
    pipeline.state = PipelineState.PAUSED
    pipeline.save()
    assert Alert.objects.get().closed_at is None
