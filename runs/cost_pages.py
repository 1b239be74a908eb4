"""The ledger, and the button that lets a run read beyond its budget."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST

from pipelines.budgets import APPROVES
from pipelines.models import Pipeline
from runs import costs, ledger, ledger_months, services
from runs.models import Run
from runs.page_access import back, page, seen_attempt
from runs.page_forms import Filter

SEES = "runs.view_ledger"
COLUMNS = [("cost", "Cost"), ("queries", "Queries"), ("storage", "Storage Read API"), ("runs", "Runs")]


class LedgerFilter(Filter):
    text = forms.CharField(
        label="Pipeline",
        required=False,
        max_length=200,
        widget=forms.TextInput({"type": "search", "placeholder": "Pipeline's name"}),
    )
    month = forms.ChoiceField(required=False)
    action = forms.ChoiceField(label="What", required=False, choices=[("", "Anything"), *ledger.ACTIONS])
    pipeline = forms.ModelChoiceField(Pipeline.objects.all(), required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        months = ledger.months_before(costs.first_of_month())
        self.fields["month"].choices = [
            (f"{month:%Y-%m}" if number else "", f"{month:%B %Y}") for number, month in enumerate(months)
        ]

    def asked(self) -> tuple[date, dict[str, Any]]:
        """The month, and what else its entries are filtered by."""
        wanted = self.wanted()
        month = wanted.pop("month", "")
        return (date.fromisoformat(f"{month}-01") if month else costs.first_of_month()), wanted


@page(SEES)
def ledger_page(request: HttpRequest) -> HttpResponse:
    form = LedgerFilter(request.GET)
    month, wanted = form.asked()
    text = request.GET.get("page", "")
    number = int(text) if text.isdecimal() and len(text) < 6 else 1
    order = request.GET.get("order", "")
    order = order if order in ledger.ORDERS else "cost"
    found = ledger.page(month, number=number, order=order, **wanted)
    months = ledger_months.months(costs.first_of_month(), month, found.total, **wanted)
    context = {"form": form, "month": month, "found": found, "months": months, "order": order}
    return render(request, "ledger.html", {**context, "pipeline": wanted.get("pipeline"), "columns": COLUMNS})


@page(SEES)
def ledger_csv(request: HttpRequest) -> HttpResponse:
    """The month's entries as a file, with the filters of the page."""
    month, wanted = LedgerFilter(request.GET).asked()
    response = StreamingHttpResponse(_lines(month, wanted), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="ledger-{month:%Y-%m}.csv"'
    return response


async def _lines(month: date, wanted: dict[str, Any]) -> AsyncIterator[str]:
    """The file, a query at a time: a cursor of the server's would not outlive the next turn of a pooler."""
    yield _csv([ledger.HEADER])
    after: ledger.Place | None = None
    while True:
        rows, after = await sync_to_async(ledger.table)(month, after, **wanted)
        yield _csv(rows)
        if after is None:
            return


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


@require_POST
@login_required
@permission_required(APPROVES, raise_exception=True)
def approve_cost(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(Run, pk=pk)
    try:
        services.approve_cost(run, by=request.user, note=request.POST.get("note", ""), attempt=seen_attempt(request))
    except services.RunRefused as refused:
        messages.error(request, f"{refused.message} {refused.hint}".strip())
        return back(request, run)
    messages.success(request, "The run goes on.")
    return back(request, run)
