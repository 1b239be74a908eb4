"""Append: straight into the target, once its form is known to fit."""

from __future__ import annotations

import pytest

from connectors.column import Column
from connectors.errors import ConnectorError, TransientError
from tests.connectors.memory import ID_NAME, MemorySource, batch


def test_the_target_is_made_when_absent_then_appended_to(world, ids):
    assert world.move([1, 2], "append").method == "create"
    assert world.move([2, 3], "append").method == "append"
    assert world.move([], "append").rows == 0
    assert ids() == [1, 2, 2, 3]


def test_a_target_of_another_form_is_refused_before_a_row_is_read(world, ids, admin):
    world.move([1])
    admin.execute("ALTER TABLE flights ALTER id TYPE numeric, DROP COLUMN name, ADD must text NOT NULL DEFAULT ''")
    admin.execute("ALTER TABLE flights ALTER must DROP DEFAULT")
    source = MemorySource([batch([2])])
    with pytest.raises(ConnectorError) as refused:
        world.move(disposition="append", source=source)
    for word in ("id", "numeric", "name", "must"):
        assert word in refused.value.message
    assert source.reads == 0
    assert ids() == [1]


def test_columns_in_another_order_and_with_defaults_are_fine(world, ids, admin):
    admin.execute("CREATE TABLE flights (name text, loaded timestamptz DEFAULT now(), id bigint PRIMARY KEY)")
    admin.execute("GRANT INSERT ON flights TO loader")
    world.move([1], "append", adopt=True)
    assert ids() == [1]


def test_a_key_that_is_there_already_refuses_the_whole_run(world, ids, admin):
    world.move([1])
    admin.execute("ALTER TABLE flights ADD PRIMARY KEY (id)")
    with pytest.raises(ConnectorError) as refused:
        world.move([2, 1], "append")
    assert refused.value.code == "duplicate_key"
    assert "flights_pkey" in refused.value.message
    assert ids() == [1]


def test_rows_that_a_trigger_drops_are_noticed(world, ids, admin):
    world.move([1])
    admin.execute(
        """
        CREATE FUNCTION drop_even() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN IF NEW.id % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END';
        CREATE TRIGGER drop_even BEFORE INSERT ON flights FOR EACH ROW EXECUTE FUNCTION drop_even();
        """
    )
    with pytest.raises(ConnectorError) as refused:
        world.move([2, 3], "append")
    assert refused.value.code == "rows_differ"
    assert ids() == [1]


def test_a_table_that_is_being_rebuilt_is_waited_for(world, ids, connect, monkeypatch):
    from connectors.postgres.publish import lock

    monkeypatch.setattr(lock, "LIMIT_S", 0.5)
    world.move([1])
    busy = connect("rebuild")
    busy.cursor().execute("LOCK TABLE flights IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(TransientError) as refused:
        world.move([2], "append")
    assert refused.value.code == "target_locked"
    assert "application rebuild" in refused.value.message
    busy.rollback()
    assert ids() == [1]


def test_appending_lets_readers_and_writers_pass(world, ids, connect):
    world.move([1])

    def write_in_the_middle(point):
        if point == "publish.before_commit":
            other = connect()
            other.autocommit = True
            other.cursor().execute(
                "SET lock_timeout = '1s'; INSERT INTO flights (id) VALUES (100); SELECT * FROM flights"
            )

    world.move([2], "append", crash=write_in_the_middle)
    assert ids() == [1, 2, 100]


def test_a_partitioned_target_can_be_appended_to(world, ids, admin):
    admin.execute(
        """
        CREATE TABLE flights (id bigint, name text) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF flights FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF flights FOR VALUES FROM (10) TO (20);
        GRANT INSERT ON flights TO loader;
        """
    )
    world.move([1, 11], "append", adopt=True)
    assert ids() == [1, 11]
    with pytest.raises(ConnectorError) as refused:
        world.move([99], "append")
    assert refused.value.code == "check_violated"


def test_a_value_that_does_not_fit_names_its_column(world, ids):
    import decimal

    import pyarrow as pa

    columns = (*ID_NAME, Column("price", "NUMERIC", precision=3, scale=0))
    prices = pa.array([decimal.Decimal(1), decimal.Decimal(12345)], pa.decimal128(38, 9))
    rows = batch([1, 2]).append_column("price", prices)
    with pytest.raises(ConnectorError) as refused:
        world.move(source=MemorySource([rows], columns))
    assert refused.value.code == "value_out_of_range"
    assert refused.value.field == "price"
    assert "in column price" in refused.value.message
    assert ids() is None
