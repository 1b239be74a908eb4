"""What the pipeline form asks while it is being filled in: JSON, for people who may define pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_GET, require_POST

from connectors.modes import TextPolicy
from pipelines import lookups, prices
from pipelines.admin.meaning import preview_of
from pipelines.columns import preflight
from pipelines.forms.parameters import ParametersField
from pipelines.forms.pipelines import UncheckedForm, destinations, sources
from pipelines.forms.schedules import ScheduleForm
from pipelines.given import sample_parameters
from pipelines.models import Connection, Pipeline

NAMES = ("datasets", "tables", "schemas", "preview", "describe", "columns", "forecast", "schedule")


class PipelineEndpoints:
    """Mixed into the pipelines' admin; each answer is `{...}` or `{"error": {code, message, hint}}`."""

    def endpoint_urls(self) -> list[URLPattern]:
        views = {
            "datasets": require_GET(self.datasets_view),
            "tables": require_GET(self.tables_view),
            "schemas": require_GET(self.schemas_view),
            "schedule": require_GET(self.schedule_view),
            # Reading rows and dry runs go out to a system that counts them: never by following a link.
            "preview": require_POST(self.preview_view),
            "describe": require_POST(self.describe_view),
            "columns": require_POST(self.columns_view),
            "forecast": require_POST(self.forecast_view),
        }
        return [
            path(f"desk/{name}/", self.admin_site.admin_view(self._for_definers(view)), name=f"pipelines_desk_{name}")
            for name, view in views.items()
        ]

    def datasets_view(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"datasets": lookups.datasets(_source(request.GET))})

    def tables_view(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"tables": lookups.tables(_source(request.GET), request.GET.get("dataset", ""))})

    def schemas_view(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"schemas": lookups.schemas(_find(destinations(), request.GET))})

    def preview_view(self, request: HttpRequest) -> JsonResponse:
        rules = _rules(request) if "rules" in request.POST else None
        return JsonResponse(lookups.preview(_source(request.POST), rules=rules, **_what(request)))

    def describe_view(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(lookups.describe(_source(request.POST), **_what(request)))

    def columns_view(self, request: HttpRequest) -> JsonResponse:
        """What becomes of each column by the rules that are being typed."""
        rules = _rules(request)
        policy = request.POST.get("text_policy", "")
        found = lookups.source_columns(_source(request.POST), **_what(request))
        return JsonResponse(asdict(preflight(found, rules, policy if policy in list(TextPolicy) else TextPolicy.FAIL)))

    def forecast_view(self, request: HttpRequest) -> JsonResponse:
        """What a run would do to the target, by the form as it is typed; nothing is saved."""
        form = UncheckedForm(request.POST, instance=_edited(request))
        if not form.is_valid():
            wrong = "; ".join(f"{name}: {' '.join(errors)}" for name, errors in form.errors.items())
            raise lookups.LookupFailed("invalid", "These fields must be right first.", wrong)
        findings, forecast = lookups.look_ahead(form.instance)
        cost = prices.outlook(form.instance)
        told = {"forecast": forecast, "findings": [asdict(finding) for finding in findings]}
        return JsonResponse({**told, "cost": cost.lines() if cost else []})

    def schedule_view(self, request: HttpRequest) -> JsonResponse:
        """A rule in words with its next times, while it is being typed."""
        form = ScheduleForm(request.GET)
        if not form.is_valid():
            field, messages = next(iter(form.errors.items()))
            error = {"code": "bad_rule", "message": messages[0], "hint": "", "field": field}
            return JsonResponse({"error": error})
        return JsonResponse(preview_of(form.spec))

    def _for_definers(self, view: Callable[[HttpRequest], JsonResponse]) -> Callable[[HttpRequest], JsonResponse]:
        def answer(request: HttpRequest) -> JsonResponse:
            if not (self.has_add_permission(request) or self.has_change_permission(request)):
                raise PermissionDenied
            try:
                return view(request)
            except lookups.LookupFailed as failure:
                error = {"code": failure.code, "message": failure.message, "hint": failure.hint, "field": failure.field}
                return JsonResponse({"error": error}, status=422)

        return answer


def endpoint_addresses() -> dict[str, str]:
    """Where a page's script finds the endpoints."""
    return {name: reverse(f"admin:pipelines_desk_{name}") for name in NAMES}


def _edited(request: HttpRequest) -> Pipeline:
    """The pipeline that the form is about, a new one if it is not saved yet."""
    try:
        return Pipeline.objects.get(pk=UUID(request.POST.get("pipeline", "")))
    except (ValueError, Pipeline.DoesNotExist):
        return Pipeline()


def _source(given: Any) -> Connection:
    return _find(sources(), given)


def _find(connections: Any, given: Any) -> Connection:
    try:
        return connections.get(pk=UUID(given.get("connection", "")))
    except (ValueError, ValidationError, Connection.DoesNotExist):
        raise lookups.LookupFailed("no_connection", "Choose a connection first.", "", "source") from None


def _rules(request: HttpRequest) -> Any:
    """The rules as they are typed."""
    try:
        return json.loads(request.POST.get("rules") or "{}")
    except ValueError:
        hint = 'Write for example {"email": {"skip": true}}.'
        raise lookups.LookupFailed("column_rule", "The rules are not JSON.", hint, "column_rules") from None


def _what(request: HttpRequest) -> dict[str, Any]:
    """The table or the query to look at, with its parameters; the form says which one is meant."""
    table, query = request.POST.get("table", "").strip(), request.POST.get("query", "").strip()
    if bool(table) == bool(query):
        raise lookups.LookupFailed("nothing_to_read", "Name a table, or write a query.", "", "source_table")
    try:
        declared = ParametersField().to_python(request.POST.get("parameters", ""))
    except ValidationError as error:
        raise lookups.LookupFailed("parameter", " ".join(error.messages), "", "parameters") from error
    return {"table": table, "query": query, "parameters": sample_parameters(Pipeline(parameters=declared))}
