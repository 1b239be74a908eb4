"""Timestamps of a new table travel as the type that costs less, and are what they should be in the end."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from connectors.column import Column
from tests.connectors.memory import MemorySource
from tests.connectors.postgres.conftest import ROLE

COLUMNS = (Column("id", "INT64"), Column("at", "TIMESTAMP"), Column("wall", "DATETIME"))
MOMENTS = [
    dt.datetime(2026, 3, 8, 7, 30, tzinfo=dt.UTC),  # an hour that New York's clocks skip or repeat
    dt.datetime(2026, 11, 1, 5, 30, tzinfo=dt.UTC),
    dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    None,
]


def source():
    rows = {
        "id": pa.array(range(len(MOMENTS)), pa.int64()),
        "at": pa.array(MOMENTS, pa.timestamp("us", "UTC")),
        "wall": pa.array([m and m.replace(tzinfo=None) for m in MOMENTS], pa.timestamp("us")),
    }
    return MemorySource([pa.record_batch(rows)], COLUMNS)


@pytest.fixture
def far_away(admin):
    """The role's own zone is not UTC."""
    admin.execute(f"ALTER ROLE {ROLE} SET timezone = 'America/New_York'")
    yield
    admin.execute(f"ALTER ROLE {ROLE} RESET timezone")


@pytest.mark.parametrize("disposition", ["replace", "merge"])
def test_moments_arrive_as_they_were_whatever_the_roles_zone(world, admin, far_away, disposition):
    world.move(source=source(), disposition=disposition)
    admin.execute("SELECT at AT TIME ZONE 'UTC', wall FROM flights ORDER BY id")
    wanted = [m and m.replace(tzinfo=None) for m in MOMENTS]
    assert admin.fetchall() == [(moment, moment) for moment in wanted]
    admin.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'flights'::regclass AND attname IN ('at', 'wall') ORDER BY 1"
    )
    assert admin.fetchall() == [("at", "timestamp with time zone"), ("wall", "timestamp without time zone")]


def test_the_rows_are_written_once(world, admin, far_away):
    world.move(source=source())
    # A table that PostgreSQL writes anew gets another file than the one it was made with.
    admin.execute("SELECT pg_relation_filenode('flights') = 'flights'::regclass::oid")
    assert admin.fetchone() == (True,)
