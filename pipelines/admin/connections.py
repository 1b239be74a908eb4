"""Connections: a form per kind, a test with readable steps, and no deletion while pipelines need it."""

from __future__ import annotations

import dataclasses
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.forms import Script
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from connectors import registry
from connectors.errors import ConnectorError
from connectors.options import secret_names
from pipelines import services
from pipelines.admin import lost_keys
from pipelines.admin.links import change_url, page_context
from pipelines.forms.connections import ConnectionForm, connection_form
from pipelines.models import Connection, Pipeline


@admin.register(Connection)
class ConnectionAdmin(ModelAdmin):
    list_display = ("name", "kind_label", "where", "state", "pipelines")
    list_filter = (("kind", ChoicesDropdownFilter),)
    list_filter_submit = True
    search_fields = ("name",)
    list_before_template = "admin/desk/lost_keys.html"
    change_form_outer_before_template = "admin/desk/lost_keys.html"
    change_form_after_template = "admin/desk/connection_test.html"
    delete_confirmation_template = "admin/desk/connection_delete.html"
    delete_selected_confirmation_template = "admin/desk/connection_delete.html"

    class Media:
        css = {"all": ("admin_desk/desk.css",)}
        js = (Script("admin_desk/connection.js", type="module"),)

    # The list ---------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Connection]:
        used = Count("pipelines_from", distinct=True) + Count("pipelines_to", distinct=True)
        return super().get_queryset(request).annotate(used=used)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        more = {"lost_connections": lost_keys.affected(), "kinds": _kinds()}
        return super().changelist_view(request, {**more, **(extra_context or {})})

    @display(description="kind", ordering="kind")
    def kind_label(self, connection: Connection) -> str:
        return connection.get_kind_display()

    @display(description="where")
    def where(self, connection: Connection) -> str:
        required = [f.name for f in dataclasses.fields(registry.options_type(connection.kind)) if _is_required(f)]
        return " / ".join(str(connection.options[name]) for name in required if connection.options.get(name))

    @display(description="secrets", label={"lost": "danger", "stored": "success", "none": "info"})
    def state(self, connection: Connection) -> tuple[str, str]:
        if connection.has_lost_secrets:
            return "lost", "Key lost"
        return ("stored", "Stored") if connection.secrets else ("none", "None")

    @display(description="pipelines", ordering="used")
    def pipelines(self, connection: Connection) -> int:
        return connection.used  # type: ignore[attr-defined]

    # The form ---------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> Any:
        if request.GET.get("kind") not in registry.KINDS:
            return self._choose_kind(request)
        return super().add_view(request, form_url, extra_context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        connection = self.get_object(request, object_id) if object_id else None
        if object_id and connection is None:
            return super().changeform_view(request, object_id, form_url, extra_context)
        kind = registry.get(connection.kind if connection else request.GET["kind"])
        more: dict[str, Any] = {"title": connection.name if connection else f"Add a {kind.label} connection"}
        if self._may_save(request, connection):
            test = reverse("admin:pipelines_connection_test")
            of = f"&connection={connection.pk}" if connection else ""
            more["test_url"] = f"{test}?kind={kind.name}{of}"
        if connection and connection.has_lost_secrets:
            more["lost_connections"] = [connection]
        return super().changeform_view(request, object_id, form_url, {**more, **(extra_context or {})})

    def get_form(
        self, request: HttpRequest, obj: Connection | None = None, change: bool = False, **kwargs: Any
    ) -> type[ConnectionForm]:
        return super().get_form(request, obj, change=change, form=self._form_of(request, obj), **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Connection | None = None) -> list[tuple[Any, dict[str, Any]]]:
        if not self._may_save(request, obj):
            return [(None, {"fields": ("name", "kind", "options_shown", "max_running")})]
        form = self._form_of(request, obj)(instance=obj)
        label = registry.get(form.kind).label
        return [
            (None, {"fields": ("name",)}),
            (label, {"fields": tuple(form.option_names)}),
            ("Limits", {"fields": ("max_running",)}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Connection | None = None) -> tuple[str, ...]:
        return () if self._may_save(request, obj) else ("name", "kind", "options_shown", "max_running")

    @display(description="options")
    def options_shown(self, connection: Connection) -> SafeString:
        """What a viewer sees: options in plain, of secrets only whether they are there."""
        secrets = secret_names(registry.options_type(connection.kind))
        stored = "cannot be read: its key is lost" if connection.has_lost_secrets else "stored"
        rows = []
        for option in dataclasses.fields(registry.options_type(connection.kind)):
            value = connection.options.get(option.name, "")
            if option.name in secrets:
                there = connection.has_lost_secrets or option.name in (connection.secrets or {})
                value = stored if there else "none"
            rows.append((option.metadata.get("label", option.name), value if value != "" else "-"))
        return format_html_join("", "<p><strong>{}:</strong> {}</p>", rows)

    def save_model(self, request: HttpRequest, obj: Connection, form: ConnectionForm, change: bool) -> None:
        services.save_connection(obj, by=request.user)
        if form.undecided:
            messages.warning(request, f"{obj.name} was saved without a test that passed.")

    def _choose_kind(self, request: HttpRequest) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        query = request.GET.copy()
        query.pop("kind", None)
        context = page_context(self, request, "Add a connection", kinds=_kinds(), query=query.urlencode())
        return TemplateResponse(request, "admin/desk/choose_kind.html", context)

    def _form_of(self, request: HttpRequest, connection: Connection | None) -> type[ConnectionForm]:
        return connection_form(connection.kind if connection else request.GET.get("kind", ""))

    def _may_save(self, request: HttpRequest, connection: Connection | None) -> bool:
        if connection is None:
            return self.has_add_permission(request)
        return self.has_change_permission(request, connection)

    # The test ---------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        test = self.admin_site.admin_view(require_POST(self.test_view))
        return [path("test/", test, name="pipelines_connection_test"), *super().get_urls()]

    def test_view(self, request: HttpRequest) -> JsonResponse:
        """Test what the form holds, saved or not, and answer with the steps."""
        connection = None
        if pk := request.GET.get("connection"):
            connection = get_object_or_404(Connection.objects.all(), pk=_uuid(pk))
        if not self._may_save(request, connection):
            raise PermissionDenied
        try:
            form_type = connection_form(connection.kind if connection else request.GET.get("kind", ""))
        except ConnectorError as error:
            raise Http404(error.message) from error
        form = type("UntestedForm", (form_type,), {"tests_on_save": False})(request.POST, instance=connection)
        form.is_valid()
        if not form.option_errors():
            form.run_test()
        errors = form.option_errors()
        return JsonResponse(
            {
                "ok": bool(form.steps) and not errors and all(step["passed"] is not False for step in form.steps),
                "undecided": form.undecided,
                "steps": form.steps,
                # What a step says already is not said twice.
                "errors": [] if form.steps else _by_label(form, errors),
                "message": "" if form.steps or errors else " ".join(form.non_field_errors()),
            }
        )

    # Deletion ---------------------------------------------------------------------------------

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """A connection in use is not deleted: name the pipelines, whatever else stands in the way."""
        deleted, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        if protected:
            keys = [connection.pk for connection in objs]
            users = Pipeline.objects.filter(Q(source__in=keys) | Q(destination__in=keys)).distinct()
            link = '<a class="text-link" href="{}">{}</a>'
            protected = [format_html(link, change_url(pipeline), pipeline) for pipeline in users]
        return deleted, counts, perms_needed, protected


def _kinds() -> list[registry.Kind]:
    return list(registry.KINDS.values())


def _is_required(option: dataclasses.Field[Any]) -> bool:
    return option.default is dataclasses.MISSING


def _by_label(form: ConnectionForm, errors: dict[str, list[str]]) -> list[str]:
    """Errors with the fields they belong to: the panel stands apart from the fields."""
    return [f"{form.fields[name].label}: {message}" for name, messages in errors.items() for message in messages]


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Http404 from error
