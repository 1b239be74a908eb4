"""What people read when the destination refuses: which thing, and what to do."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from connectors.errors import ConnectorError, TransientError, Unreachable
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres import control_schema, keep
from connectors.writing import Target
from tests.connectors.memory import ID_NAME, MemorySource, batch
from tests.connectors.postgres.conftest import PASSWORD


def refusal(call):
    with pytest.raises(ConnectorError) as refused:
        call()
    assert PASSWORD not in refused.value.message + refused.value.hint
    return refused.value


def validate(world):
    """What a form asks before it saves."""
    mode = WriteMode(WriteDisposition.REPLACE)
    return world.destination().validate_target(world.target, ID_NAME, mode, pipeline=world.pipeline, adopt=False)


def test_nobody_listens(world):
    error = refusal(lambda: world.destination(port=1).raise_fence(world.target, world.owner()))
    assert isinstance(error, Unreachable)
    assert error.field == "host"
    assert "127.0.0.1, port 1" in error.message


def test_the_host_does_not_exist(world):
    error = refusal(lambda: world.destination(host="nowhere.invalid", sslmode="disable").schemas())
    assert isinstance(error, Unreachable)
    assert "nowhere.invalid" in error.message


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"password": "wrong"}, "authentication_failed", "password"),
        ({"password": ""}, "authentication_failed", "password"),
        ({"user": "stranger"}, "authentication_failed", "password"),
        ({"dbname": "no such db"}, "database_missing", "dbname"),
        ({"sslmode": "require"}, "tls_failed", "sslmode"),
        ({"sslmode": "verify-full"}, "tls_failed", "sslmode"),
        ({"sslmode": "verify-full", "sslrootcert": "not a certificate"}, "invalid_certificate", "sslrootcert"),
        ({"host": "/tmp"}, "invalid_host", "host"),
        ({"host": "@abstract"}, "invalid_host", "host"),
        ({"host": "a,b"}, "invalid_host", "host"),
        ({"host": "a b"}, "invalid_host", "host"),
        ({"host": ""}, "invalid_host", "host"),
        ({"host": "postgresql://localhost"}, "invalid_host", "host"),
        ({"port": 0}, "invalid_port", "port"),
        ({"port": 70000}, "invalid_port", "port"),
        ({"user": "a\0b"}, "invalid_option", "user"),
        ({"sslmode": "allow"}, "invalid_option", "sslmode"),
    ],
)
def test_options_that_lead_nowhere_name_the_field(world, changes, code, field):
    error = refusal(lambda: world.destination(**changes).schemas())
    assert (error.code, error.field) == (code, field)
    assert not isinstance(error, TransientError)


def test_a_role_without_connections_left_waits(world, admin):
    admin.execute("ALTER ROLE loader CONNECTION LIMIT 0")
    try:
        error = refusal(lambda: world.destination().schemas())
    finally:
        admin.execute("ALTER ROLE loader CONNECTION LIMIT -1")
    assert error.code == "too_many_connections"
    assert isinstance(error, TransientError)


def test_a_read_only_database_is_told(world, admin, options, ids):
    world.move([1])
    admin.execute(f"ALTER DATABASE {options.dbname} SET default_transaction_read_only = on")
    world.opened[0]._session = None
    keep.sessions.clear()
    error = refusal(lambda: world.move([2]))
    assert error.code == "read_only"
    assert str(error).startswith(f"{options.dbname} on 127.0.0.1 is read-only")
    assert not isinstance(error, TransientError)
    assert ids() == [1]
    assert refusal(lambda: validate(world)).code == "read_only"
    steps = list(world.destination().check())
    assert (steps[-1].name, steps[-1].passed) == ("Not read-only", False)


def test_a_role_that_may_not_make_our_schema_gets_the_grant(world, admin, options):
    admin.execute(f"REVOKE CREATE ON DATABASE {options.dbname} FROM loader")
    grant = f'GRANT CREATE ON DATABASE "{options.dbname}" TO "loader";'
    for refused in (world.fence, lambda: validate(world)):
        error = refusal(refused)
        assert error.code == "missing_grant"
        assert grant in error.hint
    steps = list(world.destination().check())
    assert steps[-1].passed is False
    assert grant in steps[-1].hint
    admin.execute(grant)
    world.fence()


def test_an_empty_schema_of_our_own_needs_no_grant_on_the_database(world, admin, options):
    admin.execute(f"REVOKE CREATE ON DATABASE {options.dbname} FROM loader")
    admin.execute("DROP SCHEMA IF EXISTS _datamantri CASCADE; CREATE SCHEMA _datamantri AUTHORIZATION loader")
    assert [step.passed for step in world.destination().check()] == [True] * 6
    world.fence()


def test_a_role_that_meets_the_schema_of_another_gets_the_grants(world, server, options):
    with closing(server.connect(options.dbname)) as connection, connection.cursor() as cursor:
        cursor.execute(control_schema.CREATE)
        error = refusal(world.fence)
        assert error.code == "missing_grant"
        steps = list(world.destination().check())
        assert steps[-1].passed is False
        assert steps[-1].hint == error.hint
        cursor.execute(error.hint.removeprefix("Let an administrator run: "))
    world.fence()
    assert [step.passed for step in world.destination().check()] == [True] * 6


@pytest.mark.parametrize(
    ("revoke", "disposition", "grant"),
    [
        (
            "REVOKE CREATE ON SCHEMA public FROM loader",
            "replace",
            'GRANT USAGE, CREATE ON SCHEMA "public" TO "loader";',
        ),
        ("REVOKE USAGE ON SCHEMA public FROM loader, PUBLIC", "append", 'GRANT USAGE ON SCHEMA "public" TO "loader";'),
        (
            "ALTER TABLE flights OWNER TO landlord",
            "append",
            'GRANT INSERT ON TABLE "public"."flights" TO "loader";',
        ),
    ],
)
def test_a_missing_grant_is_named_and_suffices(world, admin, ids, revoke, disposition, grant):
    world.move([1])
    admin.execute(revoke)
    error = refusal(lambda: world.move([2], disposition))
    assert error.code == "missing_grant"
    assert error.hint == f"Let an administrator run: {grant}"
    assert ids() == [1]
    admin.execute(grant)
    world.move([2], disposition)


def test_a_role_that_may_not_create_tables_is_told_before_the_first_load(world, admin):
    admin.execute("REVOKE CREATE ON SCHEMA public FROM loader")
    assert 'GRANT USAGE, CREATE ON SCHEMA "public" TO "loader";' in refusal(lambda: world.move([1])).hint


def test_a_schema_that_is_not_there(world):
    world.target = Target("nowhere", "flights")
    error = refusal(lambda: world.move([1]))
    assert (error.code, error.field) == ("schema_missing", "schema")
    assert 'CREATE SCHEMA "nowhere"' in error.hint


@pytest.mark.parametrize(
    ("target", "code", "field"),
    [
        (Target("public", "x" * 64), "name_too_long", "table"),
        (Target("public", ""), "name_empty", "table"),
        (Target("a\0b", "flights"), "name_illegal", "schema"),
        (Target("_datamantri", "head"), "schema_reserved", "schema"),
        (Target("pg_catalog", "pg_class"), "schema_reserved", "schema"),
    ],
)
def test_targets_that_cannot_be_are_refused(world, target, code, field):
    world.target = target
    error = refusal(world.fence)
    assert (error.code, error.field) == (code, field)


def test_a_statement_that_an_administrator_cancels_may_be_tried_again(world, admin, ids):
    world.move([1])

    def cancel():
        # Rows are read ahead: what is not under way yet cannot be cancelled.
        deadline = time.monotonic() + 60
        cancelled = 0
        while not cancelled and time.monotonic() < deadline:
            admin.execute(
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
                " WHERE usename = 'loader' AND state = 'active' AND query LIKE 'COPY %'"
            )
            (cancelled,) = admin.fetchone()
            time.sleep(0.002)
        assert cancelled

    error = refusal(lambda: world.move(source=MemorySource([batch([2]), batch([3])], between=cancel)))
    assert error.code == "query_cancelled"
    assert isinstance(error, TransientError)
    assert ids() == [1]
