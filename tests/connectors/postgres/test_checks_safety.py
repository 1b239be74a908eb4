"""What a person writes into a check can only read; it ends in time, and shows no more than a page holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from connectors.checks import LONGEST_TEXT, Check, CheckKind, Severity, Status
from connectors.column import Column
from connectors.errors import Held, Stopped
from connectors.postgres.auditing import one_look
from connectors.postgres.auditing.reading import read_only
from tests.connectors.memory import Button, MemorySource, in_thread
from tests.connectors.postgres.conftest import ADVISORY_LOCKS, World

NO_FIVES = Check(CheckKind.RANGE, "no fives", ("id",), maximum="4")


def asks(query: str, **more: Any) -> Check:
    return Check(CheckKind.SQL, "asked", severity=Severity.WARN, query=query, **more)


# What each is refused with.
REFUSED = {
    "SELECT 1 FROM {staged}) AS q; DELETE FROM kept; SELECT * FROM (SELECT 1": "multi-query",
    "SELECT 1 FROM {staged}) AS q; COMMIT; SELECT * FROM (SELECT 1": "multi-query",
    "WITH gone AS (DELETE FROM kept RETURNING 1) SELECT * FROM gone, {staged}": "data-modifying",
    "SELECT takes_one() FROM {staged}": "read-only transaction",
    "SELECT takes_one_anyway() FROM {staged}": "read-write mode",
    "SELECT set_config('transaction_read_only', 'off', true) FROM {staged}": "read-write mode",
    "SELECT nextval('numbers') FROM {staged}": "read-only transaction",
    "SELECT * FROM kept FOR UPDATE -- {staged}": "read-only transaction",
    "SELECT lo_create(0) FROM {staged}": "read-only transaction",
    "DELETE FROM kept -- {staged}": "syntax error",
    "SELECT * FROM no_such_table, {staged}": "does not exist",
}


def test_a_query_can_write_and_commit_nothing(world: World, admin: Any, connect: Any) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE TABLE kept (id int); INSERT INTO kept VALUES (1); CREATE SEQUENCE numbers;
            CREATE FUNCTION takes_one() RETURNS int LANGUAGE plpgsql AS
                $$ BEGIN DELETE FROM kept; RETURN 1; END $$;
            CREATE FUNCTION takes_one_anyway() RETURNS int LANGUAGE plpgsql AS
                $$ BEGIN PERFORM set_config('transaction_read_only', 'off', true); DELETE FROM kept; RETURN 1; END $$;
            """
        )
    queries = tuple(replace(asks(query), name=query) for query in REFUSED)
    world.move([1], checks=(*queries, replace(NO_FIVES, severity=Severity.WARN)))
    *asked, other = world.recorder.results
    assert other.status is Status.PASSED
    assert [result.name for result in asked if REFUSED[result.name] not in result.message] == []
    assert {result.status for result in asked} == {Status.UNKNOWN}
    admin.execute("SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM flights), nextval('numbers')")
    assert admin.fetchone() == (1, 1, 1)


def test_a_query_leaves_no_setting_and_no_lock_behind(world, admin):
    query = (
        "SELECT set_config('synchronous_commit', 'off', false), set_config('search_path', 'nowhere', false),"
        " set_config('role', 'none', false), pg_advisory_lock(7) FROM {staged}"
    )
    seen: list[Any] = []

    def look(point: str) -> None:
        if point == "publish.checked":
            admin.execute(ADVISORY_LOCKS)
            seen.append(admin.fetchone()[0])

    destination = world.destination()
    fails = replace(asks("SELECT pg_advisory_lock(8), 1 / (id - 1) FROM {staged}"), name="fails")
    world.move([1], checks=(asks(query), fails), destination=destination, crash=look)
    assert [result.status for result in world.recorder.results] == [Status.FAILED, Status.UNKNOWN]
    assert seen == [0]
    world.move([2], destination=destination)  # where settings stayed, this would not find its way


def test_what_takes_too_long_is_ended_and_holds_no_other_check_up(world, monkeypatch):
    # The look at both ends early as well, which has the longest limit of its checks.
    monkeypatch.setattr(one_look, "read_only", lambda session, limit_s: read_only(session, limit_s=0.2))
    slow = asks("SELECT pg_sleep(30) FROM {staged}", time_limit_s=0.1)
    # Hundreds of ways to divide the text, and none that matches.
    greedy = Check(CheckKind.REGEX, "greedy", ("name",), Severity.WARN, pattern=r"^(.+)(.+)(.+)c\1\2\3x$")
    columns = (Column("id", "INT64"), Column("name", "STRING"))
    source = MemorySource([pa.record_batch({"id": [1], "name": ["abcd" * 300 + "x"]})], columns)
    checks = (slow, replace(greedy, time_limit_s=0.2), NO_FIVES)
    world.move(source=source, checks=checks)
    by_name = {result.name: result for result in world.recorder.results}
    assert by_name["asked"].message == "There was no answer within 0.1 seconds."
    assert by_name["greedy"].message == "There was no answer within 0.2 seconds."
    assert by_name["no fives"].status is Status.PASSED


def test_a_run_that_is_stopped_does_not_wait_for_a_check(world, ids, meanwhile):
    button, endless = Button(), asks("SELECT pg_sleep(100) FROM {staged}", time_limit_s=100)
    world.move([1])
    meanwhile("FETCH", button.press)
    thread, results = in_thread(lambda: world.move([2], checks=(endless,), stop=button))
    thread.join(60)
    assert isinstance(results[0], Stopped)
    assert ids() == [1]


def test_a_hundred_rows_are_shown_with_what_fits_of_their_values(world):
    columns = (Column("id", "INT64"), Column("name", "STRING"), Column("raw", "BYTES"), Column("tags", "STRING", True))
    many = pa.record_batch(
        {
            "id": pa.array(range(250), pa.int64()),
            "name": pa.array(["é" * 5000] * 250),
            "raw": pa.array([b"\x00\xff"] * 250, pa.binary()),
            "tags": pa.array([["a", "b"]] * 250, pa.list_(pa.string())),
        }
    )
    everything = asks("SELECT s.*, NULL AS nothing, s.id AS id FROM {staged} AS s")
    too_long = Check(CheckKind.REGEX, "short", ("name",), Severity.WARN, pattern="^.{0,10}$")
    world.move(source=MemorySource([many], columns), checks=(everything, too_long))
    for result in world.recorder.results:
        assert result.value == 250
        assert len(result.sample.rows) == 100
        assert all(len(text or "") <= LONGEST_TEXT for row in result.sample.rows for text in row)
    assert world.recorder.results[0].sample.columns == ("id", "name", "raw", "tags", "nothing", "id")
    assert world.recorder.results[0].sample.rows[0][2:5] == ("\\x00ff", '["a", "b"]', None)
    assert world.recorder.results[1].sample.columns == ("name", "id", "raw", "tags")


def test_a_table_that_the_role_may_not_read_is_not_read(world, admin):
    admin.execute("CREATE TABLE secret (id bigint); INSERT INTO secret VALUES (5)")
    looks = Check(CheckKind.RELATION, "known", ("id",), table="public.secret", table_columns=("id",))
    with pytest.raises(Held, match="permission denied for table secret"):
        world.move([5], checks=(looks,))
    world.move([5], checks=(asks("SELECT * FROM secret, {staged}"),))
    assert "permission denied" in world.recorder.results[0].message


def test_names_with_everything_in_them_are_only_names(world, ids):
    name = "we\"ird'{staged} %s"
    source = MemorySource([pa.record_batch({"id": [1], name: ["a"]})], (Column("id", "INT64"), Column(name, "STRING")))
    checks = tuple(
        Check(kind, f"{kind}", (name,), **more)
        for kind, more in (
            (CheckKind.NOT_NULL, {}),
            (CheckKind.UNIQUE, {}),
            (CheckKind.ACCEPTED, {"values": ("a", "%s", "'; --")}),
            (CheckKind.REGEX, {"pattern": "^a$|'%s"}),
        )
    )
    world.move(source=source, checks=checks)
    assert {result.status for result in world.recorder.results} == {Status.PASSED}
    assert ids() == [1]


def test_a_name_that_is_no_bigquery_name_but_a_check_is_text_in_the_log(world):
    world.move([5], checks=(replace(NO_FIVES, name="%s {0} \\", severity=Severity.WARN),))
    assert "Check %s {0} \\: 1 row of 1 has a value of id above 4." in world.recorder.text()
