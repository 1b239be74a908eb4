"""The destination's half of the proof that both sides agree."""

from __future__ import annotations

import hashlib

from connectors.base import Column
from connectors.postgres import keep
from connectors.types import postgres_text
from tests.connectors.memory import ID_NAME


def checksum(texts):
    return sum(int(hashlib.md5(text.encode()).hexdigest()[:8], 16) for text in texts)


def test_rows_nulls_and_sums_are_those_of_the_canonical_texts(world, admin):
    world.move([1, 2, -3])
    admin.execute("INSERT INTO flights VALUES (NULL, 'ü ✈️'), (4, NULL), (5, '')")
    found = world.destination().digest(world.target, ID_NAME)
    assert found.rows == 6
    assert [c.nulls for c in found.columns] == [1, 1]
    assert found.columns[0].checksum == checksum(["1", "2", "-3", "4", "5"])
    assert found.columns[1].checksum == checksum(["row 1", "row 2", "row -3", "ü ✈️", ""])


def test_a_sum_is_of_unsigned_numbers(world, admin):
    high = [str(i) for i in range(1000) if hashlib.md5(str(i).encode()).hexdigest()[0] in "89abcdef"]
    assert len(high) > 400
    world.move([int(i) for i in high])
    assert world.destination().digest(world.target, ID_NAME).columns[0].checksum == checksum(high)


def test_an_empty_table_sums_to_zero_and_types_without_a_text_to_none(world, admin):
    uncommon = Column("50% j", "STRUCT", columns=(Column("x", "INT64"),))
    assert postgres_text(uncommon, "x") is None
    admin.execute('CREATE TABLE flights (id bigint, "50% j" jsonb); GRANT SELECT ON flights TO loader')
    columns = (Column("id", "INT64"), uncommon)
    found = world.destination().digest(world.target, columns)
    assert (found.rows, [c.checksum for c in found.columns]) == (0, [0, None])


def test_more_columns_than_a_select_can_have(world, admin):
    columns = tuple(Column(f"c{i}", "INT64") for i in range(900))
    admin.execute(f"CREATE TABLE flights ({', '.join(f'c{i} bigint' for i in range(900))})")
    admin.execute("GRANT SELECT ON flights TO loader; INSERT INTO flights (c0, c899) VALUES (7, 8)")
    found = world.destination().digest(world.target, columns)
    assert (len(found.columns), found.rows) == (900, 1)
    assert (found.columns[899].name, found.columns[899].checksum) == ("c899", checksum(["8"]))
    assert found.columns[1].nulls == 1


def test_the_roles_settings_do_not_change_the_sums(world, admin, options):
    columns = (Column("at", "TIMESTAMP"), Column("x", "FLOAT64"), Column("b", "BYTES"))
    admin.execute(
        "CREATE TABLE flights (at timestamptz, x double precision, b bytea); GRANT SELECT ON flights TO loader"
    )
    admin.execute("INSERT INTO flights VALUES ('2024-02-29 23:59:59.123456+00', 0.1, '\\x00ff')")
    before = world.destination().digest(world.target, columns)
    for name, value in (("timezone", "Asia/Tokyo"), ("extra_float_digits", "-5"), ("bytea_output", "escape")):
        admin.execute(f"ALTER DATABASE {options.dbname} SET {name} = '{value}'")
    world.opened[0].close()
    keep.sessions.clear()
    assert world.destination().digest(world.target, columns) == before
