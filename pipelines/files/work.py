"""One application of a file: row by row, by the services and checks that the form goes by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection as database
from django.db import models

from connectors import registry
from connectors.errors import ConnectorError
from pipelines import calendars, objections, queries, schedules, services
from pipelines import checks as checked
from pipelines import dependencies as graph
from pipelines.dependencies import DependencySpec
from pipelines.files import alert_rules, connections, dataset_rules, fields, values
from pipelines.files.changes import ADDED, CHANGED, REMOVED, Change, between, first, renamed
from pipelines.files.exporting import SECTIONS
from pipelines.files.problems import FileRefused, Path, Problem
from pipelines.files.text import Document
from pipelines.files.values import Values
from pipelines.locks import AdvisoryLock
from pipelines.models import AlertRule, Calendar, Connection, DatasetRule, Pipeline, PipelineState, Pool
from pipelines.objections import PipelineRefused
from pipelines.specs import ScheduleSpec

# Another pipeline of the same file may be about to give up the name or the table.
_MAY_PASS = frozenset({"name_taken", "target_taken"})


@dataclass(frozen=True)
class Wish:
    """What a caller wants of a file. `by`: whose permissions count, None for the system."""

    document: Document
    by: Any = None
    only: Collection[str] = SECTIONS
    archive_missing: bool = False
    note: str = "Applied from a file."


@dataclass
class Plan:
    """What applying does. `lacking`: the file's connections that have no secrets yet, and the names of those."""

    changes: list[Change] = field(default_factory=list)
    unchanged: int = 0
    lacking: list[tuple[str, str]] = field(default_factory=list)
    # What is made or moved, with its place in the file: what the live systems can be asked about.
    moved: list[tuple[Pipeline, Path]] = field(default_factory=list)
    # The columns that a source answered with, by the pipeline's name.
    seen: dict[str, Any] = field(default_factory=dict)


class Work:
    """One application of a file, inside its caller's transaction."""

    def __init__(self, wish: Wish, seen: Mapping[str, Any] | None = None) -> None:
        self.wish, self.document, self.seen = wish, wish.document, seen or {}
        self.problems: list[Problem] = []
        self.plan = Plan()
        self.connections: dict[str, Connection] = {}
        self.pools: dict[str, Pool] = {}
        self.calendars: dict[str, Calendar] = {}
        self.pipelines: dict[str, Pipeline] = {}

    def do(self) -> Plan:
        with database.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [AdvisoryLock.FILES])
        graph.lock()
        self.connections = {each.name: each for each in Connection.objects.select_for_update(no_key=True)}
        self.pools = {each.name: each for each in Pool.objects.select_for_update(no_key=True)}
        self.calendars = {each.name: each for each in Calendar.objects.select_for_update(no_key=True)}
        self._each("calendars", self.calendars, self._calendar)
        self._each("pools", self.pools, self._pool)
        self._each("connections", self.connections, self._connection)
        if self.problems:
            raise FileRefused(self.problems)
        if "pipelines" in self.wish.only:
            self._pipelines()
        if self.problems:
            raise FileRefused(self.problems)
        self._each("dataset_rules", {each.name: each for each in dataset_rules.rules()}, self._dataset_rule)
        self._each("alert_rules", {each.name: each for each in alert_rules.rules()}, self._rule)
        if self.problems:
            raise FileRefused(self.problems)
        return self.plan

    def _section(self, name: str) -> dict[str, Any]:
        return (self.document.data.get(name) or {}) if name in self.wish.only else {}

    def _each(self, section: str, known: dict[str, Any], one: Callable[[str, Any, Any], None]) -> None:
        entries = self._section(section)
        for name, entry in entries.items():
            if name not in known and entry.get("was") in known and entry["was"] not in entries:
                known[name] = known.pop(entry["was"])
            row = known.get(name)
            try:
                one(name, entry, row)
            except (ConnectorError, PipelineRefused, schedules.RuleError) as refused:
                in_options = section == "connections" and refused.field not in ("", "name", "kind")
                self._refuse((section, name, *(("options",) if in_options else ())), refused)

    def _refuse(self, path: Path, refused: Any) -> None:
        self.problems.append(problem_of(self.document, path, refused))

    def _told(self, sign: str, row: models.Model, change: Change) -> None:
        """Enter a change into the plan and, for a person, into the admin's history."""
        self.plan.changes.append(change)
        by, what = self.wish.by, row._meta
        if by is None:
            return
        action = "add" if sign == ADDED else "change"
        if not by.has_perm(f"{what.app_label}.{action}_{what.model_name}"):
            message = f"{by} may not {action} {change.what}s, and {change.name} would be."
            raise PermissionDenied(message)
        flag = ADDITION if sign == ADDED else CHANGE
        LogEntry.objects.log_actions(by.pk, [row], flag, self.wish.note, single_object=True)

    # Calendars, pools and connections ---------------------------------------------------------

    def _calendar(self, name: str, entry: Values, calendar: Calendar | None) -> None:
        wanted = values.filled(fields.CALENDAR, entry)
        if calendar is None:
            made = self.calendars[name] = Calendar(name=name, **wanted)
            calendars.save_calendar(made, by=self.wish.by)
            return self._told(ADDED, made, Change(ADDED, "calendar", name, first(fields.CALENDAR, wanted)))
        before = values.of_calendar(calendar)
        changes, note = between(fields.CALENDAR, before, wanted), renamed(calendar, name)
        if not changes and not note:
            self.plan.unchanged += 1
            return None
        _set(calendar, before, {**wanted, "name": name})
        calendars.save_calendar(calendar, by=self.wish.by)
        return self._told(CHANGED, calendar, Change(CHANGED, "calendar", name, changes, note))

    def _pool(self, name: str, entry: Values, pool: Pool | None) -> None:
        wanted = values.filled(fields.POOL, entry)
        if pool is None:
            made = self.pools[name] = Pool(name=name, **wanted)
            services.save_pool(made)
            return self._told(ADDED, made, Change(ADDED, "pool", name, first(fields.POOL, wanted)))
        changes = between(fields.POOL, values.of_pool(pool), wanted)
        note = renamed(pool, name)
        if not changes and not note:
            self.plan.unchanged += 1
            return None
        _set(pool, values.of_pool(pool), {**wanted, "name": name})
        services.save_pool(pool)
        return self._told(CHANGED, pool, Change(CHANGED, "pool", name, changes, note))

    def _connection(self, name: str, entry: Values, connection: Connection | None) -> None:
        saved = connections.save(name, entry, connection, by=self.wish.by)
        if saved is None:
            self.plan.unchanged += 1
        else:
            self.connections[name] = saved[0]
            self._told(saved[1].sign, *saved)
        if names := connections.lacking(self.connections[name]):
            self.plan.lacking.append((name, names))

    # Pipelines --------------------------------------------------------------------------------

    def _pipelines(self) -> None:
        rows = queries.pipelines_with_parts().select_related("pool").defer("source__secrets", "destination__secrets")
        known = {pipeline.name: pipeline for pipeline in rows}
        entries = self._section("pipelines")
        for name, entry in entries.items():
            if name not in known and entry.get("was") in known and entry["was"] not in entries:
                known[name] = known.pop(entry["was"])
        if self.wish.archive_missing:
            self._archive([each for name, each in known.items() if name not in entries])
        self.pipelines = dict(known)
        self._refuse_cycles(entries)
        if self.problems:
            return
        self._take_out_dependencies(entries)
        waiting = {name: (entry, known.get(name)) for name, entry in entries.items()}
        while waiting:
            held = {name: each for name, each in waiting.items() if not self._pipeline(name, *each, may_wait=True)}
            if len(held) == len(waiting):
                for name, each in held.items():
                    self._pipeline(name, *each, may_wait=False)
                break
            waiting = held

    def _archive(self, pipelines: Iterable[Pipeline]) -> None:
        gone = [each for each in pipelines if each.state != PipelineState.ARCHIVED]
        services.archive(gone, by=None)
        for pipeline in gone:
            self._told(REMOVED, pipeline, Change(REMOVED, "pipeline", pipeline.name, (), "archived: not in the file"))

    def _pipeline(self, name: str, entry: Values, pipeline: Pipeline | None, *, may_wait: bool) -> bool:
        """Make one what the file says; False if it has to wait for others to make room."""
        path = ("pipelines", name)
        specs = self._specs(path, entry)
        ends = self._ends(path, entry)
        upstreams = self._upstreams(path, entry, may_wait=may_wait)
        if upstreams is None:
            return not may_wait
        if specs is None or ends is None:
            return True
        told = values.of_dependencies((name, spec) for name, spec in upstreams)
        wanted = values.filled(
            fields.PIPELINE, {**entry, "schedules": values.of_schedules(specs), "dependencies": told}
        )
        before = _before(pipeline)
        keeps_state = "state" not in entry and before.get("state") in ("active", "paused")
        if keeps_state:
            wanted["state"] = before["state"]
        candidate = copy.copy(pipeline) if pipeline else Pipeline(name=name)
        note = renamed(candidate, name)
        changes = between(fields.PIPELINE, before, wanted) if pipeline else first(fields.PIPELINE, wanted)
        if pipeline and not changes and not note:
            self.plan.unchanged += 1
            return True
        _set(candidate, before, {**wanted, **ends, "name": name})
        waits_for, checks = [spec for _, spec in upstreams], [*map(checked.from_values, wanted["checks"])]
        refused = [*_against(candidate), *graph.against(candidate, waits_for)]
        for number, wrong in checked.against(candidate, checks):
            self._refuse((*path, "checks", number), wrong)
            refused.append(wrong)
        if may_wait and refused and {each.code for each in refused} <= _MAY_PASS:
            return False
        if candidate.name in self.seen:
            candidate.source_columns = self.seen[candidate.name]
        if not refused:
            try:
                services.save_pipeline(
                    candidate,
                    schedules=specs,
                    dependencies=waits_for,
                    checks=checks,
                    by=self.wish.by,
                    keep_state=keeps_state,
                )
                self.pipelines[name] = candidate
            except PipelineRefused as somebody_was_faster:
                refused.append(somebody_was_faster)
        for each in refused:
            self._refuse(path, each)
        if not refused:
            if any(before.get(field) != wanted.get(field) for field in services.MOVING):
                self.plan.moved.append((candidate, path))
            sign = CHANGED if pipeline else ADDED
            self._told(sign, candidate, Change(sign, "pipeline", name, changes, note))
        return True

    def _specs(self, path: Path, entry: Values) -> list[ScheduleSpec] | None:
        """The rules of an entry, None if one is none."""
        specs: list[ScheduleSpec] = []
        for number, schedule in enumerate(entry.get("schedules", ())):
            place = (*path, "schedules", number)
            try:
                spec = values.spec_of(schedule)
            except schedules.RuleError as error:
                self._refuse(place, error)
                continue
            if spec.calendar and spec.calendar not in self.calendars:
                self._refuse(place, _nameless("calendar", spec.calendar, "calendar"))
                continue
            if spec in specs:
                self._refuse(place, PipelineRefused("twice", "The same schedule is there twice.", "Take one out."))
            specs.append(spec)
        return specs if len(specs) == len(entry.get("schedules", ())) else None

    # Dataset rules and alert rules ------------------------------------------------------------------------------

    def _dataset_rule(self, name: str, entry: Values, rule: DatasetRule | None) -> None:
        saved = dataset_rules.save(name, entry, rule, by=self.wish.by)
        if saved is None:
            self.plan.unchanged += 1
        else:
            self._told(saved[1].sign, *saved)

    def _rule(self, name: str, entry: Values, rule: AlertRule | None) -> None:
        saved = alert_rules.save(name, entry, rule)
        if saved is None:
            self.plan.unchanged += 1
        else:
            self._told(saved[1].sign, *saved)

    # What pipelines wait for -------------------------------------------------------------------

    def _take_out_dependencies(self, entries: Mapping[str, Values]) -> None:
        """What the file does not have goes first: on the way from one graph to another there is no cycle then."""
        kept = {}
        for name, entry in entries.items():
            if name in self.pipelines:
                upstreams = [self.pipelines[each].pk for each in _awaited(entry) if each in self.pipelines]
                kept[self.pipelines[name].pk] = upstreams
        graph.remove_others(kept)

    def _refuse_cycles(self, entries: Mapping[str, Values]) -> None:
        """Of what the file says, and of those that are not in it."""
        names = {pipeline.pk: name for name, pipeline in self.pipelines.items()}
        waits_for = {
            name: [names[each.upstream_id] for each in pipeline.current_dependencies]  # type: ignore[attr-defined]
            for name, pipeline in self.pipelines.items()
        } | {name: _awaited(entry) for name, entry in entries.items()}
        try:
            TopologicalSorter(waits_for).prepare()
        except CycleError as error:
            cycle: list[str] = error.args[1]
            at = next(name for name in cycle if name in entries and name in self._section("pipelines"))
            self._refuse(("pipelines", at), graph.cycle_refused(cycle))

    def _upstreams(self, path: Path, entry: Values, *, may_wait: bool) -> list[tuple[str, DependencySpec]] | None:
        """What an entry waits for, by name; None if one is not there, or not yet."""
        wanted = entry.get("dependencies", ())
        missing = [number for number, each in enumerate(wanted) if each["pipeline"] not in self.pipelines]
        if missing and not may_wait:
            for number in missing:
                self._refuse((*path, "dependencies", number), _nameless("pipeline", wanted[number]["pipeline"], ""))
        if missing:
            return None
        return [(each["pipeline"], values.dependency_of(self.pipelines[each["pipeline"]].pk, each)) for each in wanted]

    def _ends(self, path: Path, entry: Values) -> dict[str, Any] | None:
        """The rows that an entry names, None if one is not there or cannot be what it is to be."""
        found: dict[str, Any] = {"pool": None}
        for name, code in (("source", "not_a_source"), ("destination", "not_a_destination")):
            connection = self.connections.get(entry[name])
            if connection is None:
                self._refuse(path, _nameless("connection", entry[name], name))
            elif not getattr(registry.get(connection.kind), name):
                message = f"{connection.name} cannot be a {name}."
                self._refuse(path, PipelineRefused(code, message, "Name another connection.", name))
            else:
                found[name] = connection
        if entry.get("pool") is not None:
            found["pool"] = self.pools.get(entry["pool"])
            if found["pool"] is None:
                self._refuse(path, _nameless("pool", entry["pool"], "pool"))
                return None
        return found if len(found) == 3 else None


def _awaited(entry: Values) -> list[str]:
    return [each["pipeline"] for each in entry.get("dependencies", ())]


def _nameless(what: str, name: str, of: str) -> PipelineRefused:
    hint = f"Correct the name, or put the {what} into the file."
    return PipelineRefused("no_such_name", f"There is no {what} called {name}.", hint, of)


def _before(pipeline: Pipeline | None) -> Values:
    if pipeline is None:
        return {}
    specs = map(ScheduleSpec.of, pipeline.current_schedules)  # type: ignore[attr-defined]
    return values.of_pipeline(pipeline, specs, pipeline.current_dependencies)  # type: ignore[attr-defined]


def _set(row: models.Model, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Set what differs: what is written another way and means the same stays as it is stored."""
    for name, value in wanted.items():
        if name in ("schedules", "dependencies", "checks") or (name in before and before[name] == value):
            continue
        setattr(row, name, fields.WORDS[name][value.upper()] if name in fields.WORDS else value)


def _against(candidate: Pipeline) -> Iterator[PipelineRefused]:
    """What the form would refuse."""
    try:
        candidate.full_clean(validate_constraints=False)
    except ValidationError as error:
        for name, errors in error.error_dict.items():
            for each in errors:
                if each.code == "unique":
                    yield PipelineRefused(*objections.NAME_TAKEN)
                else:
                    yield PipelineRefused(each.code or "invalid", " ".join(each.messages), field=name)
    yield from objections.against(candidate)


def problem_of(document: Document, path: Path, of: Any) -> Problem:
    """A refusal or finding, at the field of the file that it is about."""
    place = (*path, of.field) if of.field else path
    return Problem(code=of.code, message=of.message, hint=of.hint, path=place, line=document.line(place))
