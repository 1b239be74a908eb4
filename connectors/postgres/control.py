"""What the destination remembers, in its schema `_datamantri`: who may write a target, and what was published.

Its tables hold the two promises of a run: a former owner cannot commit, and a run is applied once.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg2
from psycopg2 import errorcodes

from connectors.errors import ConnectorError, Overtaken, StaleToken, TransientError
from connectors.postgres import errors
from connectors.postgres.client import APPLICATION, Session
from connectors.postgres.control_schema import INCOMPLETE, IS_COMPLETE, SCHEMA, VERSION, create_schema
from connectors.writing import Applied, Fence, Owner, Target, Watermark

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

LOCK_TIMEOUT_MS = 500
FENCE_LIMIT_S = 15.0

_TARGET_OID = """
SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s
"""

# One message, hence one transaction that no paused client can hold open. The second statement has a
# snapshot of its own, taken after the row was locked: what a former owner committed is seen there.
# A table is ours to write if it is absent, was published by us before, or may be adopted.
_RAISE = f"""
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
INSERT INTO {SCHEMA}.head AS head (target, installation, pipeline, token)
SELECT %(target)s, %(installation)s, %(pipeline)s, %(token)s + 1
WHERE %(adopt)s OR NOT EXISTS ({_TARGET_OID})
   OR EXISTS (SELECT FROM {SCHEMA}.head WHERE target = %(target)s AND last_run IS NOT NULL)
ON CONFLICT (target) DO UPDATE SET token = greatest(head.token, %(token)s) + 1
WHERE head.installation = excluded.installation AND head.pipeline = excluded.pipeline;
SELECT meta.version, head.installation, head.pipeline, head.token, head.last_run, head.fingerprint,
       ({_TARGET_OID}), applied.rows, applied.published_at, applied.receipt, head.watermark, head.watermark_rows,
       head.columns, EXISTS (SELECT FROM {SCHEMA}.quarantine WHERE quarantine.target = %(target)s),
       ARRAY(SELECT plan.staging FROM {SCHEMA}.plan WHERE plan.target = %(target)s
             AND (plan.run = %(run)s OR plan.planned_on IS DISTINCT FROM head.last_run)),
       (SELECT count(*) FROM {SCHEMA}.kept WHERE kept.target = %(target)s),
       (SELECT json_object_agg(pid, application_name) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE %(backends)s)
FROM {SCHEMA}.meta
LEFT JOIN {SCHEMA}.head ON head.target = %(target)s
LEFT JOIN {SCHEMA}.applied ON applied.run = %(run)s
WHERE {IS_COMPLETE}
"""


class AlreadyApplied(Exception):
    """This run was published by a former attempt: `receipt` is what that one wrote."""

    def __init__(self, receipt: Mapping[str, Any]) -> None:
        super().__init__("already applied")
        self.receipt = receipt


def target_key(target: Target) -> str:
    """The target as `head` names it: quoted, for a dot may be part of a name."""
    return errors.quoted(target.schema, target.table)


def application_name(target: Target, token: int, *, part: str = "") -> str:
    """What a transaction on `target` calls itself, so that a newer owner can find and end it."""
    return f"{_application_prefix(target)}{f'{part}:' if part else ''}{token}"


def _application_prefix(target: Target) -> str:
    return f"{APPLICATION}:{hashlib.sha256(target_key(target).encode()).hexdigest()[:16]}:"


def raise_fence(session: Session, target: Target, owner: Owner, *, adopt: bool = False) -> Fence:
    """Make `owner` the only one who can commit to `target`, and say where things stand.

    Backends of former owners are ended, first those that block. Raises ConnectorError with code
    target_owned or target_exists if the target is not this pipeline's to write.
    """
    parameters = {
        "target": target_key(target),
        "schema": target.schema,
        "table": target.table,
        "installation": str(owner.installation),
        "pipeline": str(owner.pipeline),
        "run": str(owner.run),
        "token": owner.token,
        "adopt": adopt,
        "backends": _application_prefix(target) + "%",
    }
    row = _raise_token(session, target, parameters)
    version, installation, pipeline, token, last_run, fingerprint, oid, rows, published_at, receipt, *rest = row
    watermark, watermark_rows, columns, has_quarantine, leftovers, kept, backends = rest
    if version > VERSION:
        raise ConnectorError(
            f"The schema {SCHEMA} was made by a newer DataMantri (version {version}, this one knows {VERSION}).",
            hint="Update this installation.",
            code="control_schema_newer",
        )
    refuse_foreign(
        target,
        owner.pipeline,
        adopt=adopt,
        exists=oid is not None,
        head=None if token is None else Head(installation, pipeline, last_run),
        installation=owner.installation,
    )
    _end_backends(session, target, [int(pid) for pid, name in (backends or {}).items() if _token(name) < token])
    applied = None if receipt is None else Applied(owner.run, rows, published_at, receipt)
    return Fence(
        target,
        owner,
        token,
        last_run,
        fingerprint,
        applied,
        watermark=Watermark(watermark or "", watermark_rows),
        leftovers=tuple(leftovers),
        columns=columns or {},
        kept=kept,
        has_quarantine=has_quarantine,
    )


@dataclass(frozen=True)
class Head:
    """Whose a target is, whether it was ever published, and what it remembers of its columns."""

    installation: UUID
    pipeline: UUID
    last_run: UUID | None
    columns: Mapping[str, Any] | None = None


def refuse_foreign(
    target: Target, pipeline: UUID, *, adopt: bool, exists: bool, head: Head | None, installation: UUID | None = None
) -> None:
    """Raise ConnectorError unless `pipeline` may write `target`; without `installation` any one will do."""
    if head is not None and (head.pipeline != pipeline or installation not in (None, head.installation)):
        elsewhere = "" if installation in (None, head.installation) else " of another installation"
        raise ConnectorError(
            f"{target} belongs to the pipeline {head.pipeline}{elsewhere}.",
            hint="A target belongs to one pipeline: choose another table name.",
            code="target_owned",
            field="table",
        )
    if exists and not adopt and (head is None or head.last_run is None):
        raise ConnectorError(
            f"{target} already exists and was not made by this pipeline.",
            hint="Choose another name, or tick 'Take over the existing table'.",
            code="target_exists",
            field="table",
        )


def _raise_token(session: Session, target: Target, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    deadline = time.monotonic() + FENCE_LIMIT_S
    while True:
        try:
            row = session.one(_RAISE, parameters)
        except psycopg2.Error as error:
            if error.pgcode in INCOMPLETE:
                try:
                    create_schema(session)
                except TransientError:
                    # Who only holds tables that are there is not waited for, but who is making them is.
                    if error.pgcode == errorcodes.UNDEFINED_COLUMN or time.monotonic() > deadline:
                        raise
            elif error.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"Another session holds the record of {target} in {SCHEMA}.head.",
                        hint="End that session, or wait for it.",
                        code="fence_blocked",
                    ) from error
                _end_former(session, target, parameters)
                time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 jitter
            else:
                raise
        else:
            if row is None:
                raise ConnectorError(f"{SCHEMA}.meta is empty.", hint="Restore its row.", code="control_schema_damaged")
            return row


def _end_former(session: Session, target: Target, parameters: Mapping[str, Any]) -> None:
    """End the transactions of whoever wrote this target under a token lower than the next one."""
    row = session.one(
        f"""
        SELECT greatest((SELECT token FROM {SCHEMA}.head WHERE target = %(target)s), %(token)s),
               (SELECT json_object_agg(pid, application_name) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE %(backends)s)
        """,
        parameters,
    )
    if row is not None:
        _end_backends(session, target, [int(pid) for pid, name in (row[1] or {}).items() if _token(name) <= row[0]])


def _end_backends(session: Session, target: Target, pids: list[int]) -> None:
    """End backends that still carry this target's name; those of roles that we may not end stay fenced off."""
    if pids:
        session.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE pid = ANY(%s) AND datname = current_database() AND application_name LIKE %s
              AND pg_has_role(usesysid, 'USAGE') AND pid <> pg_backend_pid()
            """,
            (pids, _application_prefix(target) + "%"),
        )


def _token(name: str) -> int:
    """The token in an application's name; none is ever this high, so a name that is not ours is left alone."""
    last = name.rpartition(":")[2]
    return int(last) if last.isdecimal() else 1 << 63


def check_fence(cursor: Cursor, fence: Fence) -> None:
    """Raise StaleToken unless `fence` still holds; it then does until the transaction ends."""
    cursor.execute(f"SELECT token FROM {SCHEMA}.head WHERE target = %s FOR SHARE", (target_key(fence.target),))
    row = cursor.fetchone()
    if row is None or row[0] != fence.token:
        raise _stale(fence)


def forget_applied(session: Session, fence: Fence, run: UUID) -> None:
    """Forget that `run` was applied, in the transaction that publishes what comes after it; before `record_publish`.

    A role that may only add to `applied` goes on doing so.
    """
    may = session.one(f"SELECT has_table_privilege('{SCHEMA}.applied', 'DELETE')")
    if may is not None and may[0]:
        session.execute(
            f"DELETE FROM {SCHEMA}.applied WHERE run = %s AND target = %s AND pipeline = %s",
            (str(run), target_key(fence.target), str(fence.owner.pipeline)),
        )


# A newer owner that is raising the token makes the UPDATE wait, and then match no row.
_RECORD = f"""
WITH applied AS (
    INSERT INTO {SCHEMA}.applied (run, target, pipeline, installation, token, rows, published_at, receipt,
                                  watermark_before, watermark_after)
    SELECT %(run)s, %(target)s, %(pipeline)s, %(installation)s, %(token)s, %(rows)s, moment,
           %(receipt)s::jsonb || jsonb_build_object('published_at', moment), %(before)s, %(after)s
    FROM clock_timestamp() AS moment
    ON CONFLICT (run) DO NOTHING
    RETURNING receipt
), head AS (
    UPDATE {SCHEMA}.head SET last_run = %(run)s, fingerprint = %(fingerprint)s,
        target_oid = coalesce(%(oid)s::oid, target_oid), columns = coalesce(%(columns)s::jsonb, columns),
        watermark = %(after)s, watermark_rows = %(after_rows)s
    WHERE target = %(target)s AND token = %(token)s AND last_run IS NOT DISTINCT FROM %(planned)s
      AND EXISTS (SELECT FROM applied)
    RETURNING target
)
SELECT (SELECT receipt FROM applied), EXISTS (SELECT FROM head)
"""


def record_publish(
    session: Session,
    fence: Fence,
    *,
    rows: int,
    receipt: Mapping[str, Any],
    fingerprint: str,
    target_oid: int | None,
    watermark: Watermark,
    columns: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Write `applied` and move the head with its watermark, as the last statement of the publishing transaction.

    `columns` is what the head is to know of the target's columns; None: what it knows already.

    Returns the receipt, with `published_at` by the database's clock. Raises AlreadyApplied,
    StaleToken or Overtaken; then the transaction must be rolled back.
    """
    parameters = {
        "run": str(fence.owner.run),
        "target": target_key(fence.target),
        "pipeline": str(fence.owner.pipeline),
        "installation": str(fence.owner.installation),
        "token": fence.token,
        "rows": rows,
        "receipt": json.dumps(receipt, default=str),
        "fingerprint": fingerprint,
        "oid": target_oid,
        "columns": None if columns is None else json.dumps(columns),
        "planned": None if fence.last_run is None else str(fence.last_run),
        "before": fence.watermark.value or None,
        "after": watermark.value or None,
        "after_rows": watermark.rows,
    }
    row = session.one(_RECORD, parameters)
    written: Mapping[str, Any] | None = row[0] if row else None
    if row is not None and written is not None and row[1]:
        return written
    raise _why_not(session, fence, inserted=written is not None)


def _why_not(session: Session, fence: Fence, *, inserted: bool) -> Exception:
    row = session.one(
        f"""
        SELECT (SELECT receipt FROM {SCHEMA}.applied WHERE run = %s),
               (SELECT token FROM {SCHEMA}.head WHERE target = %s)
        """,
        (str(fence.owner.run), target_key(fence.target)),
    )
    if not inserted and row is not None and row[0] is not None:
        return AlreadyApplied(row[0])
    if row is None or row[1] != fence.token:
        return _stale(fence)
    return Overtaken(
        f"Another run was published to {fence.target} since this one made its plan.",
        hint="The next attempt plans again.",
    )


def _stale(fence: Fence) -> StaleToken:
    return StaleToken(
        f"A newer owner has taken over {fence.target}: this one must not write any more.",
        hint="The run goes on with its newer owner.",
    )


def read_head(session: Session, target: Target) -> Head | None:
    """Whose `target` is, without touching anything; None if nobody's, or if nothing was ever written here."""
    there = session.one(f"SELECT to_regclass('{SCHEMA}.head') IS NOT NULL")
    if there is None or not there[0]:
        return None
    row = session.one(
        # `columns` as JSON has it: one from before there was the column has none.
        f"SELECT installation, pipeline, last_run, to_jsonb(head) -> 'columns' FROM {SCHEMA}.head WHERE target = %s",
        (target_key(target),),
    )
    return None if row is None else Head(*row)
