"""What a viewer's socket sends: every line once and in order, to those who may see it, no faster than they read."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from datamantri.asgi import application
from runs import consumers, live, services
from runs.models import Run
from runs.states import RunStatus
from tests.runs.pages import *  # noqa: F403
from tests.runs.pages import logged_in, write

pytestmark = pytest.mark.django_db(transaction=True)
ORIGIN = (b"origin", b"http://localhost")
Viewer = WebsocketCommunicator
SOON_S = 30


@pytest.fixture
def run(make_pipeline, make_run):
    return make_run(make_pipeline("Orders"), RunStatus.RUNNING)


def socket(client: Client, path: str, origin: tuple[bytes, bytes] = ORIGIN) -> Viewer:
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    return WebsocketCommunicator(application, path, headers=[origin, (b"cookie", cookies.encode())])


@asynccontextmanager
async def watching(client: Client, run: Run):
    """A viewer's socket, after it was told the state."""
    viewer = socket(client, f"/ws/runs/{run.pk}/")
    connected, _ = await viewer.connect(timeout=SOON_S)
    assert connected
    state = await viewer.receive_json_from(timeout=SOON_S)
    assert (state["type"], state["state"]["status"]) == ("state", run.status)
    try:
        yield viewer
    finally:
        await viewer.disconnect(timeout=SOON_S)
        await get_channel_layer().flush()


def in_a_loop(scenario: Callable[..., Awaitable[Any]]) -> None:
    async_to_sync(scenario)()


async def lines_until(viewer: Viewer, last: int, *, confirming: bool = True) -> list[int]:
    """The `seq`s that come until `last` has come; every message follows what came before."""
    seqs: list[int] = []
    while not seqs or seqs[-1] < last:
        message = await viewer.receive_json_from(timeout=SOON_S)
        if message["type"] != "lines":
            continue
        assert not seqs or message["after"] == seqs[-1]
        seqs += [line["seq"] for line in message["lines"]]
        if confirming:
            await viewer.send_json_to({"after": seqs[-1]})
    return seqs


awrite = sync_to_async(write)


def test_where_nothing_is_pushed_a_viewer_gets_all_by_asking(run, viewer_client, settings):
    settings.CHANNEL_LAYERS = {}

    async def scenario():
        viewer = socket(viewer_client, f"/ws/runs/{run.pk}/")
        assert (await viewer.connect(timeout=SOON_S))[0]
        assert (await viewer.receive_json_from(timeout=SOON_S))["type"] == "state"
        await awrite(run, "one")
        await viewer.send_json_to({"after": 0})
        assert await lines_until(viewer, 1) == [1]
        await awrite(run, "two", "three")
        assert await viewer.receive_nothing(0.5)
        await viewer.send_json_to({"after": 1, "check": True})
        told = [await viewer.receive_json_from(timeout=SOON_S) for _ in range(2)]
        assert {message["type"] for message in told} == {"lines", "state"}
        for message in told:
            if message["type"] == "lines":
                assert [line["seq"] for line in message["lines"]] == [2, 3]
            else:
                assert message["state"]["last_seq"] == 3
        await viewer.disconnect(timeout=SOON_S)
        board = socket(viewer_client, "/ws/board/")
        assert (await board.connect(timeout=SOON_S))[0]
        await board.disconnect(timeout=SOON_S)

    in_a_loop(scenario)


# Who may look ---------------------------------------------------------------------------------


def test_strangers_are_refused(run, viewer):
    outsider = logged_in(User.objects.create_user("otto"))
    inactive = logged_in(viewer)
    User.objects.filter(pk=viewer.pk).update(is_active=False)

    async def scenario():
        for client in (Client(), outsider, inactive):
            for path in (f"/ws/runs/{run.pk}/", "/ws/board/"):
                assert await socket(client, path).connect(timeout=SOON_S) == (False, consumers.FORBIDDEN)

    in_a_loop(scenario)


def test_pages_of_other_sites_are_refused(run, viewer_client):
    async def scenario():
        stranger = socket(viewer_client, f"/ws/runs/{run.pk}/", (b"origin", b"http://evil.example"))
        assert (await stranger.connect(timeout=SOON_S))[0] is False

    in_a_loop(scenario)


def test_a_run_that_is_not_there_is_refused(viewer_client):
    async def scenario():
        path = "/ws/runs/00000000-0000-4000-8000-000000000000/"
        assert await socket(viewer_client, path).connect(timeout=SOON_S) == (False, consumers.GONE)

    in_a_loop(scenario)


@pytest.mark.parametrize("what", ["logs out", "loses the right", "is deactivated"])
def test_a_viewer_who_lost_the_right_is_sent_no_more(run, viewer, viewer_client, what, monkeypatch):
    monkeypatch.setattr(consumers, "RECHECK_S", 0.0)

    def lose():
        if what == "logs out":
            copy = Client()
            copy.cookies[settings.SESSION_COOKIE_NAME] = viewer_client.cookies[settings.SESSION_COOKIE_NAME].value
            copy.post("/accounts/logout/")
        elif what == "loses the right":
            viewer.user_permissions.clear()
        else:
            User.objects.filter(pk=viewer.pk).update(is_active=False)

    async def scenario():
        async with watching(viewer_client, run) as viewing:
            await sync_to_async(lose)()
            await viewing.send_json_to({"after": 0})
            assert await viewing.receive_output(SOON_S) == {"type": "websocket.close", "code": consumers.FORBIDDEN}

    in_a_loop(scenario)


@pytest.mark.parametrize("path", ["/ws/runs/{run}/", "/ws/board/"])
def test_what_is_pushed_after_the_right_was_lost_is_not_sent(run, viewer, viewer_client, path, monkeypatch):
    monkeypatch.setattr(consumers, "RECHECK_S", 0.0)

    async def scenario():
        viewing = socket(viewer_client, path.format(run=run.pk))
        assert (await viewing.connect(timeout=SOON_S))[0]
        if "runs" in path:
            assert (await viewing.receive_json_from(timeout=SOON_S))["type"] == "state"
            await viewing.send_json_to({"after": 0})
            await awrite(run, "one")
            assert await lines_until(viewing, 1) == [1]
        await sync_to_async(viewer.user_permissions.clear)()
        # A viewer that only listens: it asks for nothing by which it could be found out.
        await awrite(run, "two")
        live.push_run(run.pk)
        live.push_board(run.pk, run.pipeline_id, RunStatus.RUNNING)
        assert await viewing.receive_output(SOON_S) == {"type": "websocket.close", "code": consumers.FORBIDDEN}
        assert await viewing.receive_nothing(timeout=2 * consumers.STATE_EVERY_S)
        await viewing.disconnect(timeout=SOON_S)
        await get_channel_layer().flush()

    in_a_loop(scenario)


# Every line once, in order --------------------------------------------------------------------


def test_what_was_written_before_comes_first_then_what_is_written(run, viewer_client):
    async def scenario():
        await awrite(run, *(f"line {n}" for n in range(1, 1201)))
        async with watching(viewer_client, run) as viewer:
            await viewer.send_json_to({"after": 700})
            assert await lines_until(viewer, 1200) == list(range(701, 1201))
            for n in range(1201, 1206):
                await awrite(run, f"line {n}")
            assert await lines_until(viewer, 1205) == list(range(1201, 1206))

    in_a_loop(scenario)


def test_lines_written_while_catching_up_come_once(run, viewer_client):
    async def scenario():
        await awrite(run, *("x" * 200 for _ in range(3000)))
        async with watching(viewer_client, run) as viewer:
            await viewer.send_json_to({"after": 0})
            writing = asyncio.create_task(write_more())
            assert await lines_until(viewer, 3100) == list(range(1, 3101))
            await writing

    async def write_more():
        for _ in range(100):
            await awrite(run, "more")

    in_a_loop(scenario)


def test_a_lost_push_is_filled_from_the_database(run, viewer_client, monkeypatch):
    async def scenario():
        async with watching(viewer_client, run) as viewer:
            await viewer.send_json_to({"after": 0})
            await awrite(run, "one")
            assert await lines_until(viewer, 1) == [1]
            with monkeypatch.context() as silence:
                silence.setattr(live, "push_lines", lambda *_: None)
                await awrite(run, "two", "three")
            await awrite(run, "four")
            assert await lines_until(viewer, 4) == [2, 3, 4]

    in_a_loop(scenario)


def test_a_viewer_that_checks_gets_what_was_lost_without_a_trace(run, viewer_client, monkeypatch):
    monkeypatch.setattr(live, "push_lines", lambda *_: None)

    async def scenario():
        async with watching(viewer_client, run) as viewer:
            await viewer.send_json_to({"after": 0})
            await awrite(run, "one", "two")
            await viewer.send_json_to({"after": 0, "check": True})
            assert await lines_until(viewer, 2) == [1, 2]

    in_a_loop(scenario)


def test_nonsense_from_a_viewer_changes_nothing(run, viewer_client):
    async def scenario():
        async with watching(viewer_client, run) as viewer:
            for nonsense in ("", "{", "[]", '"after"', '{"after": "x"}', '{"after": -1}', '{"after": true}', "{}"):
                await viewer.send_input({"type": "websocket.receive", "text": nonsense})
            await viewer.send_input({"type": "websocket.receive", "bytes": b"\xff"})
            await viewer.send_json_to({"after": 0})
            await awrite(run, "one")
            assert await lines_until(viewer, 1) == [1]

    in_a_loop(scenario)


# No faster than they read ---------------------------------------------------------------------


def test_a_viewer_that_confirms_nothing_is_sent_a_bounded_amount(run, viewer_client):
    async def scenario():
        await awrite(run, *("x" * 1000 for _ in range(5000)))
        async with watching(viewer_client, run) as viewer:
            await viewer.send_json_to({"after": 0})
            seqs: list[int] = []
            sent_bytes = 0
            while sent_bytes < 0.99 * consumers.UNCONFIRMED_BYTES:  # the state that came before counts as well
                message = await viewer.receive_json_from(timeout=SOON_S)
                seqs += [line["seq"] for line in message["lines"]]
                sent_bytes += len(json.dumps(message, separators=(",", ":")))
            assert await viewer.receive_nothing(timeout=0.5)
            for _ in range(20):
                await awrite(run, "pushed while it does not read")
            assert await viewer.receive_nothing(timeout=0.5)
            assert 1 < len(seqs) * 1000 < 2 * consumers.UNCONFIRMED_BYTES
            await viewer.send_json_to({"after": seqs[-1]})
            seqs += await lines_until(viewer, 5020)
            assert seqs == list(range(1, 5021))

    in_a_loop(scenario)


def test_the_state_comes_at_every_change_but_not_in_floods(run, viewer_client):
    async def scenario():
        async with watching(viewer_client, run) as viewer:
            began = time.monotonic()
            for _ in range(200):
                live.push_run(run.pk)
                await asyncio.sleep(0.005)
            await sync_to_async(services.move_run)(run.pk, RunStatus.SUCCEEDED, token=1)
            live.push_run(run.pk)
            states = []
            while not states or states[-1] != RunStatus.SUCCEEDED:
                states.append((await viewer.receive_json_from(timeout=SOON_S))["state"]["status"])
            # On a slow machine there is more time to tell of it.
            assert len(states) <= 2 + (time.monotonic() - began) / consumers.STATE_EVERY_S

    in_a_loop(scenario)


# Lists of runs --------------------------------------------------------------------------------


def test_lists_are_told_what_changed_once_until_they_have_looked(run, viewer_client, monkeypatch):
    noted = []
    note = consumers.BoardConsumer.note

    async def noting(consumer, pipelines):
        await note(consumer, pipelines)
        noted.append(pipelines)

    monkeypatch.setattr(consumers.BoardConsumer, "note", noting)

    async def all_noted(count):
        async with asyncio.timeout(SOON_S):
            while len(noted) < count:
                await asyncio.sleep(0.01)

    async def scenario():
        viewer = socket(viewer_client, "/ws/board/")
        assert (await viewer.connect(timeout=SOON_S))[0]
        pipeline = str(run.pipeline_id)
        for _ in range(5):
            live.push_board(run.pk, run.pipeline_id, RunStatus.RUNNING)
        assert await viewer.receive_json_from(timeout=SOON_S) == {"type": "changed", "pipelines": [pipeline]}
        await all_noted(5)
        assert await viewer.receive_nothing(timeout=0.1)
        await viewer.send_json_to({"seen": True})
        assert await viewer.receive_json_from(timeout=SOON_S) == {"type": "changed", "pipelines": [pipeline]}
        await viewer.send_json_to({"seen": True})
        assert await viewer.receive_nothing(timeout=0.5)
        many = sorted(str(uuid.uuid4()) for _ in range(3))
        live.push_boards(many)
        assert await viewer.receive_json_from(timeout=SOON_S) == {"type": "changed", "pipelines": many}
        await viewer.disconnect(timeout=SOON_S)
        await get_channel_layer().flush()

    in_a_loop(scenario)
