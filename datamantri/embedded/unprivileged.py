"""Runs a command without root's powers; PostgreSQL refuses to run as root.

As a script it stands on the standard library alone: `python -I -S unprivileged.py UID GID [--needs PATH]... -- ARGV`
enters a user namespace in which root is UID:GID, checks that the paths can be read there, and becomes ARGV.
Files keep their owner and their permissions.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
NOT_POSSIBLE = 77  # exit status: no namespace, or a path cannot be reached inside one


def ordinary_account() -> pwd.struct_passwd:
    """An account without powers: `postgres`, `nobody`, or any that is not root."""
    accounts = {account.pw_name: account for account in pwd.getpwall() if account.pw_uid != 0}
    for name in ("postgres", "nobody", *accounts):
        if name in accounts:
            return accounts[name]
    raise LookupError("this system has no account besides root")


def in_namespace(account: pwd.struct_passwd, argv: list[str], needs: tuple[Path, ...] = ()) -> list[str]:
    """The command line that runs `argv` in a user namespace as `account`."""
    wanted = [part for path in needs for part in ("--needs", str(path))]
    return [sys.executable, "-I", "-S", __file__, str(account.pw_uid), str(account.pw_gid), *wanted, "--", *argv]


def namespaces_work(account: pwd.struct_passwd, needs: tuple[Path, ...]) -> bool:
    """Whether a user namespace can be entered here, and `needs` be reached from inside."""
    probe = in_namespace(account, ["/bin/sh", "-c", "exit 0"], needs)
    return subprocess.run(probe, timeout=30, check=False, capture_output=True).returncode == 0


def main(arguments: list[str]) -> int:
    split = arguments.index("--")
    uid, gid, *needs = arguments[:split]
    argv = arguments[split + 1 :]
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER):
        sys.stderr.write(f"no user namespace: {os.strerror(ctypes.get_errno())}\n")
        return NOT_POSSIBLE
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {outer_uid} 1"),
            ("gid_map", f"{gid} {outer_gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError as error:
        sys.stderr.write(f"no user namespace: {error}\n")
        return NOT_POSSIBLE
    for path in (part for part in needs if part != "--needs"):
        mode = os.R_OK | os.X_OK | (os.W_OK if os.path.isdir(path) else 0)
        if not os.access(path, mode):
            sys.stderr.write(f"cannot reach {path} in a user namespace\n")
            return NOT_POSSIBLE
    os.execv(argv[0], argv)  # noqa: S606 - argv is our own


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
