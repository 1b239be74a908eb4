"""The schedules of a pipeline, replaced without losing a tick."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from django.db.models import Case, F, QuerySet, When
from django_celery_beat.models import CrontabSchedule

from pipelines import calendars, schedules
from pipelines.models import Pipeline, Schedule
from pipelines.specs import Key, ScheduleSpec


def replace_schedules(pipeline: Pipeline, wanted: dict[Key, ScheduleSpec], now: datetime) -> None:
    kept: set[Key] = set()
    ended: list[Schedule] = []
    for schedule in pipeline.schedules.filter(ends_at__isnull=True).select_related("calendar"):
        key = ScheduleSpec.of(schedule).key
        if key in wanted and key not in kept:
            kept.add(key)
        else:
            ended.append(schedule)
            end_schedules(pipeline.schedules.filter(pk=schedule.pk), now)
    covered = max((end for each in ended if (end := schedules.covered_by(each, now))), default=None)
    for key, spec in wanted.items():
        if key not in kept:
            _start(pipeline, spec, now, covered, _anchor(spec, ended))


def _anchor(spec: ScheduleSpec, ended: list[Schedule]) -> datetime | None:
    """Where an interval goes on counting from that was edited but for its length and its beginning."""
    for index, old in enumerate(ended):
        if (old.kind, old.every_s, old.active_from) == (Schedule.Kind.INTERVAL, spec.every_s, spec.active_from):
            gone = ended.pop(index)
            return gone.anchor or gone.starts_at
    return None


def _start(
    pipeline: Pipeline, spec: ScheduleSpec, now: datetime, covered: datetime | None, anchor: datetime | None
) -> None:
    """Start a schedule; its data begins where that of those it takes the place of ended."""
    schedule = Schedule(
        pipeline=pipeline,
        kind=spec.kind,
        cron=spec.cron,
        zone=spec.zone,
        every_s=spec.every_s,
        active_from=spec.active_from,
        active_until=spec.active_until,
        calendar=calendars.calendar_named(spec.calendar) if spec.calendar else None,
        jitter_s=spec.jitter_s,
        starts_at=now,
        anchor=anchor,
        ticked_through=now,
        covered_through=covered,
    )
    rule = schedules.Rule.of(schedule)
    schedule.next_due = schedules.next_time(rule, now)
    if spec.kind == Schedule.Kind.CRON:
        fields = schedules.crontab_fields(spec.cron)
        schedule.crontab = CrontabSchedule.objects.create(timezone=ZoneInfo(spec.zone), **fields)
    schedule.save()


def end_schedules(current: QuerySet[Schedule], now: datetime) -> None:
    """End schedules; ticks up to now that nobody has looked at yet stay due."""
    ending = current.filter(ends_at__isnull=True)
    crontabs = [pk for pk in ending.values_list("crontab", flat=True) if pk is not None]
    ending.update(ends_at=now, crontab=None, next_due=Case(When(next_due__lte=now, then=F("next_due")), default=None))
    CrontabSchedule.objects.filter(pk__in=crontabs).delete()
