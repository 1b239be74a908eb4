"""What a process that sends alerts may do: connect to public addresses and to networks that the installation allows.

The check is an audit hook: Python calls it for every connection, whoever makes it, with the address that is really
connected to, and it cannot be taken away again. So redirects, names that resolve to something else the second time,
and libraries with ways of their own are all covered.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# They hand out an installation's own credentials, or are a cloud's own: no setting opens them.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254")
)
_NAT64 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48")))

# Of what a library may read while it sends.
READABLE = ("/etc/ssl", "/etc/pki", "/usr/lib", "/usr/local/lib", "/usr/share", "/etc/mime.types", "/dev/null")
STARTS_SOMETHING = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.")


class Refused(PermissionError):
    """Something that a process which sends alerts may not do."""


class Guard:
    """Refuses, and remembers what it refused: libraries tell only that a connection failed."""

    def __init__(self, allowed: Sequence[Network], readable: Iterable[str] = ()) -> None:
        self.allowed = tuple(allowed)
        self.refused: list[str] = []
        prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, *READABLE, *filter(None, readable)}
        self._readable = tuple(os.path.realpath(prefix) for prefix in prefixes)
        self._names: dict[str, str] = {}

    def install(self) -> None:
        """From now on, for the rest of this process."""
        self._remember_names()
        sys.addaudithook(self._hook)

    def _remember_names(self) -> None:
        """So that a refusal can say which name led to the address."""
        look_up: Callable[..., Any] = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            found = look_up(host, *args, **kwargs)
            for *_, address in found:
                self._names[str(address[0])] = _text(host)
            return found

        socket.getaddrinfo = getaddrinfo

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            self._check(args[1])
        elif event in ("socket.sendto", "socket.sendmsg"):
            if args[1] is not None:
                self._check(args[1])
        elif event == "open":
            self._check_file(*args[:3])
        elif event.startswith(STARTS_SOMETHING):
            raise Refused(f"{event} is not for a process that sends alerts.")

    def _check(self, target: Any) -> None:
        host = target[0] if isinstance(target, tuple) else ""
        try:
            address = ipaddress.ip_address(str(host).partition("%")[0])
        except ValueError:
            # A socket of this machine, or a name that would be resolved out of sight.
            self._refuse(f"{target!r} is no address of a host")
        else:
            if why := refusal(address, self.allowed):
                name = self._names.get(str(host), "")
                self._refuse(f"{name} is {host}, {why}" if name and name != host else f"{host} is {why}")

    def _refuse(self, why: str) -> None:
        self.refused.append(why)
        raise Refused(why)

    def _check_file(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int):
            return
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        real = os.path.realpath(os.fsdecode(path))
        if writes or not any(real == allowed or real.startswith(f"{allowed}/") for allowed in self._readable):
            raise Refused(f"{path} is not for a process that sends alerts.")


def refusal(address: Address, allowed: Sequence[Network]) -> str:
    """Why nothing is sent to an address; empty if it may be."""
    inner = _inside(address)
    for each in (address, *inner):
        if each in METADATA:
            return "an address that hands out credentials of this machine"
    meant = inner or (address,)
    if all(_is_public(each) or any(each in network for network in allowed) for each in meant):
        return ""
    return "a private address" if any(each.is_private for each in meant) else "not an address of the internet"


def _inside(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return ()
    if address.ipv4_mapped:
        return (address.ipv4_mapped,)
    if address.sixtofour:
        return (address.sixtofour,)
    if address.teredo:
        return address.teredo
    if any(address in network for network in _NAT64) or (int(address) >> 32 == 0 and int(address) > 1):
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


def _is_public(address: Address) -> bool:
    is_of_a_site = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or is_of_a_site
    )


def _text(host: Any) -> str:
    return host.decode(errors="replace") if isinstance(host, bytes) else str(host)
