"""GEOGRAPHY into PostGIS' own types; needs Debian's postgresql-15-postgis-3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.column import Column
from connectors.column_rules import ColumnRule, apply
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition, WriteMode
from tests.connectors.columns.test_shapes import shapes, text
from tests.connectors.columns.values import few
from tests.connectors.memory import MemorySource
from tests.connectors.postgres.conftest import PASSWORD, ROLE
from tests.connectors.postgres.debian import BINARIES, running_server

EXTENSION = BINARIES.parents[3] / "share/postgresql/15/extension/postgis.control"
COLUMNS = (Column("id", "INT64"), Column("place", "GEOGRAPHY"))
SHAPES = [
    "POINT(13.4 52.5)",
    "POLYGON((0 0, 1 0, 1 1, 0 0), (0.1 0.1, 0.2 0.1, 0.2 0.2, 0.1 0.1))",
    None,
    "GEOMETRYCOLLECTION(POINT(1 2), LINESTRING(0 0, 1 1.5e-05))",
    "MULTIPOINT(1 2, 3 4)",
    "GEOMETRYCOLLECTION EMPTY",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """Debian's server, where the one of these tests has no PostGIS; every new database has it."""
    if not EXTENSION.exists():
        pytest.skip("Debian's postgresql-15-postgis-3 is not installed")
    with running_server() as server:
        with closing(server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        with closing(server.connect("template1")) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION postgis")
        yield server


def source(texts: list[str | None]) -> MemorySource:
    rows = pa.record_batch({"id": pa.array(range(len(texts)), pa.int64()), "place": pa.array(texts, pa.string())})
    return MemorySource([rows], COLUMNS)


@pytest.mark.parametrize("type_", ["geography", "geometry"])
@pytest.mark.parametrize("disposition", ["replace", "append", "merge"])
def test_shapes_arrive_and_again_with_the_next_run(world: Any, admin: Any, type_: str, disposition: str) -> None:
    for _ in range(2):
        world.move(disposition=disposition, source=source(SHAPES), rules={"place": ColumnRule(type=type_)})
    admin.execute("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'flights'::regclass"
                  " AND attname = 'place'")  # fmt: skip
    assert admin.fetchone() == (type_,)
    admin.execute(
        f"SELECT id, place IS NOT DISTINCT FROM ST_GeomFromText(given, 4326)::{type_}"
        " FROM flights JOIN unnest(%s) WITH ORDINALITY AS u (given, n) ON n = id + 1 ORDER BY id",
        (SHAPES,),
    )
    assert {same for _, same in admin.fetchall()} == {True}


def test_any_shape_says_the_same_in_postgis(world: Any, admin: Any) -> None:
    one = world.destination()

    @settings(few, max_examples=10)
    @given(st.lists(shapes.map(text), min_size=1, max_size=10))
    def check(texts: list[str]) -> None:
        world.move(source=source(texts), destination=one, rules={"place": ColumnRule(type="geometry")})
        admin.execute(
            "SELECT ST_AsEWKB(place) = ST_AsEWKB(ST_GeomFromText(given, 4326))"
            " FROM flights JOIN unnest(%s) WITH ORDINALITY AS u (given, n) ON n = id + 1",
            (texts,),
        )
        assert admin.fetchall() == [(True,)] * len(texts)

    check()


def test_a_text_that_is_no_shape_ends_the_run(world: Any) -> None:
    with pytest.raises(ConnectorError) as caught:
        world.move(source=source(["POINT(1 2)", "somewhere"]), rules={"place": ColumnRule(type="geography")})
    assert (caught.value.code, caught.value.field) == ("value_out_of_range", "place")
    assert "'somewhere' is not WKT" in caught.value.message


@pytest.mark.parametrize("is_there", [True, False])
def test_a_database_without_postgis_is_told_before_the_first_run(world: Any, admin: Any, is_there: bool) -> None:
    if not is_there:
        admin.execute("DROP EXTENSION postgis")
    columns = apply(COLUMNS, {"place": ColumnRule(type="geography")})
    mode = WriteMode(WriteDisposition.REPLACE)
    found = world.destination().validate_target(world.target, columns, mode, pipeline=world.pipeline, adopt=False)
    assert [(error.code, error.field) for error in found] == ([] if is_there else [("type_missing", "column_rules")])
