"""Encrypting every stored secret with the newest key, so that older ones can be taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from django.apps import apps
from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Cast

from pipelines.fields import EncryptedJSONField, fernet

BATCH = 100


@dataclass(frozen=True)
class Stored:
    """Where an encrypted value lies, and what lies there."""

    model: type[models.Model]
    field: str
    pk: object
    name: str
    token: str

    @property
    def is_by_the_newest_key(self) -> bool:
        try:
            Fernet(settings.ENCRYPTION_KEYS[0]).decrypt(self.token.encode())
        except InvalidToken:
            return False
        return True

    @property
    def is_lost(self) -> bool:
        try:
            fernet().decrypt(self.token.encode())
        except InvalidToken:
            return True
        return False


class SecretsLost(Exception):
    """Secrets that no key opens; `names` are what they belong to. Nothing was changed."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


@dataclass(frozen=True)
class Counts:
    """How many secrets there are, and how many of them the newest key did not encrypt."""

    stored: int
    older: int


def count() -> Counts:
    """Look at every stored secret; raises SecretsLost if no key opens some."""
    lost, stored, older = [], 0, 0
    for each in _all_stored():
        stored += 1
        if not each.is_by_the_newest_key:
            older += 1
            if each.is_lost:
                lost.append(each.name)
    if lost:
        raise SecretsLost(sorted(lost))
    return Counts(stored, older)


def rotate(tell: Callable[[int], None] = lambda done: None) -> int:
    """Encrypt with the newest key what older ones encrypted; says how many, and `tell`s after every batch.

    Each batch is committed: what breaks off goes on where it was when it is begun again. A secret that somebody saves
    meanwhile is left as saved. Raises SecretsLost before anything is changed.
    """
    count()
    done = 0
    for model, field in _fields():
        older = [each.pk for each in _stored(model, field) if not each.is_by_the_newest_key]
        for start in range(0, len(older), BATCH):
            done += _rotate_batch(model, field, older[start : start + BATCH])
            tell(done)
    return done


def _rotate_batch(model: type[models.Model], field: str, keys: list[object]) -> int:
    changed = 0
    with transaction.atomic():
        list(model._default_manager.select_for_update().filter(pk__in=keys).order_by("pk").values_list("pk"))
        for each in _stored(model, field, keys):
            if not each.is_by_the_newest_key:
                # Not through the field, which would decrypt and encrypt; the time of encryption stays what it is.
                fresh = Cast(models.Value(fernet().rotate(each.token.encode()).decode()), models.TextField())
                model._default_manager.filter(pk=each.pk).update(**{field: fresh})
                changed += 1
    return changed


def _fields() -> Iterator[tuple[type[models.Model], str]]:
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, EncryptedJSONField):
                yield model, field.name


def _all_stored() -> Iterator[Stored]:
    for model, field in _fields():
        yield from _stored(model, field)


def _stored(model: type[models.Model], field: str, keys: list[object] | None = None) -> Iterator[Stored]:
    rows = model._default_manager.exclude(**{f"{field}__in": ["", None]})
    if keys is not None:
        rows = rows.filter(pk__in=keys)
    raw = rows.annotate(stored_token=Cast(field, models.TextField())).defer(field).order_by("pk")
    for row in raw.iterator(chunk_size=BATCH):
        yield Stored(model, field, row.pk, str(row), row.stored_token)  # type: ignore[attr-defined]
