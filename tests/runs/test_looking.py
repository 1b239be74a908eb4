"""Looks at datasets: tables that appear get pipelines, those that vanish are told; against the emulator."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from google.cloud.bigquery import SchemaField

from connectors.bigquery.source import BigQuerySource
from connectors.errors import ConnectorError
from pipelines import dataset_rules, webhooks
from pipelines import queries as definition_queries
from pipelines import services as definitions
from pipelines.dependencies import DependencySpec
from pipelines.models import Connection, DatasetRule, Pipeline, PipelineState, Pool, Webhook
from pipelines.objections import PipelineRefused
from pipelines.specs import ScheduleSpec
from runs import looking, looking_bell
from runs.models import DatasetLook, SeenTable, TableEvent
from tests.emulator_tables import EmulatorTables

pytestmark = pytest.mark.django_db
ID = [SchemaField("id", "INT64")]
DAILY = ScheduleSpec("cron", cron="@daily", zone="Asia/Kolkata")


@pytest.fixture
def tables(emulator: dict[str, str]) -> Iterator[EmulatorTables]:
    made = EmulatorTables(emulator["rest"])
    yield made
    made.close()


@pytest.fixture
def dataset() -> str:
    return f"appearing_{secrets.token_hex(4)}"


@pytest.fixture
def rule(
    make_pipeline: Callable[..., Pipeline], source: Connection, dataset: str, tables: EmulatorTables
) -> Callable[..., DatasetRule]:
    """Makes a rule for the test's own dataset, which has the table `first`."""
    numbers = itertools.count()
    tables.make(f"{dataset}.first", ID)
    template = make_pipeline(
        "Template", schedules=[DAILY], target_schema="lake", retries=7, write_disposition="append", load_method="staged"
    )

    def rule(**changes: Any) -> DatasetRule:
        values = {
            "name": f"Rule {next(numbers)}",
            "source": source,
            "dataset": dataset,
            "template": template,
            **changes,
        }
        return dataset_rules.save_rule(DatasetRule(**values), by=None)

    return rule


def look(rule: DatasetRule) -> DatasetLook:
    DatasetRule.objects.filter(pk=rule.pk).update(next_look=Now() - timedelta(seconds=1))
    assert looking.look_around() == 1
    return DatasetLook.objects.filter(rule=rule).latest("pk")


def events(rule: DatasetRule) -> list[tuple[str, str]]:
    return list(TableEvent.objects.filter(rule=rule).order_by("id").values_list("kind", "table"))


def made(rule: DatasetRule) -> list[str]:
    return sorted(Pipeline.objects.exclude(pk=rule.template_id).values_list("name", flat=True))


def test_a_table_that_appears_gets_a_pipeline_like_the_template(rule, tables, dataset):
    told = rule(name_prefix="Lake ")
    first = look(told)
    assert (first.tables, first.appeared, first.made) == (1, 0, 0)
    assert events(told) == [], "what is there at the first look has not appeared"
    tables.make(f"{dataset}.orders", ID)
    second = look(told)
    assert (second.tables, second.appeared, second.made, second.refused) == (2, 1, 1, 0)
    pipeline = Pipeline.objects.get(name="Lake orders")
    assert pipeline.source_table == f"{dataset}.orders"
    assert (pipeline.target_schema, pipeline.target_table) == ("lake", "orders")
    assert (pipeline.retries, pipeline.write_disposition, pipeline.load_method) == (7, "append", "staged")
    assert pipeline.state == PipelineState.PAUSED
    assert pipeline.revision.number == 1
    assert [ScheduleSpec.of(schedule) for schedule in pipeline.schedules.all()] == [DAILY.tidy()]
    event = TableEvent.objects.get(rule=told)
    assert (event.kind, event.table, event.pipeline) == ("made", "orders", pipeline)
    assert look(told).appeared == 0, "once"
    template = Pipeline.objects.get(pk=told.template_id)
    assert (template.name, template.revisions.count()) == ("Template", 1)


def test_all_settings_of_the_template_are_copied_and_nothing_that_hangs_on_it(rule, make_pipeline, operator):
    told = rule(take_existing=True)
    template = told.template
    upstream = make_pipeline("Upstream")
    changes = {
        "pool": Pool.objects.create(name="Small", slots=1), "priority": 10, "retries": 3, "time_limit_s": 77,
        "overlap": "queue", "missed": "all", "watch_every_s": 600, "text_policy": "strip", "quarantine": True,
        "guard_shrink_percent": 12, "held_days": 3, "undo_depth": 2,
    }  # fmt: skip
    for name, value in changes.items():
        setattr(template, name, value)
    needs = DependencySpec(upstream.pk)
    definitions.save_pipeline(template, schedules=None, dependencies=[needs], by=operator)
    webhooks.renew_secret(template)
    look(told)
    made = Pipeline.objects.get(name="first")
    own = {
        "id", "name", "description", "state", "source_table", "source_columns", "target_table", "revision",
        "active_from", "created_at", "updated_at",
    }  # fmt: skip
    fields = [each.attname for each in Pipeline._meta.concrete_fields if each.name not in own]
    template.refresh_from_db()
    assert {name: getattr(made, name) for name in fields} == {name: getattr(template, name) for name in fields}
    assert template.dependencies.exists()
    assert not made.dependencies.exists()
    assert not Webhook.objects.filter(pipeline=made).exists()


def test_new_pipelines_may_be_active(rule, tables, dataset):
    told = rule(new_state="active", take_existing=True)
    look(told)
    assert Pipeline.objects.get(name="first").state == PipelineState.ACTIVE


def test_a_table_that_vanishes_and_one_that_is_back_are_told(rule, tables, dataset):
    told = rule(take_existing=True)
    look(told)
    tables.drop(f"{dataset}.first")
    gone = look(told)
    assert (gone.tables, gone.vanished) == (0, 1)
    event = TableEvent.objects.filter(rule=told).latest("id")
    assert (event.kind, event.pipeline.name) == ("vanished", "first")
    assert look(told).vanished == 0, "once"
    tables.make(f"{dataset}.first", ID)
    look(told)
    assert events(told) == [("made", "first"), ("vanished", "first"), ("back", "first")]
    assert made(told) == ["first"], "no second pipeline"


def test_names_are_chosen_by_patterns_and_tables_of_a_day_left_alone(rule, tables, dataset):
    for name in ("orders_de", "orders_tmp", "customers", "orders_20260101"):
        tables.make(f"{dataset}.{name}", ID)
    told = rule(include=["orders_*", "first"], exclude=["*_tmp", *DatasetRule().exclude], take_existing=True)
    assert look(told).tables == 2
    assert made(told) == ["first", "orders_de"]


def test_no_more_are_made_at_once_than_the_rule_allows_and_the_next_look_goes_on(rule, tables, dataset):
    for name in ("b", "c", "d"):
        tables.make(f"{dataset}.{name}", ID)
    told = rule(most_at_once=2, take_existing=True)
    first = look(told)
    assert (first.made, first.left) == (2, 2)
    told.refresh_from_db()
    assert told.next_look - first.at < timedelta(minutes=2), "soon"
    second = look(told)
    assert (second.made, second.left) == (2, 0)
    assert made(told) == ["b", "c", "d", "first"]


def test_a_table_that_has_a_pipeline_already_gets_none(rule, tables, dataset, make_pipeline, operator):
    other = make_pipeline("By hand", source_table=f"demo-project.{dataset}.first", target_table="elsewhere")
    definitions.archive([other], by=operator)
    told = rule(take_existing=True)
    assert look(told).made == 0
    assert SeenTable.objects.get(rule=told).pipeline == other
    event = TableEvent.objects.get(rule=told)
    assert (event.kind, event.pipeline, event.message) == ("appeared", other, "By hand")
    assert made(told) == ["By hand"]


def test_a_table_that_cannot_have_a_pipeline_is_told_once_and_holds_up_no_other(rule, tables, dataset, make_pipeline):
    make_pipeline("In the way", target_schema="lake", target_table="first")
    tables.make(f"{dataset}.second", ID)
    told = rule(take_existing=True)
    seen = look(told)
    assert (seen.made, seen.refused) == (1, 1)
    refused = TableEvent.objects.get(rule=told, kind="refused")
    assert refused.table == "first"
    assert "In the way" in refused.message
    assert look(told).refused == 0


def test_a_name_too_long_for_the_target_is_told_with_the_field(rule, tables, dataset):
    tables.make(f"{dataset}.{'x' * 70}", ID)
    told = rule(take_existing=True)
    assert look(told).refused == 1
    assert TableEvent.objects.get(rule=told, kind="refused").message.startswith("Target table: ")


def test_a_pipeline_that_a_person_deletes_is_not_made_again(rule):
    told = rule(take_existing=True)
    look(told)
    pipeline = Pipeline.objects.get(name="first")
    pipeline.revision = None
    pipeline.save()
    pipeline.delete()
    look(told)
    assert made(told) == []


def test_a_dataset_that_cannot_be_listed_is_written_down_and_nothing_vanishes(rule, monkeypatch):
    told = rule()
    look(told)

    def refuse(self: BigQuerySource, dataset: str) -> None:
        # The emulator lists what is not there as empty; BigQuery does not.
        raise ConnectorError(f"There is no dataset {dataset}.", code="dataset_not_found", hint="Check the name.")

    monkeypatch.setattr(BigQuerySource, "tables", refuse)
    failed = look(told)
    assert (failed.error_code, failed.error_hint, failed.vanished) == ("dataset_not_found", "Check the name.", 0)
    assert events(told) == []
    assert SeenTable.objects.get(rule=told).vanished_at is None


def test_views_are_looked_at_where_the_rule_says_so(rule, tables, dataset):
    tables.run(f"CREATE VIEW `{dataset}.a_view` AS SELECT id FROM `{dataset}.first`")
    assert look(rule()).tables == 1
    assert look(rule(views=True)).tables == 2


def test_who_does_not_look_by_itself_looks_when_asked(rule):
    told = rule(enabled=False)
    assert looking.look_around() == 0
    dataset_rules.look_soon(told)
    assert looking.look_around() == 1
    assert looking.look_around() == 0


def test_another_dataset_is_a_new_beginning(rule, tables, dataset):
    told = rule()
    look(told)
    tables.make(f"{dataset}_two.other", ID)
    told.refresh_from_db()
    told.dataset = f"{dataset}_two"
    dataset_rules.save_rule(told, by=None)
    assert (look(told).appeared, events(told)) == (0, [])
    assert [seen.name for seen in SeenTable.objects.filter(rule=told)] == ["other"]


def test_of_two_bells_at_once_one_looks(rule, monkeypatch):
    rule(), rule()
    plain, answers = BigQuerySource.tables, []

    def hang(self: BigQuerySource, dataset: str) -> Any:
        answers.append(looking.look_around())  # the bell that comes while a dataset does not answer
        return plain(self, dataset)

    monkeypatch.setattr(BigQuerySource, "tables", hang)
    assert looking.look_around() == 2
    assert answers == [0, 0], "its thread is free for others"


def test_a_look_with_a_defect_is_written_down_and_tried_again_soon_and_then_less_often(rule, monkeypatch):
    told, other = rule(every_s=3600), rule()
    plain = BigQuerySource.tables

    def break_off(self: BigQuerySource, dataset: str) -> Any:
        if broken.pop():
            raise ValueError("a defect")
        return plain(self, dataset)

    monkeypatch.setattr(BigQuerySource, "tables", break_off)
    broken = [False, True]
    assert looking.look_around() == 2, "the other rule's turn comes"
    failed = DatasetLook.objects.get(rule=told)
    assert (failed.error_code, DatasetLook.objects.get(rule=other).error_code) == ("internal_error", "")
    assert wait_of(told) == pytest.approx(300, abs=30)
    DatasetRule.objects.filter(pk=other.pk).update(enabled=False)
    for wait in (600, 1200, 2400, 3600, 3600):
        broken = [True]
        look(told)
        assert wait_of(told) == pytest.approx(wait, abs=30)
    broken = [False]
    assert look(told).error_code == ""
    assert wait_of(told) == pytest.approx(3600, abs=30)


def wait_of(rule: DatasetRule) -> float:
    rule.refresh_from_db()
    return (rule.next_look - definition_queries.database_now()).total_seconds()


def test_a_look_whose_worker_dies_is_done_again_soon_and_leaves_a_record(rule, monkeypatch):
    told = rule(enabled=False, every_s=7 * 86400)
    dataset_rules.look_soon(told)

    def die(self: BigQuerySource, dataset: str) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(BigQuerySource, "tables", die)
        with pytest.raises(SystemExit):
            looking.look_around()
    assert wait_of(told) <= 300
    look(told)
    looks = DatasetLook.objects.filter(rule=told).order_by("pk")
    assert [each.error_code for each in looks] == ["worker_lost", ""]
    assert wait_of(told) > 6 * 86400
    assert looking.look_around() == 0, "what was asked for is done"


def test_what_a_look_that_was_asked_for_leaves_is_gone_on_with(rule, tables, dataset):
    tables.make(f"{dataset}.second", ID)
    told = rule(enabled=False, take_existing=True, most_at_once=1)
    dataset_rules.look_soon(told)
    assert look(told).left == 1
    assert wait_of(told) <= 60
    assert look(told).left == 0
    assert made(told) == ["first", "second"]
    told.refresh_from_db()
    assert not told.asked


def test_a_look_that_is_asked_for_while_another_is_under_way_is_done(rule, monkeypatch):
    told = rule()
    plain = BigQuerySource.tables
    asking = [lambda: dataset_rules.look_soon(told), lambda: None]
    monkeypatch.setattr(BigQuerySource, "tables", lambda self, name: asking.pop(0)() or plain(self, name))
    assert looking.look_around() == 2


def test_a_defect_at_one_table_keeps_no_other_from_its_pipeline(rule, tables, dataset, monkeypatch):
    tables.make(f"{dataset}.second", ID)
    plain = dataset_rules.pipeline_for

    def make(rule: DatasetRule, table: str) -> Pipeline:
        if table == "first":
            raise ValueError("a defect")
        return plain(rule, table)

    monkeypatch.setattr(dataset_rules, "pipeline_for", make)
    told = rule(take_existing=True)
    seen = look(told)
    assert (seen.made, seen.refused, seen.error_code) == (1, 1, "")
    assert "ValueError" in TableEvent.objects.get(rule=told, kind="refused").message


def test_views_have_not_vanished_when_the_rule_is_about_them_no_more(rule, tables, dataset):
    tables.run(f"CREATE VIEW `{dataset}.a_view` AS SELECT id FROM `{dataset}.first`")
    told = rule(views=True)
    assert look(told).tables == 2
    told.refresh_from_db()
    told.views = False
    dataset_rules.save_rule(told, by=None)
    without = look(told)
    assert (without.tables, without.vanished, events(told)) == (1, 0, [])


def test_a_table_whose_twin_in_another_project_has_a_pipeline_gets_one(rule, dataset, make_pipeline):
    make_pipeline("Twin", source_table=f"other-project.{dataset}.first", target_table="elsewhere")
    told = rule(take_existing=True)
    assert look(told).made == 1
    assert made(told) == ["Twin", "first"]
    told.dataset = f"other-project.{dataset}"
    assert dataset_rules.known_pipelines(told)["first"].name == "Twin"
    told.dataset = f"demo-project.{dataset}"
    assert dataset_rules.known_pipelines(told)["first"].name == "first"


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_looks(rule, at_once, monkeypatch):
    monkeypatch.setattr(looking, "_one", threading.Semaphore(8))  # as if they were processes of their own
    listed = []
    plain = BigQuerySource.tables
    monkeypatch.setattr(BigQuerySource, "tables", lambda self, name: listed.append(name) or plain(self, name))
    told = rule()
    assert sum(at_once(lambda _: looking.look_around(), times=3)) == 1
    assert len(listed) == 1
    assert DatasetLook.objects.filter(rule=told).count() == 1


def test_beat_asks_its_own_database_only_and_rings_when_a_look_is_due(rule, monkeypatch, django_assert_num_queries):
    rung, told = [], rule()
    monkeypatch.setattr(looking_bell, "ring", lambda: rung.append(1))
    monkeypatch.setattr(BigQuerySource, "tables", None)
    with django_assert_num_queries(1):
        looking_bell.Lookout().look()
    assert rung == [1]
    DatasetRule.objects.filter(pk=told.pk).update(next_look=Now() + timedelta(hours=1))
    lookout = looking_bell.Lookout()
    with django_assert_num_queries(1):
        lookout.look()
        lookout.look()
    assert rung == [1]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [({"dataset": "a.b.c"}, "dataset_name", "dataset"), ({"dataset": ""}, "dataset_name", "dataset")],
)
def test_what_is_no_rule_is_refused(rule, changes, code, field):
    with pytest.raises(PipelineRefused) as refused:
        rule(**changes)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_a_template_reads_a_table(rule, make_pipeline):
    query = make_pipeline("Query", source_table="", source_query="SELECT 1 AS id")
    with pytest.raises(PipelineRefused) as refused:
        rule(template=query)
    assert refused.value.code == "template_reads_query"
