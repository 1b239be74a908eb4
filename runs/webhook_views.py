"""The door for signed events of other systems, and the page where a pipeline's webhook is made."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST

from pipelines import queries, webhooks
from pipelines.models import Pipeline, Webhook
from pipelines.webhooks import NotSigned
from runs import giving, services
from runs.models import RunAction
from runs.page_access import refusal, with_policy

LARGEST_BODY = 64 * 1024
STATUS = {"webhook_unsigned": 400, "webhook_signature": 401, "webhook_expired": 401}


class BadBody(Exception):
    """A body that says nothing that a run could go by; `fields` as in every error."""

    def __init__(self, message: str, fields: dict[str, list[dict[str, str]]] | None = None) -> None:
        super().__init__(message)
        self.message, self.fields = message, fields or {}


@csrf_exempt
@require_POST
@never_cache
def receive(request: HttpRequest, pk: UUID) -> HttpResponse:
    """202 with the run that the delivery started."""
    # One more than is allowed tells as much as all of it.
    body = request.read(LARGEST_BODY + 1)
    if len(body) > LARGEST_BODY:
        return refusal(413, "webhook_too_large", f"A delivery has at most {LARGEST_BODY} bytes.", "Send less.")
    webhook = Webhook.objects.select_related("pipeline").filter(pk=pk).first()
    if webhook is None:
        return refusal(
            404, "webhook_unknown", "There is no such webhook.", "Copy its address from the pipeline's page."
        )
    if webhooks.webhook_lost(webhook):
        hint = "Renew the webhook's secret, or set ENCRYPTION_KEYS to include the old key."
        return refusal(503, "key_lost", "The secret was encrypted with a key that is no longer set.", hint)
    now = queries.database_now()
    try:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        signed = webhooks.read(*(request.headers.get(name, "").strip() for name in names), body)
        webhooks.verify(webhook, signed, now)
    except NotSigned as wrong:
        if not webhooks.count_refused(webhook.pk):
            return refusal(429, "webhook_failures", "Too many deliveries were refused.", "Try again in a minute.")
        return refusal(STATUS[wrong.code], wrong.code, wrong.message, wrong.hint)
    try:
        asked = _asked(webhook.pipeline, body)
        options = {"parameters": asked.values} if asked.values else {}
        run = services.accept(webhook, signed.id, options=options, interval=asked.interval, now=now)
    except BadBody as wrong:
        told = {
            "code": "webhook_body",
            "message": wrong.message,
            "hint": "See the documentation.",
            "fields": wrong.fields,
        }
        return JsonResponse(told, status=400)
    except services.RunRefused as refused:
        return refusal(409, refused.code, refused.message, refused.hint)
    address = request.build_absolute_uri(reverse("run-detail", args=[run.pk]))
    return JsonResponse({"run": str(run.pk), "status": run.status, "url": address}, status=202)


def _asked(pipeline: Pipeline, body: bytes) -> giving.Given:
    """The values and the data interval in a body; all else in it is the sender's own. Raises BadBody."""
    try:
        told = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise BadBody("The body is no JSON.") from error
    if not isinstance(told, dict):
        told = {}
    values = told.get("parameters") or {}
    if not isinstance(values, dict):
        raise BadBody("`parameters` is an object: names and values.")
    start, end = (_moment(told, name) for name in (giving.START, giving.END))
    asked = giving.check(pipeline, RunAction.LOAD, values, start, end)
    if asked.errors:
        fields = {
            name: [{"code": error.code, "message": error.message, "hint": error.hint}]
            for name, error in asked.errors.items()
        }
        raise BadBody("The run cannot go by these values.", fields)
    return asked


def _moment(told: dict[str, Any], name: str) -> datetime | None:
    text = told.get(name)
    if text is None:
        return None
    try:
        moment = parse_datetime(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadBody(f"`{name}` is a time with its zone, as in 2026-01-31T00:00:00Z.")
    return moment


# The page -------------------------------------------------------------------------------------

_MAY_CHANGE = permission_required("pipelines.change_pipeline", raise_exception=True)


@require_http_methods(["GET", "POST"])
@never_cache
@login_required
@_MAY_CHANGE
@with_policy
def webhook_page(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The address and what is known of it; a POST makes or renews the secret, and shows it in the answer itself."""
    pipeline = get_object_or_404(Pipeline, pk=pk)
    secret = ""
    if request.method == "POST":
        _, secret = webhooks.renew_secret(pipeline, at_once="at_once" in request.POST)
    webhook = Webhook.objects.filter(pipeline=pipeline).first()
    address = request.build_absolute_uri(reverse("webhook", args=[webhook.pk])) if webhook else ""
    context = {"pipeline": pipeline, "webhook": webhook, "address": address, "secret": secret}
    return render(request, "webhook.html", context)


@require_POST
@login_required
@_MAY_CHANGE
def drop_old_secret(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhooks.drop_old_secret(get_object_or_404(Pipeline, pk=pk))
    messages.success(request, "Only the newest secret counts now.")
    return redirect("webhook_page", pk)


@require_POST
@login_required
@_MAY_CHANGE
def remove_webhook(request: HttpRequest, pk: UUID) -> HttpResponse:
    if webhooks.remove(get_object_or_404(Pipeline, pk=pk)):
        messages.success(request, "The webhook is gone: its address starts nothing any more.")
    return redirect("webhook_page", pk)
