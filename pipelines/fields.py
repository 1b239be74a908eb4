"""A JSON value that is stored as one encrypted token."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models


class KeyLost(Exception):
    """A stored secret was encrypted with a key that is no longer in ENCRYPTION_KEYS."""


class LostSecrets(dict[str, Any]):
    """What a field holds when its key is gone: reading any secret from it says so, the rest of the row still loads."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def fernet() -> MultiFernet:
    return _fernet(tuple(settings.ENCRYPTION_KEYS))


class EncryptedJSONField(models.TextField):
    """Stores a dict as one Fernet token (MultiFernet: the newest key writes, all keys read)."""

    description = "Encrypted JSON"

    def from_db_value(self, value: str | None, *_: object) -> dict[str, Any] | None:
        if value is None:
            return None
        if value == "":
            return {}
        try:
            return json.loads(fernet().decrypt(value.encode()))
        except InvalidToken:
            return LostSecrets(value)

    def to_python(self, value: Any) -> dict[str, Any] | None:
        if value is None or isinstance(value, dict):
            return value
        return json.loads(value)

    def get_prep_value(self, value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, LostSecrets):
            return value.token
        if not value:
            return ""
        return fernet().encrypt(json.dumps(value).encode()).decode()

    def value_to_string(self, obj: models.Model) -> str:
        """Never the plain value: dumps hold the token."""
        return self.get_prep_value(self.value_from_object(obj)) or ""
