"""Statements that a session plans once, and sessions that are another's the next time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction

from runs.models import Run
from runs.services import Claim, prepared
from runs.services.prepared import Prepared
from tests.connectors.postgres.pooler import PGBOUNCER, running_pooler

pytestmark = pytest.mark.django_db(transaction=True)

SUM = Prepared("sum", "SELECT %(one)s + %(other)s, '100%%'", {"one": "integer", "other": "bigint"})


@pytest.fixture(autouse=True)
def own_session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(prepared, "_keeps_sessions", True)
    connection.close()
    yield
    connection.close()


def execute(statement: Prepared, **values: Any) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        statement.execute(cursor, values)
        return cursor.fetchone()


def known() -> dict[str, tuple[int, int]]:
    """Name → how often it was executed with its one plan, and how often it was planned again."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, generic_plans, custom_plans FROM pg_prepared_statements")
        return {name: plans for name, *plans in cursor.fetchall()}


def test_a_session_plans_a_statement_once() -> None:
    assert [execute(SUM, one=1, other=other) for other in (2, 3, 2**40)] == [
        (3, "100%"),
        (4, "100%"),
        (2**40 + 1, "100%"),
    ]
    assert known() == {SUM.name: [3, 0]}


def test_values_that_it_does_not_need_are_left_out() -> None:
    assert execute(SUM, one=1, other=None, more="x") == (None, "100%")


def test_a_new_session_prepares_it_anew() -> None:
    execute(SUM, one=1, other=1)
    connection.close()
    assert execute(SUM, one=1, other=1) == (2, "100%")
    assert known() == {SUM.name: [1, 0]}


def test_what_goes_before_it_has_its_transaction() -> None:
    before = "SELECT set_config('lock_timeout', %(limit)s, true);"
    limit = Prepared("limit", "SELECT current_setting('lock_timeout')", {}, before=before)
    assert [execute(limit, limit=value) for value in ("3s", "4s")] == [("3s",), ("4s",)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('plan_cache_mode')")
        assert cursor.fetchone() == ("0", "auto")


def test_within_a_transaction_its_text_is_sent() -> None:
    with transaction.atomic():
        assert execute(SUM, one=1, other=1) == (2, "100%")
    assert known() == {}


def test_a_statement_that_fails_is_prepared_all_the_same() -> None:
    divide = Prepared("divide", "SELECT 1 / %(by)s", {"by": "integer"})
    with pytest.raises(DatabaseError, match="division by zero"):
        execute(divide, by=0)
    assert execute(divide, by=1) == (1,)
    assert known() == {divide.name: [2, 0]}
    assert prepared._keeps_sessions


def test_a_session_that_does_not_know_it_is_sent_the_text() -> None:
    execute(SUM, one=1, other=1)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    assert [execute(SUM, one=1, other=other) for other in (1, 2)] == [(2, "100%"), (3, "100%")]
    assert known() == {}


def test_a_session_that_knows_it_from_another_is_sent_the_text() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PREPARE {SUM.name} (integer, bigint) AS SELECT 7")
    assert [execute(SUM, one=1, other=other) for other in (1, 2)] == [(2, "100%"), (3, "100%")]


def test_a_table_that_was_changed_under_its_plan_does_not_stop_it() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE changing (value integer)")
        cursor.execute("INSERT INTO changing VALUES (1)")
    look = Prepared("look", "SELECT value FROM changing", {})
    try:
        assert execute(look) == (1,)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE changing ALTER value TYPE text")
        assert [execute(look) for _ in range(2)] == [("1",), ("1",)]
        assert known() == {look.name: [2, 0]}
        assert prepared._keeps_sessions
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE changing")


def test_a_statement_that_asks_for_what_there_is_not_says_so_each_time() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION pg_temp.refuse() RETURNS int LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE 'never heard of it' USING ERRCODE = '0A000'; END $$"
        )
    refused = Prepared("refused", "SELECT pg_temp.refuse()", {})
    for _ in range(3):
        with pytest.raises(DatabaseError, match="never heard of it"):
            execute(refused)
    assert prepared._keeps_sessions


def test_what_could_not_be_prepared_is_prepared_once_it_can_be() -> None:
    look = Prepared("look_late", "SELECT value FROM comes_late", {})
    with pytest.raises(DatabaseError, match="comes_late"):
        execute(look)
    try:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE comes_late AS SELECT 1 AS value")
        assert [execute(look) for _ in range(3)] == [(1,)] * 3
        assert known() == {look.name: [2, 0]}
        assert prepared._keeps_sessions
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE comes_late")


def test_where_every_statement_is_in_a_transaction_its_text_is_sent() -> None:
    connection.set_autocommit(False)
    try:
        assert execute(SUM, one=1, other=1) == (2, "100%")
        assert known() == {}
    finally:
        connection.rollback()
        connection.set_autocommit(True)


def test_a_session_that_is_ended_in_the_middle_says_so_and_the_next_one_prepares_it() -> None:
    asleep = Prepared("asleep", "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(%(s)s)", {"s": "integer"})
    with pytest.raises(OperationalError):
        execute(asleep, s=5)
    connection.close()
    assert [execute(SUM, one=1, other=1) for _ in range(2)] == [(2, "100%")] * 2
    assert known() == {SUM.name: [2, 0]}
    assert prepared._keeps_sessions


def test_threads_have_sessions_of_their_own(at_once: Callable[..., list[Any]]) -> None:
    def work(number: int) -> tuple[list[Any], Any]:
        return [execute(SUM, one=number, other=other) for other in range(20)], known()

    sums = [([(number + other, "100%") for other in range(20)], {SUM.name: [20, 0]}) for number in range(8)]
    assert at_once(work, 8) == sums
    assert prepared._keeps_sessions


def test_what_a_constraint_refuses_is_told_as_ever(queue: Callable[..., Run]) -> None:
    twin = Prepared(
        "twin",
        "UPDATE runs_run SET idempotency_key = 'same' WHERE id = ANY(%(ids)s)",
        {"ids": "uuid[]"},
    )
    runs = [queue().pk for _ in range(2)]
    with connection.cursor() as cursor:
        cursor.execute("UPDATE runs_run SET requested_by_id = (SELECT min(id) FROM auth_user)")
    with connection.cursor() as cursor, pytest.raises(IntegrityError):
        twin.execute(cursor, {"ids": runs})


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
def test_behind_a_pooler_every_claim_is_made_whichever_session_it_gets(
    queue: Callable[..., Run], claim: Callable[..., Claim | None]
) -> None:
    server = connection.settings_dict
    options = SimpleNamespace(
        port=server["PORT"], dbname=server["NAME"], user=server["USER"], password=server["PASSWORD"]
    )
    runs = [queue() for _ in range(6)]
    with running_pooler(options) as port:
        connection.close()
        straight, server["PORT"] = server["PORT"], port
        try:
            claimed = [claim()]
            with closing(connection.get_new_connection(connection.get_connection_params())) as other:
                # Begins a transaction, on the session that prepared the claim: the next ones get the other.
                other.cursor().execute("SELECT pg_backend_pid()")
                claimed += [claim() for _ in runs[1:]]
            assert {one.run for one in claimed if one} == {run.pk for run in runs}
            assert not prepared._keeps_sessions, "no claim met another session"
        finally:
            connection.close()
            server["PORT"] = straight
