"""Who may open a page, and what a browser may do with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from runs import live

View = Callable[..., HttpResponse]

# Scripts, styles and sockets of our own only: text from a source that looked like markup would still do nothing.
POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"


def with_policy(view: View) -> View:
    """Say with every answer what the browser may load."""

    @wraps(view)
    def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        response["Content-Security-Policy"] = POLICY
        return response

    return answered


def page(permission: str) -> Callable[[View], View]:
    """A page for people who are logged in and hold `permission`."""
    allowed = permission_required(permission, raise_exception=True)

    def decorate(view: View) -> View:
        return require_GET(never_cache(login_required(allowed(with_policy(view)))))

    return decorate


def data(permission: str) -> Callable[[View], View]:
    """What a page's script fetches: 401 or 403 in JSON instead of a way to the login page."""

    def decorate(view: View) -> View:
        @require_GET
        @never_cache
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not request.user.is_authenticated:
                return refusal(401, "not_logged_in", "You are not logged in.", "Log in again.")
            if not request.user.has_perm(permission):
                return refusal(403, "not_allowed", "You may not see this.", "Ask an admin for the viewer group.")
            return view(request, *args, **kwargs)

        return checked

    return decorate


def refusal(status: int, code: str, message: str, hint: str) -> JsonResponse:
    return JsonResponse({"code": code, "message": message, "hint": hint, "fields": {}}, status=status)


def action(view: View) -> View:
    """A button that starts, stops, pauses or resumes: a POST by someone who may run pipelines."""
    allowed = permission_required("pipelines.run_pipeline", raise_exception=True)
    return require_POST(login_required(allowed(view)))


def asks(view: View) -> View:
    """A page that says what will happen and a button that does it: for someone who may run pipelines."""
    allowed = permission_required("pipelines.run_pipeline", raise_exception=True)
    return require_http_methods(["GET", "POST"])(never_cache(login_required(allowed(with_policy(view)))))


def render_live(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    """The page, or only the part of it that changes, for the page's own script."""
    if request.headers.get("X-Fragment"):
        return render(request, f"live/{name}.html", context)
    return render(request, f"{name}.html", {**context, "asks": not live.is_pushed()})


def seen_attempt(request: HttpRequest) -> int | None:
    """The attempt of a held run that the page showed: what is decided is about that one."""
    text = request.POST.get("attempt", "")
    return int(text) if text.isdecimal() and len(text) < 10 else None


def back(request: HttpRequest, fallback: Any) -> HttpResponse:
    """Return to the page that the button was on."""
    address = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(
        address, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return redirect(address if safe and urlsplit(address).path else fallback)
