"""PgBouncer in transaction mode in front of a database, for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.postgres.options import PostgresOptions

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NOBODY = 65534
STARTS_WITHIN_S = 30
ATTEMPTS = 5


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def running_pooler(options: PostgresOptions) -> Iterator[int]:
    """The port of a pooler with two connections to the server; not to be had without PGBOUNCER."""
    assert PGBOUNCER is not None
    folder = Path(tempfile.mkdtemp(prefix="datamantri-pooler-"))
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{options.user}" "{options.password}"\n')
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        for _ in range(ATTEMPTS):
            port = free_port()
            (folder / "ini").write_text(_settings(options, port, folder))
            with open(folder / "log", "wb") as log:
                process = subprocess.Popen([PGBOUNCER, folder / "ini"], stdout=log, stderr=log, **who)
            try:
                if _answers(port, process):
                    yield port
                    return
            finally:
                process.terminate()
                process.wait(30)
        raise AssertionError((folder / "log").read_text())
    finally:
        shutil.rmtree(folder)


def _settings(options: PostgresOptions, port: int, folder: Path) -> str:
    return f"""
        [databases]
        {options.dbname} = host=127.0.0.1 port={options.port}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = scram-sha-256
        auth_file = {folder}/users
        pool_mode = transaction
        default_pool_size = 2
        """


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; not if it has ended, as it does where somebody else has taken the port since."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process.poll() is None
        time.sleep(0.02)
    return False
