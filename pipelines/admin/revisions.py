"""A pipeline's revisions: the list, what differs between two, and the way back to one."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import F, QuerySet, Window
from django.db.models.functions import Lag
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.decorators import display

from pipelines import revisions
from pipelines.admin.links import change_url, page_context
from pipelines.forms.pipelines import live_findings, sentence
from pipelines.models import Revision
from pipelines.objections import PipelineRefused
from pipelines.revisions import Return
from pipelines.schedules import RuleError

MOST_LABELS = 4
MOST_CHOICES = 200


class RevisionInline(TabularInline):
    """Every definition this pipeline had, newest first."""

    model = Revision
    fields = readonly_fields = ("definition_link", "changed", "created_at", "created_by")
    ordering = ("-number",)
    per_page = 10
    hide_title = True
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Revision]:
        before = Window(Lag("definition"), partition_by=F("pipeline"), order_by="number")
        return super().get_queryset(request).select_related("created_by").annotate(definition_before=before)

    @display(description="Revision")
    def definition_link(self, revision: Revision) -> SafeString:
        url = _url("revision", revision)
        return format_html('<a class="text-link" href="{}">Revision {}</a>', url, revision.number)

    @display(description="Changed")
    def changed(self, revision: Revision) -> str:
        """The names of what is different from the one before."""
        before = revision.definition_before  # type: ignore[attr-defined]
        if before is None:
            return "-"
        labels = list(dict.fromkeys(each.label for each in revisions.differences([(before, revision.definition)])[0]))
        more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        return ", ".join(labels[:MOST_LABELS]) + more or "-"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.view_pipeline") or request.user.has_perm("pipelines.change_pipeline")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission


class RevisionPages:
    """Mixed into the pipelines' admin."""

    def revision_urls(self) -> list[URLPattern]:
        view, revert = (self.admin_site.admin_view(each) for each in (self.revision_view, self.revert_view))  # type: ignore[attr-defined]
        place = "<uuid:pk>/revisions/<int:number>/"
        return [
            path(place, view, name="pipelines_pipeline_revision"),
            path(f"{place}revert/", revert, name="pipelines_pipeline_revert"),
        ]

    def revision_view(self, request: HttpRequest, pk: UUID, number: int) -> HttpResponse:
        """What one changed, against the one before or `?against=`; `?format=json` is its definition for programs."""
        if not self.has_view_or_change_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        revision = _revision(pk, number)
        if request.GET.get("format") == "json":
            return JsonResponse(revision.definition, json_dumps_params={"indent": 2})
        others = list(Revision.objects.filter(pipeline=pk).exclude(number=number).defer("definition")[:MOST_CHOICES])
        against = _against(request, revision)
        pipeline = revision.pipeline
        may_change = self.has_change_permission(request, pipeline)  # type: ignore[attr-defined]
        context = {
            "revision": revision,
            "is_current": revision.pk == pipeline.revision_id,
            "against": against,
            "others": others,
            "changes": revisions.changes(against, revision),
            "definition": json.dumps(revision.definition, indent=2, ensure_ascii=False),
            "revert": _url("revert", revision) if may_change and revision.pk != pipeline.revision_id else "",
            "back": change_url(pipeline),
        }
        return self._page(request, "revision", f"{pipeline.name}: revision {number}", context)

    def revert_view(self, request: HttpRequest, pk: UUID, number: int) -> HttpResponse:
        """Ask, with what would change and what stands against it; a POST goes back, unless all is different by then."""
        revision = _revision(pk, number)
        pipeline = revision.pipeline
        if not self.has_change_permission(request, pipeline):  # type: ignore[attr-defined]
            raise PermissionDenied
        if revision.pk == pipeline.revision_id:
            messages.info(request, f"{pipeline.name} is as in revision {number} already.")
            return HttpResponseRedirect(change_url(pipeline))
        prepared = revisions.prepare(revision)
        refused, warnings = _said_against(prepared)
        if request.method == "POST" and not refused:
            if request.POST.get("now") == str(pipeline.revision.number):
                return self._revert(request, revision, prepared, warnings)
            warnings.insert(0, "The pipeline was changed meanwhile: this is what would change now.")
        context = {
            "revision": revision,
            "changes": revisions.would_change(revision),
            "refused": refused,
            "warnings": warnings,
            "now": pipeline.revision.number,
            "back": _url("revision", revision),
        }
        return self._page(request, "revert", f"Revert {pipeline.name} to revision {number}?", context)

    def _revert(self, request: HttpRequest, revision: Revision, prepared: Return, warnings: list[str]) -> HttpResponse:
        try:
            made = revisions.revert(prepared, by=request.user)
        except (PipelineRefused, RuleError) as refused:
            messages.error(request, f"{refused.message} {refused.hint}".strip())
            return HttpResponseRedirect(_url("revert", revision))
        self.log_change(request, prepared.pipeline, f"Reverted to revision {revision.number}.")  # type: ignore[attr-defined]
        for warning in warnings:
            messages.warning(request, warning)
        messages.success(
            request, f"{prepared.pipeline.name} is as in revision {revision.number} again: revision {made.number}."
        )
        return HttpResponseRedirect(change_url(prepared.pipeline))

    def _page(self, request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
        return TemplateResponse(
            request,
            f"admin/desk/{template}.html",
            page_context(self, request, title, **context),  # type: ignore[arg-type]
        )


def _revision(pk: UUID, number: int) -> Revision:
    rows = Revision.objects.select_related("pipeline__revision", "created_by")
    return get_object_or_404(rows, pipeline=pk, number=number)


def _against(request: HttpRequest, revision: Revision) -> Revision | None:
    """The revision to compare with: the one asked for, else the one before."""
    rows = Revision.objects.filter(pipeline=revision.pipeline_id)
    asked = request.GET.get("against", "")
    if asked.isascii() and asked.isdigit() and len(asked) < 10 and int(asked) != revision.number:
        return get_object_or_404(rows, number=int(asked))
    return rows.filter(number__lt=revision.number).first()


def _said_against(prepared: Return) -> tuple[list[str], list[str]]:
    """What keeps it from being saved, and what to know; the live systems are asked when all else is right."""
    refused = [sentence(each) for each in prepared.refused]
    if refused:
        return refused, []
    definite, warnings = live_findings(prepared.pipeline)
    said = [sentence(finding) for finding in definite]
    return (said, warnings) if prepared.moves else ([], [*said, *warnings])


def _url(page: str, revision: Revision) -> str:
    return reverse(f"admin:pipelines_pipeline_{page}", args=[revision.pipeline_id, revision.number])
