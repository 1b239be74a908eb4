"""Webhooks: their secrets, and whether a delivery is signed with one.

As the Standard Webhooks specification says (standardwebhooks.com): the headers webhook-id, webhook-timestamp and
webhook-signature, where the signature is HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from pipelines import queries
from pipelines.models import Pipeline, Webhook

PREFIX = "whsec_"
SECRET_BYTES = 32
# How far the sender's clock may be off, and how old a delivery may be.
TOLERANCE = timedelta(minutes=5)
OLD_SECRET_COUNTS_FOR = timedelta(hours=24)
OLD_SECRETS_MOST = 10
LONGEST_ID = 200
REFUSED_A_MINUTE = 30


@dataclass(frozen=True)
class Signed:
    """What a delivery says of itself."""

    id: str
    timestamp: str
    signatures: tuple[str, ...]
    body: bytes


class NotSigned(Exception):
    """A delivery that is not what its sender made, or not now; `code` and `message` as in every error."""

    def __init__(self, message: str, hint: str, *, code: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


# Secrets --------------------------------------------------------------------------------------


@transaction.atomic
def renew_secret(pipeline: Pipeline, *, at_once: bool = False) -> tuple[Webhook, str]:
    """Give a pipeline's webhook a new secret, and make the webhook if there is none; nobody can read the secret again.

    Each one before counts for a day from when it was followed, unless they end `at_once`: who renews twice, or sends
    the form again, cuts nobody off.
    """
    Pipeline.objects.select_for_update(no_key=True).get(pk=pipeline.pk)
    text = PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    webhook = Webhook.objects.filter(pipeline=pipeline).first()
    if webhook is None:
        return Webhook.objects.create(pipeline=pipeline, secrets={"now": text}), text
    now = queries.database_now()
    until = now + OLD_SECRET_COUNTS_FOR
    before: list[list[str]] = []
    if not (webhook_lost(webhook) or at_once):
        still = [each for each in webhook.secrets.get("before", []) if datetime.fromisoformat(each[1]) > now]
        before = [[webhook.secrets["now"], until.isoformat()], *still][:OLD_SECRETS_MOST]
    webhook.secrets = {"now": text, "before": before}
    webhook.rotated_at, webhook.before_until = now, until if before else None
    webhook.save(update_fields=["secrets", "rotated_at", "before_until"])
    return webhook, text


@transaction.atomic
def drop_old_secret(pipeline: Pipeline) -> None:
    """Let only the newest secret count."""
    webhook = Webhook.objects.select_for_update().filter(pipeline=pipeline).first()
    if webhook is not None and not webhook_lost(webhook):
        webhook.secrets = {"now": webhook.secrets["now"]}
        webhook.before_until = None
        webhook.save(update_fields=["secrets", "before_until"])


def remove(pipeline: Pipeline) -> bool:
    """Take a pipeline's webhook away; says whether there was one."""
    return bool(Webhook.objects.filter(pipeline=pipeline).delete()[0])


def webhook_lost(webhook: Webhook) -> bool:
    """Whether its secrets were encrypted with a key that is no longer set."""
    return "now" not in webhook.secrets


# Deliveries -----------------------------------------------------------------------------------


def read(id_: str, timestamp: str, signature: str, body: bytes) -> Signed:
    """What the headers say; raises NotSigned if they are not there or not in their form."""
    if not (id_ and timestamp and signature):
        raise NotSigned(
            "A delivery has the headers webhook-id, webhook-timestamp and webhook-signature.",
            "Sign it as the documentation says.",
            code="webhook_unsigned",
        )
    is_id = len(id_) <= LONGEST_ID and id_.isascii() and id_.isprintable()
    if not (is_id and timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        raise NotSigned(
            f"The id has at most {LONGEST_ID} printable characters, the timestamp is whole seconds since 1970.",
            "Sign it as the documentation says.",
            code="webhook_unsigned",
        )
    return Signed(id_, timestamp, tuple(signature.split(" ")[:10]), body)


def verify(webhook: Webhook, signed: Signed, now: datetime) -> None:
    """Raise NotSigned unless a secret of the webhook signed this, and lately."""
    if not _is_signed_by_one(_secrets_of(webhook, now), signed):
        raise NotSigned(
            "The signature is not of this delivery.", "Sign with the newest secret.", code="webhook_signature"
        )
    age = now.timestamp() - int(signed.timestamp)
    if abs(age) > TOLERANCE.total_seconds():
        where = f"{abs(age):.0f} s {'ago' if age > 0 else 'ahead'}"
        raise NotSigned(
            f"The timestamp is {where}; {TOLERANCE.total_seconds():.0f} s are allowed.",
            "Sign each delivery when it is sent, and set the sender's clock.",
            code="webhook_expired",
        )


def _secrets_of(webhook: Webhook, now: datetime) -> list[str]:
    found = [webhook.secrets["now"]]
    found += [text for text, until in webhook.secrets.get("before", []) if datetime.fromisoformat(until) > now]
    return found


def _is_signed_by_one(texts: Iterable[str], signed: Signed) -> bool:
    given = [signature.removeprefix("v1,") for signature in signed.signatures if signature.startswith("v1,")]
    expected = [signature_of(text, signed.id, signed.timestamp, signed.body) for text in texts]
    # All of them, and each in constant time: how long it takes says nothing of how near a guess was.
    matches = [hmac.compare_digest(each.encode(), theirs.encode()) for each in expected for theirs in given]
    return any(matches)


def signature_of(secret: str, id_: str, timestamp: str, body: bytes) -> str:
    """The signature of a delivery, in base64."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    told = b".".join([id_.encode(), timestamp.encode(), body])
    return base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()


def count_refused(webhook: UUID) -> bool:
    """Count a delivery with a wrong signature; False if there were too many within a minute, and nothing is written."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipelines_webhook w
            SET refused = CASE WHEN is_same_minute THEN refused + 1 ELSE 1 END,
                refused_since = CASE WHEN is_same_minute THEN refused_since ELSE statement_timestamp() END
            FROM (
                SELECT id, coalesce(refused_since > statement_timestamp() - interval '1 minute', false)
                FROM pipelines_webhook WHERE id = %s FOR UPDATE) AS seen (seen_id, is_same_minute)
            WHERE w.id = seen_id AND NOT (is_same_minute AND refused >= %s)
            """,
            [webhook, REFUSED_A_MINUTE],
        )
        return bool(cursor.rowcount)


def describe(webhook: Webhook) -> dict[str, Any]:
    """What may be shown of a webhook."""
    return {
        "created_at": webhook.created_at,
        "rotated_at": webhook.rotated_at,
        "old_secret_until": webhook.before_until,
        "used_at": webhook.used_at,
    }
