"""API tokens: random, shown once, stored as SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from pipelines.models import ApiToken

PREFIX = "dm_"
KEYWORDS = (b"bearer", b"token")
# Using a token writes its row at most this often.
USE_IS_NOTED_EVERY = timedelta(minutes=1)


def create_token(user: Any, name: str) -> tuple[ApiToken, str]:
    """A new token of `user` and its text, which nobody can read again."""
    plain = PREFIX + secrets.token_urlsafe(32)
    return ApiToken.objects.create(user=user, name=name, digest=digest_of(plain)), plain


def revoke(user: Any, token_id: UUID) -> bool:
    """Delete a token of `user`; says whether there was one."""
    return bool(ApiToken.objects.filter(user=user, pk=token_id).delete()[0])


def digest_of(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer dm_…` (or `Token dm_…`).

    The token is looked up by its hash: how long that takes says nothing about tokens that exist.
    """

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        keyword, _, plain = get_authorization_header(request).partition(b" ")
        if keyword.lower() not in KEYWORDS:
            return None
        try:
            digest = digest_of(plain.strip().decode("ascii"))
        except UnicodeDecodeError:
            raise AuthenticationFailed("This is not an API token.") from None
        token = ApiToken.objects.select_related("user").filter(digest=digest).first()
        if token is None:
            raise AuthenticationFailed("There is no such API token.")
        if not token.user.is_active:
            raise AuthenticationFailed("The user of this API token may no longer log in.")
        _note_use(token)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _note_use(token: ApiToken) -> None:
    if token.last_used_at is None or timezone.now() - token.last_used_at >= USE_IS_NOTED_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lte=Now() - USE_IS_NOTED_EVERY)
        ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=Now())
