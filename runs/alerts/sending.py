"""Sending a message through a child process that is guarded and has a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings

from pipelines import alert_urls
from runs.alerts.child import LONGEST_ERROR, TRUST

ARGV = (sys.executable, "-s", "-m", "runs.alerts.child")
ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT_S = 25.0

# Another try would end the same way.
PERMANENT = frozenset({"private_address", "channel_address", "channel_scheme", "channel_reads_files", "key_lost"})
HINTS = {
    "private_address": "Alerts are sent to public addresses only. ALERT_PRIVATE_NETWORKS allows others.",
    "channel_address": "Correct the channel's address.",
    "channel_scheme": "Choose another service.",
    "channel_reads_files": "Correct the channel's address.",
    "key_lost": "Enter the channel's address again, or put the old key back into ENCRYPTION_KEYS.",
}


@dataclass(frozen=True)
class Message:
    """What is sent. `kind`: failure, warning, success or info; `key` is the same for all messages of one alert."""

    title: str
    body: str
    kind: str = "info"
    key: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a try to send ended; no `code`: it is sent."""

    code: str = ""
    error: str = ""

    @property
    def is_sent(self) -> bool:
        return not self.code

    @property
    def is_final(self) -> bool:
        return self.is_sent or self.code in PERMANENT

    @property
    def hint(self) -> str:
        return HINTS.get(self.code, "")


def send(url: str, message: Message) -> Outcome:
    """Send one message, or say why not, in at most TIME_LIMIT_S; the address never leaves by argv, log or error."""
    told = {
        **asdict(message),
        "url": url,
        "allowed": list(map(str, settings.ALERT_PRIVATE_NETWORKS)),
        "public_url": settings.PUBLIC_URL,
        "time_limit_s": TIME_LIMIT_S,
    }
    # Nothing of this process's own environment: no secrets, no proxies, no home folder with a .netrc.
    env = {name: os.environ[name] for name in TRUST if name in os.environ}
    env |= {"LANG": "C.UTF-8", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "2"}
    try:
        done = subprocess.run(
            ARGV, input=json.dumps(told), capture_output=True, text=True, timeout=TIME_LIMIT_S, cwd=ROOT, env=env
        )
    except subprocess.TimeoutExpired:
        return Outcome("send_timeout", f"The service did not answer within {TIME_LIMIT_S:g} seconds.")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return Outcome(str(answer["code"]), alert_urls.scrub(str(answer["error"]), url)[:LONGEST_ERROR])
    except (ValueError, IndexError, KeyError, TypeError):
        return Outcome("sender_died", f"The process that sends ended with status {done.returncode}.")
