"""A server of the PostgreSQL that Debian installs, older than the one in the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from tests.connectors.postgres.pooler import ATTEMPTS, free_port

BINARIES = Path("/usr/lib/postgresql/15/bin")
NOBODY = 65534
STARTS_WITHIN_S = 60
# Autovacuum comes at times of its own.
SETTINGS = {"unix_socket_directories": "", "fsync": "off", "autovacuum": "off"}


@dataclass(frozen=True)
class Server:
    """What tests ask of a server."""

    port: int

    def connect(self, database: str = "postgres") -> Any:
        """A superuser's session, in autocommit."""
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, dbname=database, user="postgres")
        connection.autocommit = True
        return connection


@contextmanager
def running_server() -> Iterator[Server]:
    """A server on a free port, gone afterwards; not to be had without BINARIES. It runs as nobody if we are root."""
    folder = Path(tempfile.mkdtemp(prefix="datamantri-debian-"))
    data = folder / "data"
    data.mkdir(mode=0o700)
    who: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:
        for path in (folder, data):
            os.chown(path, NOBODY, NOBODY)
        who |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    initdb = [BINARIES / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, timeout=STARTS_WITHIN_S, **who)
    # The superuser comes in without a password, as nobody else is on this port; roles of tests have theirs.
    (data / "pg_hba.conf").write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    try:
        for _ in range(ATTEMPTS):
            server = Server(free_port())
            settings = {"listen_addresses": "127.0.0.1", "port": server.port, **SETTINGS}
            flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            with open(folder / "log", "wb") as log:
                process = subprocess.Popen([BINARIES / "postgres", "-D", data, *flags], stdout=log, stderr=log, **who)
            try:
                if _answers(server, process):
                    yield server
                    return
            finally:
                process.send_signal(2)  # SIGINT: a fast shutdown
                process.wait(60)
        raise AssertionError((folder / "log").read_text())
    finally:
        shutil.rmtree(folder)


def _answers(server: Server, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; not if it has ended, as it does where somebody else has taken the port since."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server.connect().close()
        except psycopg2.OperationalError:
            time.sleep(0.05)
        else:
            return True
    return False
