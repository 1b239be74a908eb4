"""Definitions are saved whole: the pipeline, its schedules and its revision, or nothing."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from celery.schedules import crontab
from django.contrib.admin.models import LogEntry
from django.db import connection
from django_celery_beat.models import CrontabSchedule

from connectors.errors import ConnectorError
from pipelines import objections, queries, schedules, services
from pipelines.models import Connection, Pipeline, PipelineState, Revision, Schedule
from pipelines.objections import PipelineRefused
from pipelines.specs import ScheduleSpec

DAILY = ScheduleSpec("cron", "30 6 * * 1-5", "Europe/Berlin")
QUARTER = ScheduleSpec("interval", every_s=900)


def current(pipeline):
    return {ScheduleSpec.of(schedule) for schedule in queries.current_schedules().filter(pipeline=pipeline)}


def test_a_new_pipeline_gets_its_first_revision_and_schedules(make_pipeline, operator):
    pipeline = make_pipeline(schedules=[DAILY, QUARTER])
    revision = pipeline.revision
    assert (revision.number, revision.created_by) == (1, operator)
    assert revision.definition["source"] == {
        "connection": str(pipeline.source_id), "table": "sales.orders", "query": "", "columns": None,
    }  # fmt: skip
    assert revision.definition["destination"] == {
        "connection": str(pipeline.destination_id), "schema": "public", "table": "orders", "adopt": False,
    }  # fmt: skip
    assert revision.definition["schedules"] == [
        {"kind": "cron", "cron": "30 6 * * 1-5", "zone": "Europe/Berlin", "every_s": None},
        {"kind": "interval", "cron": "", "zone": "UTC", "every_s": 900},
    ]
    assert current(pipeline) == {DAILY, QUARTER}


def test_columns_of_another_source_are_forgotten_until_somebody_looks(make_pipeline, operator):
    seen = [{"name": "id", "type": "INT64"}]
    pipeline = make_pipeline(source_columns=seen)
    services.save_pipeline(pipeline, schedules=None, by=operator)
    assert pipeline.revision.definition["source"]["columns"] == seen
    pipeline.source_table = "sales.others"
    services.save_pipeline(pipeline, schedules=None, by=operator)
    assert pipeline.revision.definition["source"]["columns"] is None


def test_the_columns_do_not_change_what_belongs_in_the_target(make_pipeline, operator):
    pipeline = make_pipeline()
    before = pipeline.revision.fingerprint
    pipeline.source_columns = [{"name": "id", "type": "INT64"}]
    assert services.save_pipeline(pipeline, schedules=None, by=operator).fingerprint == before


def test_a_new_schedule_knows_its_next_tick(make_pipeline):
    for schedule in make_pipeline(schedules=[DAILY, QUARTER]).schedules.all():
        rule = schedules.Rule.of(schedule)
        assert schedule.ticked_through == schedule.starts_at
        assert schedule.next_due == schedules.next_time(rule, schedule.ticked_through) > schedule.starts_at


def test_each_cron_schedule_owns_a_crontab_row_which_goes_when_the_schedule_ends(make_pipeline, operator):
    pipeline = make_pipeline(schedules=[DAILY, QUARTER])
    other = make_pipeline("Customers", schedules=[DAILY])
    row = pipeline.schedules.get(kind="cron").crontab
    assert (row.minute, row.hour, row.day_of_week, str(row.timezone)) == ("30", "6", "1-5", "Europe/Berlin")
    assert row != other.schedules.get().crontab
    services.save_pipeline(pipeline, schedules=[QUARTER], by=operator)
    assert list(CrontabSchedule.objects.all()) == [other.schedules.get().crontab]


@pytest.mark.parametrize(
    "cron",
    [
        "@weekly",
        "5/15 22-4 1,15 jan-mar,DEC *",
        "0 0 * * sun-tue",
        "*/7 */5 */9 */5 */2",
        "1-59/2 0 1-31 * 7",
        "* * * * 0-7",
    ],
)
def test_crontab_rows_are_valid_for_their_own_admin_and_for_celery(make_pipeline, cron):
    row = make_pipeline(schedules=[ScheduleSpec("cron", cron)]).schedules.get().crontab
    row.full_clean()
    parsed = schedules.parse(cron)
    names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    celery = crontab(**{name: getattr(row, name) for name in names})
    assert (celery.minute, celery.hour) == (set(parsed.minutes), set(parsed.hours))
    assert (celery.day_of_month, celery.month_of_year, celery.day_of_week) == (
        parsed.days, parsed.months, parsed.weekdays,
    )  # fmt: skip


def test_saving_again_without_a_change_makes_no_revision_and_touches_no_schedule(make_pipeline, operator):
    pipeline = make_pipeline(schedules=[DAILY, QUARTER])
    before = set(pipeline.schedules.values_list("pk", "starts_at", "crontab"))
    pipeline.description = "Told to people, not to runs."
    services.save_pipeline(pipeline, schedules=[QUARTER, DAILY, DAILY], by=operator)
    assert Revision.objects.filter(pipeline=pipeline).count() == 1
    assert set(pipeline.schedules.values_list("pk", "starts_at", "crontab")) == before


def test_a_changed_rule_ends_its_schedule_and_starts_another(make_pipeline, operator):
    pipeline = make_pipeline(schedules=[DAILY, QUARTER])
    later = ScheduleSpec("cron", "45 6 * * 1-5", "Europe/Berlin")
    services.save_pipeline(pipeline, schedules=[later, QUARTER], by=operator)
    assert current(pipeline) == {later, QUARTER}
    ended = pipeline.schedules.get(ends_at__isnull=False)
    assert (ScheduleSpec.of(ended), ended.next_due, ended.crontab) == (DAILY, None, None)
    assert ended.ends_at == pipeline.schedules.get(cron=later.cron).starts_at
    assert pipeline.revision.number == 2


def test_ticks_that_nobody_looked_at_before_a_schedule_ended_stay_due(make_pipeline, operator):
    pipeline = make_pipeline(schedules=[QUARTER])
    missed = queries.database_now() - timedelta(minutes=20)
    pipeline.schedules.update(next_due=missed)
    services.save_pipeline(pipeline, schedules=[], by=operator)
    assert pipeline.schedules.get().next_due == missed


def test_leaving_schedules_out_leaves_them_alone(make_pipeline, operator):
    pipeline = make_pipeline(schedules=[DAILY])
    pipeline.retries = 0
    revision = services.save_pipeline(pipeline, schedules=None, by=operator)
    assert current(pipeline) == {DAILY}
    assert (revision.number, revision.definition["retries"]) == (2, 0)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (ScheduleSpec("cron", "0 0 31 2 *"), "cron"),
        (ScheduleSpec("cron", "0 0 * * *", "Mars/Olympus"), "zone"),
        (ScheduleSpec("interval", every_s=0), "every_s"),
        (ScheduleSpec("sundial"), "kind"),
    ],
)
def test_a_bad_schedule_saves_nothing(make_pipeline, operator, spec, field):
    pipeline = make_pipeline(schedules=[DAILY])
    pipeline.retries = 0
    with pytest.raises(schedules.RuleError) as caught:
        services.save_pipeline(pipeline, schedules=[spec], by=operator)
    assert caught.value.field == field
    assert current(pipeline) == {DAILY}
    assert Pipeline.objects.get().retries == 3


def test_two_pipelines_cannot_write_to_one_table(make_pipeline):
    make_pipeline()
    with pytest.raises(PipelineRefused) as caught:
        make_pipeline("Orders too", target_table="orders")
    assert (caught.value.code, caught.value.field) == ("target_taken", "target_table")
    assert not Pipeline.objects.filter(name="Orders too").exists()


def test_a_name_is_used_once(make_pipeline):
    make_pipeline()
    with pytest.raises(PipelineRefused) as caught:
        make_pipeline(target_table="orders_2")
    assert (caught.value.code, caught.value.field) == ("name_taken", "name")


def test_a_pipeline_reads_a_table_or_a_query(make_pipeline):
    with pytest.raises(PipelineRefused) as caught:
        make_pipeline(source_query="SELECT 1")
    assert caught.value.code == "table_or_query"


def test_the_fingerprint_follows_source_and_target_only(make_pipeline, operator):
    pipeline = make_pipeline()
    first = pipeline.revision.fingerprint
    pipeline.write_disposition, pipeline.retries, pipeline.adopt_target = "append", 7, True
    assert services.save_pipeline(pipeline, schedules=[DAILY], by=operator).fingerprint == first
    pipeline.target_table = "orders_v2"
    assert services.save_pipeline(pipeline, schedules=None, by=operator).fingerprint != first


def test_pausing_and_resuming_twice_counts_once(make_pipeline, operator):
    pipeline = make_pipeline()
    assert services.pause([pipeline], by=operator) == 1
    assert services.pause(Pipeline.objects.all(), by=operator) == 0
    pipeline.refresh_from_db()
    assert pipeline.state == PipelineState.PAUSED
    paused_since = pipeline.active_from
    assert services.resume([pipeline], by=operator) == 1
    assert services.resume([pipeline], by=operator) == 0
    pipeline.refresh_from_db()
    assert pipeline.state == PipelineState.ACTIVE
    assert pipeline.active_from > paused_since
    notes = LogEntry.objects.filter(user=operator, object_id=str(pipeline.pk)).order_by("pk")
    assert [entry.change_message for entry in notes] == ["Paused.", "Resumed."]


def test_a_pipeline_made_active_by_saving_it_starts_from_now(make_pipeline, operator):
    pipeline = make_pipeline(state=PipelineState.PAUSED)
    before = pipeline.active_from
    pipeline.state = PipelineState.ACTIVE
    services.save_pipeline(pipeline, schedules=None, by=operator)
    assert Pipeline.objects.get().active_from > before


def test_a_save_that_does_not_mean_the_state_keeps_a_pause(make_pipeline, operator):
    stale = make_pipeline()
    services.pause([stale], by=operator)
    stale.retries = 1
    services.save_pipeline(stale, schedules=None, by=operator, keep_state=True)
    assert Pipeline.objects.get().state == PipelineState.PAUSED


def test_archiving_ends_schedules_and_frees_the_target(make_pipeline, operator):
    pipeline = make_pipeline(schedules=[DAILY, QUARTER])
    assert services.archive([pipeline], by=operator) == 1
    assert services.archive([pipeline], by=operator) == 0
    assert services.resume([pipeline], by=operator) == 0
    assert current(pipeline) == set()
    assert not CrontabSchedule.objects.exists()
    make_pipeline("Orders, new", target_table="orders")


def test_a_duplicate_is_paused_and_writes_elsewhere(make_pipeline, operator):
    original = make_pipeline(schedules=[DAILY, QUARTER], write_disposition="append", adopt_target=True, retries=5)
    copy = services.duplicate(original, by=operator)
    assert (copy.name, copy.target_table, copy.state) == ("Orders (copy)", "orders_copy", PipelineState.PAUSED)
    assert (copy.source_table, copy.write_disposition, copy.retries) == ("sales.orders", "append", 5)
    assert not copy.adopt_target
    assert current(copy) == {DAILY, QUARTER}
    again = services.duplicate(original, by=operator)
    assert (again.name, again.target_table) == ("Orders (copy 2)", "orders_copy2")
    named = services.duplicate(original, by=operator, name="Mine", target_table="mine")
    assert (named.name, named.target_table) == ("Mine", "mine")


def test_names_of_duplicates_fit(make_pipeline, operator):
    copy = services.duplicate(make_pipeline("é" * 200, target_table="ä" * 31), by=operator)
    assert len(copy.name) == 200
    assert len(copy.target_table.encode()) <= 63
    assert copy.target_table.endswith("_copy")


@pytest.mark.django_db(transaction=True)
def test_saves_at_the_same_moment_make_different_revisions(make_pipeline, operator):
    pk = make_pipeline().pk
    barrier, saved = threading.Barrier(4), []

    def save(retries: int) -> None:
        try:
            pipeline = Pipeline.objects.get(pk=pk)
            pipeline.retries = retries
            barrier.wait(60)
            services.save_pipeline(pipeline, schedules=[ScheduleSpec("interval", every_s=60 + retries)], by=operator)
            saved.append(retries)
        finally:
            connection.close()

    threads = [threading.Thread(target=save, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(saved) == [0, 1, 2, 3]
    assert sorted(Revision.objects.values_list("number", flat=True)) == [1, 2, 3, 4, 5]
    assert Schedule.objects.filter(ends_at__isnull=True).count() == 1
    latest = Revision.objects.first()
    assert Pipeline.objects.get().revision == latest
    assert latest.definition["retries"] == Pipeline.objects.get().retries


def test_a_connection_is_refused_when_its_options_make_none(db, operator):
    with pytest.raises(ConnectorError) as caught:
        services.save_connection(Connection(name="Half", kind="postgres", options={"host": "db"}), by=operator)
    assert caught.value.field == "dbname"
    assert not Connection.objects.exists()


RULES = {"email": {"skip": True}, "amount": {"type": "numeric(12,2)"}}


def test_rules_for_columns_are_part_of_the_definition_and_of_what_belongs_in_the_target(make_pipeline, operator):
    pipeline = make_pipeline()
    before = pipeline.revision.fingerprint
    pipeline.column_rules = RULES
    revision = services.save_pipeline(pipeline, schedules=None, by=operator)
    assert revision.definition["column_rules"] == RULES
    assert revision.fingerprint != before
    assert services.duplicate(pipeline, by=operator).column_rules == RULES


def test_rules_that_cannot_be_are_told_by_column(make_pipeline):
    pipeline = make_pipeline(merge_key=["id"], write_disposition="merge", cursor_column="at")
    pipeline.column_rules = {"ID": {"skip": True}, "At": {"type": "text"}, "x": "integer", "fine": {"type": "text"}}
    found = objections.against(pipeline)
    assert [(refused.code, refused.field) for refused in found] == [("column_rule", "column_rules")] * 3
    assert [refused.message for refused in found] == [
        "The rule for column x is not understood.",
        "Column id is skipped, and stands in the key.",
        "Column at is the cursor: it is read as it is, and keeps its type.",
    ]
