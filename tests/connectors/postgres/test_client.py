"""How we connect: by the options alone, and with sessions that serve one run after another."""

from __future__ import annotations

import os
import time

import pytest

from connectors.errors import ConnectorError
from connectors.postgres import keep
from connectors.postgres.client import Session, is_local, sslmode
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from tests.connectors.memory import Button
from tests.connectors.postgres.conftest import end_sessions


def setting(session, name):
    return session.one("SELECT current_setting(%s)", (name,))[0]


def test_the_environment_and_the_home_folder_are_not_consulted(options, monkeypatch, tmp_path):
    passwords = tmp_path / ".pgpass"
    passwords.write_text(f"*:*:*:*:{options.password}\n")
    passwords.chmod(0o600)
    surroundings = {
        "HOME": str(tmp_path),
        "PGPASSFILE": str(passwords),
        "PGPASSWORD": options.password,
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "192.0.2.1",
        "PGSERVICE": "absent",
        "PGOPTIONS": "-c search_path=evil",
        "PGTZ": "Asia/Tokyo",
        "PGDATESTYLE": "German",
        "PGSSLMODE": "verify-full",
        "PGTARGETSESSIONATTRS": "read-only",
    }
    with monkeypatch.context() as patch:
        for name, value in surroundings.items():
            patch.setenv(name, value)
        session = Session(options)
        assert setting(session, "search_path") == '"$user", public'
        assert setting(session, "timezone") != "Asia/Tokyo"
        assert setting(session, "application_name") == "datamantri"
        session.close()
        without = PostgresOptions(options.host, options.dbname, options.user, port=options.port)
        with pytest.raises(ConnectorError) as refused:
            Session(without)
        assert refused.value.code == "authentication_failed"
        assert {name: os.environ.get(name) for name in surroundings} == surroundings


@pytest.mark.parametrize(
    ("host", "chosen", "expected"),
    [
        ("db.example.com", "", "verify-full"),
        ("10.0.0.1", "", "verify-full"),
        ("127.0.0.1", "", "prefer"),
        ("localhost", "", "prefer"),
        ("::1", "", "prefer"),
        ("db.example.com", "require", "require"),
        ("localhost.example.com", "", "verify-full"),
    ],
)
def test_tls_is_verified_unless_the_host_is_this_machine(host, chosen, expected):
    assert sslmode(PostgresOptions(host, "d", "u", sslmode=chosen)) == expected
    assert is_local(host) == (expected == "prefer")


def test_the_connection_is_tested_in_steps(world, options):
    steps = list(world.destination().check())
    assert [step.passed for step in steps] == [True] * 6
    assert [step.name for step in steps][:2] == ["Reach the server", "Log in"]
    assert "PostgreSQL 18" in steps[2].detail
    steps = list(world.destination(password="wrong").check())
    assert [step.passed for step in steps] == [True, False]
    assert options.password not in repr(steps)
    assert [step.passed for step in world.destination(port=1).check()] == [False]


def test_a_superuser_is_refused_unless_the_server_is_on_this_machine(server, options, monkeypatch):
    changes = {"user": "postgres", "password": server.password("postgres")}
    powerful = PostgresOptions(options.host, options.dbname, port=options.port, sslmode="disable", **changes)
    step = list(PostgresDestination(powerful).check())[-1]
    assert (step.passed, "superuser" in step.detail) == (None, True)
    monkeypatch.setattr("connectors.postgres.destination.is_local", lambda host: False)
    step = list(PostgresDestination(powerful).check())[-1]
    assert step.passed is False
    assert "superuser" in step.detail
    with pytest.raises(ConnectorError) as refused:
        PostgresDestination(powerful).schemas()
    assert refused.value.code == "superuser_refused"
    PostgresDestination(powerful, allow_superuser=True).schemas()


def test_a_role_that_may_run_programs_on_the_server_is_refused(world, admin, monkeypatch):
    monkeypatch.setattr("connectors.postgres.destination.is_local", lambda host: False)
    admin.execute("GRANT pg_execute_server_program TO loader")
    try:
        step = list(world.destination().check())[-1]
        assert step.passed is False
        assert "pg_execute_server_program" in step.detail
        with pytest.raises(ConnectorError) as refused:
            world.fence()
        assert refused.value.code == "superuser_refused"
    finally:
        admin.execute("REVOKE pg_execute_server_program FROM loader")


def test_schemas_are_listed(world, admin):
    admin.execute("CREATE SCHEMA b; CREATE SCHEMA a; GRANT USAGE ON SCHEMA a TO loader")
    world.fence()
    assert world.destination().schemas() == ["a", "public"]


def test_a_session_serves_the_next_run_of_the_process(world):
    first = world.destination()
    world.move([1], destination=first)
    backend = first._session.connection.info.backend_pid
    first.close()
    second = world.destination()
    world.move([2], destination=second)
    assert second._session.connection.info.backend_pid == backend
    other = world.destination(sslmode="prefer")
    other.schemas()
    assert other._session.connection.info.backend_pid != backend


def test_a_kept_session_that_died_is_replaced(world, admin, ids):
    first = world.destination()
    world.move([1], destination=first)
    first.close()
    end_sessions(admin)
    world.move([2])
    assert ids() == [2]


def test_a_session_that_was_cancelled_is_not_kept(world):
    first = world.destination()
    first.schemas()
    session = first._session
    session.cancel()
    first.close()
    assert session.connection.closed


def test_an_idle_session_is_closed_after_a_while(options):
    kept = keep.Keep(idle_s=60)
    session = kept.take(options, lambda: Session(options))
    kept.give_back(session)
    assert kept.take(options, lambda: pytest.fail("the kept one should do")) is session
    keep.Keep(idle_s=0.1).give_back(session)
    deadline = time.monotonic() + 20
    while not session.connection.closed and time.monotonic() < deadline:
        time.sleep(0.02)
    assert session.connection.closed


def test_testing_a_connection_makes_a_new_session(world, admin):
    first = world.destination()
    first.schemas()
    first.close()
    admin.execute("ALTER ROLE loader PASSWORD 'changed'")
    try:
        assert list(world.destination().check())[-1].name == "Log in"
    finally:
        admin.execute(f"ALTER ROLE loader PASSWORD '{world.options.password}'")


def test_cancelling_breaks_a_statement_from_another_thread(options, meanwhile):
    session, button = Session(options), Button()
    button.on_stop(session.cancel)
    meanwhile("pg_sleep", button.press)
    with pytest.raises(ConnectorError) as broken, session.explained():
        session.execute("SELECT pg_sleep(100)")
    assert broken.value.code == "query_cancelled"
    session.close()
