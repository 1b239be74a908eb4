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


@contextmanager
def running_pooler(options: PostgresOptions) -> Iterator[int]:
    """The port of a pooler with two connections to the server; not to be had without PGBOUNCER."""
    assert PGBOUNCER is not None
    folder = Path(tempfile.mkdtemp(prefix="datamantri-pooler-"))
    folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "users").write_text(f'"{options.user}" "{options.password}"\n')
    (folder / "ini").write_text(
        f"""
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
    )
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([PGBOUNCER, folder / "ini"], stdout=log, stderr=log, **who)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)
