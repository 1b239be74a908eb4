"""Dataset rules in the admin, with what each look found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import JSONObject
from django.forms import Script
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display

from connectors.counts import counted
from pipelines import dataset_rules
from pipelines.admin.links import POST_LINK, ask_first, change_url
from pipelines.forms.dataset_rules import DatasetRuleForm
from pipelines.models import DatasetRule
from runs import looking_bell
from runs.models import DatasetLook, TableEvent


class _Found(TabularInline):
    """What happened is looked at, newest first, a page at a time."""

    extra = 0
    per_page = 20
    hide_title = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.view_datasetrule")


class EventInline(_Found):
    model = TableEvent
    verbose_name_plural = "tables that came and went"
    fields = ("at", "table", "kind", "its_pipeline", "message")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[TableEvent]:
        return super().get_queryset(request).select_related("pipeline").order_by("-id")

    @display(description="pipeline")
    def its_pipeline(self, event: TableEvent) -> SafeString | str:
        if event.pipeline is None:
            return "-"
        return format_html('<a class="text-link" href="{}">{}</a>', change_url(event.pipeline), event.pipeline)


class LookInline(_Found):
    model = DatasetLook
    verbose_name_plural = "looks"
    fields = ("at", "tables", "appeared", "made", "refused", "vanished", "left", "error_message")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[DatasetLook]:
        return super().get_queryset(request).order_by("-at")


@admin.register(DatasetRule)
class DatasetRuleAdmin(ModelAdmin):
    form = DatasetRuleForm
    list_display = ("name", "where", "enabled", "template", "new_state", "last_look")
    list_select_related = ("source", "template")
    search_fields = ("name", "dataset")
    actions_detail = ("look_now",)
    warn_unsaved_form = True
    fieldsets = (
        (None, {"fields": ("name", "enabled", "every_s")}),
        ("Where", {"fields": ("source", "dataset", "include", "exclude", "views", "take_existing")}),
        ("New pipelines", {"fields": ("template", "name_prefix", "new_state", "most_at_once")}),
    )

    class Media:
        css = {"all": ("admin_desk/desk.css",)}
        js = (Script("admin_desk/desk.js", type="module"),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[DatasetRule]:
        look = DatasetLook.objects.filter(rule=OuterRef("pk")).values(
            told=JSONObject(at="at", tables="tables", made="made", vanished="vanished", error="error_message")
        )
        return super().get_queryset(request).annotate(last=Subquery(look[:1])).defer("source__secrets")

    def get_inlines(self, request: HttpRequest, obj: DatasetRule | None) -> tuple[Any, ...]:
        return (EventInline, LookInline) if obj else ()

    def save_model(self, request: HttpRequest, obj: DatasetRule, form: DatasetRuleForm, change: bool) -> None:
        dataset_rules.save_rule(obj, by=request.user)
        # The admin saves in a transaction: a worker that is called before its end sees no rule.
        transaction.on_commit(looking_bell.ring)

    @display(description="dataset")
    def where(self, rule: DatasetRule) -> str:
        return f"{rule.source}: {rule.dataset}"

    @display(description="last look")
    def last_look(self, rule: DatasetRule) -> str:
        look = rule.last  # type: ignore[attr-defined]
        if look is None:
            return "not yet"
        told = look["error"] or f"{counted(look['tables'], 'table')}, {look['made']} made, {look['vanished']} vanished"
        return f"{datetime.fromisoformat(look['at']).astimezone(UTC):%d %b, %H:%M} UTC: {told}"

    def has_look_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.change_datasetrule")

    @action(description="Look now", icon="search", permissions=["look"], attrs=POST_LINK)
    def look_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        rule = self.get_object(request, object_id)
        if rule is None:
            raise Http404
        text = "A worker lists the dataset, and makes pipelines as the rule says."
        asked = ask_first(self, request, title=f"Look at {rule.dataset} now?", text=text, back=change_url(rule))
        if asked is not None:
            return asked
        dataset_rules.look_soon(rule)
        looking_bell.ring()
        messages.success(request, "A worker looks at the dataset. Reload this page in a moment to see what it found.")
        return HttpResponseRedirect(change_url(rule))
