"""Replace by rename: what survives, what is refused, and how long readers wait."""

from __future__ import annotations

import time

import pytest

from connectors.column import Column
from connectors.errors import ConnectorError, TransientError
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres import keep
from connectors.postgres.publish import lock
from connectors.postgres.publish.existing import look
from connectors.writing import Changes, Target
from tests.connectors import digests
from tests.connectors.memory import MemorySource, batch, in_thread


def rows(admin, query, *parameters):
    admin.execute(query, parameters)
    return admin.fetchall()


def at(point, action):
    """A `crash` that does something to the database instead."""
    return lambda reached: action() if reached == point else None


def test_rows_are_replaced_and_empty_sources_leave_an_empty_table(world, ids):
    assert world.move([1, 2]).method == "create"
    assert ids() == [1, 2]
    receipt = world.move([3])
    assert (receipt.method, receipt.rows, ids()) == ("rename", 1, [3])
    world.move([])
    assert ids() == []


@pytest.mark.parametrize(
    "name", ['fl"ights', "100% sure", "two words", "Straße ✈️", "SELECT", "a.b", "o'clock", "x" * 63]
)
def test_names_of_any_kind_work(world, ids, admin, name):
    admin.execute("CREATE SCHEMA \"the 'lot' %s\"; GRANT ALL ON SCHEMA \"the 'lot' %s\" TO loader")
    world.target = Target("the 'lot' %s", name)
    column = Column('we"ird % näme', "INT64")
    world.move([1])
    world.move([2])
    world.move([3], "append")
    assert ids() == [2, 3]
    source = MemorySource([batch([9]).rename_columns([column.name, "name"])], (column, Column("name", "STRING")))
    world.move(source=source)
    assert digests.of_target(world.destination(), world.target, (column,)).rows == 1


def test_grants_comments_and_settings_survive(world, admin):
    world.move([1])
    admin.execute(
        """
        GRANT SELECT ON flights TO reader;
        GRANT INSERT, SELECT ON flights TO auditor WITH GRANT OPTION;
        GRANT SELECT ON flights TO PUBLIC;
        GRANT UPDATE (name) ON flights TO reader;
        COMMENT ON TABLE flights IS 'It''s 100% "ours"';
        COMMENT ON COLUMN flights.name IS 'What it is called';
        ALTER TABLE flights SET (fillfactor = 70, autovacuum_enabled = off);
        """
    )
    facts = """
        SELECT c.relacl::text, c.reloptions, obj_description(c.oid), col_description(c.oid, 2), a.attacl::text
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'name' WHERE c.relname = 'flights'
    """
    before = rows(admin, facts)
    world.move([2])
    assert rows(admin, facts) == before
    assert before[0][2] == 'It\'s 100% "ours"'


def test_a_revoked_right_stays_revoked_and_default_privileges_do_not_leak_in(world, admin):
    world.move([1])
    admin.execute("REVOKE TRUNCATE ON flights FROM loader; GRANT SELECT ON flights TO auditor")
    admin.execute("ALTER DEFAULT PRIVILEGES FOR ROLE loader IN SCHEMA public GRANT SELECT ON TABLES TO reader")
    world.move([2])
    for role, privilege, has in (
        ("reader", "SELECT", False),
        ("auditor", "SELECT", True),
        ("loader", "TRUNCATE", False),
        ("loader", "INSERT", True),
    ):
        assert rows(admin, "SELECT has_table_privilege(%s, 'flights', %s)", role, privilege) == [(has,)], role


def test_the_owner_survives(world, admin, ids):
    world.move([1])
    admin.execute(
        "GRANT landlord TO loader; GRANT USAGE ON SCHEMA public TO landlord; ALTER TABLE flights OWNER TO landlord"
    )
    try:
        with pytest.raises(ConnectorError) as refused:
            world.move([2])
        assert refused.value.code == "missing_grant"
        assert 'GRANT CREATE ON SCHEMA "public" TO "landlord";' in refused.value.hint
        admin.execute("GRANT CREATE ON SCHEMA public TO landlord")
        world.move([2])
    finally:
        admin.execute("REVOKE landlord FROM loader")
    assert rows(admin, "SELECT tableowner FROM pg_tables WHERE tablename = 'flights'") == [("landlord",)]
    assert ids() == [2]
    with pytest.raises(ConnectorError) as refused:
        world.move([3])
    assert refused.value.code == "missing_grant"
    assert 'GRANT "landlord" TO "loader";' in refused.value.hint


def test_comments_of_columns_that_are_gone_are_told(world, admin):
    world.move([1])
    admin.execute("COMMENT ON COLUMN flights.name IS 'What it is called'")
    world.move(source=MemorySource([batch([1])], (Column("id", "INT64"),)))
    assert "gone" in world.recorder.text()
    assert "name" in world.recorder.text()


DEPENDENTS = {
    "CREATE VIEW late AS SELECT * FROM flights": "view late",
    "CREATE MATERIALIZED VIEW late AS SELECT id FROM flights": "materialized view late",
    "CREATE VIEW late AS SELECT f FROM flights f": "view late",
    "CREATE INDEX by_name ON flights (name)": "index by_name",
    "ALTER TABLE flights ADD PRIMARY KEY (id)": "constraint flights_pkey on table flights",
    "ALTER TABLE flights ADD CONSTRAINT small CHECK (id < 100)": "constraint small on table flights",
    "CREATE TABLE other (id bigint PRIMARY KEY); INSERT INTO other VALUES (1), (2);"
    " ALTER TABLE flights ADD CONSTRAINT points FOREIGN KEY (id) REFERENCES other": (
        "constraint points on table flights"
    ),
    "ALTER TABLE flights ADD UNIQUE (id);"
    " CREATE TABLE other (id bigint, CONSTRAINT points FOREIGN KEY (id) REFERENCES flights (id))": (
        "constraint points on table other"
    ),
    "CREATE TRIGGER twist BEFORE UPDATE ON flights FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()": ("trigger twist on table flights"),
    "CREATE POLICY mine ON flights USING (true)": "policy mine on table flights",
    "ALTER TABLE flights ENABLE ROW LEVEL SECURITY": "row-level security",
    "ALTER TABLE flights REPLICA IDENTITY FULL; CREATE PUBLICATION news FOR TABLE flights": (
        "publication of table flights in publication news"
    ),
    "CREATE TABLE parent (id bigint); ALTER TABLE flights INHERIT parent": "parent table parent",
    "ALTER TABLE flights ALTER id SET DEFAULT 7": "default value for column id of table flights",
    "ALTER TABLE flights ALTER id SET NOT NULL": "NOT NULL on column id",
    "ALTER TABLE flights ALTER id SET NOT NULL; ALTER TABLE flights ALTER id ADD GENERATED ALWAYS AS IDENTITY": (
        "identity of column id"
    ),
    "CREATE STATISTICS both_columns ON id, name FROM flights": "statistics object both_columns",
    "ALTER TABLE flights ALTER name SET STATISTICS 500": "settings of column name",
    "ALTER TABLE flights ALTER name SET (n_distinct = 50)": "settings of column name",
    "ALTER TABLE flights ALTER name SET STORAGE EXTERNAL": "settings of column name",
    "ALTER TABLE flights REPLICA IDENTITY FULL": "replica identity",
    "CREATE SEQUENCE numbers; ALTER SEQUENCE numbers OWNER TO loader;"
    " ALTER SEQUENCE numbers OWNED BY flights.id": "sequence numbers",
    "CREATE FUNCTION newest() RETURNS bigint BEGIN ATOMIC SELECT max(id) FROM flights; END": "function newest()",
    "CREATE FUNCTION shout(flights) RETURNS text LANGUAGE sql AS 'SELECT 1'": "function shout(flights)",
    "CREATE TABLE other (f flights)": "column f of table other",
    "CREATE TABLE other (f flights[])": "column f of table other",
}


def leaning(world):
    with world.destination()._looking() as session:
        return look(session, world.target).relations["flights"].dependents


@pytest.mark.parametrize("statement", DEPENDENTS)
def test_a_table_that_something_leans_on_is_replaced_in_place(world, admin, ids, statement):
    world.move([1])
    admin.execute(statement)
    before = leaning(world)
    assert any(DEPENDENTS[statement] in name for name in before)
    assert validate(world, "replace") == []
    receipt = world.move([2])
    assert receipt.method == "in_place"
    assert receipt.changes == Changes(inserted=1, deleted=1)
    assert ids() == [2]
    assert leaning(world) == before
    assert f"is replaced in place, because {before[0]}" in world.recorder.text()


IN_THE_WAY = {
    "CREATE RULE silence AS ON DELETE TO flights DO INSTEAD NOTHING": "silence",
    "CREATE TABLE child () INHERITS (flights)": "table child",
    "ALTER TABLE flights ADD UNIQUE (id);"
    " CREATE TABLE other (id bigint, CONSTRAINT points FOREIGN KEY (id) REFERENCES flights (id) ON DELETE CASCADE)": (
        "constraint points on table other (ON DELETE CASCADE)"
    ),
}


@pytest.mark.parametrize("statement", IN_THE_WAY)
def test_what_a_replace_would_break_is_named_before_a_row_is_read(world, admin, ids, statement):
    world.move([1])
    admin.execute(statement)
    source = MemorySource([batch([2])])
    with pytest.raises(ConnectorError) as refused:
        world.move(source=source)
    assert refused.value.code == "replace_would_break"
    assert IN_THE_WAY[statement] in refused.value.message
    assert not isinstance(refused.value, TransientError)
    assert source.reads == 0
    assert ids() == [1]
    assert [e.code for e in validate(world, "replace")] == ["replace_would_break"]


def test_a_replace_in_place_by_key_keeps_the_rows_that_stay(world, admin):
    world.move([1, 2, 3])
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    admin.execute("UPDATE flights SET name = 'changed by hand' WHERE id = 2")
    places = dict(rows(admin, "SELECT id, ctid::text FROM flights"))
    receipt = world.move([2, 3, 4], key=("id",))
    assert receipt.changes == Changes(inserted=1, updated=1, unchanged=1, deleted=1)
    assert rows(admin, "SELECT * FROM late ORDER BY id") == [(2, "row 2"), (3, "row 3"), (4, "row 4")]
    assert rows(admin, "SELECT ctid::text FROM flights WHERE id = 3") == [(places[3],)]
    assert "1 row added, 1 updated; 1 deleted, 1 was the same already" in world.recorder.text()


def validate(world, disposition):
    from tests.connectors.memory import ID_NAME

    return world.destination().validate_target(
        world.target, ID_NAME, WriteMode(WriteDisposition(disposition)), pipeline=world.pipeline, adopt=False
    )


def test_a_source_that_does_not_answer_says_nothing_against_the_key(world, admin):
    world.move([1])
    admin.execute("CREATE VIEW late AS SELECT * FROM flights; ALTER TABLE flights ALTER id SET NOT NULL")
    mode = WriteMode(WriteDisposition.REPLACE, ("id",))
    found = world.destination().validate_target(world.target, (), mode, pipeline=world.pipeline, adopt=False)
    assert found == []


def test_a_partitioned_table_is_replaced_in_place(world, admin, ids):
    world.move([1])
    admin.execute("DROP TABLE flights; CREATE TABLE flights (id bigint, name text) PARTITION BY LIST (id)")
    admin.execute("CREATE TABLE flights_rest PARTITION OF flights DEFAULT; ALTER TABLE flights OWNER TO loader")
    assert world.move([2, 3]).method == "in_place"
    assert ids() == [2, 3]


def test_a_view_of_the_same_name_is_not_a_table(world, admin):
    world.move([1])
    admin.execute("DROP TABLE flights; CREATE VIEW flights AS SELECT 1::bigint AS id")
    for disposition in ("replace", "append"):
        with pytest.raises(ConnectorError) as refused:
            world.move([2], disposition)
        assert refused.value.code == "target_not_a_table"
        assert "is not a table but a view" in refused.value.message


def test_a_view_made_during_the_load_stops_the_publish_and_is_no_harm_to_the_next_attempt(world, admin, ids):
    world.move([1])
    with pytest.raises(TransientError) as refused:
        world.move(
            [2], crash=at("publish.before_lock", lambda: admin.execute("CREATE VIEW late AS SELECT * FROM flights"))
        )
    assert refused.value.code == "target_changed"
    assert rows(admin, "SELECT count(*) FROM late") == [(1,)]
    assert world.move([2]).method == "in_place"
    assert rows(admin, "SELECT id FROM late") == [(2,)]


@pytest.mark.parametrize("act", ["DROP TABLE flights", "DROP TABLE flights; CREATE TABLE flights (id bigint)"])
def test_a_table_that_changed_hands_during_the_load_stops_the_publish(world, admin, ids, act):
    world.move([1])
    with pytest.raises(TransientError) as refused:
        world.move([2], crash=at("publish.before_lock", lambda: admin.execute(act)))
    assert refused.value.code == "target_changed"
    assert ids() in (None, [])


def test_a_table_made_by_someone_else_during_the_first_load_is_not_overwritten(world, admin, ids):
    with pytest.raises(TransientError) as refused:
        world.move([2], crash=at("publish.before_lock", lambda: admin.execute("CREATE TABLE flights (id bigint)")))
    assert refused.value.code == "target_changed"
    assert ids() == []
    assert rows(admin, "SELECT relname FROM pg_class WHERE relname LIKE '_datamantri_new%%'") == []


def test_holders_are_named_and_readers_get_their_turn(world, connect, ids):
    """A reader keeps the table busy; others who come while we wait must not wait longer than a second or so."""
    world.move([1])
    busy = connect("quarterly report")
    busy.cursor().execute("SELECT * FROM flights")
    thread, results = in_thread(lambda: world.move([2]))
    other = connect()
    other.autocommit = True
    waits = []
    while not results and (len(waits) < 6 or "Waiting for the lock" not in world.recorder.text()):
        began = time.monotonic()
        other.cursor().execute("SELECT * FROM flights")
        waits.append(time.monotonic() - began)
        time.sleep(0.2)
    busy.rollback()
    thread.join(60)
    assert results[0].method == "rename"
    assert results[0].lock_wait_ms > 1000
    assert max(waits) < 8  # nobody would end the first reader's transaction for them
    assert f"process {busy.info.backend_pid} (user loader, application quarterly report" in world.recorder.text()
    assert "idle in its transaction for" in world.recorder.text()
    assert "SELECT" not in world.recorder.text()
    assert ids() == [2]


def test_a_lock_that_is_never_given_back_ends_the_attempt(world, connect, ids, monkeypatch):
    monkeypatch.setattr(lock, "LIMIT_S", 0.5)
    world.move([1])
    busy = connect("quarterly report")
    busy.cursor().execute("SELECT * FROM flights")
    with pytest.raises(TransientError) as refused:
        world.move([2])
    assert refused.value.code == "target_locked"
    assert "quarterly report" in refused.value.message
    assert ids() == [1]
    busy.rollback()
    world.move([2])
    assert ids() == [2]


def test_an_autovacuum_that_is_in_the_way_is_ended(world, admin, server, ids):
    """It yields only to who waits longer than deadlock_timeout."""
    world.move(range(20_000))
    admin.execute(
        """
        ALTER TABLE flights SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
                                 autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1);
        UPDATE flights SET id = id;
        """
    )
    admin.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    admin.execute("ALTER SYSTEM SET autovacuum = on")
    admin.execute("SELECT pg_reload_conf()")
    try:
        deadline = time.monotonic() + 90
        while not rows(admin, "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'flights'::regclass"):
            assert time.monotonic() < deadline, "autovacuum does not come"
            time.sleep(0.1)
        world.move([1])
    finally:
        admin.execute("ALTER SYSTEM RESET autovacuum_naptime")
        admin.execute("ALTER SYSTEM SET autovacuum = off")
        admin.execute("SELECT pg_reload_conf()")
    assert ids() == [1]
    assert "(autovacuum)" in world.recorder.text()


def test_a_reader_whose_snapshot_is_older_than_the_rename_sees_a_whole_table(world, connect):
    world.move([1])
    reader = connect()
    reader.set_session(isolation_level="REPEATABLE READ")
    cursor = reader.cursor()
    cursor.execute("SELECT 1")
    world.move([2, 3])
    cursor.execute("SELECT id FROM flights ORDER BY id")
    assert cursor.fetchall() == [(2,), (3,)]


def test_a_large_new_table_has_statistics_and_its_next_analysis_is_due(world, admin):
    destination = world.destination()
    world.move(range(5000), destination=destination)
    destination.close()
    keep.sessions.clear()  # a backend tells its counts when it ends
    assert rows(admin, "SELECT reltuples::int FROM pg_class WHERE relname = 'flights'") == [(5000,)]
    assert rows(admin, "SELECT count(*) FROM pg_stats WHERE tablename = 'flights'") == [(2,)]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        admin.execute("SELECT pg_stat_clear_snapshot()")
        changed = rows(admin, "SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = 'flights'")
        if changed == [(5000,)]:
            return
        time.sleep(0.02)
    pytest.fail(f"autovacuum counts {changed} changes")


def test_new_rows_are_frozen(world, admin):
    world.move([1, 2])
    admin.execute("CREATE EXTENSION pg_visibility")
    assert rows(admin, "SELECT all_visible, all_frozen FROM pg_visibility_map('flights')") == [(True, True)]
