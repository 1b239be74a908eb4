"""A server of the PostgreSQL that Debian installs, older than the one in the wheel."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

BINARIES = Path("/usr/lib/postgresql/15/bin")
NOBODY = 65534
STARTS_WITHIN_S = 60


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
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = Server(free.getsockname()[1])
    initdb = [BINARIES / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, timeout=STARTS_WITHIN_S, **who)
    # The superuser comes in without a password, as nobody else is on this port; roles of tests have theirs.
    (data / "pg_hba.conf").write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    settings = {"listen_addresses": "127.0.0.1", "port": server.port, "unix_socket_directories": "", "fsync": "off"}
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([BINARIES / "postgres", "-D", data, *flags], stdout=log, stderr=log, **who)
    try:
        _wait(server, process, folder / "log")
        yield server
    finally:
        process.send_signal(2)  # SIGINT: a fast shutdown
        process.wait(20)
        shutil.rmtree(folder)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            server.connect().close()
        except psycopg2.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return
