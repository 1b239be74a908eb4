"""The servers that DataMantri needs, started together in one data directory."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from datamantri.embedded import guard, secrets
from datamantri.embedded.emulator import Emulator
from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.ports import Ports
from datamantri.embedded.postgres import Postgres
from datamantri.embedded.supervisor import Supervisor
from datamantri.embedded.valkey import Valkey

CONTROL = "datamantri"
EMULATOR = "emulator"  # the folder of what is loaded into it
WAREHOUSE = "warehouse"
DATA_DIR_VARIABLE = "DATAMANTRI_DATA_DIR"
DEFAULT_DATA_DIR = Path(os.environ.get(DATA_DIR_VARIABLE) or Path(__file__).resolve().parents[2] / ".datamantri")
LEFTOVERS_LIMIT_S = 60
ENDING_LIMIT_S = 1  # a process that was just killed may be there for another moment


class EmbeddedStack:
    """PostgreSQL, Valkey and, on request, the BigQuery emulator.

    `start` returns the environment that the product's processes need. `durable=False` trades the data's safety in
    a power cut for speed: for tests only. All data lies in `data_dir`, which one stack uses at a time.
    """

    def __init__(
        self,
        data_dir: Path = DEFAULT_DATA_DIR,
        *,
        emulator: bool = False,
        durable: bool = True,
        postgres: bool = True,
        valkey: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self._secrets = self.data_dir / "secrets"
        self._lock_fd = self._take_lock()
        self.supervisor = Supervisor(self.data_dir / "logs", hold=self._lock_fd, say=say)
        self.ports = Ports(self.data_dir / "ports.json")
        place = (self.supervisor, self.ports)
        self.postgres = (
            Postgres(self.data_dir / "postgres", *place, self._secrets, durable=durable) if postgres else None
        )
        self.valkey = (
            Valkey(self.data_dir / "valkey", *place, secrets.keep(self._secrets / "valkey")) if valkey else None
        )
        self.emulator = Emulator(self.data_dir / EMULATOR, *place) if emulator else None

    def start(self) -> dict[str, str]:
        """Start all servers side by side; return the variables that name them, and the secrets."""
        servers = [server for server in (self.emulator, self.postgres, self.valkey) if server is not None]
        try:
            with ThreadPoolExecutor(max_workers=3) as pool:
                for started in [pool.submit(server.start) for server in servers]:
                    started.result()
            if self.postgres is not None:
                self.postgres.ensure_database(CONTROL, owner=CONTROL, may_create_databases=True)
        except BaseException:
            self.stop()
            raise
        return self.environment()

    def environment(self) -> dict[str, str]:
        env = {
            "SECRET_KEY": secrets.keep(self._secrets / "secret_key", secrets.random_secret_key),
            "ENCRYPTION_KEYS": secrets.keep(self._secrets / "encryption_keys", secrets.random_fernet_key),
        }
        if self.postgres is not None:
            env["DATABASE_URL"] = self.postgres.url(CONTROL, CONTROL)
        if self.valkey is not None:
            env["BROKER_URL"] = self.valkey.url
        if self.emulator is not None:
            env["BIGQUERY_REST_ENDPOINT"] = self.emulator.rest_endpoint
            env["BIGQUERY_STORAGE_ENDPOINT"] = self.emulator.storage_endpoint
        return env

    def warehouse(self) -> dict[str, str | int]:
        """The options of a PostgreSQL connection to a destination database, which is created when missing."""
        if self.postgres is None:
            raise EmbeddedError("no_embedded_postgres", "This stack has no PostgreSQL of its own.")
        self.postgres.ensure_database(WAREHOUSE, owner=WAREHOUSE)
        return {
            "host": "127.0.0.1",
            "port": self.postgres.port,
            "dbname": WAREHOUSE,
            "user": WAREHOUSE,
            "password": self.postgres.password(WAREHOUSE),
            "sslmode": "disable",
        }

    def stop(self) -> None:
        """Stop every process this stack's supervisor started, the product's before the servers."""
        self.supervisor.stop()
        self.ports.give_back()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> EmbeddedStack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @staticmethod
    def holder(data_dir: Path) -> str | None:
        """The process that uses the data directory, or None."""
        path = data_dir / "lock"
        if not path.exists():
            return None
        with path.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip()
        return None

    def _take_lock(self) -> int | None:
        """Claim the data directory; after a crash, wait until the guard has stopped what was left running."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 100, 0).decode().strip()
                alive = holder.isdecimal() and guard.is_running(int(holder))
                if time.monotonic() - began > (ENDING_LIMIT_S if alive else LEFTOVERS_LIMIT_S):
                    os.close(descriptor)
                    raise EmbeddedError(
                        "already_running",
                        f"DataMantri already runs with the data in {self.data_dir} (process {holder or 'unknown'}).",
                        "Stop that one first, or choose another directory with --data-dir.",
                    ) from None
                time.sleep(0.1)
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
