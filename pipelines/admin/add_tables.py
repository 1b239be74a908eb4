"""Add tables: one template, one pipeline for every ticked table."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from uuid import UUID
from zoneinfo import available_timezones

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from unfold.decorators import action

from pipelines import lookups, objections, services
from pipelines.admin.endpoints import endpoint_addresses
from pipelines.admin.links import list_url, page_context
from pipelines.forms.add_tables import TemplateForm, WhereForm
from pipelines.forms.pipelines import live_findings, sentence, sources
from pipelines.forms.schedules import ScheduleForm
from pipelines.models import Connection, Pipeline
from pipelines.objections import PipelineRefused

# Every pipeline is checked against the live systems; one page does not wait longer than this for all of them.
CHECKING_LIMIT_S = 30


@dataclass
class Row:
    """A table that may be ticked; after a try, what stood in its way."""

    name: str
    kind: str = ""
    rows: int | None = None
    bytes: int | None = None
    pipeline: Pipeline | None = None
    ticked: bool = False
    errors: list[str] = field(default_factory=list)


class AddTables:
    """Mixed into the pipelines' admin."""

    @action(description="Add tables", icon="playlist_add", url_path="add-tables", permissions=["add"])
    def add_tables(self, request: HttpRequest) -> HttpResponse:
        page = Page(request)
        if request.method == "POST":
            page.make_pipelines()
            for pipeline in page.made:
                self.log_addition(request, pipeline, "Added as a table.")
            for warning in page.warnings:
                messages.warning(request, warning)
            if page.made:
                messages.success(request, f"{len(page.made)} pipeline{'' if len(page.made) == 1 else 's'} made.")
                if not page.failed:
                    return HttpResponseRedirect(list_url(Pipeline))
        more = {"desk_urls": endpoint_addresses(), "zones": sorted(available_timezones())}
        context = page_context(self, request, "Add tables", page=page, back=list_url(Pipeline), **more)
        return TemplateResponse(request, "admin/desk/add_tables.html", context)


class Page:
    """What the page shows: where to look, the tables found there, the template and its schedule."""

    def __init__(self, request: HttpRequest) -> None:
        self.user = request.user
        self.problem = ""
        self.made: list[Pipeline] = []
        self.warnings: list[str] = []
        self.source = _connection(request.GET.get("source", ""))
        datasets = self._ask(lookups.datasets, self.source) if self.source else None
        self.where = WhereForm(request.GET or None, datasets=datasets)
        chosen = request.GET.get("dataset", "")
        self.dataset = chosen if chosen in (datasets or []) else ""
        self.rows = self._rows() if self.dataset else []
        given = request.POST if request.method == "POST" else None
        self.template = TemplateForm(given)
        self.schedule = ScheduleForm(given, prefix="schedule", empty_permitted=True, use_required_attribute=False)
        self._tick(request.POST.getlist("tables"))

    @property
    def failed(self) -> bool:
        return any(row.errors for row in self.rows)

    def make_pipelines(self) -> None:
        """One pipeline for every ticked table; a table that cannot have one does not hold up the others."""
        ticked = [row for row in self.rows if row.ticked]
        if not ticked and not self.problem:
            self.problem = "Tick at least one table."
        if not (self.template.is_valid() and self.schedule.is_valid()):
            return
        specs = [self.schedule.spec] if self.schedule.has_changed() else []
        deadline = time.monotonic() + CHECKING_LIMIT_S
        for row in ticked:
            pipeline = self.template.pipeline_for(self.source, self.dataset, row.name)
            row.errors = row.errors or self._errors_of(pipeline, deadline)
            if row.errors:
                continue
            try:
                services.save_pipeline(pipeline, schedules=specs, by=self.user)
            except PipelineRefused as refused:
                row.errors = [sentence(refused)]
                continue
            row.pipeline, row.ticked = pipeline, False
            self.made.append(pipeline)

    def _errors_of(self, pipeline: Pipeline, deadline: float) -> list[str]:
        errors = [sentence(refused) for refused in objections.against(pipeline)]
        try:
            pipeline.full_clean(validate_constraints=False)
        except ValidationError as error:
            errors += error.messages
        if errors:
            return errors
        if time.monotonic() > deadline:
            self._warn("Not all tables were checked against the live systems in time; their first run will tell.")
            return []
        definite, warnings = live_findings(pipeline)
        for warning in warnings:
            self._warn(warning)
        return [sentence(finding) for finding in definite]

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _rows(self) -> list[Row]:
        tables = self._ask(lookups.tables, self.source, self.dataset) or []
        rows = [Row(table["name"], table["kind"], table["rows"], table["bytes"]) for table in tables]
        taken = {
            pipeline.source_table.split(".")[-1]: pipeline
            for pipeline in Pipeline.objects.filter(source=self.source, source_table__contains=f"{self.dataset}.")
            if pipeline.source_table.split(".")[-2:-1] == [self.dataset]
        }
        for row in rows:
            row.pipeline = taken.get(row.name)
        return rows

    def _tick(self, names: list[str]) -> None:
        known = {row.name: row for row in self.rows}
        for name in names:
            if name in known:
                known[name].ticked = True
            else:
                self.rows.append(Row(name, ticked=True, errors=["This table is not in the dataset any more."]))

    def _ask(self, ask: object, *args: object) -> list | None:
        try:
            return ask(*args)  # type: ignore[operator]
        except lookups.LookupFailed as failure:
            self.problem = sentence(failure)
            return None


def _connection(pk: str) -> Connection | None:
    try:
        return sources().filter(pk=UUID(pk)).first()
    except ValueError:
        return None
