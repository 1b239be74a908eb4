"""Pages of backfills: what one would take, and how one stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from connectors.errors import ConnectorError
from pipelines import given, queries
from pipelines.forms.parameters import read_typed, typed
from pipelines.models import Pipeline
from runs import backfill_queries, services
from runs.backfill_costs import Estimate, estimate
from runs.backfill_plans import Plan, Refused, Wish, kind_of, plan
from runs.models import Backfill, BackfillKind, BackfillState
from runs.page_access import action, asks, back, page, render_live
from runs.page_queries import watermark_of

PREFIX = "parameters."


class BackfillForm(forms.Form):
    """The range and the step; `plan` is what they come to."""

    low = forms.CharField(label="From", max_length=100)
    high = forms.CharField(label="Until, not included", max_length=100, required=False)
    step = forms.CharField(label="In steps of", max_length=40, initial="1 day")
    zone = forms.CharField(
        label="On the clocks of",
        max_length=64,
        initial="UTC",
        help_text="Days and longer steps begin at this zone's midnights; times without a zone are meant in it.",
        widget=forms.TextInput({"list": "zones", "autocomplete": "off"}),
    )

    def __init__(self, data: Any = None, *, pipeline: Pipeline) -> None:
        super().__init__(data)
        self._pipeline = pipeline
        self.plan: Plan | None = None
        is_number = self._describe()
        if is_number:
            del self.fields["zone"]
        for each in given.declared_by(pipeline).values():
            self.fields[PREFIX + each.name] = forms.CharField(
                label=each.name,
                required=False,
                strip=False,
                initial="" if each.default is None else typed(each.default),
                help_text=f"{each.kind}, for all of its runs. Empty: NULL.",
            )

    def _describe(self) -> bool:
        """Say what the range is one of; whether it is of whole numbers."""
        if not self._pipeline.incremental:
            self.fields["low"].help_text = "Of the data interval, such as 2026-01-01 or 2026-01-01 06:00."
            self.fields["high"].help_text = "Empty: now."
            self.fields["step"].help_text = "Such as 1 day, 6 hours, 1 week, 1 month: one run for each."
            schedule = queries.current_schedules().filter(pipeline=self._pipeline).first()
            if schedule is not None:
                self.fields["zone"].initial = schedule.zone
            return False
        known = {column["name"].lower(): column["type"] for column in self._pipeline.source_columns or ()}
        is_number = known.get(self._pipeline.cursor_column.lower()) == "INT64"
        watermark = watermark_of(self._pipeline)
        self.fields[
            "low"
        ].help_text = f"A value of {self._pipeline.cursor_column}, such as {watermark or '2026-01-01'}."
        self.fields["high"].help_text = (
            f"Empty: to the watermark, {watermark}." if watermark else "Empty: the watermark."
        )
        self.fields["step"].help_text = "So many units." if is_number else "Such as 1 day, 6 hours, 1 week, 1 month."
        if is_number:
            self.fields["step"].initial = "100000"
        return is_number

    @property
    def told(self) -> str:
        """What the fields say, in short: what is started is what was looked at."""
        return hashlib.sha256(json.dumps(self.cleaned_data, sort_keys=True).encode()).hexdigest()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        declared = given.declared_by(self._pipeline)
        values = {
            name: value
            for name, each in declared.items()
            if (value := read_typed(cleaned[PREFIX + name], each.kind.repeated)) != each.default
        }
        wish = Wish(cleaned["low"], cleaned["high"], cleaned["step"], cleaned.get("zone", "UTC").strip(), values)
        try:
            self.plan = plan(self._pipeline, wish)
        except Refused as refused:
            for name, error in refused.errors.items():
                self.add_error(name if name in self.fields else None, f"{error.message} {error.hint}".strip())
        return cleaned


@asks
def backfill_pipeline(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Ask for a range, say what it takes, and start it once somebody says yes."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)
    context: dict[str, Any] = {"pipeline": pipeline}
    try:
        context["kind"] = kind_of(pipeline)
    except ConnectorError as error:
        return render(request, "backfill_form.html", {**context, "refused": error})
    form = BackfillForm(request.POST if request.method == "POST" else None, pipeline=pipeline)
    found: Estimate | None = None
    if form.is_bound and form.is_valid() and form.plan is not None:
        if request.POST.get("start") == form.told:
            try:
                backfill = services.start_backfill(pipeline, form.plan, by=request.user)
            except services.RunRefused as refused:
                form.add_error(None, f"{refused.message} {refused.hint}".strip())
            else:
                messages.success(request, "The backfill has begun.")
                return redirect(backfill)
        else:
            found = estimate(pipeline, form.plan)
            context["changed"] = "start" in request.POST
    zones = sorted(available_timezones())
    reads_by_cursor = context["kind"] == BackfillKind.CURSOR
    context |= {"form": form, "plan": form.plan, "estimate": found, "zones": zones, "by_cursor": reads_by_cursor}
    return render(request, "backfill_form.html", context)


@page("runs.view_run")
def backfill(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = get_object_or_404(Backfill.objects.select_related("pipeline", "created_by"), pk=pk)
    context = {
        "backfill": found,
        "standing": backfill_queries.standing_of(found),
        "is_open": found.state in (BackfillState.RUNNING, BackfillState.PAUSED),
    }
    return render_live(request, "backfill", context)


def _button(do: Callable[..., Any], done: str) -> Callable[..., HttpResponse]:
    @action
    def press(request: HttpRequest, pk: UUID) -> HttpResponse:
        found = get_object_or_404(Backfill.objects.select_related("pipeline"), pk=pk)
        try:
            do(found, by=request.user)
        except services.RunRefused as refused:
            messages.error(request, f"{refused.message} {refused.hint}".strip())
        else:
            messages.success(request, done)
        return back(request, found)

    return press


pause = _button(services.pause_backfill, "Paused: no further slice starts; what runs goes on.")
resume = _button(services.resume_backfill, "It goes on.")
cancel = _button(services.cancel_backfill, "Cancelled; what was published stays.")
retry = _button(services.retry_backfill, "What failed is tried again.")
