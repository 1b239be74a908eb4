"""Replace in place: the table stays with all that depends on it, and its rows become those of the source."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from psycopg2 import sql
from psycopg2.extras import execute_values

from connectors.base import Changes, Column, Target
from connectors.postgres.client import Session
from connectors.postgres.ddl import create_table
from connectors.postgres.names import column_names
from connectors.postgres.publish import in_place

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
