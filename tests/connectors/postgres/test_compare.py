"""The destination's half of the proof that both sides agree."""

from __future__ import annotations

import hashlib

import pytest

from connectors.base import NeverStop
from connectors.column import Column
from connectors.errors import ConnectorError, Stopped
from connectors.postgres import keep
from connectors.types import postgres_text
from connectors.writing import Target
from tests.connectors import digests
from tests.connectors.memory import ID_NAME, Button, in_thread


def checksum(texts):
    return sum(int(hashlib.md5(text.encode()).hexdigest()[:8], 16) for text in texts)


def test_rows_nulls_and_sums_are_those_of_the_canonical_texts(world, admin):
    world.move([1, 2, -3])
    admin.execute("INSERT INTO flights VALUES (NULL, 'ü ✈️'), (4, NULL), (5, '')")
    found = digests.of_target(world.destination(), world.target, ID_NAME)
    assert found.rows == 6
    assert [c.nulls for c in found.columns] == [1, 1]
    assert found.columns[0].checksum == checksum(["1", "2", "-3", "4", "5"])
    assert found.columns[1].checksum == checksum(["row 1", "row 2", "row -3", "ü ✈️", ""])


def test_a_sum_is_of_unsigned_numbers(world, admin):
    high = [str(i) for i in range(1000) if hashlib.md5(str(i).encode()).hexdigest()[0] in "89abcdef"]
    assert len(high) > 400
    world.move([int(i) for i in high])
    assert digests.of_target(world.destination(), world.target, ID_NAME).columns[0].checksum == checksum(high)


def test_an_empty_table_sums_to_zero_and_types_without_a_text_to_none(world, admin):
    uncommon = Column("50% j", "STRUCT", columns=(Column("x", "INT64"),))
    assert postgres_text(uncommon, "x") is None
    admin.execute('CREATE TABLE flights (id bigint, "50% j" jsonb); GRANT SELECT ON flights TO loader')
    columns = (Column("id", "INT64"), uncommon)
    found = digests.of_target(world.destination(), world.target, columns)
    assert (found.rows, [c.checksum for c in found.columns]) == (0, [0, None])


def test_more_columns_than_a_select_can_have(world, admin):
    columns = tuple(Column(f"c{i}", "INT64") for i in range(900))
    admin.execute(f"CREATE TABLE flights ({', '.join(f'c{i} bigint' for i in range(900))})")
    admin.execute("GRANT SELECT ON flights TO loader; INSERT INTO flights (c0, c899) VALUES (7, 8)")
    found = digests.of_target(world.destination(), world.target, columns)
    assert (len(found.columns), found.rows) == (900, 1)
    assert (found.columns[899].name, found.columns[899].checksum) == ("c899", checksum(["8"]))
    assert found.columns[1].nulls == 1


def test_the_roles_settings_do_not_change_the_sums(world, admin, options):
    columns = (Column("at", "TIMESTAMP"), Column("x", "FLOAT64"), Column("b", "BYTES"))
    admin.execute(
        "CREATE TABLE flights (at timestamptz, x double precision, b bytea); GRANT SELECT ON flights TO loader"
    )
    admin.execute("INSERT INTO flights VALUES ('2024-02-29 23:59:59.123456+00', 0.1, '\\x00ff')")
    before = digests.of_target(world.destination(), world.target, columns)
    for name, value in (("timezone", "Asia/Tokyo"), ("extra_float_digits", "-5"), ("bytea_output", "escape")):
        admin.execute(f"ALTER DATABASE {options.dbname} SET {name} = '{value}'")
    world.opened[0].close()
    keep.sessions.clear()
    assert digests.of_target(world.destination(), world.target, columns) == before


def test_who_may_only_add_rows_is_told_what_reading_takes(world, admin):
    admin.execute("CREATE TABLE flights (id bigint); GRANT INSERT ON flights TO loader")
    with (
        world.destination().comparing(world.target, stop=NeverStop()) as side,
        pytest.raises(ConnectorError) as refused,
    ):
        side.present(ID_NAME)
    assert refused.value.code == "missing_grant"
    assert 'GRANT SELECT ON TABLE "public"."flights" TO "loader";' in refused.value.hint


def test_a_wish_to_stop_breaks_a_comparison(world, admin, meanwhile):
    button = Button()
    admin.execute("CREATE VIEW flights AS SELECT 1::bigint AS id FROM pg_sleep(100); GRANT SELECT ON flights TO loader")

    def compare():
        with world.destination().comparing(world.target, stop=button) as side:
            side.digest(ID_NAME[:1])

    meanwhile("count(*)", button.press)
    thread, results = in_thread(compare)
    thread.join(60)
    (error,) = results
    assert isinstance(error, Stopped)
    assert error.code == "cancelled"


def test_the_size_of_a_target_is_that_of_its_partitions(world, admin):
    admin.execute(
        "CREATE TABLE flights (id bigint) PARTITION BY RANGE (id);"
        "CREATE TABLE f1 PARTITION OF flights FOR VALUES FROM (0) TO (1000);"
        "CREATE TABLE f2 PARTITION OF flights FOR VALUES FROM (1000) TO (2000);"
        "INSERT INTO flights SELECT generate_series(1, 1999); ANALYZE flights, f1, f2"
    )
    found = world.destination().size(world.target)
    assert found.rows == 1999
    assert found.bytes >= 2 * 8192
    assert world.destination().size(Target("public", "nothing")) is None


def test_setting_a_watermark_is_not_what_was_published_last(world, admin):
    assert world.destination().published(world.target) is None
    world.move()
    before = world.destination().published(world.target)
    admin.execute(
        """
        WITH moved AS (
            INSERT INTO _datamantri.applied (run, target, pipeline, installation, token, rows, published_at, receipt)
            SELECT gen_random_uuid(), target, pipeline, installation, token, 0, now(),
                   receipt || '{"method": "set_watermark", "watermark_after": "2026-01-31"}'
            FROM _datamantri.applied RETURNING run)
        UPDATE _datamantri.head SET last_run = (SELECT run FROM moved)
        """
    )
    after = world.destination().published(world.target)
    assert (after.run, after.receipt, after.watermark) == (before.run, before.receipt, "")
    assert after.head != before.head


def test_appends_are_counted_since_the_table_was_last_written_as_a_whole(world, admin):
    def published():
        found = world.destination().published(world.target)
        return found.appends, found.rows

    world.move([1, 2])
    assert published() == (0, None)
    world.move([3], "append")
    world.move([4, 5], "append")
    assert published() == (2, 5)
    world.move([1, 2, 3])
    world.move([4], "append")
    assert published() == (1, 4)
    world.move([4, 5], "merge")
    world.move([6], "append")
    assert published() == (1, None)


def test_of_a_table_that_was_there_before_nobody_knows_its_rows(world, admin):
    admin.execute("CREATE TABLE flights (id bigint, name text); GRANT SELECT, INSERT ON flights TO loader")
    world.move([1], "append", adopt=True)
    found = world.destination().published(world.target)
    assert (found.appends, found.rows) == (1, None)
