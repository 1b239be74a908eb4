"""What a pipeline's rows must pass, in its form."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from unfold.admin import StackedInline

from pipelines.forms.checks import CheckForm, CheckFormSet
from pipelines.models import Check


class CheckInline(StackedInline):
    """Checks before publish; a script shows of each only what its kind goes by."""

    model = Check
    form = CheckForm
    formset = CheckFormSet
    fields = (
        *("kind", "columns", "values", ("minimum", "maximum"), "pattern", ("table", "table_columns"), "query"),
        *(("percent", "runs"), "max_age_s", "severity", ("name", "time_limit_s")),
    )
    extra = 0
    verbose_name_plural = "checks before publish"

    # A check is a part of its pipeline: who may change the one may change the other.
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.view_pipeline") or self.has_change_permission(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.change_pipeline" if obj else "pipelines.add_pipeline")

    has_add_permission = has_delete_permission = has_change_permission
