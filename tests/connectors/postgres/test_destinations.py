"""Every way to write, on the PostgreSQL of the wheel and on Debian's older one, directly and through a pooler."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pytest

from connectors import undo
from connectors.base import NeverStop
from connectors.checks import Check, CheckKind, Severity
from connectors.column import Column
from connectors.modes import Deletes
from connectors.postgres import keep
from connectors.postgres.options import PostgresOptions
from connectors.quarantine import QuarantineRule
from connectors.sql_around import SqlAround
from connectors.target_options import Index, TargetOptions
from connectors.writing import Changes, Target
from tests.connectors.memory import MemorySource
from tests.connectors.postgres import test_target_options as forms
from tests.connectors.postgres.conftest import PASSWORD, ROLE, World
from tests.connectors.postgres.debian import BINARIES, running_server
from tests.connectors.postgres.pooler import PGBOUNCER, running_pooler
from tests.connectors.postgres.test_replace import DEPENDENTS
from tests.connectors.postgres.test_target_options import ADDED, ADDED_TO_A_TREE, ALL, indexes, parts, source

JANUARY, FEBRUARY = date(2026, 1, 5), date(2026, 2, 5)
CLEAN = """
DROP SCHEMA IF EXISTS public, _datamantri CASCADE; DROP PUBLICATION IF EXISTS news;
CREATE SCHEMA public; GRANT USAGE, CREATE ON SCHEMA public TO loader
"""


@pytest.fixture(scope="module")
def debian():
    if not BINARIES.is_dir():
        pytest.skip("Debian's postgresql-15 is not installed")
    with running_server() as server:
        with closing(server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
            cursor.execute("CREATE ROLE reader; CREATE ROLE auditor; CREATE ROLE landlord")
        yield server


@pytest.fixture(scope="module", params=["wheel", "debian"])
def server(request, server):
    return server if request.param == "wheel" else request.getfixturevalue("debian")


@pytest.fixture(scope="module")
def database(server):
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE destinations")
        cursor.execute("GRANT CREATE ON DATABASE destinations TO loader")
    yield "destinations"
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP DATABASE destinations WITH (FORCE)")


@pytest.fixture(scope="module", params=["direct", "pooler"])
def port(request, server, database):
    """Where the role connects."""
    with ExitStack() as stack:
        if request.param == "direct":
            yield server.port
            return
        if PGBOUNCER is None:
            pytest.skip("pgbouncer is not installed")
        options = PostgresOptions("127.0.0.1", database, ROLE, port=server.port, password=PASSWORD)
        yield stack.enter_context(running_pooler(options))
        keep.sessions.clear()


@pytest.fixture
def options(server, database, port):
    with closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(CLEAN)
    yield PostgresOptions("127.0.0.1", database, ROLE, port=port, password=PASSWORD, sslmode="disable")
    keep.sessions.clear()


@pytest.fixture
def admin(server, options):
    with closing(server.connect(options.dbname)) as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def move(world):
    def run(*rows, disposition="replace", form=TargetOptions(), name="n", **more):  # noqa: B008
        return world.move(source=source(*rows, name=name), disposition=disposition, form=form, **more)

    return run


FORMS = {
    "plain": TargetOptions(),
    "indexed": TargetOptions(primary_key=("id", "day"), indexes=(Index(("name",)), Index(("day", "id"), unique=True))),
    "partitioned": ALL,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_works_with_every_form(move, admin, form):
    key, options = ("id", "day"), FORMS[form]

    def contents():
        admin.execute("SELECT id, name FROM flights ORDER BY 1")
        return admin.fetchall()

    assert move((1, JANUARY), (2, FEBRUARY), form=options).method == "create"
    assert move((1, JANUARY), (2, FEBRUARY), form=options).method == "rename"
    assert move((3, FEBRUARY), (4, date(2026, 3, 1)), form=options, disposition="append").method == "append"
    merged = move((4, date(2026, 3, 1)), (5, date(2026, 4, 1)), form=options, disposition="merge", key=key, name="N")
    assert merged.changes == Changes(inserted=1, updated=1)
    assert contents() == [(1, "n1"), (2, "n2"), (3, "n3"), (4, "N4"), (5, "N5")]
    made = {name for name, _, _ in indexes(admin)}
    assert made >= {f"flights_{ending}" for ending in (("pkey", "name_idx") if options.indexes else ())}
    if options.partition_column:
        assert sorted(parts(admin)) == [f"flights_p20260{month}" for month in (1, 2, 3, 4)]
    assert move((1, JANUARY), form=options).method == "rename"
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    replaced = move((1, JANUARY), (6, date(2026, 6, 1)), form=options, key=key)
    assert (replaced.method, replaced.changes) == ("in_place", Changes(inserted=1, unchanged=1))
    assert contents() == [(1, "n1"), (6, "n6")]


SHORT = Check(CheckKind.REGEX, "short", ("name",), Severity.QUARANTINE, pattern="^.$")
EACH_ONCE = Check(CheckKind.SQL, "each once", query="SELECT id FROM {staged} GROUP BY id HAVING count(*) > 1")
# Whatever it leaves in a session that a pooler keeps, the next run would meet.
ADDING_UP = SqlAround(
    before=("CREATE TEMP TABLE seen AS SELECT count(*) AS rows FROM flights",),
    after=("INSERT INTO totals SELECT rows FROM seen",),
)


def people(*given, **more):
    """Rows of an id and a name, and of what else is given for all of them."""
    ids, names = zip(*given, strict=True)
    values = {name: [value] * len(given) for name, value in more.items()}
    batch = pa.record_batch(
        {"id": pa.array(ids), "name": pa.array(names), **{n: pa.array(v) for n, v in values.items()}}
    )
    return MemorySource(
        [batch], (Column("id", "INT64"), Column("name", "STRING"), *(Column(n, "STRING") for n in more))
    )


def test_what_is_done_beside_moving_rows_works_everywhere(world, admin):
    """Quarantine, checks, drift, SQL around the load, an undo; rows that vanish, and a history."""

    def read(what, table="flights"):
        admin.execute(f"SELECT {what} FROM {table} ORDER BY 1, 2")
        return admin.fetchall()

    usual = {
        "undo_depth": 1,
        "quarantine": QuarantineRule(is_on=True),
        "checks": (SHORT, EACH_ONCE),
        "sql": ADDING_UP,
    }
    world.move(source=people((1, "a"), (2, "b")))
    admin.execute("CREATE TABLE totals (rows int); GRANT ALL ON totals TO loader")
    for given in (people((1, "A"), (2, "b\0"), (3, "long")), people((1, "a"), (4, "d"), city="Bonn")):
        world.move(source=given, **usual)
    assert read("id, name, city") == [(1, "a", "Bonn"), (4, "d", "Bonn")]
    assert read("rows, 0", "totals") == [(1, 0), (2, 0)]
    assert read("code, state", "_datamantri.quarantine") == [
        ("check_failed", "superseded"),
        ("nul_character", "superseded"),
    ]
    destination = world.destination()
    (former,) = destination.former_states(world.pipeline)
    back = undo.UndoRequest(world.target, former.run, former.last_run, depth=1)
    undo.undo(destination, world.fence(destination), back, reporter=world.recorder, stop=NeverStop())
    assert read("id, name") == [(1, "A")]
    assert read("code, state", "_datamantri.quarantine") == [("check_failed", "open"), ("nul_character", "open")]

    world.target = Target("public", "people")
    mode = {"deletes": Deletes.SOFT, "sees_all": True}
    for given in (people((1, "a"), (2, "b")), people((1, "a"), (3, "c"))):
        world.move(source=given, disposition="merge", mode=mode)
    assert read("id, _deleted_at IS NULL", "people") == [(1, True), (2, False), (3, True)]

    world.target = Target("public", "versions")
    for given in (people((1, "a"), (2, "b")), people((1, "A"))):
        world.move(source=given, disposition="history", key=("id",), mode={"sees_all": True})
    assert read("id, name, _is_current", "versions") == [(1, "A", True), (1, "a", False), (2, "b", False)]


@pytest.mark.parametrize("server", ["debian"], indirect=True)
@pytest.mark.parametrize("port", ["direct"], indirect=True)
def test_what_leans_on_a_table_is_found_on_the_older_version_too(server, database, options, admin):
    """What other tests try on the other one, of plain, indexed and partitioned tables: each keeps it in its place."""
    indexed = TargetOptions(primary_key=("id",), indexes=(Index(("name",)),))
    cases = [(statement, TargetOptions(), ("id",)) for statement in DEPENDENTS]
    cases += [(statement, indexed, ("id",)) for statement in ADDED.values()]
    cases += [(statement, ALL, ("id", "day")) for statement in ADDED_TO_A_TREE.values()]
    missed = []
    for statement, form, key in cases:
        admin.execute(CLEAN)
        world = World(replace(options))
        rows = {"source": source((1, JANUARY), (2, JANUARY)), "form": form}
        world.move(**rows)
        first = world.move(**rows).method
        admin.execute(statement)
        second = world.move(**rows, key=key).method
        if (first, second) != ("rename", "in_place"):
            missed.append((statement, first, second))
        for opened in world.opened:
            opened.close()
    assert missed == []
    assert len(cases) > len(forms.ADDED) + len(forms.ADDED_TO_A_TREE)
