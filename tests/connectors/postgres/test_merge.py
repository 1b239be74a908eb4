"""Merge: what becomes of each row, on a real server, with tables as people have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2 import extras, sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.ddl import compare_catalog, create_table
from connectors.postgres.names import column_names
from connectors.postgres.options import PostgresOptions
from connectors.postgres.publish import merge, tuning
from connectors.writing import Changes, Target
from tests.connectors.columns.values import few

TARGET = Target("public", "flights")
STAGING = Target("public", "_datamantri_new_1")

ID = Column("id", "INT64")
NAME = Column("name", "STRING")
SEEN = Column("seen", "INT64")
DAY = Column("day", "DATE")


@dataclass
class Merge:
    """One merge as a load does it: look, refuse, index, stage, prepare, lock, apply, commit."""

    session: Session
    columns: Sequence[Column] = (ID, NAME)
    key: Sequence[str] = ("id",)
    cursor: str = ""
    target: Target = TARGET
    remarks: list[str] = field(default_factory=list)

    def make(self, rows: Sequence[Sequence[Any]] = ()) -> Merge:
        """Make the target as a first load would, with rows."""
        self._fill(self.target, rows)
        self.session.execute("COMMIT")
        return self

    def __call__(self, rows: Sequence[Sequence[Any]]) -> Changes:
        self.session.execute("BEGIN")
        try:
            changes = self._merge(rows)
        except BaseException:
            self.session.rollback()
            raise
        self.session.commit()
        return changes

    def _merge(self, rows: Sequence[Sequence[Any]]) -> Changes:
        assert not compare_catalog(
            self.session.connection.cursor(), self.target.schema, self.target.table, self.columns
        )
        table = merge.inspect(self.session, self.target)
        refusal = merge.refuse(self.target, self.columns, self.key, self.cursor, table, self.session.role)
        if refusal is not None:
            raise refusal
        self._fill(STAGING, rows)
        found = merge.prepare(self.session, STAGING, self.columns, self.key, self.cursor)
        self.remarks.append(merge.ensure_index(self.session, self.target, self.columns, self.key))
        self.session.execute(
            sql.SQL("LOCK TABLE {} IN {} MODE").format(
                sql.Identifier(self.target.schema, self.target.table), sql.SQL(merge.MODE)
            )
        )
        changes = merge.apply(self.session, self.target, STAGING, self.columns, self.key, self.cursor, duplicates=found)
        self.session.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(STAGING.schema, STAGING.table)))
        assert changes.duplicates >= found
        assert len(rows) == sum(
            (changes.inserted, changes.updated, changes.unchanged, changes.stale, changes.duplicates)
        )
        return changes

    def _fill(self, table: Target, rows: Sequence[Sequence[Any]]) -> None:
        name = sql.Identifier(table.schema, table.table)
        if self.session.connection.info.transaction_status == 0:
            self.session.execute("BEGIN")
        self.session.execute(create_table(name, self.columns))
        names = sql.SQL(", ").join(sql.Identifier(column) for column in column_names(self.columns))
        with self.session.connection.cursor() as cursor:
            text = sql.SQL("INSERT INTO {} ({}) VALUES ").format(name, names).as_string(cursor)
            text = text.replace("%", "%%") + "%s"
            for start in range(0, len(rows), 5000):
                extras.execute_values(cursor, text, rows[start : start + 5000], page_size=5000)

    def rows(self, columns: str = "*", order: str = "1") -> list[tuple[Any, ...]]:
        name = sql.Identifier(self.target.schema, self.target.table)
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(sql.SQL(columns), name, sql.SQL(order))
        return self.session.execute(query).fetchall()


@pytest.fixture
def session(options: PostgresOptions) -> Iterator[Session]:
    made = Session(options)
    yield made
    made.close()


@pytest.fixture
def merging(session: Session) -> Any:
    def make(*columns: Column, key: Sequence[str] = ("id",), cursor: str = "", **more: Any) -> Merge:
        return Merge(session, columns or (ID, NAME), key, cursor, **more)

    return make


def test_new_rows_are_inserted_changed_ones_updated_and_equal_ones_left(merging):
    move = merging().make([(1, "a"), (2, "b"), (3, None)])
    assert move([(2, "B"), (3, None), (4, "d")]) == Changes(inserted=1, updated=1, unchanged=1)
    assert move.rows() == [(1, "a"), (2, "B"), (3, None), (4, "d")]


def test_an_empty_batch_changes_nothing(merging):
    move = merging().make([(1, "a")])
    assert move([]) == Changes(inserted=0)
    assert move.rows() == [(1, "a")]


def test_an_empty_target_takes_everything(merging):
    move = merging().make()
    assert move([(1, "a"), (2, "b")]) == Changes(inserted=2)


def test_rows_that_stay_as_they_are_are_not_written(merging):
    move = merging(ID, NAME, SEEN, cursor="seen").make([(1, "a", 5), (2, "b", 5), (3, "c", 5)])
    places = "id, ctid::text, xmin::text, xmax::text"
    before = move.rows(places)
    assert move([(1, "a", 5), (2, "x", 4), (3, "y", 6)]) == Changes(inserted=0, updated=1, unchanged=1, stale=1)
    after = move.rows(places)
    assert after[:2] == before[:2]
    assert after[2] != before[2]


def test_null_becomes_a_value_and_a_value_null(merging):
    move = merging().make([(1, None), (2, "b")])
    assert move([(1, "a"), (2, None)]) == Changes(inserted=0, updated=2)
    assert move.rows() == [(1, "a"), (2, None)]


def test_the_newest_of_several_rows_with_one_key_wins(merging):
    move = merging(ID, NAME, SEEN, cursor="seen").make([(1, "a", 1)])
    rows = [(1, "old", 2), (1, "new", 9), (1, "none", None), (2, "first", 3), (2, "last", 3), (3, "only", None)]
    assert move(rows) == Changes(inserted=2, updated=1, duplicates=3)
    assert move.rows() == [(1, "new", 9), (2, "last", 3), (3, "only", None)]


def test_without_a_cursor_the_last_staged_row_wins(merging):
    move = merging().make([(1, "a")])
    assert move([(1, "b"), (1, "c"), (2, "x"), (2, "y"), (2, "z")]) == Changes(inserted=1, updated=1, duplicates=3)
    assert move.rows() == [(1, "c"), (2, "z")]


def test_rows_older_than_the_targets_are_not_applied(merging):
    move = merging(ID, NAME, SEEN, cursor="seen").make(
        [(1, "a", 5), (2, "b", 5), (3, "c", 5), (4, "d", 5), (5, "e", None), (6, "f", None)]
    )
    batch = [(1, "A", 4), (2, "B", 5), (3, "C", 6), (4, "D", None), (5, "E", 1), (6, "F", None)]
    assert move(batch) == Changes(inserted=0, updated=4, stale=2)
    assert [name for _, name, _ in move.rows()] == ["a", "B", "C", "d", "E", "F"]


def test_a_key_of_several_columns_finds_its_row(merging):
    move = merging(ID, DAY, NAME, key=("day", "id")).make([(1, date(2026, 1, 1), "a"), (1, date(2026, 1, 2), "b")])
    batch = [(1, date(2026, 1, 2), "B"), (2, date(2026, 1, 1), "c"), (1, date(2026, 1, 1), "a")]
    assert move(batch) == Changes(inserted=1, updated=1, unchanged=1)
    assert len(move.rows()) == 3


def test_a_table_that_is_all_key_only_gains_rows(merging):
    move = merging(ID, DAY, key=("id", "day")).make([(1, date(2026, 1, 1))])
    day = date(2026, 1, 1)
    assert move([(1, day), (2, day), (2, day)]) == Changes(inserted=1, unchanged=1, duplicates=1)


def test_names_of_every_kind_are_only_names(merging):
    columns = [
        Column("Order", "INT64"),
        Column("n", "INT64"),
        Column("select", "STRING"),
        Column('100%s "of" {0}', "STRING"),
        Column("ü" * 30, "STRING"),
        Column("a" * 80, "STRING"),
        Column("xmin", "INT64"),
        Column("k0", "INT64"),
        Column("verdict", "STRING"),
        Column("staged_at", "INT64"),
    ]
    move = merging(
        *columns,
        key=("order", "n", "ü" * 30, "a" * 80, "verdict"),
        cursor="XMIN",
        target=Target("public", "Ta%ble" + "é" * 27),
    ).make([(1, 1, "s", "p", "u", "a", 1, 1, "v", 1)])
    batch = [(1, 1, "s", "P", "u", "a", 2, 1, "v", 1), (1, 2, "s", "p", "u", "a", 1, 1, "v", 1)]
    assert move(batch) == Changes(inserted=1, updated=1)
    assert move(batch) == Changes(inserted=0, unchanged=2)
    assert move.remarks[0]
    assert move.remarks[1] == ""


def test_forty_columns_are_compared_and_written(merging):
    move = merging(ID, *(Column(f"c{i}", "STRING") for i in range(39))).make(
        [(row, *(f"{row}-{i}" for i in range(39))) for row in range(3)]
    )
    batch = [(row, *(f"{row}-{i}" if (row, i) != (1, 38) else "changed" for i in range(39))) for row in range(4)]
    assert move(batch) == Changes(inserted=1, updated=1, unchanged=2)
    assert move.rows() == batch


def test_every_type_is_compared_by_what_it_holds(merging, session):
    columns = [
        ID,
        Column("json", "JSON"),
        Column("texts", "STRING", repeated=True),
        Column("period", "RANGE", element="DATE"),
        Column("length", "INTERVAL"),
        Column("lengths", "INTERVAL", repeated=True),
        Column("number", "FLOAT64"),
        Column("big", "BIGNUMERIC"),
        Column("bytes", "BYTES"),
    ]
    base = (1, '{"a": 1, "b": [2]}', ["x", None], "[2026-01-01,)", "1 mon", ["1 mon"], "NaN", "1e60", b"\0\1")
    others = (
        (1, '{"a": 2}'), (2, ["x"]), (3, "(,)"), (4, "30 days"), (5, ["30 days"]), (6, 1.5), (7, "2"), (8, b"")
    )  # fmt: skip
    move = merging(*columns).make()
    casts = ["bigint", "jsonb", "text[]", "daterange", "interval", "interval[]", "float8", "numeric", "bytea"]

    def row(number: int, *change: tuple[int, Any]) -> tuple[Any, ...]:
        values = [number, *base[1:]]
        for at, value in change:
            values[at] = value
        return tuple(Cast(value, cast) for value, cast in zip(values, casts, strict=True))

    numbers = range(len(others))
    assert move([row(i) for i in numbers]) == Changes(inserted=8)
    again = [row(i, (1, '{"b": [2], "a": 1}')) for i in numbers]
    assert move(again) == Changes(inserted=0, unchanged=8)
    assert move([row(i, others[i]) for i in numbers]) == Changes(inserted=0, updated=8)
    assert move([row(i, others[i]) for i in numbers]) == Changes(inserted=0, unchanged=8)


class Cast:
    """A value with its type spelled out, as a VALUES list guesses types from texts."""

    def __init__(self, value: Any, type_: str) -> None:
        self.value, self.type = value, type_

    def __conform__(self, protocol: Any) -> Any:
        return self

    def prepare(self, connection: Any) -> None:
        self.connection = connection

    def getquoted(self) -> bytes:
        text = sql.Literal(self.value).as_string(self.connection)
        return f"({text})::{self.type}".encode()


EVERY_BATCH, NO_BATCH = 0, 10**9


@pytest.mark.parametrize("index_from", [EVERY_BATCH, NO_BATCH])
def test_a_partitioned_target_takes_rows_into_their_partitions(merging, session, monkeypatch, index_from):
    monkeypatch.setattr(tuning, "INDEX_FROM", index_from)
    session.execute("""
        CREATE TABLE flights (id bigint, day date, name text) PARTITION BY RANGE (day);
        CREATE TABLE flights_1 PARTITION OF flights FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE flights_2 PARTITION OF flights FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')
    """)
    move = merging(ID, DAY, NAME, key=("id", "day"))
    january, february = date(2026, 1, 5), date(2026, 2, 5)
    assert move([(1, january, "a"), (1, february, "b"), (2, january, "c")]) == Changes(inserted=3)
    batch = [(1, january, "A"), (1, february, "B"), (2, january, "c"), (2, february, "d"), (2, february, "e")]
    assert move(batch) == Changes(inserted=1, updated=2, unchanged=1, duplicates=1)
    expected = [("flights_1", 1, "A"), ("flights_1", 2, "c"), ("flights_2", 1, "B"), ("flights_2", 2, "e")]
    assert move.rows("tableoid::regclass::text, id, name", "1, 2") == expected


def test_partition_columns_of_every_level_must_be_in_the_key(merging, session):
    session.execute("""
        CREATE TABLE flights (name text, id bigint, day date) PARTITION BY RANGE (day);
        CREATE TABLE flights_1 PARTITION OF flights DEFAULT PARTITION BY LIST (name);
        CREATE TABLE flights_1_a PARTITION OF flights_1 DEFAULT
    """)
    move = merging(ID, DAY, NAME, key=("id", "day"))
    with pytest.raises(ConnectorError, match="partitioned by name,") as refused:
        move([])
    assert (refused.value.code, refused.value.field) == ("partition_not_in_key", "merge_key")
    move.key = ("id", "day", "name")
    assert move([(1, date(2026, 1, 1), "a")]) == Changes(inserted=1)


def test_a_table_partitioned_by_an_expression_is_refused(merging, session):
    session.execute("CREATE TABLE flights (id bigint, name text) PARTITION BY RANGE ((id % 10))")
    with pytest.raises(ConnectorError, match="an expression"):
        merging()([])


def test_children_that_inherit_keep_their_rows(merging, session):
    move = merging().make([(1, "a")])
    session.execute("CREATE TABLE child () INHERITS (flights); INSERT INTO child VALUES (2, 'b')")
    assert move([(1, "A"), (2, "B")]) == Changes(inserted=1, updated=1)
    assert move.rows(order="1, 2") == [(1, "A"), (2, "B"), (2, "b")]


def test_columns_that_only_the_target_has_keep_their_values(merging, session):
    move = merging().make([(1, "a"), (2, "b")])
    session.execute("""
        ALTER TABLE flights ADD note text DEFAULT 'new', ADD number bigint GENERATED ALWAYS AS IDENTITY,
          ADD twice bigint GENERATED ALWAYS AS (id * 2) STORED;
        UPDATE flights SET note = 'mine'
    """)
    assert move([(1, "A"), (2, "b"), (3, "c")]) == Changes(inserted=1, updated=1, unchanged=1)
    assert move.rows("id, name, note, number, twice") == [
        (1, "A", "mine", 1, 2),
        (2, "b", "mine", 2, 4),
        (3, "c", "new", 3, 6),
    ]


def test_a_key_that_is_an_identity_takes_the_sources_numbers(merging, session):
    session.execute("CREATE TABLE flights (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")
    move = merging()
    assert move([(7, "a")]) == Changes(inserted=1)
    assert move([(7, "b"), (8, "c")]) == Changes(inserted=1, updated=1)
    assert move.rows() == [(7, "b"), (8, "c")]


def test_an_identity_that_cannot_be_updated_is_refused(merging, session):
    session.execute("CREATE TABLE flights (id bigint PRIMARY KEY, name text, seen bigint GENERATED ALWAYS AS IDENTITY)")
    with pytest.raises(ConnectorError, match="seen") as refused:
        merging(ID, NAME, SEEN)([])
    assert (refused.value.code, refused.value.field) == ("target_column_mismatch", "seen")


def test_settings_of_the_merge_do_not_outlive_it(merging, session):
    names = ("work_mem", "jit", "enable_hashjoin", "enable_mergejoin")
    move = merging().make([(number, "a") for number in range(5000)])
    move([])
    session.execute("BEGIN")
    before = [session.one(f"SHOW {name}") for name in names]
    move._merge([(1, "b")])
    assert [session.one(f"SHOW {name}") for name in names] == before


def test_triggers_see_only_rows_that_change(merging, session):
    move = merging().make([(1, "a"), (2, "b")])
    session.execute("""
        CREATE TABLE heard (what text);
        CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO heard VALUES (TG_OP || NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER hear AFTER INSERT OR UPDATE ON flights FOR EACH ROW EXECUTE FUNCTION hear()
    """)
    assert move([(1, "A"), (2, "b"), (3, "c")]) == Changes(inserted=1, updated=1, unchanged=1)
    assert session.execute("SELECT * FROM heard ORDER BY 1").fetchall() == [("INSERT3",), ("UPDATE1",)]


def test_rows_that_a_trigger_drops_are_noticed(merging, session):
    move = merging().make([(1, "a"), (2, "b")])
    session.execute("""
        CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER skip BEFORE UPDATE ON flights FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION skip()
    """)
    with pytest.raises(ConnectorError) as refused:
        move([(1, "A"), (2, "B")])
    assert refused.value.code == "rows_differ"
    assert move.rows() == [(1, "a"), (2, "b")]


def test_rows_that_others_point_to_are_updated_in_place(merging, session):
    move = merging().make([(1, "a")])
    session.execute("""
        ALTER TABLE flights ADD PRIMARY KEY (id);
        CREATE TABLE seats (flight bigint REFERENCES flights ON DELETE CASCADE ON UPDATE CASCADE);
        INSERT INTO seats VALUES (1)
    """)
    assert move([(1, "A"), (2, "b")]) == Changes(inserted=1, updated=1)
    assert move.remarks == [""]
    assert session.execute("SELECT * FROM seats").fetchall() == [(1,)]


def test_a_unique_value_may_move_from_an_old_row_to_a_new_one(merging, session):
    move = merging().make([(1, "a"), (2, "b")])
    session.execute("CREATE UNIQUE INDEX ON flights (name)")
    assert move([(1, "was a"), (3, "a")]) == Changes(inserted=1, updated=1)
    assert move.rows() == [(1, "was a"), (2, "b"), (3, "a")]


def test_the_targets_collation_decides_which_keys_are_the_same(merging, admin, session):
    try:
        admin.execute("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg2.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without ICU")
    session.execute(
        'CREATE TABLE flights (name text COLLATE blind PRIMARY KEY, "Other" text COLLATE blind, seen bigint)'
    )
    move = merging(NAME, Column("Other", "STRING"), SEEN, key=("name",), cursor="seen")
    # `prepare` knows the staging table only, where A and a differ: the merge finds them out by itself.
    assert move([("A", "x", 1), ("a", "y", 2), ("b", "z", 1)]) == Changes(inserted=2, duplicates=1)
    assert move([("A", "Y", 2), ("B", "z", 1)]) == Changes(inserted=0, updated=1, unchanged=1)
    assert move.rows() == [("a", "Y", 2), ("b", "z", 1)]
    assert move.remarks == ["", ""]


def test_keys_of_a_column_with_another_collation_are_found(merging, session):
    session.execute('CREATE TABLE flights (name text COLLATE "C", id bigint, PRIMARY KEY (name))')
    move = merging(ID, NAME, key=("name",))
    assert move([(1, "a"), (2, "A")]) == Changes(inserted=2)
    assert move([(1, "a"), (3, "A"), (3, "A")]) == Changes(inserted=0, updated=1, unchanged=1, duplicates=1)


def test_null_keys_are_refused_with_their_count(merging):
    move = merging(ID, DAY, NAME, key=("id", "day")).make()
    with pytest.raises(ConnectorError) as refused:
        move([(1, None, "a"), (2, None, "b"), (3, date(2026, 1, 1), "c")])
    assert refused.value.code == "null_key"
    assert refused.value.message == "2 rows have NULL in the merge key: day."
    with pytest.raises(ConnectorError, match=r"1 row has NULL in the merge key: id, day\."):
        move([(None, None, "a")])


def test_the_index_is_made_once_and_said(merging):
    move = merging(ID, DAY, NAME, key=("id", "day")).make()
    move([])
    assert move.remarks == [
        "Made the unique index flights_id_day_key on public.flights (id, day), which finds rows by their key."
    ]
    move.key = ("day", "id")
    move([])
    assert move.remarks[1] == ""


@pytest.mark.parametrize(
    "index",
    [
        "CREATE INDEX ON flights (id)",
        "CREATE UNIQUE INDEX ON flights (id, name)",
        "CREATE UNIQUE INDEX ON flights (id) WHERE id > 0",
        "CREATE UNIQUE INDEX ON flights ((id + 0))",
        "CREATE TABLE flights_id_key ()",
    ],
)
def test_an_index_that_does_not_serve_is_not_taken_for_one(merging, session, index):
    move = merging().make([(1, "a")])
    session.execute(index)
    move([])
    assert "Made the unique index" in move.remarks[0]
    move([])
    assert move.remarks[1] == ""


@pytest.mark.parametrize(
    "index",
    [
        "ALTER TABLE flights ADD PRIMARY KEY (id)",
        "CREATE UNIQUE INDEX ON flights (id) INCLUDE (name)",
        "CREATE UNIQUE INDEX ON flights (id DESC)",
        "ALTER TABLE flights ADD UNIQUE NULLS NOT DISTINCT (id)",
    ],
)
def test_an_index_that_is_there_serves(merging, session, index):
    move = merging().make([(1, "a")])
    session.execute(index)
    move([])
    assert move.remarks == [""]


def test_a_target_with_equal_keys_is_refused_with_examples(merging):
    rows = [(1, "a"), (1, "b"), (2, "c"), (3, "d"), (3, "e"), (3, "f"), (4, "g"), (4, "h"), (5, "i"), (5, "j")]
    move = merging().make([*rows, (None, "k"), (None, "l")])
    with pytest.raises(ConnectorError) as refused:
        move([(1, "x")])
    assert refused.value.code == "key_not_unique"
    for words in ("4 keys have 9 rows", "id = 3 (3 rows); id = 1 (2 rows); id = 4 (2 rows)."):
        assert words in refused.value.message


def test_a_role_that_may_not_make_the_index_is_told_the_statement(merging, admin):
    admin.execute("CREATE TABLE flights (id bigint, name text)")
    admin.execute("GRANT SELECT, INSERT, UPDATE ON flights TO loader")
    move = merging()
    with pytest.raises(ConnectorError) as refused:
        move([])
    assert refused.value.code == "missing_grant"
    statement = 'CREATE UNIQUE INDEX "flights_id_key" ON "public"."flights" ("id");'
    assert statement in refused.value.hint
    admin.execute(statement)
    assert move([(1, "a")]) == Changes(inserted=1)


def test_a_role_that_may_not_update_is_told_the_grant(merging, admin):
    admin.execute("CREATE TABLE flights (id bigint PRIMARY KEY, name text); GRANT INSERT ON flights TO loader")
    with pytest.raises(ConnectorError) as refused:
        merging()([])
    assert 'GRANT SELECT, UPDATE ON TABLE "public"."flights" TO "loader";' in refused.value.hint


def test_rows_hidden_by_row_security_are_not_guessed_at(merging, session):
    move = merging().make([(1, "a")])
    session.execute("ALTER TABLE flights ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with pytest.raises(ConnectorError) as refused:
        move([(1, "b")])
    assert refused.value.code == "row_security"


def test_a_key_too_long_for_an_index_is_said(merging):
    move = merging(ID, NAME, key=("name",)).make([(1, "".join(chr(0x4E00 + i % 7919) for i in range(5000)))])
    with pytest.raises(ConnectorError) as refused:
        move([])
    assert refused.value.code == "key_too_long"


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (Column("k", "STRUCT", columns=(ID,)), "equality"),
        (Column("k", "JSON"), "equality"),
        (Column("k", "INT64", repeated=True), "ARRAY<INT64>"),
        (Column("k", "GEOGRAPHY"), "several ways"),
        (Column("k", "FLOAT64"), "rounding"),
        (Column("k", "INTERVAL"), "30 days"),
    ],
)
def test_a_type_that_cannot_be_a_key_is_refused_with_the_reason(column, reason):
    error = merge.refuse(TARGET, (column,), ("k",), "", None)
    assert error is not None
    assert error.code == "key_type"
    assert reason in error.message


@pytest.mark.parametrize(
    ("key", "cursor", "code"),
    [
        ((), "", "key_invalid"),
        (("id", "ID"), "", "key_invalid"),
        (("absent",), "", "key_column_missing"),
        (("id",), "absent", "cursor_column_missing"),
        (("id",), "name", "cursor_type"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_anything_is_read(key, cursor, code):
    error = merge.refuse(TARGET, (ID, NAME, SEEN), key, cursor, None)
    assert error is not None
    assert error.code == code
    assert merge.refuse(TARGET, (ID, NAME, SEEN), ("ID",), "Seen", None) is None


def test_many_rows_are_merged_into_more(merging, session):
    move = merging(ID, NAME, SEEN, cursor="seen").make()
    session.execute("INSERT INTO flights SELECT i, 'row ' || i, 1 FROM generate_series(1, 100000) AS i")
    batch = [(i, f"changed {i}" if i % 2 else f"row {i}", 1) for i in range(95_000, 105_000)]
    assert move(batch) == Changes(inserted=4999, updated=2500, unchanged=2501)
    assert move.rows("count(*), count(*) FILTER (WHERE name LIKE 'changed%')") == [(104_999, 5000)]


ROW = st.tuples(
    st.integers(0, 4), st.sampled_from(["a", "b"]), st.sampled_from([None, "x", "y"]), st.sampled_from([None, 1, 2, 3])
)


def modelled(
    table: dict[tuple[Any, ...], tuple[Any, ...]], batch: Sequence[tuple[Any, ...]], has_cursor: bool
) -> Changes:
    """What a merge does, in Python: `table` is changed."""
    order = (lambda row: -1 if row[3] is None else row[3]) if has_cursor else (lambda row: 0)
    newest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for row in batch:
        if row[:2] not in newest or order(row) >= order(newest[row[:2]]):
            newest[row[:2]] = row
    counts = dict.fromkeys(("inserted", "updated", "unchanged", "stale"), 0)
    for key, row in newest.items():
        old = table.get(key)
        if old is None:
            what = "inserted"
        elif order(row) < order(old):
            what = "stale"
        else:
            what = "unchanged" if old == row else "updated"
        counts[what] += 1
        if what in ("inserted", "updated"):
            table[key] = row
    return Changes(duplicates=len(batch) - len(newest), **counts)


@settings(few, max_examples=60)
@given(
    batches=st.lists(st.lists(ROW, max_size=12), max_size=4),
    has_cursor=st.booleans(),
    index_from=st.sampled_from([EVERY_BATCH, NO_BATCH]),
)
def test_merges_do_what_a_dictionary_would(merging, session, monkeypatch, batches, has_cursor, index_from):
    monkeypatch.setattr(tuning, "INDEX_FROM", index_from)
    session.execute("DROP TABLE IF EXISTS flights")
    columns = (ID, Column("part", "STRING"), NAME, SEEN)
    move = merging(*columns, key=("id", "part"), cursor="seen" if has_cursor else "").make()
    table: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for batch in batches:
        assert move(batch) == modelled(table, batch, has_cursor)
        assert move.rows(order="1, 2") == sorted(table.values(), key=lambda row: row[:2])
