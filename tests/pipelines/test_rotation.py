"""Secrets change to the newest key in batches, and nothing is lost on the way."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from pipelines import rotation
from pipelines.models import AlertChannel, Connection

pytestmark = pytest.mark.django_db
NEW = Fernet.generate_key().decode()
MANY = 7


@pytest.fixture
def connections() -> list[Connection]:
    Connection.objects.create(name="Bare", kind="bigquery", options={"project": "p"})
    return [
        Connection.objects.create(name=f"Shop {number}", kind="postgres", secrets={"password": f"s3cret {number}"})
        for number in range(MANY)
    ]


def tokens() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, secrets FROM pipelines_connection WHERE secrets <> ''")
        return dict(cursor.fetchall())


def passwords_by(key: str) -> set[str]:
    return {json.loads(Fernet(key).decrypt(token.encode()))["password"] for token in tokens().values()}


def rotate_keys(*arguments: str) -> str:
    out = io.StringIO()
    call_command("rotate_keys", *arguments, stdout=out, no_color=True)
    return out.getvalue()


def test_the_new_key_alone_opens_every_secret_afterwards(connections: Any, settings: Any) -> None:
    old = settings.ENCRYPTION_KEYS[0]
    settings.ENCRYPTION_KEYS = [NEW, old]
    changed_at = dict(Connection.objects.values_list("name", "updated_at"))
    with pytest.raises(SystemExit) as ended:
        rotate_keys("--check")
    assert ended.value.code == 1
    assert "7 stored secrets encrypted anew; 0 stored secrets had" in rotate_keys()
    assert "all by the first key" in rotate_keys("--check")
    settings.ENCRYPTION_KEYS = [NEW]
    assert passwords_by(NEW) == {f"s3cret {number}" for number in range(MANY)}
    with pytest.raises(InvalidToken):
        passwords_by(old)
    assert {each.name for each in Connection.objects.all() if each.has_lost_secrets} == set()
    assert dict(Connection.objects.values_list("name", "updated_at")) == changed_at


def test_a_second_time_it_touches_nothing(connections: Any, settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [NEW, settings.ENCRYPTION_KEYS[0]]
    rotate_keys()
    before = tokens()
    assert "0 stored secrets encrypted anew; 7 stored secrets had" in rotate_keys()
    assert tokens() == before


@pytest.mark.django_db(transaction=True)
def test_what_broke_off_goes_on_where_it_was(connections: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ENCRYPTION_KEYS = [NEW, settings.ENCRYPTION_KEYS[0]]
    monkeypatch.setattr(rotation, "BATCH", 2)

    def break_off(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotation.rotate(break_off)
    assert rotation.count() == rotation.Counts(stored=7, older=3)
    assert rotation.rotate() == 3
    assert rotation.count() == rotation.Counts(stored=7, older=0)


def test_a_secret_that_no_key_opens_stops_it_before_it_begins(connections: Any, settings: Any) -> None:
    old = settings.ENCRYPTION_KEYS[0]
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    Connection.objects.filter(pk=connections[3].pk).update(secrets={"password": "x"})
    settings.ENCRYPTION_KEYS = [NEW, old]
    before = tokens()
    for arguments in ((), ("--check",)):
        with pytest.raises(CommandError, match=r"no key opens the secrets of Shop 3\.") as error:
            rotate_keys(*arguments)
        assert error.value.returncode == 1
    assert tokens() == before


def test_the_addresses_of_alert_channels_change_with_them(db: None, settings: Any) -> None:
    channel = AlertChannel.objects.create(name="#data", scheme="slack", secrets={"url": "slack://a/b/c"})
    settings.ENCRYPTION_KEYS = [NEW, settings.ENCRYPTION_KEYS[0]]
    assert "1 stored secret encrypted anew" in rotate_keys()
    settings.ENCRYPTION_KEYS = [NEW]
    channel.refresh_from_db()
    assert channel.secrets == {"url": "slack://a/b/c"}
