"""SQL around a load: in its transaction, once, and unable to take that transaction or its rights apart."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from connectors.checks import Check, CheckKind
from connectors.errors import ConnectorError, Held
from connectors.modes import Guard
from connectors.postgres import keep
from connectors.postgres.publish import around as publish_around
from connectors.request import TransferRequest
from connectors.sql_around import SqlAround
from tests.connectors.memory import Button, PartedSource, batch, in_thread
from tests.connectors.postgres.conftest import ROLE, World
from tests.connectors.postgres.test_staged import StagedRun

LESSER = "scribe"


def around(before: str = "", after: str = "", **changes: Any) -> SqlAround:
    return SqlAround.of({"sql_before": before, "sql_after": after, **{f"sql_{k}": v for k, v in changes.items()}})


@pytest.fixture
def notes(admin: Any) -> Any:
    """A table that statements write to; reads what is in it."""
    admin.execute("CREATE TABLE notes (word text, rows bigint)")
    admin.execute(f"GRANT ALL ON notes TO {ROLE}")

    def read() -> list[tuple[str, int]]:
        admin.execute("SELECT word, rows FROM notes ORDER BY ctid")
        return list(admin.fetchall())

    return read


@pytest.fixture
def lesser(admin: Any, notes: Any) -> Iterator[str]:
    """A role that the loading one may become, with rights on notes and flights."""
    admin.execute(f"CREATE ROLE {LESSER}; GRANT {LESSER} TO {ROLE}")
    admin.execute(f"GRANT INSERT, SELECT ON notes TO {LESSER}")
    yield LESSER
    admin.execute(f"DROP OWNED BY {LESSER}; DROP ROLE {LESSER}")


COUNT = "INSERT INTO notes SELECT '{}', count(*) FROM flights"


@pytest.mark.parametrize("how", ["append", "replace", "replace in place", "merge"])
def test_it_runs_right_before_and_after_the_rows_come(world: World, admin: Any, notes: Any, how: str) -> None:
    world.move([1])
    if how == "replace in place":
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    sql = around(COUNT.format("before"), f"{COUNT.format('after')}; SELECT current_setting('datamantri.run')")
    done = world.move([2, 3], how.split()[0], sql=sql)
    after = 2 if how.startswith("replace") else 3
    assert notes() == [("before", 1), ("after", after)]
    assert [(fact["when"], fact["statement"], fact["rows"]) for fact in done.sql] == [
        ("before", 1, 1),
        ("after", 1, 1),
        ("after", 2, 1),
    ]
    assert "Statement 1 before the load of 1: 1 row," in world.recorder.text()


def test_a_transform_and_a_materialized_view_are_fresh_with_the_rows(world: World, admin: Any, ids: Any) -> None:
    world.move([1, 2], key=("id",))
    admin.execute("CREATE MATERIALIZED VIEW sums AS SELECT sum(id) AS sum, 1 AS one FROM flights")
    admin.execute(f"CREATE UNIQUE INDEX ON sums (one); ALTER MATERIALIZED VIEW sums OWNER TO {ROLE}")
    admin.execute(f"CREATE TABLE doubled (id bigint); GRANT ALL ON doubled TO {ROLE}")
    for refresh in ("REFRESH MATERIALIZED VIEW sums", "REFRESH MATERIALIZED VIEW CONCURRENTLY sums"):
        world.move(
            [4, 5],
            key=("id",),
            sql=around(after=f"DELETE FROM doubled; INSERT INTO doubled SELECT id * 2 FROM flights; {refresh}"),
        )
        admin.execute("SELECT (SELECT sum FROM sums), array_agg(id ORDER BY id) FROM doubled")
        assert admin.fetchone() == (9, [8, 10])
        admin.execute("UPDATE flights SET id = id + 100")


@pytest.mark.parametrize("when", ["before", "after"])
def test_one_that_fails_is_named_and_takes_the_load_with_it(world: World, ids: Any, notes: Any, when: str) -> None:
    world.move([1])
    with pytest.raises(ConnectorError) as failed:
        world.move([2], sql=around(**{when: f"{COUNT.format('x')}; SELECT 1 / 0"}))
    assert (failed.value.code, failed.value.field) == ("sql_failed", f"sql_{when}")
    assert not isinstance(failed.value, Held)
    assert f"Statement 2 {when} the load failed: division by zero." in failed.value.message
    assert (ids(), notes()) == ([1], [])


def test_one_that_takes_too_long_is_stopped(world: World, ids: Any) -> None:
    sql = around(after="SET statement_timeout = 0; SELECT pg_sleep(30)", limit_s=1)
    with pytest.raises(ConnectorError) as failed:
        world.move([1], sql=sql)
    assert failed.value.code == "sql_timeout"
    assert ids() is None


def test_a_person_who_cancels_does_not_wait_for_it(world: World, meanwhile: Any) -> None:
    button = Button()
    meanwhile("pg_sleep", button.press)
    thread, results = in_thread(lambda: world.move([1], stop=button, sql=around(after="SELECT pg_sleep(100)")))
    thread.join(60)
    assert results[0].code == "cancelled"


# What it cannot do ------------------------------------------------------------------------------

ESCAPES = [
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT mine",
    "DO $$ BEGIN COMMIT; END $$",
    "DO $$ BEGIN ROLLBACK; END $$",
    "CALL ends_it()",
    "COMMIT AND CHAIN",
    "$$; COMMIT; SELECT $$",
    "'); COMMIT; SELECT ('",
    "SET ROLE loader",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SELECT set_config('role', 'loader', false)",
    "SET TRANSACTION READ ONLY",
    "VACUUM flights",
    "CREATE INDEX CONCURRENTLY ON flights (id)",
    "COPY flights FROM STDIN",
    "DO $$ BEGIN EXECUTE 'COMMIT'; EXCEPTION WHEN OTHERS THEN RAISE; END $$",
]


@pytest.mark.parametrize("role", ["", LESSER])
def test_nothing_leaves_the_transaction_or_the_role(
    world: World, admin: Any, ids: Any, notes: Any, lesser: str, role: str
) -> None:
    admin.execute("CREATE PROCEDURE ends_it() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'")
    world.move([1])
    for statement in ESCAPES:
        with pytest.raises(ConnectorError) as failed:
            world.move([2], sql=SqlAround(before=("INSERT INTO notes VALUES ('here', 1)", statement), role=role))
        assert failed.value.code in ("sql_failed", "sql_escaped"), statement
        assert (ids(), notes()) == ([1], []), statement


def test_nothing_of_a_lesser_role_is_left_to_run_at_the_commit(
    world: World, admin: Any, ids: Any, notes: Any, lesser: str
) -> None:
    admin.execute("CREATE TABLE private (word text); INSERT INTO private VALUES ('untouched')")
    admin.execute(f"GRANT ALL ON private TO {ROLE}")
    world.move([1])
    function = (
        "CREATE FUNCTION pg_temp.later() RETURNS text LANGUAGE plpgsql AS"
        " 'BEGIN UPDATE public.private SET word = current_user; RETURN current_user; END'"
    )
    cursor = "DECLARE c CURSOR WITH HOLD FOR SELECT pg_temp.later()"
    world.move([2], sql=SqlAround(after=(function, cursor), role=lesser))
    assert ids() == [2]
    admin.execute("SELECT word FROM private")
    assert admin.fetchall() == [("untouched",)]


@pytest.mark.parametrize("role", ["", LESSER])
def test_before_18_a_trigger_that_a_lesser_role_put_off_is_refused(
    world: World, admin: Any, ids: Any, lesser: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_around, "_RUNS_AS_QUEUED", 999999)  # an older server is not to be had here
    statements = (
        "CREATE TEMP TABLE once (id int)",
        "CREATE FUNCTION pg_temp.later() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON once DEFERRABLE FOR EACH ROW EXECUTE FUNCTION pg_temp.later()",
    )
    if role:
        with pytest.raises(ConnectorError) as refused:
            world.move([2], sql=SqlAround(after=statements, role=role))
        assert refused.value.code == "sql_escaped"
        assert ids() is None
    else:
        world.move([2], sql=SqlAround(after=statements))
        assert ids() == [2]


SETTINGS = [
    "SET search_path = evil",
    "SET LOCAL search_path = evil, pg_catalog",
    "SET synchronous_commit = off",
    "SET LOCAL application_name = 'somebody else'",
    "SET statement_timeout = 1",
    "SET timezone = 'Asia/Tokyo'",
    "SET lock_timeout = 1",
    "CREATE TEMP TABLE pg_class (oid oid); CREATE TEMP TABLE head (target text)",
    "SET CONSTRAINTS ALL DEFERRED",
]


def test_what_it_sets_and_makes_for_a_while_is_of_no_consequence(
    world: World, admin: Any, ids: Any, lesser: str
) -> None:
    admin.execute(f"CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO {LESSER}, {ROLE}")
    for function in ("clock_timestamp() RETURNS timestamptz", "jsonb_build_object(text, timestamptz) RETURNS jsonb"):
        admin.execute(f"CREATE FUNCTION evil.{function} LANGUAGE plpgsql AS 'BEGIN RAISE ''evil''; END'")
    seen: list[Any] = []

    def look(point: str) -> None:
        if point == "publish.before_commit":
            session = world.opened[-1]._session
            assert session is not None
            name, *others = session.one(
                "SELECT current_setting('application_name'), current_setting('synchronous_commit'),"
                " current_setting('timezone'), current_setting('statement_timeout')"
            ) or ("",)
            seen[:] = [name.rpartition(":")[0], *others]  # its end is the token

    world.move([1], crash=look)
    usual = list(seen)
    for number, statement in enumerate(SETTINGS):
        sql = around(before=statement, after=statement.replace("TEMP TABLE ", "TEMP TABLE z"), role=LESSER)
        done = world.move([number], sql=sql, crash=look)
        assert (ids(), len(done.sql)) == ([number], 2 * len(sql.before)), statement
        assert seen == usual, statement


def test_what_is_put_off_to_the_commit_speaks_with_its_statement(
    world: World, admin: Any, ids: Any, notes: Any
) -> None:
    admin.execute("ALTER TABLE notes ADD CONSTRAINT once UNIQUE (word) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(ConnectorError) as failed:
        world.move([1], sql=around(after="SET CONSTRAINTS ALL DEFERRED; INSERT INTO notes VALUES ('a', 1), ('a', 2)"))
    assert "Statement 2 after the load" in failed.value.message


def test_a_session_that_ran_it_is_not_for_the_next_run(world: World) -> None:
    destination = world.destination()
    world.move([1], destination=destination, sql=around(after="SELECT pg_advisory_lock(7)"))
    mine = destination._session
    destination.close()
    assert mine is not None
    assert mine.connection.closed
    assert all(session is not mine for session, _ in keep.sessions._idle)


# The role ---------------------------------------------------------------------------------------


def test_a_named_role_has_its_own_rights_and_no_more(
    world: World, admin: Any, ids: Any, notes: Any, lesser: str
) -> None:
    done = world.move([1], sql=around(after="INSERT INTO notes SELECT current_user, 1", role=lesser))
    assert (notes(), len(done.sql)) == ([(LESSER, 1)], 1)
    for statement in ("DELETE FROM notes", "SELECT * FROM _datamantri.head", "DROP TABLE flights"):
        with pytest.raises(ConnectorError) as failed:
            world.move([2], sql=around(after=statement, role=lesser))
        assert failed.value.code == "sql_failed"
    assert ids() == [1]


@pytest.mark.parametrize(
    ("made", "role", "said"),
    [
        ("SELECT", "nobody_here", "There is no role"),
        ("SELECT", ROLE, "is the role that loads"),
        ("SELECT", "auditor", "may not become"),
        (f"ALTER ROLE {LESSER} CREATEROLE", LESSER, "may do more"),
        (f"GRANT pg_read_server_files TO {LESSER}", LESSER, "may do more"),
        (f"GRANT INSERT ON _datamantri.head TO {LESSER}", LESSER, "may write to _datamantri (head)"),
        (f"GRANT CREATE ON SCHEMA _datamantri TO {LESSER}", LESSER, "may write to _datamantri (the schema)"),
    ],
)
def test_a_role_that_is_no_lesser_one_is_refused(
    world: World, admin: Any, ids: Any, notes: Any, lesser: str, made: str, role: str, said: str
) -> None:
    world.move([1])
    admin.execute(made)
    sql = around(after="SELECT 1", role=role)
    with pytest.raises(ConnectorError) as refused:
        world.move([2], sql=sql)
    assert (refused.value.code, ids()) == ("sql_role", [1])
    assert said in refused.value.message
    assert [error.code for error in world.destination().validate_sql(sql)] == ["sql_role"]
    admin.execute(f"ALTER ROLE {LESSER} NOCREATEROLE; REVOKE pg_read_server_files FROM {LESSER}")


# Once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["publish.before_lock", "publish.after_lock", "publish.before_commit", "publish.after_commit"]
)
def test_a_run_that_is_killed_runs_it_once(world: World, ids: Any, notes: Any, point: str) -> None:
    class Crash(BaseException):
        """As a killed process."""

    def crash(at: str) -> None:
        if at == point:
            world.opened[-1]._session.close()  # type: ignore[union-attr]
            raise Crash

    run, sql = uuid.uuid4(), around(COUNT.format("b").replace("FROM flights", ""), COUNT.format("a"))
    with pytest.raises(Crash):
        world.move([1, 2], run=run, sql=sql, crash=crash)
    world.move([1, 2], run=run, sql=sql)
    assert (ids(), [word for word, _ in notes()]) == ([1, 2], ["b", "a"])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_run_that_is_held_runs_it_when_it_is_approved(
    world: World, admin: Any, ids: Any, notes: Any, in_place: bool
) -> None:
    world.move([1, 2, 3, 4])
    if in_place:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    run, sql = uuid.uuid4(), around(COUNT.format("before"), COUNT.format("after"))
    with pytest.raises(Held):
        world.move([1], run=run, guard=Guard(), sql=sql)
    assert notes() == []
    world.publish_held(run, sql=sql)
    assert (ids(), notes()) == ([1], [("before", 4), ("after", 1)])


@dataclass
class InParts(StagedRun):
    more: dict[str, Any] = field(default_factory=dict)

    def request(self, fence: Any) -> TransferRequest:
        return replace(super().request(fence), **self.more)

    def staged(self) -> InParts:
        for part in range(len(self.plan().parts)):
            self.load(part)
        return self


def held(publish: Any) -> str:
    with pytest.raises(Held) as told:
        publish()
    return told.value.code


@pytest.mark.parametrize("when", ["before", "after"])
def test_rows_that_parts_have_staged_wait_for_sql_that_is_corrected(
    world: World, admin: Any, ids: Any, notes: Any, disposition: str, when: str
) -> None:
    bad, good = around(**{when: "SELECT 1 / 0"}), around(**{when: COUNT.format("x")})
    run = InParts(world, PartedSource([[batch([1, 2])], [batch([3])]]), disposition, more={"sql": bad})
    publish = partial(world.publish_held, run.staged().run, approved="sql_failed")
    assert held(run.publish) == "sql_failed"
    assert held(partial(publish, sql=around(**{when: "SELECT nothing"}))) == "sql_failed"
    assert (ids(), notes()) == ([1], [])
    assert publish(sql=good).rows == publish(sql=good).rows == 3
    assert (sorted(set(ids())), len(notes())) == ([1, 2, 3], 1)


def test_who_mends_sql_approves_nothing_else_and_again_nothing_that_was_approved(
    world: World, admin: Any, ids: Any, notes: Any
) -> None:
    world.move([1, 2, 3, 4], key=("id",))
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")  # in place: the guard comes after the SQL before
    more = {
        "checks": (Check(CheckKind.RANGE, "few", ("id",), maximum="0"),),
        "guard": Guard(shrink_percent=1),
        "sql": around("SELECT 1 / 0"),
    }
    run = InParts(world, PartedSource([[batch([1])]]), more=more).staged()
    assert held(run.publish) == "check_failed"
    publish = partial(world.publish_held, run.run)
    assert held(partial(publish, **more)) == "sql_failed"
    more["sql"] = around(COUNT.format("x"))
    assert held(partial(publish, **more)) == "guard_shrink"
    assert (ids(), notes()) == ([1, 2, 3, 4], [])
    publish(**more)
    assert (ids(), notes()) == ([1], [("x", 4)])


def test_a_text_that_is_no_sql_is_told_without_running_it(world: World, notes: Any) -> None:
    sql = around("INSERT INTO notes VALUES ('ran', 1); SELEC 1", "END; INSERT INTO notes VALUES ('ran', 2)")
    found = world.destination().validate_sql(sql)
    assert [(error.code, error.field) for error in found] == [("sql_syntax", "sql_before"), ("sql_syntax", "sql_after")]
    assert "Statement 2" in found[0].message
    assert world.destination().validate_sql(around("SELECT 1; TABLE notes; WITH x AS (SELECT 1) SELECT * FROM x")) == []
    assert notes() == []
