"""A token acts as its user, until one of the two is gone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from pipelines import tokens
from pipelines.models import ApiToken


def authenticate(header: str | None):
    headers = {} if header is None else {"authorization": header}
    request = Request(APIRequestFactory(headers=headers).get("/api/v1/runs/"))
    return tokens.TokenAuthentication().authenticate(request)


@pytest.mark.parametrize("keyword", ["Bearer", "Token", "bearer"])
def test_a_token_acts_as_its_user(operator, keyword):
    token, plain = tokens.create_token(operator, "laptop")
    assert plain.startswith("dm_")
    assert authenticate(f"{keyword} {plain}") == (operator, token)


def test_only_the_hash_is_stored(operator):
    token, plain = tokens.create_token(operator, "laptop")
    stored = ApiToken.objects.filter(pk=token.pk).values().get()
    assert plain not in str(stored)
    assert token.digest == tokens.digest_of(plain)


@pytest.mark.parametrize("header", ["Bearer dm_wrong", "Bearer", "Token ", "Bearer \u00fc", "Bearer a b"])
def test_what_is_no_token_is_refused(operator, header):
    tokens.create_token(operator, "laptop")
    with pytest.raises(AuthenticationFailed):
        authenticate(header)


@pytest.mark.parametrize("header", [None, "Basic b2xnYTpzZWNyZXQ="])
def test_other_ways_to_log_in_are_left_to_others(db, header):
    assert authenticate(header) is None


def test_a_user_who_may_not_log_in_has_no_token_either(operator):
    _, plain = tokens.create_token(operator, "laptop")
    User.objects.update(is_active=False)
    with pytest.raises(AuthenticationFailed):
        authenticate(f"Bearer {plain}")


def test_a_revoked_token_is_gone_and_only_its_user_can_revoke_it(operator):
    token, plain = tokens.create_token(operator, "laptop")
    assert not tokens.revoke(User.objects.create_user("eve"), token.pk)
    assert authenticate(f"Bearer {plain}") is not None
    assert tokens.revoke(operator, token.pk)
    assert not tokens.revoke(operator, token.pk)
    with pytest.raises(AuthenticationFailed):
        authenticate(f"Bearer {plain}")


def test_use_is_noted_at_most_once_a_minute(operator, django_assert_num_queries):
    token, plain = tokens.create_token(operator, "laptop")
    with django_assert_num_queries(2):
        authenticate(f"Bearer {plain}")
    token.refresh_from_db()
    noted = token.last_used_at
    assert noted is not None
    with django_assert_num_queries(1):
        authenticate(f"Bearer {plain}")
    ApiToken.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    authenticate(f"Bearer {plain}")
    token.refresh_from_db()
    assert token.last_used_at > noted
