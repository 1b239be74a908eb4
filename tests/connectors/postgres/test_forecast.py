"""What a run will do to its target is said before, and is what it does."""

from __future__ import annotations

from datetime import date

import pytest

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition, WriteMode
from connectors.target_options import Index, TargetOptions
from tests.connectors.postgres.test_target_options import ALL, COLUMNS, database, move, options

__all__ = ["database", "move", "options"]

JANUARY = date(2026, 1, 5)
FORM = TargetOptions(primary_key=("ID",), indexes=(Index(("name",)),))


@pytest.fixture
def told(world):
    def ask(disposition="replace", form=TargetOptions(), key=(), columns=COLUMNS):  # noqa: B008
        mode = WriteMode(WriteDisposition(disposition), key, options=form)
        return world.destination().forecast(world.target, columns, mode)

    return ask


WAYS = {
    "create": ("replace", "", False),
    "rename": ("replace", "SELECT", True),
    "in_place": ("replace", "CREATE VIEW late AS SELECT * FROM flights", True),
    "append": ("append", "SELECT", True),
    "merge": ("merge", "SELECT", True),
}


@pytest.mark.parametrize("form", [TargetOptions(), FORM], ids=["plain", "indexed"])
@pytest.mark.parametrize("method", WAYS)
def test_the_method_is_the_one_that_the_run_then_takes(told, move, admin, method, form):
    disposition, statement, exists = WAYS[method]
    if exists:
        move((1, JANUARY), form=form)
        admin.execute(statement)
    key = ("id",) if disposition == "merge" else ()
    forecast = told(disposition, form, key)
    assert move((2, JANUARY), disposition=disposition, form=form, key=key).method == forecast.method == method
    assert forecast.why.endswith(".")
    assert all(text.endswith(".") for text in forecast.waits)


def test_what_depends_on_a_table_is_named(told, move, admin):
    move((1, JANUARY))
    admin.execute("CREATE VIEW late AS SELECT * FROM flights; CREATE INDEX by_name ON flights (name)")
    forecast = told()
    assert forecast.dependents == ("index by_name", "view late")
    assert forecast.why == "public.flights is replaced in place, because index by_name and 1 more depend on it."
    assert "Writers wait while the difference is found" in forecast.waits[0]
    admin.execute("DROP VIEW late; DROP INDEX by_name")
    assert told().dependents == ()
    assert told().why == "Nothing depends on public.flights: a new table takes its place by renaming."


def test_what_will_be_made_is_said_with_who_waits_for_it(told, move, admin):
    assert told(form=FORM).makes == ("primary key on id", "index on name")
    move((1, JANUARY))
    for disposition, key in (("append", ()), ("merge", ("id",))):
        forecast = told(disposition, FORM, key)
        assert forecast.makes[:2] == ("primary key on id", "index on name")
        assert any("For the primary key readers wait as well" in text for text in forecast.waits)
        assert any("writers wait from when they are made" in text for text in forecast.waits)
    assert told("merge", FORM, ("id",)).makes[2:] == ("unique index on id",)
    assert told(form=FORM).waits == told().waits
    move((2, JANUARY), disposition="append", form=FORM)
    assert told("append", FORM).makes == ()
    assert told("merge", FORM, ("id",)).makes == ()


def test_a_first_merge_makes_its_index_unless_a_key_serves(told):
    assert told("merge", key=("id",)).makes == ("unique index on id",)
    assert told("merge", FORM, ("id",)).makes == ("primary key on id", "index on name")


def test_partitions_and_rows_without_a_place_are_said(told, move):
    forecast = told(form=ALL)
    assert forecast.makes[-1] == "partitions, one for each month of day that has rows"
    assert forecast.minds == ("Rows whose day is NULL have no partition: a run that reads one publishes nothing.",)
    required = (COLUMNS[0], COLUMNS[1], Column("day", "DATE", required=True), *COLUMNS[3:])
    assert told(form=ALL, columns=required).minds == ()
    move((1, JANUARY), form=ALL)
    assert "staged first" in told("append", ALL).minds[-1]


def test_the_lock_of_the_last_run_is_told(told, move, world):
    move((1, JANUARY))
    assert told().last_lock is None  # nobody waited for a table that was not there
    receipt = move((2, JANUARY))
    last = told().last_lock
    assert (last.method, last.wait_ms) == ("rename", receipt.lock_wait_ms)
    assert 0 < last.held_ms <= receipt.lock_held_ms
    assert f"Readers and writers waited for at most {receipt.lock_held_ms:,.1f} ms" in world.recorder.text()


def test_without_the_sources_columns_the_method_is_still_known(told, move):
    move((1, JANUARY))
    forecast = told(form=FORM, columns=())
    assert (forecast.method, forecast.makes) == ("rename", ())


def test_nothing_is_written_and_what_would_be_refused_is_raised(told, move, admin):
    before = "SELECT count(*) FROM pg_class"
    admin.execute(before)
    count = admin.fetchall()
    told(form=ALL)
    admin.execute(before)
    assert admin.fetchall() == count
    with pytest.raises(ConnectorError) as refused:
        told(form=TargetOptions(primary_key=("nothing",)))
    assert refused.value.code == "option_column_missing"
