"""The poller of pipelines in near real time: small until there are any, and then a process that polls.

It waits without Django, for a tenth of the memory, and becomes the other one by exec: the same process to whoever
started it. When there has been nothing to poll for a while it becomes small again.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import closing
from types import FrameType

import psycopg2

from datamantri import control

LOOK_EVERY_S = 3.0
LIMIT_S = 4
POLL = "poll"

_HAS_ANY = "EXISTS (SELECT FROM pipelines_pipeline WHERE mode = 'realtime' AND state = 'active')"
# It says that it lives, without a slot: one that polls has one. And it asks whether there is anything to poll.
_LOOK = f"""
INSERT INTO runs_process (name, kind, slots, draining) VALUES (%s, 'poller', 0, false)
ON CONFLICT (name) DO UPDATE SET seen_at = statement_timestamp(), slots = 0
RETURNING {_HAS_ANY}
"""


def is_needed(url: str) -> bool:
    """Whether there is anything to poll, for who starts a poller only then; not while the database is away."""
    try:
        with closing(control.connect(LIMIT_S, url)) as link, link.cursor() as cursor:
            cursor.execute(f"SELECT {_HAS_ANY}")
            [(has_any,)] = cursor.fetchall()
    except psycopg2.Error:
        return False
    return bool(has_any)


def wait(name: str, stop: threading.Event) -> bool:
    """Wait until some pipeline is to be polled; False if this process was asked to end before."""
    while not stop.is_set():
        try:
            # Not kept: a connection costs the server more memory than this process the connecting.
            with closing(control.connect(LIMIT_S)) as link, link, link.cursor() as cursor:
                cursor.execute(_LOOK, [name])
                [(has_any,)] = cursor.fetchall()
        except psycopg2.Error as error:
            told = (str(error).strip().splitlines() or [repr(error)])[0]
            _say(f"the control database does not answer: {told}")
        else:
            if has_any:
                return True
        stop.wait(LOOK_EVERY_S)
    return False


def forget(name: str) -> None:
    """Sign off."""
    try:
        with closing(control.connect(LIMIT_S)) as link, link, link.cursor() as cursor:
            cursor.execute("DELETE FROM runs_process WHERE name = %s", [name])
    except psycopg2.Error as error:
        _say(f"could not sign off: {type(error).__name__}")


def poll(name: str, stop: threading.Event) -> bool:
    """Poll; True when there was nothing to poll for a while."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
    import django

    django.setup()
    from datamantri import celery, memory  # noqa: F401 - bells are rung through Celery
    from runs import presence
    from runs.polling.poller import Poller

    presence.keep_connections()
    memory.give_back()
    _say("polling")
    return Poller(name).run(stop)


def main(arguments: list[str]) -> int:
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    name = f"poller@{socket.gethostname()}:{os.getpid()}"
    if arguments == [POLL]:
        if poll(name, stop):
            _become()
        return 0
    if arguments:
        sys.stderr.write("usage: python -m datamantri.poller\n")
        return 2
    _say("ready")
    if wait(name, stop):
        _become(POLL)
    forget(name)
    return 0


def _become(*arguments: str) -> None:
    os.execv(sys.executable, (sys.executable, "-m", "datamantri.poller", *arguments))  # noqa: S606 - this program itself


def _say(text: str) -> None:
    sys.stderr.write(f"poller: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
