"""Pools in the admin, with what is in use of them and what waits."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextareaWidget

from pipelines.admin.links import list_url
from pipelines.models import Pipeline, Pool
from runs import pools
from runs.shortage import holders_of


@admin.register(Pool)
class PoolAdmin(ModelAdmin):
    list_display = ("name", "slots", "taken", "queue", "members", "description")
    search_fields = ("name", "description")
    readonly_fields = ("taken", "queue", "members")
    delete_confirmation_template = "admin/desk/connection_delete.html"
    delete_selected_confirmation_template = "admin/desk/connection_delete.html"

    class Media:
        css = {"all": ("admin_desk/desk.css",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Pool]:
        return pools.with_use().order_by("name")

    def get_fieldsets(self, request: HttpRequest, obj: Pool | None = None) -> Any:
        own = (None, {"fields": ("name", "slots", "description")})
        return [own, ("Now", {"fields": ("taken", "queue", "members")})] if obj else [own]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "description":
            kwargs["widget"] = UnfoldAdminTextareaWidget({"rows": 2})
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    @display(description="in use", ordering="in_use")
    def taken(self, pool: Pool) -> SafeString | str:
        """How many, and on its own page by which runs."""
        if not pool.in_use or not getattr(pool, "is_alone", False):  # type: ignore[attr-defined]
            return str(pool.in_use)  # type: ignore[attr-defined]
        rows = (
            (reverse("run", args=[holder.run]), holder.pipeline, f" ({holder.slots})" if holder.slots > 1 else "")
            for holder in holders_of(pool.pk)
        )
        links = format_html_join(", ", '<a class="text-link" href="{}">{}</a>{}', rows)
        return format_html("{} of {}: {}", pool.in_use, pool.slots, links)  # type: ignore[attr-defined]

    @display(description="waiting", ordering="waiting")
    def queue(self, pool: Pool) -> int:
        return pool.waiting  # type: ignore[attr-defined]

    @display(description="pipelines", ordering="used_by")
    def members(self, pool: Pool) -> SafeString:
        address = f"{list_url(Pipeline)}?pool__id__exact={pool.pk}"
        return format_html('<a class="text-link" href="{}">{}</a>', address, pool.used_by)  # type: ignore[attr-defined]

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Pool | None:
        pool = super().get_object(request, object_id, from_field)
        if pool is not None:
            pool.is_alone = True
        return pool
