"""A PostgreSQL server of these tests' own: they restart it, and make roles that others must not meet."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from connectors import transfer
from connectors.base import NeverStop
from connectors.cursor import CursorRead
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres import keep, snapshots
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from connectors.reading import ReadRequest
from connectors.target_options import TargetOptions
from connectors.writing import Fence, Owner, Target
from datamantri.embedded.stack import EmbeddedStack
from tests.connectors.memory import MemorySource, Recorder, batch, in_thread
from tests.connectors.postgres.reuse import Databases

ROLE = "loader"
PASSWORD = "open-sesame-7f3a"
# Of other databases are those of sessions that have just been closed.
ADVISORY_LOCKS = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running server, as `datamantri.embedded.postgres.Postgres`."""
    folder: Path = tmp_path_factory.mktemp("postgres")
    with EmbeddedStack(folder, valkey=False, durable=False) as stack:
        with closing(stack.postgres.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
            cursor.execute("CREATE ROLE reader; CREATE ROLE auditor; CREATE ROLE landlord")
            # It comes at times of its own, for locks that a test wants and with statistics where there are to be none.
            cursor.execute("ALTER SYSTEM SET autovacuum = off")
            cursor.execute("SELECT pg_reload_conf()")
        yield stack.postgres


@pytest.fixture
def options(server: Any) -> Iterator[PostgresOptions]:
    """An empty database that the role may create schemas in."""
    databases = Databases.of(server, ROLE)
    name = databases.take()
    yield PostgresOptions("127.0.0.1", name, ROLE, port=server.port, password=PASSWORD, sslmode="disable")
    keep.sessions.clear()
    databases.give_back(name)


@pytest.fixture
def admin(server: Any, options: PostgresOptions) -> Iterator[Any]:
    """A superuser's cursor in the database, in autocommit."""
    with closing(server.connect(options.dbname)) as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def connect(options: PostgresOptions) -> Iterator[Callable[..., Any]]:
    """Makes sessions of the role; they end with the test."""
    opened = []

    def make(application: str = "a reader") -> Any:
        connection = psycopg2.connect(
            host=options.host,
            port=options.port,
            dbname=options.dbname,
            user=options.user,
            password=options.password,
            application_name=application,
        )
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()


@pytest.fixture
def meanwhile(server: Any, options: PostgresOptions) -> Iterator[Callable[..., None]]:
    """Does something from another thread as soon as the role runs a statement that contains a word."""
    threads: list[tuple[threading.Thread, list[Any]]] = []

    def do(word: str, act: Callable[[], object]) -> None:
        def watch() -> None:
            running = (
                "SELECT FROM pg_stat_activity WHERE datname = %s AND usename = %s AND state = 'active'"
                " AND strpos(query, %s) > 0"
            )
            deadline = time.monotonic() + 60
            with closing(server.connect()) as connection, connection.cursor() as cursor:
                while cursor.execute(running, (options.dbname, options.user, word)) or not cursor.rowcount:
                    assert time.monotonic() < deadline, f"nothing with {word} was run"
                    time.sleep(0.01)
            act()

        threads.append(in_thread(watch))

    yield do
    for thread, results in threads:
        thread.join(60)
        assert results == [None]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for older snapshots looks again at once, and finds that a second has passed."""
    seconds = count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), sleep=lambda seconds: None)
    monkeypatch.setattr(snapshots, "time", clock)


def end_sessions(admin: Any) -> None:
    """End all sessions of the role, and wait until they have ended."""
    of_role = "FROM pg_stat_activity WHERE usename = %s"
    admin.execute(f"SELECT pg_terminate_backend(pid) {of_role}", (ROLE,))
    deadline = time.monotonic() + 30
    while admin.execute(f"SELECT {of_role}", (ROLE,)) or admin.rowcount:
        assert time.monotonic() < deadline, "sessions do not end"
        time.sleep(0.01)


@dataclass
class World:
    """One pipeline with its target: what a worker would do, by hand."""

    options: PostgresOptions
    target: Target = field(default_factory=lambda: Target("public", "flights"))
    installation: uuid.UUID = field(default_factory=uuid.uuid4)
    pipeline: uuid.UUID = field(default_factory=uuid.uuid4)
    recorder: Recorder = field(default_factory=Recorder)
    opened: list[PostgresDestination] = field(default_factory=list)

    def destination(self, **changes: Any) -> PostgresDestination:
        made = PostgresDestination(replace(self.options, **changes))
        self.opened.append(made)
        return made

    def owner(self, run: uuid.UUID | None = None, token: int = 1) -> Owner:
        return Owner(self.installation, self.pipeline, run or uuid.uuid4(), token)

    def fence(
        self, destination: PostgresDestination | None = None, run: uuid.UUID | None = None, *, adopt: bool = False
    ) -> Fence:
        return (destination or self.destination()).raise_fence(self.target, self.owner(run), adopt=adopt)

    def move(
        self,
        ids: Any = (1, 2, 3),
        disposition: str = "replace",
        key: tuple[str, ...] = (),
        cursor: str = "",
        *,
        destination: PostgresDestination | None = None,
        fence: Fence | None = None,
        source: MemorySource | None = None,
        run: uuid.UUID | None = None,
        adopt: bool = False,
        stop: Any = None,
        crash: Callable[[str], None] = lambda point: None,
        form: TargetOptions = TargetOptions(),  # noqa: B008 - it is frozen
        table: str = "a.b.c",
        query: str = "",
        read: CursorRead | None = None,
        fingerprint: str = "f",
        undo_depth: int = 0,
        mode: Mapping[str, Any] = MappingProxyType({}),
        **request: Any,
    ) -> transfer.Receipt:
        """Raise the fence unless given one, and transfer; `mode` is what else the WriteMode says."""
        destination = destination or self.destination()
        fence = fence or self.fence(destination, run, adopt=adopt)
        return transfer.direct(
            source or MemorySource([batch(ids)] if len(ids) else []),
            destination,
            fence,
            transfer.TransferRequest(
                fence.owner,
                ReadRequest(table=table, query=query, cursor=read),
                self.target,
                WriteMode(
                    WriteDisposition(disposition),
                    key or (("id",) if disposition == "merge" else ()),
                    cursor,
                    form,
                    read.span if read and disposition == "append" else None,
                    undo_depth=undo_depth,
                    **mode,
                ),
                fingerprint=fingerprint,
                adopt=adopt,
                **request,
            ),
            reporter=self.recorder,
            stop=stop or NeverStop(),
            crash=crash,
        )

    def publish_held(
        self,
        run: uuid.UUID,
        *,
        destination: PostgresDestination | None = None,
        approved: str = "",
        crash: Callable[[str], None] = lambda point: None,
        **request: Any,
    ) -> transfer.Receipt:
        """Raise the fence for a run whose rows are kept, and publish them as a person who approves does."""
        destination = destination or self.destination()
        fence = self.fence(destination, run)
        asked = transfer.TransferRequest(
            fence.owner,
            ReadRequest(table="a.b.c"),
            self.target,
            WriteMode(WriteDisposition.REPLACE),  # that of the kept rows counts
            **request,
        )
        return transfer.publish_staged(
            destination, fence, asked, approved=approved, reporter=self.recorder, stop=NeverStop(), crash=crash
        )


@pytest.fixture
def world(options: PostgresOptions) -> Iterator[World]:
    made = World(options)
    yield made
    for destination in made.opened:
        destination.close()


@pytest.fixture
def ids(admin: Any, world: World) -> Callable[[], list[int] | None]:
    """The target's ids as readers see them; None if there is no target."""

    def read() -> list[int] | None:
        try:
            table = sql.Identifier(world.target.schema, world.target.table)
            admin.execute(sql.SQL("SELECT id FROM {} ORDER BY id").format(table))
        except psycopg2.errors.UndefinedTable:
            return None
        return [row[0] for row in admin.fetchall()]

    return read


@pytest.fixture(params=["append", "replace", "replace in place", "merge"])
def disposition(request: pytest.FixtureRequest, world: World, admin: Any) -> str:
    """Each way to write into a table that is there, with row 1; all but a replace keep that row."""
    world.move([1])
    if request.param == "replace in place":
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    return str(request.param.split()[0])
