"""Alerts to test with: channels, rules, runs that end, and a real receiver for what is sent."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db.models import F
from django.db.models.functions import Now

from pipelines.models import AlertChannel, AlertKind, AlertRule, Pipeline
from runs.alerts import judging
from runs.models import Run, RunAction, Trigger
from tests.definitions import destination, make_pipeline, operator, source
from tests.runs.conftest import nobody_left_behind

__all__ = ["destination", "make_pipeline", "nobody_left_behind", "operator", "source"]


@dataclass
class Receiver:
    """A web server that keeps what it is sent; `answers` says by path what it answers, 200 otherwise."""

    server: ThreadingHTTPServer
    messages: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.server.server_port

    def url(self, path: str = "hook") -> str:
        return f"json://127.0.0.1:{self.port}/{path}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            kept.messages.append(json.loads(text))
            kept.headers.append({"path": self.path, **self.headers})
            status, location = kept.answers.get(self.path, (200, ""))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Receiver(server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def loopback_allowed(settings: Any) -> None:
    settings.ALERT_PRIVATE_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture
def make_channel(db: None) -> Callable[..., AlertChannel]:
    def make(name: str = "#data", url: str = "json://127.0.0.1:9/hook", **changes: Any) -> AlertChannel:
        scheme = url.partition("://")[0]
        return AlertChannel.objects.create(name=name, scheme=scheme, secrets={"url": url}, **changes)

    return make


@pytest.fixture
def make_rule(make_channel: Callable[..., AlertChannel]) -> Callable[..., AlertRule]:
    """Makes a rule for all pipelines, or for those given, that tells one channel."""

    def make(*kinds: AlertKind, pipelines: list[Pipeline] | None = None, **changes: Any) -> AlertRule:
        channel = changes.pop("channel", None) or AlertChannel.objects.first() or make_channel()
        name = changes.pop("name", f"Rule {AlertRule.objects.count() + 1}")
        rule = AlertRule.objects.create(name=name, kinds=list(kinds), every_pipeline=pipelines is None, **changes)
        rule.channels.set([channel])
        rule.pipelines.set(pipelines or [])
        return rule

    return make


@pytest.fixture
def end(make_pipeline: Callable[..., Pipeline]) -> Callable[..., Run]:
    """Makes a run that ends so, the way every run does: by an UPDATE of its row."""

    def end(pipeline: Pipeline, status: str, *, seconds: float = 10.0, judged: bool = True, **changes: Any) -> Run:
        run = Run.objects.create(
            pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.MANUAL, started_at=Now(), **changes
        )
        move(run, status, seconds=seconds, judged=judged)
        return run

    return end


def move(run: Run, status: str, *, seconds: float = 10.0, judged: bool = True, **changes: Any) -> None:
    ended = {} if status in ("held", "retrying") else {"finished_at": F("started_at") + timedelta(seconds=seconds)}
    if status == "failed" and run.action != RunAction.COMPARE:
        changes = {"error_code": run.error_code or "table_not_found", **changes}
        changes = {"error_message": run.error_message or "There is no table shop.orders.", **changes}
    Run.objects.filter(pk=run.pk).update(status=status, **ended, **changes)
    if judged:
        judging.judge()
