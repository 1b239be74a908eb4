"""Addresses inside the admin, and the page that asks before something is done."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import ModelAdmin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

# Put on an action's link: the page's script sends it as a POST; without scripts its address asks first.
POST_LINK = {"data-desk-post": "1"}


def change_url(instance: Model) -> str:
    meta = instance._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[instance.pk])


def list_url(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def page_context(model_admin: ModelAdmin, request: HttpRequest, title: str, **more: Any) -> dict[str, Any]:
    return {**model_admin.admin_site.each_context(request), "opts": model_admin.opts, "title": title, **more}


def ask_first(
    model_admin: ModelAdmin, request: HttpRequest, *, title: str, text: str, back: str
) -> HttpResponse | None:
    """The page that asks, or None for a POST: reading an address must never do anything."""
    if request.method == "POST":
        return None
    context = page_context(model_admin, request, title, text=text, back=back)
    return TemplateResponse(request, "admin/desk/ask_first.html", context)
