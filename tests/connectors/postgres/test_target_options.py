"""A key, indexes, partitions and statistics as a pipeline asks for them, in every way to write."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from connectors.column import Column
from connectors.errors import ConnectorError, Held, TransientError
from connectors.modes import Guard, WriteDisposition, WriteMode
from connectors.postgres import keep
from connectors.postgres.options import PostgresOptions
from connectors.postgres.publish import partitions
from connectors.target_options import Analyze, Index, PartitionUnit, TargetOptions
from connectors.writing import Target
from tests.connectors.memory import MemorySource
from tests.connectors.postgres.conftest import PASSWORD, ROLE

COLUMNS = (
    Column("id", "INT64"),
    Column("name", "STRING"),
    Column("day", "DATE"),
    Column("moment", "TIMESTAMP"),
    Column("clock", "DATETIME"),
)
JANUARY, FEBRUARY = date(2026, 1, 5), date(2026, 2, 5)

KEY = TargetOptions(primary_key=("id",))
INDEXED = TargetOptions(primary_key=("ID",), indexes=(Index(("day", "name")), Index(("name", "id"), unique=True)))
BY_MONTH = TargetOptions(partition_column="day")
ALL = TargetOptions(primary_key=("id", "day"), indexes=(Index(("name",)),), partition_column="day")


def source(*rows: tuple[int, date | None], name: str = "n") -> MemorySource:
    """Rows of an id and a day; the two times are those of the day's evening in UTC."""
    evenings = [None if day is None else datetime(day.year, day.month, day.day, 23, 30) for _, day in rows]
    arrays = {
        "id": pa.array([number for number, _ in rows], pa.int64()),
        "name": pa.array([f"{name}{number}" for number, _ in rows], pa.string()),
        "day": pa.array([day for _, day in rows], pa.date32()),
        "moment": pa.array([e and e.replace(tzinfo=UTC) for e in evenings], pa.timestamp("us", "UTC")),
        "clock": pa.array(evenings, pa.timestamp("us")),
    }
    return MemorySource([pa.record_batch(arrays)] if rows else [], COLUMNS)


@pytest.fixture(scope="module")
def database(server):
    """One database for all: making one takes longer than most tests here."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE target_options")
        cursor.execute("GRANT CREATE ON DATABASE target_options TO loader")
    yield "target_options"
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP DATABASE target_options WITH (FORCE)")


@pytest.fixture
def options(server, database):
    with closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(
            """
            DROP SCHEMA IF EXISTS public, _datamantri CASCADE; DROP PUBLICATION IF EXISTS news;
            CREATE SCHEMA public; GRANT USAGE, CREATE ON SCHEMA public TO loader;
            """
        )
    yield PostgresOptions("127.0.0.1", database, ROLE, port=server.port, password=PASSWORD, sslmode="disable")
    keep.sessions.clear()


@pytest.fixture
def move(world):
    def run(*rows, disposition="replace", form=TargetOptions(), name="n", **more):  # noqa: B008
        return world.move(source=source(*rows, name=name), disposition=disposition, form=form, **more)

    return run


def many(admin, query, *parameters):
    admin.execute(query, parameters or None)
    return admin.fetchall()


def indexes(admin, table="flights"):
    """Each index with its definition after the table's name, keys first."""
    found = many(
        admin,
        """
        SELECT x.relname, i.indisprimary, i.indisunique, substring(pg_get_indexdef(x.oid) from '\\((.*)\\)')
        FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = %s::regclass
        ORDER BY i.indisprimary DESC, 1
        """,
        table,
    )
    return [(name, "key" if key else "unique" if unique else "", columns) for name, key, unique, columns in found]


def contents(admin, columns="id", table="flights"):
    return [row[0] if len(row) == 1 else row for row in many(admin, f"SELECT {columns} FROM {table} ORDER BY 1, 1")]


def parts(admin):
    """Rows of each partition."""
    return dict(many(admin, "SELECT tableoid::regclass::text, count(*)::int FROM flights GROUP BY 1"))


def leftovers(admin):
    return many(admin, "SELECT relname FROM pg_class WHERE relname LIKE '%%datamantri_new%%'") + many(
        admin, "SELECT conname FROM pg_constraint WHERE conname LIKE '%%datamantri_new%%'"
    )


INDEXED_NAMES = [
    ("flights_pkey", "key", "id"),
    ("flights_day_name_idx", "", "day, name"),
    ("flights_name_id_key", "unique", "name, id"),
]


def test_a_replaced_table_has_its_key_and_indexes_each_time_under_the_same_names(move, admin):
    for number, method in enumerate(("create", "rename", "rename"), 1):
        receipt = move((number, JANUARY), form=INDEXED)
        assert receipt.method == method
        assert sorted(indexes(admin)) == sorted(INDEXED_NAMES)
        assert contents(admin) == [number]
    assert leftovers(admin) == []
    assert many(admin, "SELECT conname FROM pg_constraint WHERE conrelid = 'flights'::regclass AND contype = 'p'") == [
        ("flights_pkey",)
    ]


def test_changed_options_are_applied_by_the_next_replace(move, admin):
    move((1, JANUARY), form=INDEXED)
    assert move((2, JANUARY), form=KEY).method == "rename"
    assert indexes(admin) == [("flights_pkey", "key", "id")]
    assert move((3, JANUARY), form=ALL).method == "rename"
    assert parts(admin) == {"flights_p202601": 1}
    assert move((4, JANUARY)).method == "rename"
    assert indexes(admin) == []
    assert many(admin, "SELECT relkind FROM pg_class WHERE relname = 'flights'") == [("r",)]
    not_null = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'flights'::regclass AND attnum > 0 AND attnotnull"
    assert many(admin, not_null) == [(0,)]


ADDED = {
    "an index": "CREATE INDEX by_name ON flights (name)",
    "a view": "CREATE VIEW late AS SELECT * FROM flights",
    "a reference": "CREATE TABLE other (id bigint REFERENCES flights)",
    "a remark of one's own": "COMMENT ON INDEX flights_name_idx IS 'for the monthly report'",
    "a setting": "ALTER INDEX flights_name_idx SET (fillfactor = 50)",
    "a clustering": "ALTER TABLE flights CLUSTER ON flights_name_idx",
    "not null": "ALTER TABLE flights ALTER name SET NOT NULL",
}


@pytest.mark.parametrize("what", ADDED)
def test_what_a_person_added_to_an_indexed_table_keeps_it_in_its_place(move, admin, what):
    form = TargetOptions(primary_key=("id",), indexes=(Index(("name",)),))
    move((1, JANUARY), (2, JANUARY), form=form)
    assert move((1, JANUARY), (2, JANUARY), form=form).method == "rename"
    admin.execute(ADDED[what])
    before = indexes(admin)
    assert move((1, JANUARY), (3, JANUARY), form=form, key=("id",)).method == "in_place"
    assert indexes(admin) == before
    assert contents(admin) == [1, 3]


ADDED_TO_A_TREE = {
    "an index": "CREATE INDEX by_name ON flights (lower(name))",
    "an index of one partition": "CREATE INDEX by_name ON flights_p202601 (lower(name))",
    "a partition": "CREATE TABLE flights_old PARTITION OF flights FOR VALUES FROM (MINVALUE) TO ('2000-01-01')",
    "a view of one partition": "CREATE VIEW late AS SELECT * FROM flights_p202601",
    "a reference": "CREATE TABLE other (id bigint, day date, FOREIGN KEY (id, day) REFERENCES flights)",
    "a trigger": "CREATE TRIGGER twist BEFORE UPDATE ON flights FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "a grant on one partition": "GRANT SELECT ON flights_p202601 TO reader",
    "a setting of one partition": "ALTER TABLE flights_p202601 SET (fillfactor = 50)",
    "a remark on one partition": "COMMENT ON TABLE flights_p202601 IS 'the bad month'",
    "a publication": "CREATE PUBLICATION news FOR TABLE flights",
}


@pytest.mark.parametrize("what", ADDED_TO_A_TREE)
def test_what_a_person_added_to_a_partitioned_table_keeps_it_in_its_place(move, admin, what):
    move((1, JANUARY), form=ALL)
    assert move((1, JANUARY), (2, FEBRUARY), form=ALL).method == "rename"
    admin.execute(ADDED_TO_A_TREE[what])
    assert move((1, JANUARY), (3, date(2026, 3, 1)), form=ALL, key=("id", "day")).method == "in_place"
    assert contents(admin) == [1, 3]
    assert parts(admin) == {"flights_p202601": 1, "flights_p202603": 1}


def test_a_partitioned_table_is_made_anew_with_all_its_parts_under_the_same_names(move, admin):
    move((1, JANUARY), form=ALL)
    for _ in range(2):
        assert move((1, JANUARY), (2, FEBRUARY), (3, FEBRUARY), form=ALL).method == "rename"
        assert parts(admin) == {"flights_p202601": 1, "flights_p202602": 2}
        assert indexes(admin) == [("flights_pkey", "key", "id, day"), ("flights_name_idx", "", "name")]
        assert indexes(admin, "flights_p202602") == [
            ("flights_p202602_pkey", "key", "id, day"),
            ("flights_p202602_name_idx", "", "name"),
        ]
    assert leftovers(admin) == []


UNITS = {
    PartitionUnit.DAY: ["flights_p20260131", "flights_p20260201"],
    PartitionUnit.MONTH: ["flights_p202601", "flights_p202602"],
    PartitionUnit.YEAR: ["flights_p2026"],
}


@pytest.mark.parametrize("column", ["day", "moment", "clock"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("disposition", ["replace", "append", "merge"])
def test_each_unit_of_a_date_or_a_time_is_a_partition(move, admin, column, unit, disposition):
    """Times are divided at midnight UTC, wherever the session is."""
    admin.execute("ALTER ROLE loader SET timezone = 'Asia/Tokyo'")
    try:
        form = TargetOptions(partition_column=column, partition_unit=unit)
        rows = [(1, date(2026, 1, 31)), (2, date(2026, 2, 1))]
        for _ in range(2):  # into a new table, and into one that is there
            move(*rows, disposition=disposition, form=form, key=("id", column) if disposition == "merge" else ())
    finally:
        admin.execute("ALTER ROLE loader RESET timezone")
    assert sorted(parts(admin)) == UNITS[unit]
    assert contents(admin) == ([1, 1, 2, 2] if disposition == "append" else [1, 2])


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_partitions_are_made_as_rows_need_them_and_others_are_not_touched(move, admin, world, disposition):
    form = ALL
    key = ("id", "day") if disposition == "merge" else ()
    move((1, JANUARY), form=form, disposition=disposition, key=key)
    before = many(admin, "SELECT oid FROM pg_class WHERE relname = 'flights_p202601'")
    receipt = move((2, JANUARY), (3, FEBRUARY), form=form, disposition=disposition, key=key)
    assert receipt.changes.inserted == 2
    assert parts(admin) == {"flights_p202601": 2, "flights_p202602": 1}
    assert many(admin, "SELECT oid FROM pg_class WHERE relname = 'flights_p202601'") == before
    assert "Made partitions of public.flights: flights_p202602." in world.recorder.text()
    assert [name for name, _, _ in indexes(admin, "flights_p202602")] == [
        "flights_p202602_pkey",
        "flights_p202602_name_idx",
    ]
    # What runs attached is theirs: the whole tree may be replaced by rename.
    assert move((4, FEBRUARY), form=form).method == "rename"


@pytest.mark.parametrize("disposition", ["append", "merge", "replace in place"])
def test_readers_pass_while_a_partition_is_attached(move, admin, connect, disposition):
    key = ("id", "day")
    move((1, JANUARY), form=ALL)
    if "place" in disposition:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    other = connect()
    other.autocommit = True
    seen = []

    def read(point):
        if point == "publish.before_commit":
            with other.cursor() as cursor:
                cursor.execute("SET lock_timeout = 1000; SELECT id FROM flights ORDER BY 1")
                seen.append([number for (number,) in cursor.fetchall()])

    rows = ((1, JANUARY), (2, FEBRUARY)) if disposition != "append" else ((2, FEBRUARY),)
    move(*rows, disposition=disposition.split()[0], form=ALL, key=() if disposition == "append" else key, crash=read)
    assert seen == [[1]]
    assert contents(admin) == [1, 2]


@pytest.mark.parametrize("disposition", ["replace", "append", "merge", "in place"])
def test_a_row_without_a_time_has_no_partition_and_is_refused_with_the_count(move, admin, disposition):
    form = TargetOptions(partition_column="day")
    if disposition != "replace":
        move((1, JANUARY), form=form)
    if disposition == "in place":
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    with pytest.raises(ConnectorError) as refused:
        move(
            *((2, JANUARY), (3, None), (4, None)),
            disposition="replace" if disposition == "in place" else disposition,
            form=form,
            key=("id", "day") if disposition == "merge" else (),
        )
    expected = "null_key" if disposition == "merge" else "null_partition"
    assert (refused.value.code, "2 rows have NULL" in refused.value.message) == (expected, True)
    assert not isinstance(refused.value, TransientError)


@pytest.mark.parametrize("disposition", ["replace", "append"])
def test_too_many_partitions_are_refused(move, admin, monkeypatch, disposition):
    monkeypatch.setattr(partitions, "MAX_PARTITIONS", 3)
    form = TargetOptions(partition_column="day", partition_unit=PartitionUnit.DAY)
    days = [(i, date(2026, 1, i)) for i in range(1, 6)]
    move(*days[:2], disposition=disposition, form=form)
    with pytest.raises(ConnectorError) as refused:
        move(*days[1:], disposition=disposition, form=form)
    assert refused.value.code == "too_many_partitions"
    assert "at most 3" in refused.value.message
    assert contents(admin) == [1, 2]


def test_a_hundred_partitions_with_mixed_rows_are_filled_and_frozen(move, admin):
    days = [(i, date(2026, 1 + i * 7 % 12, 1 + i * 11 % 28)) for i in range(3000)]
    form = TargetOptions(partition_column="day", partition_unit=PartitionUnit.DAY, indexes=(Index(("id",)),))
    move(*days, form=form)
    assert contents(admin, "count(*), count(DISTINCT id), sum(id)") == [(3000, 3000, sum(range(3000)))]
    assert sum(parts(admin).values()) == 3000
    assert len(parts(admin)) == len({day for _, day in days})
    admin.execute("CREATE EXTENSION pg_visibility")
    assert many(
        admin,
        "SELECT DISTINCT all_visible, all_frozen FROM pg_partition_tree('flights') t, pg_visibility_map(t.relid)"
        " WHERE t.isleaf",
    ) == [(True, True)]


def test_a_reader_whose_snapshot_is_older_sees_the_whole_new_tree(move, connect):
    move((1, JANUARY), form=ALL)
    reader = connect()
    reader.set_session(isolation_level="REPEATABLE READ")
    cursor = reader.cursor()
    cursor.execute("SELECT 1")
    move((2, JANUARY), (3, FEBRUARY), form=ALL)
    cursor.execute("SELECT id FROM flights ORDER BY id")
    assert cursor.fetchall() == [(2,), (3,)]


def test_the_last_days_of_the_calendar_have_a_partition(move, admin):
    form = TargetOptions(partition_column="moment", partition_unit=PartitionUnit.YEAR)
    for disposition in ("replace", "append"):
        move((1, date(9999, 12, 31)), (2, date(1, 1, 1)), disposition=disposition, form=form)
    assert parts(admin) == {"flights_p9999": 2, "flights_p0001": 2}


def test_rights_owner_and_remarks_of_a_partitioned_table_survive(move, admin):
    move((1, JANUARY), form=ALL)
    admin.execute(
        """
        GRANT landlord TO loader; GRANT USAGE, CREATE ON SCHEMA public TO landlord;
        ALTER TABLE flights OWNER TO landlord;
        GRANT SELECT ON flights TO reader; COMMENT ON TABLE flights IS 'ours'; GRANT UPDATE (name) ON flights TO auditor
        """
    )
    facts = "SELECT relowner::regrole::text, relacl::text, obj_description(oid) FROM pg_class WHERE relname = 'flights'"
    before = many(admin, facts)
    try:
        assert move((2, JANUARY), form=ALL).method == "rename"
    finally:
        admin.execute("REVOKE landlord FROM loader")
    assert many(admin, facts) == before
    owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname LIKE 'flights%%'"
    assert many(admin, owners) == [("landlord",)]


def test_storage_settings_that_a_partitioned_table_cannot_have_are_told(move, world, admin):
    move((1, JANUARY))
    admin.execute("ALTER TABLE flights SET (fillfactor = 70)")
    assert move((1, JANUARY), form=BY_MONTH).method == "rename"
    assert "fillfactor=70 went" in world.recorder.text()


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_a_table_that_is_there_gets_what_it_lacks_and_the_log_says_who_waits(move, admin, world, disposition):
    move((1, JANUARY))
    key = ("id",) if disposition == "merge" else ()
    receipt = move((2, JANUARY), disposition=disposition, form=INDEXED, key=key)
    assert receipt.method == disposition
    assert set(indexes(admin)) >= set(INDEXED_NAMES)
    assert receipt.lock_held_ms > 0
    assert "the index on day, name" in world.recorder.text()
    assert "writers wait, readers do not, until the commit" in world.recorder.text()
    assert "readers and writers wait until the commit" in world.recorder.text()
    before = indexes(admin)
    lines = len(world.recorder.lines)
    move((3, JANUARY), disposition=disposition, form=INDEXED, key=key)
    assert indexes(admin) == before
    assert "Made flights" not in "\n".join(text for _, text in world.recorder.lines[lines:])


def test_a_merge_finds_rows_by_the_primary_key_that_its_first_run_made(move, admin):
    form = TargetOptions(primary_key=("id",), indexes=(Index(("name",)),))
    move((1, JANUARY), (1, JANUARY), disposition="merge", form=form)
    assert indexes(admin) == [("flights_pkey", "key", "id"), ("flights_name_idx", "", "name")]


def test_indexes_that_are_there_serve_whoever_made_them(move, admin, world):
    move((1, JANUARY))
    admin.execute("CREATE UNIQUE INDEX mine ON flights (name); ALTER TABLE flights ADD CONSTRAINT own PRIMARY KEY (id)")
    move((2, JANUARY), disposition="append", form=TargetOptions(primary_key=("id",), indexes=(Index(("name",)),)))
    assert indexes(admin) == [("own", "key", "id"), ("mine", "unique", "name")]


def test_an_index_that_is_no_longer_asked_for_stays_and_is_told(move, admin, world):
    move((1, JANUARY), form=INDEXED)
    move((2, JANUARY), disposition="append", form=KEY)
    assert len(indexes(admin)) == 3
    assert "flights_day_name_idx on public.flights is no longer asked for" in world.recorder.text()


def test_names_that_something_else_has_get_a_number_each_time(move, admin):
    admin.execute("CREATE TABLE flights_pkey (); CREATE TABLE flights_p202601 ()")
    for _ in range(3):
        move((1, JANUARY), form=ALL)
        assert indexes(admin)[0] == ("flights_pkey_2", "key", "id, day")
        assert parts(admin) == {"flights_p202601_2": 1}


def test_long_names_keep_within_63_bytes_and_are_the_same_each_time(move, world, admin):
    world.target = Target("public", "ü" * 30)
    form = TargetOptions(
        primary_key=("id", "day"),
        indexes=(Index(("name", "day", "id")), Index(("name", "day"), unique=True)),
        partition_column="day",
    )
    names = []
    for _ in range(2):
        move((1, JANUARY), (2, FEBRUARY), form=form)
        found = many(admin, "SELECT relname FROM pg_class WHERE relname LIKE 'ü%%' ORDER BY 1")
        names.append(found)
        assert all(len(name.encode()) <= 63 for (name,) in found)
    assert names[0] == names[1]
    assert len(names[0]) == 3 + 1 + 2 + 2 * 3 - 3 + 3  # the table, its 3 indexes, 2 partitions with 3 each


BAD_KEYS = {
    "twice": ([(1, JANUARY), (1, JANUARY), (2, JANUARY)], KEY, "key_not_unique", "1 key has 2 rows, such as id = 1"),
    "null": (
        [(1, JANUARY), (2, None)],
        TargetOptions(primary_key=("id", "day")),
        "null_key",
        "1 row has NULL in the primary key: day",
    ),
    "twice in an index": (
        [(1, JANUARY), (2, JANUARY)],
        TargetOptions(indexes=(Index(("day",), unique=True),)),
        "key_not_unique",
        "day = 2026-01-05",
    ),
}


@pytest.mark.parametrize("method", ["rename", "append"])
@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_key_that_the_rows_do_not_allow_is_refused_before_any_exclusive_lock(move, admin, connect, what, method):
    rows, form, code, words = BAD_KEYS[what]
    move((9, date(2025, 1, 1)))
    reader = connect()
    reader.cursor().execute("SELECT * FROM flights")  # would hold an exclusive lock up for a minute
    with pytest.raises(ConnectorError) as refused:
        move(*rows, form=form, disposition="replace" if method == "rename" else method)
    assert refused.value.code == code
    assert words in refused.value.message
    assert refused.value.field == ("indexes" if form.indexes else "primary_key")
    assert contents(admin) == [9]


def validate(world, form, disposition="replace", key=()):
    mode = WriteMode(WriteDisposition(disposition), key, options=form)
    found = world.destination().validate_target(world.target, COLUMNS, mode, pipeline=world.pipeline, adopt=False)
    return [(error.code, error.field) for error in found]


IMPOSSIBLE = {
    "no such column": (TargetOptions(primary_key=("nothing",)), "option_column_missing", "primary_key"),
    "no such indexed column": (TargetOptions(indexes=(Index(("nothing",)),)), "option_column_missing", "indexes"),
    "no such time": (TargetOptions(partition_column="nothing"), "option_column_missing", "partition_column"),
    "a number": (TargetOptions(partition_column="id"), "partition_type", "partition_column"),
    "outside the key": (
        TargetOptions(primary_key=("id",), partition_column="day"),
        "partition_not_in_key",
        "primary_key",
    ),
    "outside a unique index": (
        TargetOptions(indexes=(Index(("id",), unique=True),), partition_column="day"),
        "partition_not_in_key",
        "indexes",
    ),
    "twice": (TargetOptions(primary_key=("id", "ID")), "index_columns", "primary_key"),
    "the same index twice": (TargetOptions(primary_key=("id",), indexes=(Index(("Id",)),)), "index_twice", "indexes"),
    "too many": (
        TargetOptions(indexes=tuple(Index(("id",) * i) for i in range(21))),
        "index_columns",
        "indexes",
    ),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_cannot_be_is_said_when_it_is_saved_and_before_a_row_is_read(move, world, what):
    form, code, field = IMPOSSIBLE[what]
    assert validate(world, form)[0] == (code, field)
    with pytest.raises(ConnectorError) as refused:
        move((1, JANUARY), form=form)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_a_partition_column_keeps_its_type():
    column = Column("day", "DATE", target_type="timestamp without time zone")
    with pytest.raises(ConnectorError, match="keeps its type"):
        partitions.Partitioning.of(BY_MONTH, [column])


def test_a_merge_key_must_hold_the_partition_column(world):
    assert validate(world, BY_MONTH, "merge", ("id",)) == [("partition_not_in_key", "merge_key")]
    assert validate(world, BY_MONTH, "merge", ("id", "DAY")) == []


STAYING = {
    "a plain table": ("", BY_MONTH, "append", "target_not_partitioned"),
    "a plain table under a view": (
        "CREATE VIEW late AS SELECT * FROM flights",
        BY_MONTH,
        "replace",
        "target_not_partitioned",
    ),
    "another key": ("ALTER TABLE flights ADD PRIMARY KEY (name)", KEY, "append", "primary_key_differs"),
    "somebody else's": (
        "ALTER TABLE flights OWNER TO landlord; GRANT ALL ON flights TO loader",
        KEY,
        "append",
        "missing_grant",
    ),
}


@pytest.mark.parametrize("what", STAYING)
def test_what_a_table_that_stays_cannot_become_is_refused_before_a_row_is_read(move, world, admin, what):
    statement, form, disposition, code = STAYING[what]
    move((1, JANUARY))
    admin.execute(statement or "SELECT")
    assert [found for found, _ in validate(world, form, disposition)] == [code]
    with pytest.raises(ConnectorError) as refused:
        move((2, JANUARY), form=form, disposition=disposition)
    assert refused.value.code == code
    assert contents(admin) == [1]


def test_partitions_of_a_table_that_a_person_made_are_used_and_further_ones_made(move, world, admin):
    move((1, JANUARY))
    admin.execute(
        """
        DROP TABLE flights;
        CREATE TABLE flights (id bigint, name text, day date, moment timestamptz, clock timestamp)
          PARTITION BY RANGE (day);
        CREATE TABLE y2025 PARTITION OF flights FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        ALTER TABLE flights OWNER TO loader;
        """
    )
    move((2, date(2025, 6, 1)), (3, FEBRUARY), form=BY_MONTH, disposition="append")
    assert parts(admin) == {"y2025": 1, "flights_p202602": 1}
    assert move((4, JANUARY), form=BY_MONTH).method == "in_place"
    assert parts(admin) == {"flights_p202601": 1}


def test_a_default_partition_of_a_person_takes_what_has_no_other_place(move, admin):
    move((1, JANUARY))
    admin.execute(
        """
        DROP TABLE flights;
        CREATE TABLE flights (id bigint, name text, day date, moment timestamptz, clock timestamp)
          PARTITION BY RANGE (day);
        CREATE TABLE rest PARTITION OF flights DEFAULT; ALTER TABLE flights OWNER TO loader;
        """
    )
    move((2, None), (3, FEBRUARY), form=BY_MONTH, disposition="append")
    assert parts(admin) == {"rest": 2}


STATISTICS = {Analyze.QUICK: (0, 5), Analyze.FULL: (5, 5), Analyze.OFF: (0, 0)}


@pytest.mark.parametrize("analyze", STATISTICS)
def test_statistics_are_taken_as_asked(move, admin, analyze):
    form = TargetOptions(analyze=analyze)
    small, large = STATISTICS[analyze]
    for rows, columns in ((2, small), (1000, large)):
        move(*((i, JANUARY) for i in range(rows)), form=form)
        assert contents(admin, "count(*)", "pg_stats WHERE tablename = 'flights'") == [columns]


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_full_statistics_are_taken_of_a_table_that_stays_too(move, admin, disposition):
    move((1, JANUARY), form=ALL)
    key = ("id", "day") if disposition == "merge" else ()
    form = TargetOptions(("id", "day"), ALL.indexes, "day", analyze=Analyze.FULL)
    move((2, FEBRUARY), form=form, disposition=disposition, key=key)
    assert contents(admin, "count(*)", "pg_stats WHERE tablename = 'flights'") == [5]


def test_a_merge_of_a_partitioned_target_updates_and_moves_nothing_else(move, admin):
    key = ("id", "day")
    move((1, JANUARY), (2, FEBRUARY), disposition="merge", form=ALL, key=key)
    receipt = move((2, FEBRUARY), (3, date(2026, 3, 3)), disposition="merge", form=ALL, key=key, name="N")
    assert (receipt.changes.inserted, receipt.changes.updated) == (1, 1)
    assert contents(admin, "id, name") == [(1, "n1"), (2, "N2"), (3, "N3")]


def test_an_empty_source_makes_a_partitioned_table_without_rows(move, admin):
    move(form=ALL)
    assert contents(admin) == []
    move((1, JANUARY), form=ALL)
    assert parts(admin) == {"flights_p202601": 1}
    move(form=ALL)
    assert contents(admin) == []


@pytest.mark.parametrize("form", [INDEXED, ALL], ids=["indexed", "partitioned"])
def test_rows_that_were_held_are_published_in_their_form(move, world, admin, form):
    rows = [(i, JANUARY) for i in range(10)]
    move(*rows, form=form)
    destination = world.destination()
    fence = world.fence(destination)
    with pytest.raises(Held):
        move((1, FEBRUARY), form=form, destination=destination, fence=fence, guard=Guard())
    assert len(contents(admin)) == 10
    receipt = world.publish_held(fence.owner.run, destination=destination)
    assert receipt.method == "rename"
    assert contents(admin) == [1]
    assert indexes(admin)[0][0] == "flights_pkey"
    assert len(indexes(admin)) == 1 + len(form.indexes)
    assert leftovers(admin) == []
    assert move((2, JANUARY), form=form).method == "rename"


def test_held_rows_whose_form_no_longer_fits_are_not_published(move, world, admin):
    move(*[(i, JANUARY) for i in range(10)], form=ALL)
    destination = world.destination()
    fence = world.fence(destination)
    with pytest.raises(Held):
        move((1, FEBRUARY), form=ALL, destination=destination, fence=fence, guard=Guard())
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    with pytest.raises(ConnectorError) as refused:
        world.publish_held(fence.owner.run, destination=destination)
    assert refused.value.code == "staging_gone"


POINTS = ["load.begin", "load.middle", "load.end", "publish.before_lock", "publish.after_lock", "publish.before_commit"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("disposition", ["replace", "append", "merge"])
def test_a_run_that_ends_anywhere_leaves_the_table_as_it_was_and_nothing_beside_it(move, admin, disposition, point):
    form = TargetOptions(("id", "day"), (Index(("name",)),), "day", PartitionUnit.DAY)
    key = ("id", "day") if disposition == "merge" else ()
    move((1, JANUARY), form=ALL, disposition=disposition, key=key)
    relations = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    before = many(admin, relations)

    def end(reached):
        if reached == point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move((2, FEBRUARY), form=form, disposition=disposition, key=key, crash=end)
    assert many(admin, relations) == before
    assert contents(admin) == [1]
    move((2, FEBRUARY), form=form, disposition=disposition, key=key)
    assert contents(admin) == ([2] if disposition == "replace" else [1, 2])
