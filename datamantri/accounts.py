"""Logging in, and what people do with their own login: the password and API tokens."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash, views
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from pipelines import tokens
from pipelines.models import ApiToken
from runs.page_access import with_policy

NAME_LENGTH = ApiToken._meta.get_field("name").max_length


class PasswordForm(PasswordChangeForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # One form among others on its page.
        del self.fields["old_password"].widget.attrs["autofocus"]


@method_decorator(with_policy, name="dispatch")
class LoginView(views.LoginView):
    template_name = "accounts/login.html"
    redirect_authenticated_user = True


@require_http_methods(["GET", "POST"])
@never_cache
@login_required
@with_policy
def profile(request: HttpRequest) -> HttpResponse:
    form = PasswordForm(request.user, request.POST or None)
    if form.is_valid():
        form.save()
        update_session_auth_hash(request, form.user)
        messages.success(request, "The password is changed. Other sessions of yours were logged out.")
        return redirect("profile")
    return _show(request, form=form)


@require_POST
@never_cache
@login_required
@with_policy
def create_token(request: HttpRequest) -> HttpResponse:
    """Make a token and show it in the answer itself: its text is stored nowhere."""
    name = request.POST.get("name", "").replace("\0", "").strip()[:NAME_LENGTH]
    if not name:
        messages.error(request, "A token needs a name.")
        return redirect("profile")
    token, text = tokens.create_token(request.user, name)
    return _show(request, new_token={"name": token.name, "text": text})


@require_POST
@login_required
def revoke_token(request: HttpRequest, pk: UUID) -> HttpResponse:
    if tokens.revoke(request.user, pk):
        messages.success(request, "The token is revoked.")
    return redirect("profile")


def _show(request: HttpRequest, **more: Any) -> HttpResponse:
    context = {
        "form": PasswordForm(request.user),
        "tokens": request.user.api_tokens.all(),
        "groups": list(request.user.groups.values_list("name", flat=True)),
    }
    return render(request, "accounts/profile.html", {**context, **more})
