"""The sockets of live pages: what is pushed while a viewer keeps up, the database when it does not.

A viewer says `{"after": seq}`: "I have shown every line up to here". The first time that starts the
stream, later it confirms what was sent. Lines come as `{"type": "lines", "after": seq, "lines": […]}`,
all lines that follow `after`; a viewer that has less than that lost something and fetches it. The
state of the run comes as `{"type": "state", "state": {…}}`, at once on connecting and at every change.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar
from uuid import UUID

from channels.consumer import get_handler_name
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest
from django.urls import path

from runs import live, page_queries, queries
from runs.models import Run

# daphne buffers whatever it is given, so what a viewer has not confirmed is bounded here.
UNCONFIRMED_BYTES = 1024 * 1024
PAGE_LINES = 500
STATE_EVERY_S = 0.25
NAMED_CHANGES = 50
RECHECK_S = 5.0
FORBIDDEN = 4403
GONE = 4404

T = TypeVar("T")
SessionStore = import_module(settings.SESSION_ENGINE).SessionStore


async def read(query: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Ask the database in a thread of the pool, so that one viewer's question holds up nobody else's lines."""
    return await database_sync_to_async(query, thread_sensitive=False)(*args, **kwargs)


def may_view(session_key: str | None) -> bool:
    """Whether a session belongs, by now, to someone who may see runs."""
    request = HttpRequest()
    request.session = SessionStore(session_key)
    return get_user(request).has_perm("runs.view_run")


def state_of(run_id: UUID) -> dict[str, Any] | None:
    run = Run.objects.select_related("revision").filter(pk=run_id).first()
    return queries.run_state(run) if run else None


class ViewerConsumer(AsyncJsonWebsocketConsumer):
    """A socket for people who may see runs."""

    checked_at = float("-inf")
    is_refused = False

    async def admitted(self) -> bool:
        """Whether this viewer may look, or could at most `RECHECK_S` ago; the socket of one who may not is closed."""
        if self.is_refused or time.monotonic() < self.checked_at + RECHECK_S:
            return not self.is_refused
        session = self.scope.get("session")
        if session is None or not await read(may_view, session.session_key):
            if not self.is_refused:  # by a question that was asked at the same time
                self.is_refused = True
                await self.close(FORBIDDEN)
            return False
        self.checked_at = time.monotonic()
        return True

    async def join(self, group: str) -> None:
        """Be told what is pushed to a group, where anything is."""
        if self.channel_layer is not None:
            await self.channel_layer.group_add(group, self.channel_name)

    async def leave(self, group: str) -> None:
        if self.channel_layer is not None:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Hand a message to its method; without the usual detour through the one thread that all consumers share.

        That detour closes old database connections, and `read` closes its own.
        """
        await getattr(self, get_handler_name(message))(message)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        """Pass on what a viewer said; what is no JSON object says nothing."""
        try:
            said = json.loads(text_data or "")
        except ValueError:
            return
        if isinstance(said, dict):
            await self.receive_json(said)


class RunConsumer(ViewerConsumer):
    """Streams one run's log and state to one viewer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent: int | None = None  # the last line sent; None until the viewer says where it stands
        self.behind = False  # there are lines in the database that were not sent
        self.unconfirmed: deque[tuple[int, int]] = deque()  # (last line sent, bytes) of each message
        self.unconfirmed_bytes = 0
        self.attempt = 0
        self.state_at = 0.0
        self.state_changed = False
        self.state_task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        self.run_id = self.scope["url_route"]["kwargs"]["run_id"]
        if not await self.admitted():
            return
        # Join first: what is written from here on is pushed, what was written before is read.
        await self.join(live.run_group(self.run_id))
        state = await read(state_of, self.run_id)
        if state is None:
            await self.close(GONE)
            return
        await self.accept()
        await self.deliver({"type": "state", "state": state})

    async def disconnect(self, code: int) -> None:
        await self.leave(live.run_group(self.run_id))
        if self.state_task:
            self.state_task.cancel()

    # What the viewer says

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        after = content.get("after")
        if type(after) is not int or after < 0:
            return
        while self.unconfirmed and self.unconfirmed[0][0] <= after:
            self.unconfirmed_bytes -= self.unconfirmed.popleft()[1]
        if self.sent is None:
            self.sent, self.behind = after, True
        elif content.get("check"):
            # Every so often the viewer asks whether it missed anything: pushes can get lost without a trace.
            self.sent, self.behind = after, True
            self.send_state()
        if self.behind:
            await self.catch_up()

    async def catch_up(self) -> None:
        """Send from the database what was not sent, as far as the viewer's allowance goes."""
        if not await self.admitted():
            return
        while self.has_allowance:
            lines = await read(queries.log_lines, self.run_id, after=self.sent, limit=PAGE_LINES)
            if lines:
                await self.send_lines([page_queries.line_data(line) for line in lines])
            if len(lines) < PAGE_LINES:
                self.behind = False
                return

    # What the worker pushes

    async def run_lines(self, message: dict[str, Any]) -> None:
        lines = message["lines"]
        if self.sent is None or self.behind or not lines or lines[-1]["seq"] <= self.sent:
            return
        if not self.has_allowance:
            self.behind = True
        elif lines[0]["seq"] > self.sent + 1:
            # Something in between was not pushed; it is in the database, for lines are rows first.
            self.behind = True
            await self.catch_up()
        else:
            await self.send_lines([line for line in lines if line["seq"] > self.sent])
        if lines[-1]["attempt"] > self.attempt:
            self.attempt = lines[-1]["attempt"]
            self.send_state()  # a worker has taken the run

    async def run_changed(self, message: dict[str, Any]) -> None:
        self.send_state()

    # What goes out

    @property
    def has_allowance(self) -> bool:
        return self.unconfirmed_bytes < UNCONFIRMED_BYTES

    async def send_lines(self, lines: list[dict[str, Any]]) -> None:
        after, self.sent = self.sent, lines[-1]["seq"]
        await self.deliver({"type": "lines", "after": after, "lines": lines})

    def send_state(self) -> None:
        """Send the state as the database has it: beside the lines, and not more often than every `STATE_EVERY_S`."""
        self.state_changed = True
        if self.state_task is None or self.state_task.done():
            self.state_task = asyncio.create_task(self.send_states())

    async def send_states(self) -> None:
        while self.state_changed:
            await asyncio.sleep(max(0.0, self.state_at + STATE_EVERY_S - time.monotonic()))
            self.state_changed, self.state_at = False, time.monotonic()
            state = await read(state_of, self.run_id)
            if state is not None and self.has_allowance:
                await self.deliver({"type": "state", "state": state})

    async def deliver(self, message: dict[str, Any]) -> None:
        if not await self.admitted():
            return
        text = json.dumps(message, separators=(",", ":"))
        self.unconfirmed.append((self.sent or 0, len(text)))
        self.unconfirmed_bytes += len(text)
        await self.send(text)


class BoardConsumer(ViewerConsumer):
    """Tells lists of runs which pipelines changed; they fetch what they show and say `{"seen": true}`.

    Until a viewer said so it is told nothing more, so that its own pace bounds what it is sent.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told = False
        self.changed: set[str] = set()

    async def connect(self) -> None:
        if not await self.admitted():
            return
        await self.join(live.BOARD)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.leave(live.BOARD)

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        self.told = False
        if self.changed:
            await self.tell()

    async def board_run(self, message: dict[str, Any]) -> None:
        await self.note([message["pipeline"]])

    async def board_runs(self, message: dict[str, Any]) -> None:
        await self.note(message["pipelines"])

    async def note(self, pipelines: list[str]) -> None:
        self.changed.update(pipelines)
        if not self.told:
            await self.tell()

    async def tell(self) -> None:
        if not await self.admitted():
            return
        # Beyond a handful the names are no help: the page shows a part of the pipelines anyway.
        named = sorted(self.changed) if len(self.changed) <= NAMED_CHANGES else None
        self.told, self.changed = True, set()
        await self.send_json({"type": "changed", "pipelines": named})


websocket_urls = [
    path("ws/runs/<uuid:run_id>/", RunConsumer.as_asgi()),
    path("ws/board/", BoardConsumer.as_asgi()),
]
