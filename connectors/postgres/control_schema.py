"""The tables of the schema `_datamantri`, made where they are missing."""

from __future__ import annotations

import psycopg2
from psycopg2 import errorcodes

from connectors.errors import ConnectorError, TransientError
from connectors.postgres import errors
from connectors.postgres.client import Session

SCHEMA = errors.CONTROL_SCHEMA
VERSION = 1
# Any number will do, as long as every installation takes the same.
_CREATION_LOCK = 0x64617461_6D616E

# Whoever compares holds the tables for as long as that takes, and fences must not queue behind a change of theirs.
LOCK_TIMEOUT_MS = 1_000

# Columns that tables of earlier versions lack.
ADDED = (
    ("checkpoint", "proven", "text[]"),
    ("head", "columns", "jsonb"),
    ("kept", "open_rows", "uuid[]"),
    ("kept", "replayed_rows", "uuid[]"),
    ("quarantine", "opened", "bigint"),
)


def _added(column: tuple[str, str, str]) -> str:
    """ADD COLUMN IF NOT EXISTS would lock everybody out even where there is nothing to add."""
    table, name, type_ = column
    return f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '{SCHEMA}.{table}'::regclass AND attname = '{name}') THEN
        ALTER TABLE {SCHEMA}.{table} ADD COLUMN {name} {type_};
    END IF;
END $$;"""


CREATE = f"""
SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
SELECT pg_advisory_xact_lock({_CREATION_LOCK});
-- IF NOT EXISTS would ask for the right to create one even where it is there.
DO $$ BEGIN IF to_regnamespace('{SCHEMA}') IS NULL THEN CREATE SCHEMA {SCHEMA}; END IF; END $$;
CREATE TABLE IF NOT EXISTS {SCHEMA}.meta (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    destination uuid NOT NULL DEFAULT gen_random_uuid(),
    version integer NOT NULL
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.head (
    target text PRIMARY KEY,
    installation uuid NOT NULL,
    pipeline uuid NOT NULL,
    token bigint NOT NULL,
    watermark text,
    -- how many rows the source had up to the watermark when it was written
    watermark_rows bigint,
    last_run uuid,
    fingerprint text NOT NULL DEFAULT '',
    target_oid oid,
    -- the target's columns: of which of the source's each is, under which name and type
    columns jsonb
);
-- Staged rows that wait for their publish, and what that has to know. `planned_on` is head.last_run as it
-- was: once that has moved on, the staged rows are of no use.
CREATE TABLE IF NOT EXISTS {SCHEMA}.plan (
    run uuid NOT NULL,
    generation integer NOT NULL,
    target text NOT NULL,
    staging text NOT NULL,
    planned_on uuid,
    facts jsonb NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, generation)
);
CREATE INDEX IF NOT EXISTS plan_of_target ON {SCHEMA}.plan (target);
-- How far each part of a plan is: committed together with its rows. `position` counts rows of `reading`, `xids`
-- are the transactions that brought the rows of a part that can be started over.
CREATE TABLE IF NOT EXISTS {SCHEMA}.checkpoint (
    run uuid NOT NULL,
    generation integer NOT NULL,
    part integer NOT NULL,
    token bigint NOT NULL DEFAULT 0,
    reading text NOT NULL DEFAULT '',
    position bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    repaired jsonb NOT NULL DEFAULT '{{}}',
    xids text[] NOT NULL DEFAULT '{{}}',
    done boolean NOT NULL DEFAULT false,
    -- checks that all of these rows pass
    proven text[],
    PRIMARY KEY (run, generation, part),
    FOREIGN KEY (run, generation) REFERENCES {SCHEMA}.plan ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.applied (
    run uuid PRIMARY KEY,
    target text NOT NULL,
    pipeline uuid NOT NULL,
    installation uuid NOT NULL,
    token bigint NOT NULL,
    rows bigint NOT NULL,
    published_at timestamptz NOT NULL,
    receipt jsonb NOT NULL,
    watermark_before text,
    watermark_after text
);
-- Former states of targets, see kept.py: what `run` put aside is as `made_by` left it, `head` as it was then.
CREATE TABLE IF NOT EXISTS {SCHEMA}.kept (
    run uuid PRIMARY KEY,
    target text NOT NULL,
    target_table text NOT NULL,
    pipeline uuid NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    oid oid NOT NULL,
    is_copy boolean NOT NULL,
    made_by uuid,
    head jsonb NOT NULL,
    key text[] NOT NULL,
    columns jsonb NOT NULL,
    names jsonb NOT NULL,
    rows bigint,
    bytes bigint NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- which rows of the quarantine were open then, and which had been replayed into it
    open_rows uuid[],
    replayed_rows uuid[]
);
CREATE INDEX IF NOT EXISTS kept_of_target ON {SCHEMA}.kept (target);
-- Rows that runs put aside, as the source sent them. `key` and `cursor` are what the target's types read; a row is
-- `staged` until its run is published, and `decided_run` is the run that took it in or made it old.
CREATE TABLE IF NOT EXISTS {SCHEMA}.quarantine (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    target text NOT NULL,
    installation uuid NOT NULL,
    pipeline uuid NOT NULL,
    run uuid NOT NULL,
    generation integer NOT NULL,
    part integer NOT NULL,
    state text NOT NULL DEFAULT 'staged',
    column_name text NOT NULL,
    code text NOT NULL,
    reason text NOT NULL,
    masks text NOT NULL,
    key jsonb,
    cursor text,
    raw text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_run uuid,
    decided_at timestamptz,
    decided_by text,
    note text,
    -- the token under which it became open: what became so later has a higher one
    opened bigint
);
CREATE INDEX IF NOT EXISTS quarantine_of_target ON {SCHEMA}.quarantine (target, state);
CREATE INDEX IF NOT EXISTS quarantine_of_pipeline ON {SCHEMA}.quarantine (pipeline, state, seen_at DESC);
CREATE INDEX IF NOT EXISTS quarantine_of_run ON {SCHEMA}.quarantine (run, generation, part);
{"".join(map(_added, ADDED))}
INSERT INTO {SCHEMA}.meta (version) VALUES ({VERSION}) ON CONFLICT DO NOTHING
"""

# True of any schema that has what was added last; one of an earlier version fails with a code of INCOMPLETE, and is
# completed. Nothing of these is wanted, but that they are there.
IS_COMPLETE = f"""
NOT EXISTS (SELECT opened, kept.replayed_rows, proven FROM {SCHEMA}.quarantine, {SCHEMA}.kept, {SCHEMA}.checkpoint
            WHERE false)
"""
INCOMPLETE = (errorcodes.UNDEFINED_TABLE, errorcodes.UNDEFINED_COLUMN, errorcodes.INVALID_SCHEMA_NAME)


def create_schema(session: Session) -> None:
    """Make the schema and its tables unless they are there, however many try at once."""
    try:
        session.execute(CREATE)
    except psycopg2.Error as error:
        if error.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
            raise TransientError(
                f"Another session holds the tables of {SCHEMA}, which lack what this version needs.",
                hint="A comparison may be under way: it is tried again.",
                code="fence_blocked",
            ) from error
        if error.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE:
            raise
        owner = session.one(f"SELECT tableowner FROM pg_tables WHERE schemaname = '{SCHEMA}' AND tablename = 'head'")
        if owner is not None and owner[0] != session.role:
            raise ConnectorError(
                f"The tables of {SCHEMA} lack what this version needs, and only their owner, {owner[0]}, can add it.",
                hint=f"Run a pipeline whose connection logs in as {owner[0]} once, then let that role run: "
                f"{errors.control_grants(session.role)}",
                code="missing_grant",
                field="user",
            ) from error
        dbname = str(session.connection.info.dbname)
        raise errors.missing_grant(
            f"{session.role} may not create the schema {SCHEMA} in {dbname}.",
            f"GRANT CREATE ON DATABASE {errors.quoted(dbname)} TO {errors.quoted(session.role)};",
            field="user",
        ) from error
