"""RabbitMQ as a broker for tests: a node of Debian's package on loopback, which shares nothing with any other node."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from datamantri.embedded.ports import Ports

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
EPMD = shutil.which("epmd")
IS_INSTALLED = SERVER.exists() and EPMD is not None
START_LIMIT_S, END_LIMIT_S = 120.0, 30.0
_USER = "datamantri"


class RabbitMQ:
    """A node with its data, cookie, logs and port mapper in a folder of its own; `url` is a broker's address."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="datamantri-rabbit-"))
        self._password = secrets.token_hex(8)
        # Of those that the kernel gives to nobody while the node starts, or is away.
        self._reserved = Ports(self._folder / "ports.json")
        self._ports = [self._reserved.choose(name) for name in ("broker", "distribution", "mapper")]
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def url(self) -> str:
        return f"amqp://{_USER}:{self._password}@127.0.0.1:{self.port}//"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the node and return when it takes connections."""
        port, distribution, mapper = self._ports
        cookie = self._folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"default_user = {_USER}\ndefault_pass = {self._password}\n"
            "vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 50MB\nheartbeat = 10\n"
        )
        (self._folder / "plugins").write_text("[].\n")
        loopback = {"ERL_EPMD_PORT": str(mapper), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            **loopback,
            "RABBITMQ_NODENAME": f"datamantri_{port}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none"),
            # One scheduler, nothing on other interfaces.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
        }
        with (self._folder / "out").open("ab") as out:
            if self._epmd is None:
                # Started by the node, it would outlive it.
                assert EPMD is not None
                self._epmd = subprocess.Popen(
                    [EPMD, "-port", str(mapper)], env={**env, **loopback}, stdout=out, stderr=out
                )
                _wait_for_port(mapper, END_LIMIT_S)
            self._node = subprocess.Popen(
                [str(SERVER)], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        try:
            _wait_for_port(port, START_LIMIT_S)
        except TimeoutError:
            self.kill()
            raise

    def kill(self) -> None:
        """End the node without any notice."""
        if self._node is not None:
            # A session of its own: the script that started it, Erlang, and its helpers.
            os.killpg(self._node.pid, signal.SIGKILL)
            self._node.wait(END_LIMIT_S)
            self._node = None
            # The script has ended; the node itself is nobody's child, and may still listen.
            _wait_for_port(self.port, END_LIMIT_S, is_open=False)

    def wipe(self) -> None:
        """Take away all that a killed node knew: users, queues, messages."""
        assert self._node is None
        shutil.rmtree(self._folder / "data")

    def close(self) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(END_LIMIT_S)
            self._epmd = None
        self._reserved.give_back()
        shutil.rmtree(self._folder, ignore_errors=True)


def _wait_for_port(port: int, limit_s: float, *, is_open: bool = True) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if (probe.connect_ex(("127.0.0.1", port)) == 0) == is_open:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{'nobody' if is_open else 'somebody'} listens at {port}")
