"""What a pipeline waits for, in its form."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from unfold.admin import StackedInline

from pipelines.forms.dependencies import DependencyForm, DependencyFormSet
from pipelines.models import Dependency


class DependencyInline(StackedInline):
    """The pipelines to wait for."""

    model = Dependency
    fk_name = "pipeline"
    form = DependencyForm
    formset = DependencyFormSet
    fields = ("upstream", "rule", "offset_s", "give_up_hours", "on_give_up")
    autocomplete_fields = ("upstream",)
    extra = 0
    verbose_name_plural = "waits for"

    # A dependency is a part of its pipeline: who may change the one may change the other.
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.view_pipeline") or self.has_change_permission(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.change_pipeline" if obj else "pipelines.add_pipeline")

    has_add_permission = has_delete_permission = has_change_permission
