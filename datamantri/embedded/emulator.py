"""A BigQuery emulator for the demo and the tests, reached by Google's own clients."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from datamantri import memory
from datamantri.embedded import ports
from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.supervisor import SERVER, ChildSpec, Supervisor

START_LIMIT_S = 90  # the first start compiles its Python modules
ATTEMPTS = 3
# Not as a module: it runs in its own folder.
SERVER_FILE = Path(__file__).with_name("emulator_server.py")
REST, GRPC = "emulator-rest", "emulator-grpc"
# A SIGTERM may leave it alive but deaf.
STOP = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
PACKAGES = ("bqemulator", "duckdb_extensions", "duckdb_extension_spatial", "numpy")
INSTALL_SPATIAL = "import duckdb_extensions; duckdb_extensions.import_extension('spatial')"


class Emulator:
    name = "emulator"

    def __init__(self, folder: Path, supervisor: Supervisor, chosen: ports.Ports) -> None:
        self._folder = folder
        self._supervisor = supervisor
        self._ports = chosen
        self.rest_port = 0
        self.grpc_port = 0

    @property
    def rest_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def storage_endpoint(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> None:
        """Start the emulator on its ports and return when REST and gRPC answer."""
        require_packages()
        home = home_with_spatial(self._folder)
        for _ in range(ATTEMPTS):
            self.rest_port = self.rest_port or self._ports.choose(REST)
            self.grpc_port = self.grpc_port or self._ports.choose(GRPC)
            if self._start_once(home):
                return
            self.rest_port = self.grpc_port = 0
        last_words = self._supervisor.last_words(self.name)
        raise EmbeddedError("emulator_start", "The BigQuery emulator did not start.", last_words)

    def stop(self) -> None:
        self._supervisor.stop(self.name)

    def kill(self) -> None:
        self._supervisor.kill(self.name)

    def _start_once(self, home: Path) -> bool:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = (
            *(
                sys.executable,
                "-P",
                str(SERVER_FILE),
                "start",
                "--persistent",
                "--data-dir",
                str(self._folder / "data"),
            ),
            *("--rest-host", "127.0.0.1", "--rest-port", str(self.rest_port)),
            *("--grpc-host", "127.0.0.1", "--grpc-port", str(self.grpc_port), "--log-level", "warning"),
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BQEMU_", "PYTHON"))}
        env = {
            **inherited,
            **memory.FOR_BATCHES,
            "HOME": str(home),
            "BQEMU_WRITE_API_MAX_REQUEST_BYTES": "268435456",  # wide tables are larger than the default message
            "BQEMU_ENABLE_FORMAT_EXTENSIONS": "false",  # would be downloaded
            "BQEMU_UPLOAD_STAGING_DIR": str(self._folder / "uploads"),
        }
        # In its own folder: it would read a .bqemu.toml from where it runs.
        spec = ChildSpec(self.name, argv, env, cwd=self._folder, stage=SERVER, stop=STOP)
        child = self._supervisor.start(spec)
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and child.is_running():
            if ports.is_open(self.rest_port) and self._is_healthy() and ports.is_open(self.grpc_port):
                return True
            time.sleep(0.05)
        self._supervisor.stop(self.name)
        return False

    def _is_healthy(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.rest_endpoint}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def require_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EmbeddedError(
            "emulator_missing",
            f"The BigQuery emulator needs Python packages that are not installed: {', '.join(missing)}.",
            "They are in requirements-dev.txt; `make install` installs them.",
        )


def home_with_spatial(folder: Path) -> Path:
    """A home folder that holds DuckDB's spatial extension, copied there from its pip package.

    One for the whole virtual environment where that is writable (it is 80 MB), otherwise one in `folder`.
    """
    shared = Path(sys.prefix)
    home = (shared if os.access(shared, os.W_OK) and sys.prefix != sys.base_prefix else folder) / "duckdb-home"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = home / "installed"
        current = _duckdb_version()
        if not stamp.exists() or stamp.read_text() != current:
            env = {**os.environ, "HOME": str(home)}
            argv = [sys.executable, "-c", INSTALL_SPATIAL]
            done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                hint = "\n".join(done.stderr.splitlines()[-3:])
                raise EmbeddedError("emulator_extension", "DuckDB's spatial extension cannot be put in place.", hint)
            stamp.write_text(current)
    return home


def _duckdb_version() -> str:
    return f"{version('duckdb')} {version('duckdb-extension-spatial')}"
