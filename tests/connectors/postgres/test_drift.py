"""The source's columns change: what a target takes by its policy, when, and what it remembers of it."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pyarrow as pa
import pytest

from connectors import comparing
from connectors.base import NeverStop
from connectors.checks import Check, CheckKind
from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.cursor import CursorRead, Span
from connectors.errors import ConnectorError, Held, TransientError
from connectors.modes import Guard, Refresh, WriteDisposition, WriteMode
from connectors.postgres.publish.evolve import is_in_the_catalog_alone
from connectors.reading import ReadRequest
from connectors.schema_policy import SchemaPolicy
from tests.connectors.memory import MemorySource, PartedSource
from tests.connectors.postgres.test_staged import StagedRun

ID, NAME = Column("id", "INT64"), Column("name", "STRING")
PRICE = Column("price", "NUMERIC", precision=10, scale=2)
WIDER = replace(PRICE, precision=12)
ARROW = {
    "INT64": pa.int64(),
    "STRING": pa.string(),
    "NUMERIC": pa.decimal128(38, 9),
    "BIGNUMERIC": pa.decimal256(76, 38),
    "STRUCT": None,
}


def source(*columns, ids=(1, 2), **values):
    """Rows whose values are 7 where nothing else is said."""

    def array(column):
        given = values.get(column.name, [7] * len(ids))
        type_ = ARROW[column.type]
        return pa.array(given) if type_ in (None, pa.string()) else pa.array(given).cast(type_)

    texts = {
        c.name: [[i] if c.repeated else i for i in (f"row {i}" for i in ids)] for c in columns if c.type == "STRING"
    }
    values = {"id": list(ids), **texts, **values}
    arrays = {column.name: array(column) for column in columns}
    return MemorySource([pa.record_batch(arrays)], columns)


@pytest.fixture
def target(admin):
    """What readers see: the rows by names of columns, and the types."""

    class Seen:
        def rows(self):
            admin.execute("SELECT to_jsonb(f) FROM flights f ORDER BY id")
            return [{name: v for name, v in row.items() if not name.startswith("_")} for (row,) in admin.fetchall()]

        def types(self):
            admin.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = 'flights'::regclass AND attnum > 0 AND NOT attisdropped AND attname NOT LIKE '\\_%'"
            )
            return dict(admin.fetchall())

        def memory(self):
            admin.execute("SELECT columns FROM _datamantri.head")
            (found,) = admin.fetchone()
            return {each["name"]: each["as"] for each in found["columns"]}

        def file(self):
            admin.execute("SELECT pg_relation_filenode('flights')")
            return admin.fetchone()

    return Seen()


WAYS = ["append", "replace", "replace in place", "merge", "partitioned", "parts", "held", "history"]


@pytest.fixture(params=WAYS)
def way(request, world, admin):
    """Moves a source into the target, which has a row 1 in the columns id and name: every way there is."""
    word = request.param
    disposition = {"replace in place": "replace", "partitioned": "append", "held": "replace"}.get(word, word)
    if word == "partitioned":
        admin.execute("CREATE TABLE flights (id bigint, name text) PARTITION BY RANGE (id)")
        admin.execute("CREATE TABLE part PARTITION OF flights FOR VALUES FROM (0) TO (10); GRANT ALL ON part TO loader")
        admin.execute("ALTER TABLE flights OWNER TO loader; ALTER TABLE part OWNER TO loader")
    disposition = "merge" if word == "parts" else disposition
    keyed = {"key": ("id",)} if disposition == "history" else {}
    world.move(source=source(ID, NAME, ids=[1]), disposition=disposition, adopt=True, **keyed)
    if word in ("replace in place", "held"):
        admin.execute("CREATE VIEW late AS SELECT id, name FROM flights")

    def move(found, **request):
        if word == "parts":
            run = StagedRun(world, PartedSource([[b] for b in found.batches], found.columns), "merge")
            made = run.plan()
            for part in range(len(made.parts)):
                run.load(part)
            return run.publish()
        if word == "held":
            run = uuid.uuid4()
            with pytest.raises(Held):
                world.move(source=found, disposition=disposition, run=run, guard=Guard(shrink_percent=1), **request)
            return world.publish_held(run)
        return world.move(source=found, disposition=disposition, **keyed, **request)

    move.word = word
    return move


def test_a_new_column_is_added_with_its_rows_whatever_the_way(way, world, target):
    if way.word == "held":
        world.move(source=source(ID, NAME, ids=[1, 2, 3]))
    way(source(ID, NAME, PRICE, ids=[2]))
    assert target.types() == {"id": "bigint", "name": "text", "price": "numeric(10,2)"}
    assert target.rows()[-1] == {"id": 2, "name": "row 2", "price": 7.0}
    assert "+ price NUMERIC(10, 2)" in world.recorder.text()
    assert list(target.memory()) == ["id", "name", "price"]
    world.recorder.lines.clear()
    way(source(ID, NAME, PRICE, ids=[3])) if way.word != "held" else world.move(source=source(ID, NAME, PRICE))
    assert "changed" not in world.recorder.text()


def test_a_dropped_column_stays_as_null_whatever_the_way(way, world, target):
    if way.word == "held":
        world.move(source=source(ID, NAME, ids=[1, 2, 3]))
    receipt = way(source(ID, ids=[2]))
    assert target.rows()[-1] == {"id": 2, "name": None}
    assert list(receipt.drift) == [{"change": "gone", "column": "name", "before": "STRING", "after": ""}]
    # What it had stays where rows stay; a replace has the rows of the source alone.
    before = [row["name"] for row in target.rows() if row["id"] == 1]
    assert before == ([] if "replace" in way.word or way.word == "held" else ["row 1"])
    if way.word != "held":
        again = way(source(ID, NAME, ids=[3]))
        assert target.rows()[-1] == {"id": 3, "name": "row 3"}
        assert [each["change"] for each in again.drift] == ["added"]


def test_a_replace_in_parts_keeps_dropped_columns_and_a_held_one_does_when_it_is_approved(world, target):
    world.move(source=source(ID, NAME, PRICE, ids=[1, 2, 3, 4]))
    run = StagedRun(world, PartedSource([source(ID, NAME, ids=[i]).batches for i in (1, 2)], (ID, NAME)), "replace")
    for part in range(len(run.plan().parts)):
        run.load(part)
    assert run.publish().method == "rename"
    assert target.rows() == [{"id": i, "name": f"row {i}", "price": None} for i in (1, 2)]
    held = uuid.uuid4()
    with pytest.raises(Held):
        world.move(source=source(ID, ids=[5]), run=held, guard=Guard(shrink_percent=1))
    assert "name" in target.memory()
    world.publish_held(held)
    assert target.rows() == [{"id": 5, "name": None, "price": None}]


def test_a_past_range_is_filled_in_with_columns_that_came_since(world, target):
    rule = CursorRead("id", span=Span("id", "1", "2"), settles=True)
    world.move(source=source(ID, NAME, ids=[1, 2]), disposition="append")
    world.move(source=source(ID, NAME, PRICE, ids=[1]), disposition="append", read=rule)
    assert target.rows() == [{"id": 1, "name": "row 1", "price": 7.0}, {"id": 2, "name": "row 2", "price": None}]


def test_a_kept_column_is_emptied_in_rows_that_a_replace_in_place_leaves(world, admin, target):
    world.move(source=source(ID, NAME, ids=[1, 2]), key=("id",))
    admin.execute("CREATE VIEW late AS SELECT id, name FROM flights")
    receipt = world.move(source=source(ID, ids=[1, 2]), key=("id",))
    assert receipt.method == "in_place"
    assert target.rows() == [{"id": 1, "name": None}, {"id": 2, "name": None}]


def test_a_replace_keeps_dropped_columns_with_their_remarks_until_a_full_refresh(world, admin, target):
    world.move(source=source(ID, NAME, PRICE))
    admin.execute("COMMENT ON COLUMN flights.price IS 'net'; GRANT SELECT (price) ON flights TO reader")
    for _ in range(2):
        world.move(source=source(ID, NAME))
    assert target.types()["price"] == "numeric(10,2)"
    admin.execute(
        "SELECT col_description('flights'::regclass, 3), has_column_privilege('reader', 'flights', 'price', 'SELECT')"
    )
    assert admin.fetchone() == ("net", True)
    world.move(source=source(ID, NAME), refresh=Refresh.FULL)
    assert list(target.types()) == ["id", "name"] == list(target.memory())


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_a_wider_numeric_is_a_matter_of_the_catalog(world, admin, target, disposition):
    world.move(source=source(ID, PRICE, ids=[1]), disposition=disposition)
    admin.execute("CREATE INDEX ON flights (price); CREATE STATISTICS s ON id, price FROM flights")
    before = target.file()
    world.move(source=source(ID, WIDER, ids=[2]), disposition=disposition)
    assert target.types()["price"] == "numeric(12,2)"
    world.move(source=source(ID, Column("price", "BIGNUMERIC"), ids=[3]), disposition=disposition)
    assert target.types()["price"] == "numeric"
    assert target.file() == before
    assert len(target.rows()) == 3


def test_a_number_gets_more_digits_whatever_the_way(way, world, target):
    if way.word == "held":
        world.move(source=source(ID, NAME, PRICE, ids=[1, 2, 3]))
    else:
        way(source(ID, NAME, PRICE, ids=[2]))
    receipt = way(source(ID, NAME, WIDER, ids=[3], price=[10**9]))
    assert [each["change"] for each in receipt.drift] == ["retyped"]
    assert target.types()["price"] == "numeric(12,2)"
    assert (3, 10**9) in [(row["id"], row["price"]) for row in target.rows()]


@pytest.mark.parametrize("disposition", ["append", "merge", "replace"])
def test_a_text_of_more_characters_is_a_matter_of_the_catalog(world, admin, target, disposition):
    """By a changed rule, hence another definition, which a person lets go on."""

    def move(type_, fingerprint, **more):
        rules = {"name": ColumnRule(type=type_)} if type_ else {}
        world.move(
            source=source(ID, NAME, ids=[1]),
            disposition=disposition,
            key=("id",) if disposition != "append" else (),
            rules=rules,
            fingerprint=fingerprint,
            refresh=Refresh.KEEP,
            **more,
        )

    def die(at):
        if at == "publish.before_commit":
            raise KeyboardInterrupt

    move("varchar(20)", "a")
    if disposition == "replace":
        admin.execute("CREATE VIEW late AS SELECT id FROM flights")
    before = target.file()
    with pytest.raises(KeyboardInterrupt):
        move("varchar(40)", "b", crash=die)
    assert target.types()["name"] == "character varying(20)"
    for number, (rule, type_) in enumerate([("varchar(40)", "character varying(40)"), ("", "text")]):
        move(rule, f"c{number}")
        assert (target.types()["name"], target.file()) == (type_, before)


TIES = {
    "CREATE VIEW v AS SELECT price FROM flights": "DROP VIEW v",
    "ALTER TABLE flights ADD CONSTRAINT dear CHECK (price > 1)": "ALTER TABLE flights DROP CONSTRAINT dear",
    "ALTER TABLE flights ADD two numeric GENERATED ALWAYS AS (price * 2) STORED": "ALTER TABLE flights DROP two",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    "CREATE TRIGGER t BEFORE UPDATE OF price ON flights FOR EACH ROW EXECUTE FUNCTION f()": "DROP TRIGGER t ON flights",
}


# What columns of BigQuery, and rules for them, may become.
STORED = (
    *("text", "varchar(20)", "varchar(40)", "numeric(10,2)", "numeric(12,2)", "numeric(12,4)", "numeric", "bigint"),
    *("integer", "double precision", "text[]", "varchar(20)[]", "numeric(10,2)[]", "numeric(12,2)[]", "numeric[]"),
)
REWRITES = """
CREATE TEMP TABLE seen (was text, now text, same boolean);
DO $$
DECLARE was text; now text; file oid;
BEGIN
  FOREACH was IN ARRAY '{0}'::text[] LOOP
    FOREACH now IN ARRAY '{0}'::text[] LOOP
      BEGIN
        EXECUTE format('CREATE TEMP TABLE c (c %s)', was);
        file := pg_relation_filenode('c');
        EXECUTE format('ALTER TABLE c ALTER c TYPE %s', now);
        INSERT INTO seen VALUES (was, now, file = pg_relation_filenode('c'));
      EXCEPTION WHEN datatype_mismatch THEN NULL;
      END;
      DROP TABLE IF EXISTS c;
    END LOOP;
  END LOOP;
END $$;
SELECT was, now, same FROM seen
"""


def test_what_is_done_in_place_is_what_postgresql_does_without_writing_the_table_anew(admin):
    names = [name.replace("varchar", "character varying") for name in STORED]
    array = "{" + ",".join(f'"{name}"' for name in names) + "}"
    admin.execute(REWRITES.format(array))
    found = [(was, now, same) for was, now, same in admin.fetchall() if was != now]
    assert len(found) > 60
    assert {each[:2] for each in found if is_in_the_catalog_alone(*each[:2])} == {each[:2] for each in found if each[2]}
    assert ("numeric(10,2)[]", "numeric[]", True) in found


def test_an_array_of_numbers_of_any_length_is_a_matter_of_the_catalog(world, target):
    numbers = Column("n", "NUMERIC", repeated=True, precision=10, scale=2)

    def rows(column, given):
        of = pa.list_(pa.decimal256(76, 38) if column.type == "BIGNUMERIC" else pa.decimal128(38, 9))
        return MemorySource([pa.record_batch({"id": pa.array([given]), "n": pa.array([[given]], of)})], (ID, column))

    world.move(source=rows(numbers, 1), disposition="append")
    before = target.file()
    world.move(source=rows(Column("n", "BIGNUMERIC", repeated=True), 2), disposition="append")
    assert (target.types()["n"], target.file()) == ("numeric[]", before)
    assert [row["n"] for row in target.rows()] == [[1], [2]]


def test_what_would_not_be_of_the_catalog_alone_stops_with_the_diff(world, admin, target):
    world.move(source=source(ID, PRICE, ids=[1]), disposition="append")
    reading = source(ID, WIDER, ids=[2])
    for tie, untie in TIES.items():
        admin.execute(tie)
        with pytest.raises(ConnectorError) as refused:
            world.move(source=reading, disposition="append")
        assert refused.value.code == "schema_incompatible", tie
        assert "price from numeric(10,2) to numeric(12,2)" in refused.value.message
        assert "full refresh" in refused.value.hint
        admin.execute(untie)
    assert reading.reads == 0
    world.move(source=reading, disposition="append")
    assert target.types()["price"] == "numeric(12,2)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NAME, Column("name", "INT64")),  # no value of the one is one of the other
        (PRICE, replace(PRICE, precision=8)),
        (Column("price", "INT64"), Column("price", "NUMERIC")),  # would write the table anew
        (PRICE, replace(PRICE, precision=14, scale=4)),
        (NAME, replace(NAME, repeated=True)),
    ],
)
def test_other_types_stop_before_a_row_is_read_and_a_full_refresh_takes_them(world, target, before, after):
    world.move(source=source(ID, before, ids=[1]), disposition="append")
    reading = source(ID, after, ids=[2])
    with pytest.raises(ConnectorError, match=before.name) as refused:
        world.move(source=reading, disposition="append")
    assert refused.value.code == "schema_incompatible"
    assert reading.reads == 0
    world.move(source=reading, disposition="append", refresh=Refresh.FULL)
    assert [row["id"] for row in target.rows()] == [2]
    world.move(source=reading, disposition="append")


def test_a_replace_by_renaming_takes_what_bigquery_itself_widens_and_no_other_type(world, target):
    world.move(source=source(ID, Column("price", "INT64")))
    world.move(source=source(ID, Column("price", "NUMERIC")))
    assert target.types()["price"] == "numeric(38,9)"
    with pytest.raises(ConnectorError) as refused:
        world.move(source=source(ID, Column("price", "STRING")))
    assert refused.value.code == "schema_incompatible"


STRUCT = Column("place", "STRUCT", columns=(Column("x", "INT64"),))


def test_a_replace_that_may_be_written_anew_takes_any_type_and_keeps_what_is_gone(world, target):
    """`name` is to be an array of texts, and price goes."""
    world.move(source=source(ID, NAME, PRICE))
    later = source(ID, replace(NAME, repeated=True))
    with pytest.raises(ConnectorError) as refused:
        world.move(source=later)
    assert refused.value.code == "schema_incompatible"
    receipt = world.move(source=later, schema_policy=SchemaPolicy.REFRESH)
    assert {each["change"] for each in receipt.drift} == {"gone", "retyped"}
    assert target.types() == {"id": "bigint", "name": "text[]", "price": "numeric(10,2)"}
    with pytest.raises(ConnectorError) as refused:
        world.move(source=source(ID, NAME), disposition="append", schema_policy=SchemaPolicy.REFRESH)
    assert refused.value.code == "schema_incompatible"  # the run becomes another one, see tests/runs


def test_fields_of_a_struct_are_followed_inside_their_json(world, target):
    world.move(source=source(ID, STRUCT, ids=[1], place=[{"x": 1}]), disposition="append")
    more = replace(STRUCT, columns=(Column("y", "STRING"),))
    receipt = world.move(source=source(ID, more, ids=[2], place=[{"y": "b"}]), disposition="append")
    assert [(each["change"], each["column"]) for each in receipt.drift] == [("gone", "place.x"), ("added", "place.y")]
    assert [row["place"] for row in target.rows()] == [{"x": 1}, {"y": "b"}]


def test_another_order_another_case_a_longer_text_and_null_are_no_change(world, target):
    first = (ID, replace(NAME, max_length=5, required=True), PRICE)
    world.move(source=source(*first, ids=[1]), disposition="append")
    memory = target.memory()
    later = (PRICE, replace(NAME, name="NAME", max_length=9), ID)
    for policy in (SchemaPolicy.FREEZE, SchemaPolicy.EVOLVE):
        receipt = world.move(source=source(*later, ids=[2]), disposition="append", schema_policy=policy)
        assert not receipt.drift
    assert target.rows()[-1] == {"id": 2, "name": "row 2", "price": 7.0}
    assert target.memory() == memory


# Freeze and ignore ------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [(ID, NAME, PRICE), (ID,), (ID, Column("name", "INT64"))])
def test_a_frozen_pipeline_fails_before_any_row_moves_until_it_is_saved_again(world, target, later):
    world.move(source=source(ID, NAME, ids=[1]))
    reading = source(*later, ids=[2])
    with pytest.raises(ConnectorError) as refused:
        world.move(source=reading, schema_policy=SchemaPolicy.FREEZE, expected=(ID, NAME))
    assert refused.value.code == "schema_frozen"
    assert reading.reads == 0
    assert [row["id"] for row in target.rows()] == [1]
    if len(later) != 2:
        world.move(source=reading, schema_policy=SchemaPolicy.FREEZE, expected=later)
        assert [row["id"] for row in target.rows()] == [2]
        world.move(source=reading, schema_policy=SchemaPolicy.FREEZE, expected=(ID, NAME))


@pytest.mark.parametrize("way", WAYS[:4], indirect=True)
def test_ignored_columns_are_not_read_and_told_of_once(way, target):
    reading = source(ID, NAME, PRICE, ids=[2])
    receipt = way(reading, schema_policy=SchemaPolicy.IGNORE_NEW)
    assert [each["change"] for each in receipt.drift] == ["ignored"]
    assert list(target.types()) == ["id", "name"]
    again = way(source(ID, NAME, PRICE, ids=[3]), schema_policy=SchemaPolicy.IGNORE_NEW)
    assert not again.drift
    way(source(ID, NAME, PRICE, ids=[4]), schema_policy=SchemaPolicy.EVOLVE)
    assert target.rows()[-1]["price"] == 7.0


# Names -------------------------------------------------------------------------------------------


def test_names_are_given_once_and_a_later_column_never_takes_anothers(world, target):
    world.move(source=source(ID, Column("xmin", "INT64"), ids=[1]), disposition="append")
    assert target.memory() == {"id": "id", "xmin": "xmin_"}
    world.move(
        source=source(ID, Column("xmin", "INT64"), Column("XMIN_", "INT64"), ids=[2], XMIN_=[8]), disposition="append"
    )
    names = target.memory()
    assert names["xmin"] == "xmin_"
    assert names["XMIN_"].startswith("XMIN__")
    assert target.rows()[-1] == {"id": 2, "xmin_": 7, names["XMIN_"]: 8}
    # The first is gone, and its name stays taken; back again, in another case, it has it again.
    world.move(source=source(ID, Column("XMIN_", "INT64"), ids=[3], XMIN_=[9]), disposition="append")
    assert target.rows()[-1] == {"id": 3, "xmin_": None, names["XMIN_"]: 9}
    world.move(source=source(ID, Column("Xmin", "INT64"), ids=[4]), disposition="append")
    assert target.rows()[-1]["xmin_"] == 7


def test_a_column_whose_case_changes_keeps_its_name_through_every_replace(world, target):
    world.move(source=source(ID, NAME))
    for _ in range(3):
        receipt = world.move(source=source(ID, replace(NAME, name="Name")))
        assert not receipt.drift
        assert list(target.types()) == ["id", "name"]


# Under the lock ----------------------------------------------------------------------------------


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_readers_pass_while_rows_are_copied_and_nobody_sees_half_a_change(world, connect, disposition):
    world.move(source=source(ID, NAME, ids=[1]), disposition=disposition)
    seen = []
    reader = connect()
    reader.autocommit = True

    def look(point):
        if point in ("load.middle", "load.end", "publish.before_lock"):
            with reader.cursor() as cursor:
                cursor.execute("SET lock_timeout = '1s'; SELECT * FROM flights")
                seen.append([column.name for column in cursor.description])

    world.move(source=source(ID, NAME, PRICE, ids=[2]), disposition=disposition, crash=look)
    assert seen
    assert set(map(tuple, seen)) == {("id", "name")}


BY_HAND = {
    "ALTER TABLE flights DROP name": "ALTER TABLE flights ADD name text",
    "ALTER TABLE flights ALTER name TYPE varchar(5)": "ALTER TABLE flights ALTER name TYPE text",
    "ALTER TABLE flights ADD price text": "ALTER TABLE flights DROP price",
}


class ByHand:
    """A load that ends with its publish, whatever came before; somebody may change the target in between."""

    def __init__(self, world, way):
        self.world = world
        how, _, disposition = way.partition(" ")
        self.how, self.disposition = (how, disposition) if how in ("parts", "held") else ("", how)
        self.key = ("id",) if self.disposition == "history" else ()

    def stage(self, found):
        """Returns what publishes the rows of `found`; until then they are staged, or not yet read."""
        given = {"disposition": self.disposition, "key": self.key}
        if self.how == "parts":
            run = StagedRun(self.world, PartedSource([[b] for b in found.batches], found.columns), self.disposition)
            for part in range(len(run.plan().parts)):
                run.load(part)
            return run.publish
        if self.how == "held":
            run = uuid.uuid4()
            check = Check(CheckKind.RANGE, "few", ("id",), maximum="1")
            with pytest.raises(Held):
                self.world.move(source=found, run=run, checks=(check,), **given)
            return lambda **options: self.world.publish_held(run, **options)
        return lambda **options: self.world.move(source=found, **given, **options)


@pytest.mark.parametrize(
    "way",
    [
        *("append", "merge", "history", "replace", "replace in place"),
        *("parts append", "parts merge", "parts replace", "held merge", "held replace"),
    ],
)
def test_a_target_altered_by_hand_between_plan_and_publish_is_noticed_under_the_lock(world, admin, way):
    load = ByHand(world, way)
    world.move(source=source(ID, NAME, ids=[1]), disposition=load.disposition, key=load.key)
    if way == "replace in place":
        admin.execute("CREATE VIEW late AS SELECT id FROM flights")
    for change, back in BY_HAND.items():

        def alter(point, change=change):
            if point == "publish.before_lock":
                admin.execute(change)

        publish = load.stage(source(ID, NAME, PRICE, ids=[2]))
        with pytest.raises(ConnectorError) as noticed:
            publish(crash=alter)
        assert noticed.value.code in ("target_changed", "target_column_missing", "target_column_mismatch"), change
        is_renamed = load.disposition == "replace" and way != "replace in place"
        assert isinstance(noticed.value, TransientError) == is_renamed
        admin.execute("SELECT array_agg(id) FROM flights")
        assert admin.fetchone() == ([1],)
        admin.execute(back)


@pytest.mark.parametrize("way", ["parts replace", "held replace"])
@pytest.mark.parametrize("change", [*list(BY_HAND)[:2], "DROP TABLE flights", None], ids=str)
def test_what_was_altered_while_rows_were_staged_is_said_when_they_replace_it(world, target, admin, way, change):
    world.move(source=source(ID, NAME, ids=[1]))
    publish = ByHand(world, way).stage(source(ID, NAME, PRICE, ids=[2]))
    if change:
        admin.execute(change)
    publish()
    assert target.rows() == [{"id": 2, "name": "row 2", "price": 7}]
    said = [
        line for level, line in world.recorder.lines if level == "warning" and "since these rows were staged" in line
    ]
    assert len(said) == bool(change)


def test_a_column_that_somebody_added_first_is_taken_as_it_is(world, admin, target):
    world.move(source=source(ID, NAME, ids=[1]), disposition="append")

    def add(point):
        if point == "publish.before_lock":
            admin.execute("ALTER TABLE flights ADD price numeric(10,2)")

    world.move(source=source(ID, NAME, PRICE, ids=[2]), disposition="append", crash=add)
    assert target.rows()[-1]["price"] == 7.0


def test_a_column_that_a_person_dropped_from_the_target_is_not_put_back(world, admin):
    world.move(source=source(ID, NAME, ids=[1]), disposition="append")
    admin.execute("ALTER TABLE flights DROP name")
    with pytest.raises(ConnectorError) as refused:
        world.move(source=source(ID, NAME, PRICE, ids=[2]), disposition="append")
    assert (refused.value.code, refused.value.field) == ("target_column_missing", "name")


def test_only_the_owner_of_a_table_can_give_it_columns_and_the_grant_is_said(world, admin):
    world.move(source=source(ID, NAME, ids=[1]), disposition="append")
    admin.execute("ALTER TABLE flights OWNER TO landlord; GRANT ALL ON flights TO loader")
    reading = source(ID, NAME, PRICE, ids=[2])
    with pytest.raises(ConnectorError) as refused:
        world.move(source=reading, disposition="append")
    assert refused.value.code == "missing_grant"
    assert 'GRANT "landlord" TO "loader";' in refused.value.hint
    assert reading.reads == 0


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("point", ["publish.after_lock", "publish.before_commit", "publish.after_commit"])
def test_a_crash_anywhere_leaves_the_change_with_its_rows_or_neither(world, target, point):
    world.move(source=source(ID, NAME, ids=[1]), disposition="append")
    run = uuid.uuid4()

    def kill(at):
        if at == point:
            raise Killed

    with pytest.raises(Killed):
        world.move(source=source(ID, NAME, PRICE, ids=[2]), disposition="append", run=run, crash=kill)
    is_done = point == "publish.after_commit"
    assert ("price" in target.types(), "price" in target.memory(), len(target.rows())) == (
        (True, True, 2) if is_done else (False, False, 1)
    )
    receipt = world.move(source=source(ID, NAME, PRICE, ids=[2]), disposition="append", run=run)
    assert [each["column"] for each in receipt.drift] == ["price"]
    assert len(target.rows()) == 2


def test_a_head_of_an_earlier_version_learns_its_columns_at_the_next_run(world, admin, target):
    world.move(source=source(ID, NAME, ids=[1]), disposition="append")
    admin.execute("ALTER TABLE _datamantri.head DROP columns")
    world.move(source=source(ID, NAME, PRICE, ids=[2]), disposition="append", expected=(ID, NAME))
    assert list(target.memory()) == ["id", "name", "price"]


@pytest.mark.parametrize("saved", [(ID, NAME, PRICE), (ID, NAME)], ids=["before", "after"])
def test_what_was_dropped_before_a_head_knew_its_columns_is_kept_by_a_replace(world, admin, target, saved):
    """However the definition has it: it was saved `before` or `after` the source dropped the column."""
    world.move(source=source(ID, NAME, PRICE, ids=[1]))
    admin.execute("ALTER TABLE _datamantri.head DROP columns; GRANT SELECT (price) ON flights TO reader")
    for _ in range(2):
        world.move(source=source(ID, NAME, ids=[2]), expected=saved)
        assert target.rows() == [{"id": 2, "name": "row 2", "price": None}]
        assert target.types()["price"] == "numeric(10,2)"
        assert "keeps, as NULL, what its source has no longer: price." in world.recorder.text()
        admin.execute("SELECT has_column_privilege('reader', 'flights', 'price', 'SELECT')")
        assert admin.fetchone() == (True,)
    world.move(source=source(ID, NAME, PRICE, ids=[3]), expected=saved)
    assert target.rows() == [{"id": 3, "name": "row 3", "price": 7}]


def test_what_another_definition_wrote_is_not_kept_and_a_persons_values_stay(world, admin, target):
    world.move(source=source(ID, NAME, ids=[1]))
    admin.execute("ALTER TABLE _datamantri.head DROP columns")
    world.move(source=source(ID, ids=[1]), fingerprint="another", expected=(ID,))
    assert target.rows() == [{"id": 1}]
    admin.execute(
        "ALTER TABLE flights ADD note text; UPDATE flights SET note = 'mine'; CREATE VIEW late AS TABLE flights"
    )
    admin.execute("UPDATE _datamantri.head SET columns = NULL")
    world.move(source=source(ID, ids=[1, 2]), key=("id",), fingerprint="another", expected=(ID,))
    assert target.rows() == [{"id": 1, "note": "mine"}, {"id": 2, "note": None}]


def test_who_completes_an_earlier_schema_keeps_nobody_waiting_and_names_its_owner(world, admin, connect):
    world.move(source=source(ID, NAME, ids=[1]), disposition="append")
    admin.execute("ALTER TABLE _datamantri.head DROP columns")
    comparing = connect()
    comparing.cursor().execute("BEGIN; SELECT FROM _datamantri.head")
    with pytest.raises(TransientError) as busy:
        world.fence()
    assert busy.value.code == "fence_blocked"
    comparing.rollback()
    admin.execute("ALTER TABLE _datamantri.head OWNER TO landlord; GRANT ALL ON _datamantri.head TO loader")
    with pytest.raises(ConnectorError, match="their owner, landlord") as refused:
        world.fence()
    assert refused.value.code == "missing_grant"
    admin.execute("ALTER TABLE _datamantri.head OWNER TO loader")
    assert world.fence().columns == {}


def test_a_run_without_a_change_does_not_write_the_memory_again(world, admin):
    world.move(source=source(ID, NAME, ids=[1]), disposition="append")
    admin.execute("UPDATE _datamantri.head SET columns = columns || '{\"mark\": 1}'")
    world.move(source=source(NAME, ID, ids=[2]), disposition="append")
    admin.execute("SELECT columns->>'mark' FROM _datamantri.head")
    assert admin.fetchone() == ("1",)


# Before a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("disposition", ["append", "merge", "replace"])
def test_a_save_allows_what_a_run_will_add_and_the_forecast_says_so(world, admin, disposition):
    key = ("id",) if disposition == "merge" else ()
    world.move(source=source(ID, NAME, ids=[1]), disposition=disposition, key=key)
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    destination, mode = world.destination(), WriteMode(WriteDisposition(disposition), key)
    asked = {"pipeline": world.pipeline, "adopt": False}
    assert destination.validate_target(world.target, (ID, NAME, PRICE), mode, **asked) == []
    forecast = destination.forecast(world.target, (ID, NAME, PRICE), mode)
    assert "new column price (numeric(10,2))" in forecast.makes
    assert any("while columns" in text for text in forecast.waits)
    (refusal,) = destination.validate_target(world.target, (ID, Column("name", "INT64")), mode, **asked)
    assert refusal.code == "schema_incompatible"


def test_a_table_that_is_only_taken_over_is_not_changed(world, admin):
    admin.execute("CREATE TABLE flights (id bigint); ALTER TABLE flights OWNER TO loader")
    mode = WriteMode(WriteDisposition.APPEND)
    found = world.destination().validate_target(world.target, (ID, NAME), mode, pipeline=world.pipeline, adopt=True)
    assert [error.code for error in found] == ["target_column_missing"]
    with pytest.raises(ConnectorError) as refused:
        world.move(source=source(ID, NAME), disposition="append", adopt=True, expected=(ID,))
    assert refused.value.code == "target_column_missing"


def test_rules_and_their_changes_are_no_change_of_the_source(world, target):
    world.move(source=source(ID, NAME, PRICE))
    rules = {"name": ColumnRule(skip=True), "price": ColumnRule(name="cost", type="text")}
    receipt = world.move(source=source(ID, NAME, PRICE), rules=rules, fingerprint="g", expected=(ID, NAME, PRICE))
    assert not receipt.drift
    assert target.types() == {"id": "bigint", "cost": "text"}
    receipt = world.move(source=source(ID, NAME, PRICE), fingerprint="h", expected=(ID, NAME, PRICE))
    assert not receipt.drift
    assert target.types() == {"id": "bigint", "name": "text", "price": "numeric(10,2)"}


def test_a_masked_column_is_remembered_as_the_source_declares_it(world, target):
    rules = {"price": ColumnRule(mask="redact")}
    for _ in range(2):
        assert not world.move(source=source(ID, PRICE), disposition="append", rules=rules).drift
    receipt = world.move(source=source(ID, Column("price", "STRING")), disposition="append", rules=rules)
    assert [(each["before"], each["after"]) for each in receipt.drift] == [("NUMERIC(10, 2)", "STRING")]
    assert target.types() == {"id": "bigint", "price": "text"}


def test_a_comparison_knows_columns_by_the_names_that_they_have(world):
    world.move(source=source(ID, Column("xmin", "INT64")))
    reading = source(ID, Column("xmin", "INT64"), Column("XMIN_", "INT64"), XMIN_=[8, 9])
    world.move(source=reading)
    destination = world.destination()
    request = comparing.ComparisonRequest(
        ReadRequest(table="a.b.c"), world.target, WriteMode(WriteDisposition.REPLACE), at_snapshot=False
    )
    published = destination.published(world.target)
    found = comparing.compare(
        reading, destination, request, published, log=lambda level, message: None, stop=NeverStop()
    )
    assert (found.agrees, found.missing, len(found.compared)) == (True, (), 3)
