"""Clients of the API: one per group of people, each with a token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission, User
from rest_framework.test import APIClient

from pipelines import tokens
from tests.definitions import (  # noqa: F401
    destination,
    living_destination,
    lookups_worker,
    make_pipeline,
    operator,
    source,
)

VIEW = ("view_connection", "view_pipeline", "view_run", "view_logline")
OPERATE = ("add_pipeline", "change_pipeline", "run_pipeline")


@pytest.fixture
def client_of(db: None) -> Callable[[User], APIClient]:
    def make(user: User) -> APIClient:
        _, plain = tokens.create_token(user, "tests")
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {plain}")
        return client

    return make


def _allow(user: User, *codenames: str) -> User:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))
    return user


@pytest.fixture
def api(operator: User, client_of: Callable[[User], APIClient]) -> APIClient:  # noqa: F811
    """What an operator may do."""
    return client_of(_allow(operator, *VIEW, *OPERATE))


@pytest.fixture
def viewer_api(db: None, client_of: Callable[[User], APIClient]) -> APIClient:
    return client_of(_allow(User.objects.create_user("vera"), *VIEW))


@pytest.fixture
def outsider_api(db: None, client_of: Callable[[User], APIClient]) -> APIClient:
    """Logged in, in no group."""
    return client_of(User.objects.create_user("otto"))
