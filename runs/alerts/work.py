"""What a worker does when the alerts' bell rings: judge, look at the clock if asked to, send until nothing is left."""

from __future__ import annotations

import logging
import threading

from django.db import Error as DatabaseError
from django.db import connection

from runs.alerts import judging, outbox, watching
from runs.alerts.outbox import Taken
from runs.alerts.sending import Outcome, send

log = logging.getLogger(__name__)

# Each is a process of some 60 MB for about a second, and a thread that does nothing else meanwhile.
SENDERS = 2
_senders = threading.BoundedSemaphore(SENDERS)


def work(*, watch: bool = False) -> int:
    """Judge what happened and send what is due; says how many tries were made."""
    try:
        while judging.judge():
            pass
        if watch:
            watching.watch()
        return _send_all()
    except DatabaseError as error:
        # Beat rings again for whatever is left.
        log.warning("The control database does not answer, alerts wait: %s", type(error).__name__)
        connection.close()
        return 0


def _send_all() -> int:
    if not _senders.acquire(blocking=False):
        return 0  # those that send now take what is left
    try:
        tries = 0
        while taken := outbox.take():
            outcome = _try(taken)
            outbox.write_down(taken, outcome)
            if not outcome.is_sent:
                log.warning("Alert message %s was not sent: %s %s", taken.id, outcome.code, outcome.error)
            tries += 1
        return tries
    finally:
        _senders.release()


def _try(taken: Taken) -> Outcome:
    if not taken.url:
        return Outcome("key_lost", "The channel is gone, or its address cannot be read any more.")
    return send(taken.url, taken.message)
