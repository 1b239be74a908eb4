"""A process that sends alerts connects where it may, whatever a library, a redirect or a name server says."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from runs.alerts import sending
from runs.alerts.guard import refusal
from runs.alerts.sending import Message, send

MESSAGE = Message("Orders failed", "It failed.", "failure", "key")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "fec0::1"),
        # The same in the clothes of IPv6: mapped, 6to4, NAT64, Teredo, compatible.
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "::10.0.0.1"),
        "2001:0:7f00:1::",
    ],
)
def test_no_private_address_is_connected_to(address):
    assert refusal(ipaddress.ip_address(address), []) != ""


@pytest.mark.parametrize("address", ["8.8.8.8", "34.107.1.1", "2600:1901::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are(address):
    assert refusal(ipaddress.ip_address(address), []) == ""


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("10.2.0.1", False), ("127.0.0.1", False), ("fd12::5", True)],
)
def test_the_installation_allows_networks_and_no_others(address, is_allowed):
    allowed = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd12::/64")]
    assert (refusal(ipaddress.ip_address(address), allowed) == "") is is_allowed


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254"])
def test_what_hands_out_a_machines_credentials_is_never_allowed(address):
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    assert "credentials" in refusal(ipaddress.ip_address(address), everything)


def test_a_message_arrives_where_the_installation_allows_it(receiver, loopback_allowed):
    assert send(receiver.url(), MESSAGE).is_sent
    (message,) = receiver.messages
    assert (message["title"], message["message"], message["type"]) == ("Orders failed", "It failed.", "failure")


def test_it_does_not_without_being_allowed(receiver):
    outcome = send(receiver.url(), MESSAGE)
    assert (outcome.code, outcome.is_final) == ("private_address", True)
    assert "127.0.0.1 is a private address" in outcome.error
    assert "ALERT_PRIVATE_NETWORKS" in outcome.hint
    assert receiver.messages == []


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://10.9.8.7/latest", "10.9.8.7 is a private address"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is an address that hands out credentials"),
        ("http://[::ffff:192.168.0.1]/", "192.168.0.1 is a private address"),
    ],
)
def test_a_redirect_to_a_private_address_is_not_followed(receiver, loopback_allowed, location, told):
    receiver.answers["/hook"] = (307, location)
    outcome = send(receiver.url(), MESSAGE)
    assert outcome.code == "private_address"
    assert told in outcome.error
    assert len(receiver.messages) == 1


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stands for a name server, in the child, before it is guarded: by name, the address of each further question."""

    def names(**addresses: list[str]) -> None:
        stand_in = (
            "import socket, sys\n"
            f"told = {addresses!r}\n"
            "real = socket.getaddrinfo\n"
            "def getaddrinfo(host, *args, **kwargs):\n"
            "    name = str(host).replace('.', '_').replace('-', '_')\n"
            "    if name in told:\n"
            "        host = told[name].pop(0) if len(told[name]) > 1 else told[name][0]\n"
            "    return real(host, *args, **kwargs)\n"
            "socket.getaddrinfo = getaddrinfo\n"
            "from runs.alerts import child\n"
            "sys.exit(child.main())\n"
        )
        monkeypatch.setattr(sending, "ARGV", (sys.executable, "-c", stand_in))

    return names


def test_a_name_that_resolves_to_a_private_address_is_refused_with_both(names, receiver):
    names(hooks_example_com=["127.0.0.1"])
    outcome = send(f"json://hooks.example.com:{receiver.port}/hook", MESSAGE)
    assert outcome.code == "private_address"
    assert "hooks.example.com is 127.0.0.1, a private address." in outcome.error
    assert receiver.messages == []


class Redirecting(BaseHTTPRequestHandler):
    """Sends whoever asks back to the same name."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", "/again")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def test_a_name_that_resolves_to_something_else_the_second_time_is_refused_too(names, receiver, settings):
    names(hooks_example_com=["127.0.0.2", "127.0.0.1"])
    settings.ALERT_PRIVATE_NETWORKS = [ipaddress.ip_network("127.0.0.2/32")]
    other = HTTPServer(("127.0.0.2", receiver.port), Redirecting)
    Thread(target=other.handle_request, daemon=True).start()
    outcome = send(f"json://hooks.example.com:{receiver.port}/hook", MESSAGE)
    other.server_close()
    assert outcome.code == "private_address"
    assert "hooks.example.com is 127.0.0.1" in outcome.error
    assert receiver.messages == []


def test_a_name_that_resolves_to_an_allowed_address_is_good(names, receiver, loopback_allowed):
    names(hooks_example_com=["127.0.0.1"])
    assert send(f"json://hooks.example.com:{receiver.port}/hook", MESSAGE).is_sent


def guarded(work: str) -> str:
    """Run some Python under a guard that allows nothing private; what it was refused, or what it printed."""
    script = (
        "import socket, subprocess, os\n"
        "from runs.alerts.guard import Guard, Refused\n"
        "guard = Guard([]); guard.install()\n"
        "try:\n"
        f"    {work}\n"
        "    print('done')\n"
        "except Refused as refused:\n"
        "    print('refused:', refused)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "work",
    [
        "socket.create_connection(('127.0.0.1', 9), 1)",
        "socket.socket().connect(('localhost', 9))",
        "socket.socket().connect_ex(('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET6).connect(('::1', 9))",
        "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "os.open('/tmp/written-by-an-alert', os.O_WRONLY | os.O_CREAT)",
    ],
)
def test_nothing_else_is_connected_to_started_read_or_written(work):
    assert guarded(work).startswith("refused:")


def test_it_knows_nothing_of_the_product(receiver, loopback_allowed, monkeypatch):
    seen: dict[str, Any] = {}
    real = subprocess.run

    def run(argv: Any, **options: Any) -> Any:
        seen.update(options, argv=argv)
        return real(argv, **options)

    monkeypatch.setattr(sending.subprocess, "run", run)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert send(f"json://user:s3cret@127.0.0.1:{receiver.port}/hook", MESSAGE).is_sent
    assert set(seen["env"]) <= {"LANG", "HOME", "PYTHONDONTWRITEBYTECODE", "MALLOC_ARENA_MAX", *sending.TRUST}
    assert "s3cret" not in " ".join(seen["argv"])


def test_a_service_that_never_answers_is_given_up(monkeypatch, loopback_allowed):
    monkeypatch.setattr(sending, "TIME_LIMIT_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = send(f"json://127.0.0.1:{silent.getsockname()[1]}/hook", MESSAGE)
    assert (outcome.code, outcome.is_final) == ("send_timeout", False)


def test_a_sender_that_dies_says_so_without_what_it_was_told(monkeypatch):
    monkeypatch.setattr(sending, "ARGV", (sys.executable, "-c", "import sys; sys.exit(sys.stdin.read())"))
    outcome = send("json://user:s3cret@127.0.0.1:9/hook", MESSAGE)
    assert (outcome.code, outcome.error) == ("sender_died", "The process that sends ended with status 1.")


def test_web_worker_and_beat_do_not_load_apprise():
    script = (
        "import os, sys, django\n"
        "django.setup()\n"
        "import runs.tasks, datamantri.celery_beat, datamantri.urls\n"
        "print('apprise' in sys.modules, 'requests_oauthlib' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr
