"""The process that sends one message: `python -m runs.alerts.child`, told by its standard input.

It knows neither Django nor the database, loads apprise, lets itself be guarded, sends, and answers in one line of JSON.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import resource
import signal
import sys
from typing import Any

from pipelines import alert_urls
from runs.alerts.guard import Guard

MAX_MEMORY = 1 << 30
LONGEST_ERROR = 500
CONNECT_S, READ_S = 5.0, 10.0
# Where an installation says which certificates it trusts.
TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

Answer = dict[str, Any]


class Said(logging.Handler):
    """What apprise said went wrong: it returns no more than that it did."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING or text.startswith("Socket Exception"):
            self.lines.append(" ".join(text.split()))


def main() -> int:
    told = json.load(sys.stdin)
    # Whoever waits for this process may be gone.
    signal.alarm(int(told["time_limit_s"]) + 1)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = send(told)
    answer["error"] = alert_urls.scrub(answer["error"], told["url"])[:LONGEST_ERROR]
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def send(told: dict[str, Any]) -> Answer:
    if objection := alert_urls.objection(told["url"]):
        return _answer(objection.code, objection.message)
    said = Said()
    log = logging.getLogger("apprise")
    log.addHandler(said)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    service = _service(told)
    if service is None:
        return _answer("channel_address", "The address is not complete, or not as its service needs it.")
    said.lines.clear()
    guard = Guard(
        [ipaddress.ip_network(network) for network in told["allowed"]], [os.environ.get(name, "") for name in TRUST]
    )
    guard.install()
    try:
        sent = service.notify(body=told["body"], title=told["title"], notify_type=told["kind"], body_format="text")
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises is told, and is no fault of ours
        sent = False
        said.lines.append(f"{type(error).__name__}: {error}")
    if sent:
        return _answer("", "")
    if guard.refused:
        return _answer("private_address", f"{guard.refused[0]}.")
    return _answer("not_sent", " ".join(dict.fromkeys(said.lines)) or "The service did not take the message.")


def _service(told: dict[str, Any]) -> Any:
    """Apprise's object for the channel; None if it makes nothing of the address."""
    import apprise

    asset = apprise.AppriseAsset(
        app_id="DataMantri",
        app_desc="DataMantri alerts",
        app_url=told["public_url"],
        async_mode=False,
        storage_mode="memory",
        pgp_autogen=False,
        pem_autogen=False,
        allow_templates=False,
        service_timeout=told["time_limit_s"],
    )
    service = apprise.Apprise.instantiate(told["url"], asset=asset)
    if service is None or service is False:
        return None
    service.socket_connect_timeout, service.socket_read_timeout = CONNECT_S, READ_S
    if alert_urls.scheme_of(told["url"]) == "pagerduty" and not service.dedup:
        # One incident an alert, which its recovery resolves.
        service.dedup = told["key"]
        if service.action == "trigger":
            service.action = "map"
    return service


def _answer(code: str, error: str) -> Answer:
    return {"ok": not code, "code": code, "error": error}


if __name__ == "__main__":
    sys.exit(main())
