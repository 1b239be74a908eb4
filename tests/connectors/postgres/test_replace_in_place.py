"""Replace in place: the table stays with all that depends on it, and its rows become those of the source."""

from __future__ import annotations

import random
from contextlib import closing, contextmanager

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extras import execute_values

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.ddl import create_table
from connectors.postgres.names import column_names
from connectors.postgres.options import PostgresOptions
from connectors.postgres.publish import in_place
from connectors.postgres.publish.existing import look
from connectors.writing import Changes, Target
from tests.connectors.postgres.conftest import PASSWORD, ROLE

COLUMNS = (Column("id", "INT64"), Column("name", "STRING"))
FLIGHTS = Target("public", "flights")
STAGING = Target("public", "_datamantri_new_0123456789abcdef0123456789abcdef")


class Pipeline:
    """What the engine does around a replace in place, without a source."""

    def __init__(self, session):
        self.session = session
        self.target = FLIGHTS
        self.columns = COLUMNS

    @contextmanager
    def transaction(self):
        self.session.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            yield
        finally:
            self.session.rollback()

    def refusal(self, key=()):
        with self.transaction():
            return in_place.refuse(self.session, self.target, self.columns, key)

    def replace(self, rows, key=("id",), before_commit=lambda: None):
        with self.transaction():
            refusal = in_place.refuse(self.session, self.target, self.columns, key)
            if refusal is not None:
                raise refusal
            staging = sql.Identifier(STAGING.schema, STAGING.table)
            self.session.execute(create_table(staging, self.columns))
            self.fill(staging, rows)
            in_place.prepare(self.session, STAGING, self.columns, key)
            target = sql.Identifier(self.target.schema, self.target.table)
            self.session.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(target, sql.SQL(in_place.MODE)))
            changes = in_place.apply(self.session, self.target, STAGING, self.columns, key)
            self.session.execute(sql.SQL("DROP TABLE {}").format(staging))
            before_commit()
            self.session.commit()
        return changes

    def fill(self, table, rows):
        if rows:
            with self.session.connection.cursor() as cursor:
                names = sql.SQL(", ").join(map(sql.Identifier, column_names(self.columns)))
                statement = sql.SQL("INSERT INTO {} ({}) VALUES ").format(table, names).as_string(cursor)
                execute_values(cursor, statement.replace("%", "%%") + "%s", rows, page_size=10_000)


@pytest.fixture(scope="module")
def database(server):
    """One database for all: making one takes longer than any test here."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE in_place")
    yield "in_place"
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP DATABASE in_place WITH (FORCE)")


@pytest.fixture
def options(server, database):
    with closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(
            """
            DROP SCHEMA IF EXISTS public, "the 'lot' %" CASCADE;
            DROP PUBLICATION IF EXISTS news;
            DROP FOREIGN DATA WRAPPER IF EXISTS w CASCADE;
            CREATE SCHEMA public; GRANT USAGE, CREATE ON SCHEMA public TO loader;
            """
        )
    return PostgresOptions("127.0.0.1", database, ROLE, port=server.port, password=PASSWORD, sslmode="disable")


@pytest.fixture
def pipeline(options):
    session = Session(options)
    yield Pipeline(session)
    session.close()


@pytest.fixture
def flights(pipeline):
    """Makes the target as the role; `form` is what stands between the parentheses."""

    def make(*rows, form="id bigint PRIMARY KEY, name text", after=""):
        pipeline.session.execute(f"CREATE TABLE flights ({form}) {after}")
        pipeline.fill(sql.Identifier("public", "flights"), rows)

    return make


def rows(admin, query="SELECT id, name FROM flights ORDER BY id, name", *parameters):
    admin.execute(query, parameters or None)
    return admin.fetchall()


def test_rows_are_updated_inserted_and_deleted_and_the_rest_stays_in_its_place(pipeline, flights, admin):
    flights((1, "a"), (2, "b"), (3, "c"))
    places = "SELECT id, ctid FROM flights WHERE id = 1"
    before = rows(admin, places)
    assert pipeline.replace([(1, "a"), (2, "B"), (4, "d")]) == Changes(inserted=1, updated=1, unchanged=1, deleted=1)
    assert rows(admin) == [(1, "a"), (2, "B"), (4, "d")]
    assert rows(admin, places) == before


def test_without_a_key_whole_rows_are_compared_as_often_as_they_are_there(pipeline, flights, admin):
    flights((1, "a"), (1, "a"), (1, "a"), (2, None), form="id bigint, name text")
    assert pipeline.replace([(1, "a"), (1, "a"), (2, None), (2, None)], key=()) == Changes(1, 0, 3, 1)
    assert rows(admin) == [(1, "a"), (1, "a"), (2, None), (2, None)]


@pytest.mark.parametrize("key", [("id",), ()])
def test_an_empty_source_leaves_an_empty_table_and_an_empty_table_is_filled(pipeline, flights, admin, key):
    flights((1, "a"), (2, None))
    assert pipeline.replace([], key) == Changes(0, 0, 0, 2)
    assert rows(admin) == []
    assert pipeline.replace([(3, "c")], key) == Changes(1)
    assert pipeline.replace([(3, "c")], key) == Changes(0, 0, 1)
    assert rows(admin) == [(3, "c")]


def test_nothing_of_ours_is_left_beside_the_table(pipeline, flights, admin):
    flights((1, "a"))
    pipeline.replace([(2, "b")])
    assert rows(
        admin, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    ) == [("flights",)]


SURROUNDINGS = """
CREATE TABLE airlines (code text PRIMARY KEY); INSERT INTO airlines VALUES ('KL'), ('LH');
ALTER TABLE flights ADD CONSTRAINT of_airline FOREIGN KEY (name) REFERENCES airlines;
CREATE TABLE bookings (flight bigint REFERENCES flights); INSERT INTO bookings VALUES (1);
CREATE VIEW late AS SELECT * FROM flights;
CREATE MATERIALIZED VIEW frozen AS SELECT id FROM flights;
CREATE INDEX by_name ON flights (lower(name)) WHERE id > 0;
CREATE STATISTICS both_columns ON id, name FROM flights;
CREATE PUBLICATION news FOR TABLE flights;
CREATE FUNCTION shout(flights) RETURNS text LANGUAGE sql AS 'SELECT 1';
ALTER TABLE flights ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON flights FOR SELECT TO reader USING (id > 1);
ALTER TABLE flights SET (fillfactor = 70), ALTER name SET STATISTICS 500, ADD CONSTRAINT small CHECK (id < 100);
GRANT SELECT ON flights TO reader; GRANT UPDATE (name) ON flights TO auditor WITH GRANT OPTION;
COMMENT ON TABLE flights IS 'It''s 100% "ours"'; COMMENT ON COLUMN flights.name IS 'What it is called';
"""

FORM = """
SELECT c.oid, c.relfilenode, c.relowner, c.relacl::text, c.reloptions,
       obj_description(c.oid), col_description(c.oid, 2),
       ARRAY(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE c.oid IN (conrelid, confrelid) ORDER BY 1),
       ARRAY(SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = c.oid ORDER BY 1),
       ARRAY(SELECT (attname, attacl, attstattarget, attidentity, attnotnull, atthasdef)::text
             FROM pg_attribute WHERE attrelid = c.oid ORDER BY attnum),
       ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid),
       ARRAY(SELECT pubname::text FROM pg_publication_tables WHERE tablename = 'flights'),
       (SELECT count(*) FROM pg_depend WHERE refobjid = c.oid)
FROM pg_class c WHERE relname = 'flights'
"""


def test_all_that_depends_on_the_table_stays_and_sees_the_new_rows(pipeline, flights, admin):
    flights((1, "KL"), (2, "LH"))
    admin.execute(SURROUNDINGS)
    before = rows(admin, FORM)
    assert pipeline.replace([(1, "LH"), (3, "KL")]) == Changes(1, 1, 0, 1)
    assert rows(admin, FORM) == before
    assert rows(admin, "SELECT * FROM late ORDER BY id") == [(1, "LH"), (3, "KL")]
    assert rows(admin, "REFRESH MATERIALIZED VIEW frozen; SELECT id FROM frozen ORDER BY id") == [(1,), (3,)]
    assert rows(admin, "SELECT id FROM flights WHERE lower(name) = 'kl'") == [(3,)]


def test_who_reads_on_an_older_snapshot_sees_the_whole_old_table_and_nobody_waits(pipeline, flights, connect, admin):
    flights((1, "a"), (2, "b"))
    admin.execute("GRANT SELECT ON flights TO loader")
    reader, other = connect(), connect()
    reader.set_session(isolation_level="REPEATABLE READ")
    seen = []

    def look_on():
        with other, other.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = 500; SELECT id, name FROM flights ORDER BY id")
            seen.append(cursor.fetchall())

    with reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM flights")
        pipeline.replace([(1, "A"), (3, "c")], before_commit=look_on)
        cursor.execute("SELECT id, name FROM flights ORDER BY id")
        assert cursor.fetchall() == [(1, "a"), (2, "b")]
    assert seen == [[(1, "a"), (2, "b")]]
    assert rows(admin) == [(1, "A"), (3, "c")]


def test_columns_that_the_source_lacks_keep_their_values_or_get_their_default(pipeline, flights, admin):
    flights(
        (1, "a"),
        (2, "b"),
        form="id bigint PRIMARY KEY, name text, number int GENERATED ALWAYS AS IDENTITY, remark text DEFAULT 'new',"
        " loud text GENERATED ALWAYS AS (upper(name)) STORED",
    )
    admin.execute("UPDATE flights SET remark = 'seen'")
    pipeline.replace([(1, "a"), (2, "x"), (3, "c")])
    assert rows(admin, "SELECT * FROM flights ORDER BY id") == [
        (1, "a", 1, "seen", "A"),
        (2, "x", 2, "seen", "X"),
        (3, "c", 3, "new", "C"),
    ]


@pytest.mark.parametrize("key", [("id",), ("name",), ()])
@pytest.mark.parametrize("kind", ["ALWAYS", "BY DEFAULT"])
def test_the_source_decides_what_an_identity_column_holds(pipeline, flights, admin, key, kind):
    flights(form=f"id bigint GENERATED {kind} AS IDENTITY, name text, remark text")
    admin.execute("INSERT INTO flights (name, remark) VALUES ('a', 'first'), ('b', 'second')")
    pipeline.replace([(1, "a"), (7, "b"), (9, "c")], key)
    assert rows(admin) == [(1, "a"), (7, "b"), (9, "c")]
    if key == ("name",):
        assert rows(admin, "SELECT id, remark FROM flights WHERE name = 'b'") == [(7, "second")]


UNIQUE = {
    "plain": "ALTER TABLE flights ADD CONSTRAINT once UNIQUE (name)",
    "expression": "CREATE UNIQUE INDEX once ON flights (lower(name)) WHERE name IS NOT NULL",
    "deferrable": "ALTER TABLE flights ADD CONSTRAINT once UNIQUE (name) DEFERRABLE",
    "deferred": "ALTER TABLE flights ADD CONSTRAINT once UNIQUE (name) DEFERRABLE INITIALLY DEFERRED",
    "exclusion": "ALTER TABLE flights ADD CONSTRAINT once EXCLUDE (name WITH =)",
}


@pytest.mark.parametrize("key", [("id",), ()])
@pytest.mark.parametrize("unique", UNIQUE)
def test_unique_values_may_swap_and_move_on_between_rows(pipeline, flights, admin, unique, key):
    flights(*((i, f"v{i}") for i in range(10)), form="id bigint PRIMARY KEY, name text, remark bigint")
    admin.execute(f"UPDATE flights SET remark = id; {UNIQUE[unique]};")
    admin.execute("CREATE TABLE bookings (flight bigint REFERENCES flights); INSERT INTO bookings VALUES (0), (1), (5)")
    moved = [(0, "v1"), (1, "v0"), *((i, f"v{i + 1}") for i in range(2, 9)), (10, "v2")]
    assert pipeline.replace(moved, key).deleted == (1 if key else 10)
    assert rows(admin, "SELECT id, name FROM flights ORDER BY id") == moved
    if key:
        assert rows(admin, "SELECT id FROM flights WHERE remark IS DISTINCT FROM id") == [(10,)]


def test_a_value_that_must_be_unique_and_is_not_at_the_source_is_refused(pipeline, flights, admin):
    flights((1, "a"), (2, "b"))
    admin.execute("ALTER TABLE flights ADD CONSTRAINT once UNIQUE (name)")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        pipeline.replace([(1, "c"), (2, "c")])
    assert rows(admin) == [(1, "a"), (2, "b")]


def test_rows_that_others_refer_to_are_not_removed_and_the_refusal_counts_them(pipeline, flights, admin):
    flights((1, "a"), (2, "b"), (3, "c"), (4, "d"))
    admin.execute("CREATE TABLE bookings (flight bigint CONSTRAINT points REFERENCES flights)")
    admin.execute("INSERT INTO bookings VALUES (1), (2), (2), (3); GRANT SELECT ON bookings TO loader")
    for key in (("id",), ()):
        with pytest.raises(ConnectorError) as refused:
            pipeline.replace([(1, "x")], key)
        assert refused.value.code == "rows_referenced"
        assert "public.bookings still refers to 2 rows of public.flights" in refused.value.message
        assert "points" in refused.value.message
    admin.execute("REVOKE SELECT ON bookings FROM loader")
    with pytest.raises(ConnectorError, match=r"refers to rows of public\.flights"):
        pipeline.replace([(1, "x")])
    assert len(rows(admin)) == 4
    admin.execute("DELETE FROM bookings WHERE flight > 1")
    assert pipeline.replace([(1, "x")]).deleted == 3


@pytest.mark.parametrize("when", ["ON DELETE RESTRICT", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_foreign_key_of_any_kind_is_named(pipeline, flights, admin, when):
    flights((1, "a"), (2, "b"))
    admin.execute(f"CREATE TABLE bookings (flight bigint REFERENCES flights {when}); INSERT INTO bookings VALUES (2)")
    with pytest.raises(ConnectorError) as refused:
        pipeline.replace([(1, "a")])
    assert refused.value.code == "rows_referenced"


def test_rows_of_the_table_may_refer_to_each_other(pipeline, flights, admin):
    flights((1, None), (2, 1), (3, 2), form="id bigint PRIMARY KEY, name bigint REFERENCES flights")
    pipeline.columns = (Column("id", "INT64"), Column("name", "INT64"))
    after = [(2, 9), (3, 2), (4, 2), (9, None)]
    assert pipeline.replace(after) == Changes(2, 1, 1, 1)
    assert rows(admin) == after
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        pipeline.replace([(2, 5)])


def test_a_row_whose_pointer_leads_nowhere_is_refused(pipeline, flights, admin):
    flights((1, "KL"))
    admin.execute("CREATE TABLE airlines (code text PRIMARY KEY); INSERT INTO airlines VALUES ('KL')")
    admin.execute("ALTER TABLE flights ADD FOREIGN KEY (name) REFERENCES airlines")
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        pipeline.replace([(1, "LH")])


REFUSED = {
    "CREATE TABLE lines (flight bigint REFERENCES flights ON DELETE CASCADE)": (
        "replace_would_break",
        "constraint lines_flight_fkey on table lines (ON DELETE CASCADE)",
    ),
    "CREATE TABLE lines (flight bigint REFERENCES flights ON DELETE SET NULL)": ("replace_would_break", "SET NULL"),
    "CREATE TABLE lines (flight bigint REFERENCES flights ON DELETE SET DEFAULT)": (
        "replace_would_break",
        "SET DEFAULT",
    ),
    "CREATE RULE silence AS ON DELETE TO flights DO INSTEAD NOTHING": ("replace_would_break", "silence"),
    "CREATE TABLE child () INHERITS (flights)": ("replace_would_break", "table child"),
    "ALTER TABLE flights OWNER TO landlord": ("missing_grant", "may not SELECT, INSERT, UPDATE, DELETE"),
    "ALTER TABLE flights OWNER TO landlord; GRANT SELECT, INSERT, UPDATE ON flights TO loader": (
        "missing_grant",
        "may not DELETE",
    ),
    "ALTER TABLE flights OWNER TO landlord; GRANT ALL ON flights TO loader;"
    " ALTER TABLE flights ENABLE ROW LEVEL SECURITY": ("row_security", "hides rows"),
    "ALTER TABLE flights ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY": ("row_security", "hides rows"),
    "ALTER TABLE flights DROP CONSTRAINT flights_pkey; CREATE PUBLICATION news FOR TABLE flights": (
        "replica_identity_missing",
        "flights",
    ),
    "DELETE FROM flights; ALTER TABLE flights ALTER name TYPE varchar(10), ADD must int NOT NULL": (
        "target_column_mismatch",
        "Column must of public.flights must not be NULL",
    ),
    "ALTER TABLE flights DROP name": ("target_column_missing", "no column name"),
    "DROP TABLE flights; CREATE VIEW flights AS SELECT 1 AS id": ("target_not_a_table", "not a table"),
    "DROP TABLE flights": ("table_missing", "no table"),
}


@pytest.mark.parametrize("statement", REFUSED)
def test_what_cannot_end_well_is_refused_before_a_row_is_read(pipeline, flights, admin, statement):
    flights((1, "a"))
    assert pipeline.refusal() is None
    admin.execute(statement)
    refusal = pipeline.refusal()
    code, words = REFUSED[statement]
    assert (refusal.code, words in refusal.message) == (code, True), refusal.message


def test_the_grant_that_is_missing_is_spelled_out(pipeline, flights, admin):
    flights((1, "a"))
    admin.execute("ALTER TABLE flights OWNER TO landlord; GRANT SELECT, INSERT ON flights TO loader")
    assert pipeline.refusal().hint.endswith('GRANT UPDATE, DELETE ON TABLE "public"."flights" TO "loader";')
    admin.execute("GRANT UPDATE, DELETE ON TABLE flights TO loader")
    assert pipeline.replace([(1, "b")]).updated == 1
    assert rows(admin, "SELECT tableowner FROM pg_tables WHERE tablename = 'flights'") == [("landlord",)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE lines (flight bigint REFERENCES flights)",
        "CREATE TABLE lines (flight bigint REFERENCES flights ON DELETE RESTRICT ON UPDATE CASCADE)",
        "ALTER TABLE flights ENABLE ROW LEVEL SECURITY",
        "CREATE PUBLICATION news FOR TABLE flights",
        "ALTER TABLE flights DROP CONSTRAINT flights_pkey, REPLICA IDENTITY FULL;"
        " CREATE PUBLICATION news FOR ALL TABLES",
        "ALTER TABLE flights DROP CONSTRAINT flights_pkey;"
        " CREATE PUBLICATION news FOR TABLE flights WITH (publish = 'insert')",
        "CREATE RULE silence AS ON DELETE TO flights DO INSTEAD NOTHING; ALTER TABLE flights DISABLE RULE silence",
    ],
)
def test_what_does_no_harm_is_not_refused(pipeline, flights, admin, statement):
    flights((1, "a"), (2, "b"))
    admin.execute(statement)
    assert pipeline.replace([(1, "x"), (3, "c")]) == Changes(1, 1, 0, 1)
    assert rows(admin) == [(1, "x"), (3, "c")]


def test_keys_that_are_null_or_there_twice_are_refused_with_their_counts(pipeline, flights, admin):
    flights((1, "a"))
    for given, code, words in (
        ([(None, "x"), (None, "y"), (1, "z")], "null_key", "2 rows have NULL in the key (id)"),
        ([(1, "x"), (1, "x"), (2, "y"), (2, "z"), (2, "z"), (3, "z")], "key_not_unique", "5 rows have a key (id)"),
    ):
        with pytest.raises(ConnectorError) as refused:
            pipeline.replace(given)
        assert (refused.value.code, words in refused.value.message) == (code, True), refused.value.message
    assert rows(admin) == [(1, "a")]
    assert pipeline.refusal(("nope",)).code == "key_column_missing"
    pipeline.columns = (*COLUMNS, Column("more", "JSON"))
    assert pipeline.refusal(("more",)).code == "key_type"


def test_rows_of_the_target_with_one_key_or_none_do_not_stay(pipeline, flights, admin):
    flights((1, "a"), (1, "a"), (1, "b"), (None, "c"), (None, "c"), (2, "d"), form="id bigint, name text")
    assert pipeline.replace([(1, "a"), (2, "d")]) == Changes(0, 0, 2, 4)
    assert rows(admin) == [(1, "a"), (2, "d")]


@pytest.mark.parametrize("key", [("name",), ()])
def test_a_collation_that_takes_two_texts_for_one_does_not_hide_a_difference(pipeline, flights, admin, key):
    try:
        admin.execute("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg2.errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")
    flights((1, "a"), (2, "B"), form='id bigint, name text COLLATE "blind"')
    assert pipeline.replace([(1, "a"), (1, "A"), (2, "B")], key) == Changes(1, 0, 2)
    assert pipeline.replace([(1, "A"), (2, "b")], key) == Changes(1, 0, 1, 2)
    assert rows(admin) == [(1, "A"), (2, "b")]


def test_references_are_counted_whatever_the_types_and_collations_of_both_ends(pipeline, flights, admin):
    flights((1, "a"), (2, "b"), form='id bigint PRIMARY KEY, name text COLLATE "POSIX" UNIQUE')
    admin.execute(
        'CREATE TABLE bookings (flight int REFERENCES flights, name text COLLATE "C" REFERENCES flights (name))'
    )
    admin.execute("GRANT SELECT ON bookings TO loader; INSERT INTO bookings VALUES (2, NULL)")
    with pytest.raises(ConnectorError, match=r"refers to 1 row of"):
        pipeline.replace([(1, "a")])
    admin.execute("UPDATE bookings SET flight = NULL, name = 'b'")
    with pytest.raises(ConnectorError, match=r"refers to 1 row of"):
        pipeline.replace([(1, "a"), (2, "c")])


KINDS = {
    "JSON": ['{"a": 1.0}', '{"a": 1.00}', '{"a": 1}'],
    "INTERVAL": ["1 month", "30 days", "720 hours"],
    "FLOAT64": ["0", "-0", "NaN", "Infinity"],
    "BIGNUMERIC": ["1", "1.0", "NaN"],
    "BYTES": [b"", b"\0", None],
    "STRING": ["", "ü", None],
    "DATETIME": ["infinity", "-infinity", "2020-01-01"],
}


@pytest.mark.parametrize("key", [("id",), ()])
@pytest.mark.parametrize("type_", KINDS)
def test_values_that_are_equal_but_not_the_same_are_a_difference(pipeline, flights, admin, type_, key):
    pipeline.columns = (Column("id", "INT64"), Column("name", type_))
    pipeline.session.execute(create_table(sql.Identifier("flights"), pipeline.columns))
    values = KINDS[type_]
    assert pipeline.replace([(1, values[0])], key).inserted == 1
    for value in values[1:]:
        changes = pipeline.replace([(1, value)], key)
        assert changes.unchanged == 0, value
        assert pipeline.replace([(1, value)], key) == Changes(0, 0, 1), value
    shown = rows(admin, "SELECT name::text FROM flights")
    admin.execute("UPDATE flights SET name = %s", (values[-1],))
    assert rows(admin, "SELECT name::text FROM flights") == shown


def test_a_trigger_that_drops_rows_is_noticed(pipeline, flights, admin):
    flights((1, "a"))
    admin.execute(
        """
        CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER twist BEFORE INSERT OR UPDATE OR DELETE ON flights FOR EACH ROW EXECUTE FUNCTION drop_it();
        """
    )
    assert pipeline.replace([(1, "a")]).unchanged == 1
    for given in ([], [(1, "b")], [(1, "a"), (2, "b")]):
        with pytest.raises(ConnectorError) as refused:
            pipeline.replace(given)
        assert refused.value.code == "rows_differ"


PARTITIONS = """
CREATE TABLE low PARTITION OF flights FOR VALUES FROM (0) TO (10);
CREATE TABLE high PARTITION OF flights FOR VALUES FROM (10) TO (100) PARTITION BY LIST (name);
CREATE TABLE high_a PARTITION OF high FOR VALUES IN ('a');
CREATE TABLE high_rest PARTITION OF high DEFAULT;
"""


@pytest.mark.parametrize("key", [("id",), ("name",), ()])
def test_rows_of_a_partitioned_table_change_and_move_between_partitions(pipeline, flights, admin, key):
    flights(form="id bigint, name text", after="PARTITION BY RANGE (id)")
    pipeline.session.execute(PARTITIONS)
    assert pipeline.replace([(1, "a"), (2, "b"), (11, "c"), (12, "d")], key).inserted == 4
    places = "SELECT tableoid, ctid FROM flights WHERE id = 1"
    before = rows(admin, places)
    after = [(1, "a"), (2, "x"), (10, "d"), (12, "c"), (50, "e")]
    changes = pipeline.replace(after, key)
    assert changes.unchanged == 1
    assert rows(admin) == after
    assert rows(admin, places) == before
    admin.execute("DROP TABLE high; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;")
    admin.execute("CREATE FOREIGN TABLE far PARTITION OF flights FOR VALUES FROM (10) TO (20) SERVER s")
    assert "foreign table far" in pipeline.refusal().message


def test_a_foreign_key_to_one_partition_is_found(pipeline, flights, admin):
    flights(form="id bigint, name text", after="PARTITION BY RANGE (id)")
    pipeline.session.execute(PARTITIONS)
    admin.execute("ALTER TABLE low ADD PRIMARY KEY (id)")
    admin.execute("CREATE TABLE lines (flight bigint REFERENCES low)")
    pipeline.replace([(1, "a"), (2, "b")])
    admin.execute("INSERT INTO lines VALUES (2); GRANT SELECT ON lines TO loader")
    with pytest.raises(ConnectorError, match=r"public\.lines still refers to 1 row of public\.flights"):
        pipeline.replace([(1, "a")])
    admin.execute("DROP TABLE lines; CREATE TABLE lines (flight bigint REFERENCES low ON DELETE CASCADE)")
    assert pipeline.refusal().code == "replace_would_break"


@pytest.mark.parametrize("key", [True, False])
def test_names_of_any_kind_and_many_columns_work(pipeline, admin, key):
    odd = ['we"ird % näme', "n", "t", "s", "k0", "c0", "x0", "old_row", "ctid", "SELECT", "a.b", "o'clock", "x" * 100]
    pipeline.columns = tuple(Column(name, "STRING" if i % 2 else "INT64") for i, name in enumerate(odd)) + tuple(
        Column(f"column {i}", "NUMERIC") for i in range(40 - len(odd))
    )
    pipeline.target = Target("the 'lot' %", "x" * 61 + "%s")
    admin.execute("CREATE SCHEMA \"the 'lot' %\"; GRANT ALL ON SCHEMA \"the 'lot' %\" TO loader")
    target = sql.Identifier(pipeline.target.schema, pipeline.target.table)
    pipeline.session.execute(create_table(target, pipeline.columns))
    pipeline.session.execute(sql.SQL("ALTER TABLE {} ADD {} int DEFAULT 1").format(target, sql.Identifier('"%s')))

    def row(i, last=0):
        return (*(f"v{i}" if at % 2 else i for at in range(len(odd))), *range(39 - len(odd)), last)

    columns = ('we"ird % näme', "n", "ctid") if key else ()
    pipeline.replace([row(i) for i in range(50)], columns)
    changes = pipeline.replace([row(i, i % 2) for i in range(10, 60)], columns)
    assert changes == (Changes(10, 20, 20, 10) if key else Changes(30, 0, 20, 30))


@pytest.mark.parametrize("seed", range(12))
def test_any_table_becomes_what_the_source_is(pipeline, admin, seed):
    chance = random.Random(seed)
    keyed, partitioned, extra = chance.random() < 0.6, chance.random() < 0.3, chance.random() < 0.5
    pipeline.columns = (
        Column("id", "INT64"),
        Column("name", "STRING"),
        Column("amount", "NUMERIC"),
        Column("tags", "STRING", repeated=True),
        Column("more", "JSON"),
    )
    pipeline.session.execute(create_table(sql.Identifier("flights"), pipeline.columns))
    if partitioned:
        pipeline.session.execute(
            "DROP TABLE flights; CREATE TABLE flights (more jsonb, tags text[], gone int, amount numeric(38,9),"
            " name text, id bigint) PARTITION BY HASH (id); ALTER TABLE flights DROP gone;"
            " CREATE TABLE p0 PARTITION OF flights FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            " CREATE TABLE p1 PARTITION OF flights FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
        )
    if keyed and chance.random() < 0.5:
        pipeline.session.execute("ALTER TABLE flights ADD PRIMARY KEY (id)")
    if keyed and not partitioned:
        pipeline.session.execute("ALTER TABLE flights ADD UNIQUE (name)")
    if extra:
        pipeline.session.execute("ALTER TABLE flights ADD extra bigserial")

    def value(i):
        name = names.pop() if keyed and not partitioned else chance.choice(["a", "b", None])
        return (
            i,
            name,
            chance.choice([None, "1.5", "2"]),
            chance.choice([None, [], ["x"], ["x", None]]),
            chance.choice([None, "{}", "[1]"]),
        )

    query = "SELECT id, name, amount::text, tags, more::text FROM flights"
    model, extras = [], {}
    for _ in range(5):
        names = [f"n{i}" for i in range(40)]
        chance.shuffle(names)
        if keyed:
            picked = chance.sample(range(40), chance.randrange(40))
            fresh = {i: value(i) for i in picked}
            kept = {old[0]: old for old in model if old[0] in fresh and chance.random() < 0.5}
            taken = {old[1] for old in kept.values()}
            source = [kept.get(i) or (i, None if new[1] in taken else new[1], *new[2:]) for i, new in fresh.items()]
        else:
            source = [value(chance.choice([None, 1, 2])) for _ in range(chance.randrange(40))]
            source += [old for old in model if chance.random() < 0.7]
        chance.shuffle(source)
        changes = pipeline.replace(source, ("id",) if keyed else ())
        assert changes.inserted + changes.updated + changes.unchanged == len(source)
        assert changes.inserted - changes.deleted == len(source) - len(model)
        shown = rows(admin, query)
        padded = [(i, n, a and f"{float(a):.9f}", t, m) for i, n, a, t, m in source]
        assert sorted(map(repr, shown)) == sorted(map(repr, padded))
        if keyed and extra:
            now = dict(rows(admin, "SELECT id, extra FROM flights"))
            assert all(now[i] == number for i, number in extras.items() if i in now)
            extras = now
        model = source


def test_the_reason_is_said_in_a_sentence(pipeline, flights, admin):
    def sentence():
        with pipeline.transaction():
            return in_place.describe(FLIGHTS, look(pipeline.session, FLIGHTS).relations["flights"])

    flights(form="id bigint, name text")
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    assert sentence() == "public.flights is replaced in place, because view late depends on it."
    admin.execute("CREATE VIEW more AS SELECT * FROM flights; CREATE INDEX ON flights (id)")
    assert sentence() == "public.flights is replaced in place, because index flights_id_idx and 2 more depend on it."
    admin.execute("DROP TABLE flights CASCADE; CREATE TABLE flights (id int)")
    assert sentence() == "public.flights is replaced in place, because it belongs to postgres."
