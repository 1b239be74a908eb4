"""The image without an engine: the Dockerfile's own commands, carried out below a folder.

Absolute paths of the image stand for the same paths below that folder, and processes run as the image's user id.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamantri.embedded import unprivileged

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD_LIMIT_S = 170
_PATHS = re.compile(r"(?<![\w/.])/(?=(?:opt|build|app)\b)")
# What the base image brings, looked for here in these places.
PYTHONS = (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3")
OLDEST, NEWEST = (3, 11), (3, 13)


class CannotBuild(Exception):
    """Something that the test cannot bring is missing on this machine."""


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, as (name, rest of the line)."""
    joined = re.sub(r"\\\n", " ", text)
    lines = [line.strip() for line in joined.splitlines()]
    split = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    return [(name.upper(), " ".join(rest.split())) for name, rest in split]


@dataclass
class Image:
    """What the Dockerfile says, and where it was carried out."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    user: str = "root"
    uids: dict[str, int] = field(default_factory=dict)
    workdir: str = "/"
    copied: list[str] = field(default_factory=list)
    base: set[str] = field(default_factory=set)
    _prefix: list[str] = field(default_factory=list)
    _identity: dict[str, object] = field(default_factory=dict)

    def build(self) -> None:
        """Carry out the Dockerfile; raises CannotBuild when uv, a Python or another user id cannot be had."""
        for name, rest in instructions((CHECKOUT / "Dockerfile").read_text()):
            getattr(self, f"_{name.lower()}")(rest)
        self._freeze()

    def here(self, text: str) -> str:
        """A text of the image with its absolute paths below this image's folder."""
        return _PATHS.sub(lambda _: f"{self.root}/", text)

    @property
    def uid(self) -> int:
        return self.uids[self.user]

    def start(self, command: Sequence[str], env: dict[str, str], **options: object) -> subprocess.Popen[str]:
        """Start a command as a container would: the image's user, folder and environment, and `env` over it."""
        program = shutil.which(command[0], path=self.env["PATH"])
        assert program is not None, f"{command[0]} is not in the image"
        return subprocess.Popen(
            [*self._prefix, program, *command[1:]],
            cwd=self.here(self.workdir),
            env={"HOME": self.here("/app"), **self.env, **env},
            stdin=subprocess.DEVNULL,
            text=True,
            **{**self._identity, **options},  # type: ignore[call-overload]
        )

    def run(self, command: Sequence[str], env: dict[str, str], limit_s: float = 120) -> tuple[int, str]:
        """Run a command to its end; its exit status and all it said."""
        process = self.start(command, env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return process.returncode, said

    # Instructions ---------------------------------------------------------------------------------

    def _from(self, rest: str) -> None:
        self.base.add(rest.split()[0])
        self.copied.clear()

    def _run(self, rest: str) -> None:
        if rest.startswith("useradd "):
            words = shlex.split(rest)
            self.uids[words[-1]] = int(words[words.index("--uid") + 1])
        elif not rest.startswith("pip install"):  # uv itself, which is here already
            # The one liberty: packages come from uv's cache where it has them.
            self._shell(self.here(rest.replace("--no-cache ", "")))

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            assert sources[1:] == [target], "both stages share this folder: paths must be the same"
            return
        for source in sources:
            assert not _is_ignored(source), f"{source} is kept from the image by .dockerignore"
            place = Path(self.here(os.path.join(self.workdir, target)))
            if (CHECKOUT / source).is_dir():
                shutil.copytree(CHECKOUT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                file = place / source if target.endswith("/") else place
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(CHECKOUT / source, file)
            self.copied.append(source)

    def _env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self.env[name] = self.here(value).replace("$PATH", "/usr/local/bin:/usr/bin:/bin")

    def _workdir(self, rest: str) -> None:
        self.workdir = rest
        Path(self.here(rest)).mkdir(parents=True, exist_ok=True)

    def _user(self, rest: str) -> None:
        self.user = rest

    def _cmd(self, rest: str) -> None:
        self.command = [word.strip('"') for word in rest.strip("[]").split(", ")]

    def _expose(self, rest: str) -> None:
        pass

    # This machine ---------------------------------------------------------------------------------

    def _shell(self, command: str) -> None:
        beside = Path(sys.executable).with_name("uv")
        uv = str(beside) if beside.exists() else shutil.which("uv")
        if uv is None:
            raise CannotBuild("uv is not here")
        env = {**os.environ, "PATH": f"{Path(uv).parent}:{os.environ['PATH']}", "UV_PYTHON": self._choose_python()}
        done = subprocess.run(
            command, shell=True, env=env, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False
        )
        if done.returncode:
            raise CannotBuild(f"{command}\n{done.stderr[-1000:]}")

    def _choose_python(self) -> str:
        """A Python that the image's user can start; sets how processes are started as that user."""
        pythons = [path for path in PYTHONS if Path(path).exists() and _is_supported(path)]
        if os.geteuid() != 0:
            return pythons[0]
        uid = _uid_in_dockerfile()
        for python in pythons:
            others: dict[str, object] = {"user": uid, "group": uid, "extra_groups": []}
            try:
                probe = subprocess.run(
                    [python, "-c", "import ssl, sqlite3"], cwd=self.root, capture_output=True, check=False, **others
                )
            except OSError:
                continue
            if probe.returncode == 0:
                self._identity = others
                return str(Path(python).resolve())
        account = unprivileged.ordinary_account()
        if not unprivileged.namespaces_work(account, (Path(pythons[0]), self.root)):
            raise CannotBuild("no Python that another user id may start, and no user namespaces")
        self._prefix = unprivileged.in_namespace(account, [])
        return pythons[0]

    def _freeze(self) -> None:
        """As with read_only: true, nobody may write what was built."""
        for folder, _, files in os.walk(self.here("/app")):
            os.chmod(folder, 0o555)
            for file in files:
                os.chmod(os.path.join(folder, file), 0o444)

    def remove(self) -> None:
        for folder, _, _ in os.walk(self.root):
            os.chmod(folder, 0o755)
        shutil.rmtree(self.root)


def _is_ignored(source: str) -> bool:
    patterns = [line.strip() for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.strip()]
    return any(fnmatch.fnmatch(source, pattern) for pattern in patterns)


def _is_supported(python: str) -> bool:
    done = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and OLDEST <= tuple(map(int, done.stdout.split())) <= NEWEST


def _uid_in_dockerfile() -> int:
    return int(re.findall(r"useradd .*--uid (\d+)", (CHECKOUT / "Dockerfile").read_text())[0])
