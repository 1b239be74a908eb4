"""How the web handles a request: one thread from middleware to answer, and connections that outlive it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from channels.testing import HttpCommunicator
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, connections
from django.db.backends.postgresql import base as postgresql
from django.http import HttpRequest, HttpResponse
from django.test import Client

from datamantri import pooled
from datamantri.pooled import base
from datamantri.requests import RequestHandler
from pipelines.tokens import create_token

pytestmark = pytest.mark.django_db(transaction=True)


def get(path: str, **headers: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        sent = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
        web = HttpCommunicator(RequestHandler(), "GET", path, headers=sent)
        answer = await web.get_response(timeout=30)
        await web.wait(timeout=30)
        return answer

    return asyncio.run(ask())


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[base.Idle]:
    """Threads of this test get connections as those of the web do."""
    monkeypatch.setitem(connections.settings["default"], "ENGINE", pooled.__name__)
    idle = base.Idle()
    monkeypatch.setattr(base, "idle", idle)
    yield idle
    idle.clear()


@pytest.fixture
def in_a_thread() -> Callable[[Callable[[], Any]], Any]:
    """Does something as a request's thread does, which ends with its connection closed."""

    def in_a_thread(work: Callable[[], Any]) -> Any:
        found: list[Any] = []

        def run() -> None:
            try:
                found.append(work())
            except DatabaseError as error:
                found.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(30)
        return found[0]

    return in_a_thread


def backend() -> int:
    """The process that serves this thread's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def test_a_request_is_answered_in_one_thread(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    threads: list[int] = []

    def noting(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
        def note(request: HttpRequest) -> HttpResponse:
            threads.append(threading.get_ident())
            response = get_response(request)
            threads.append(threading.get_ident())
            return response

        return note

    monkeypatch.setattr("tests.test_web.noting", noting, raising=False)
    settings.MIDDLEWARE = ["tests.test_web.noting", *settings.MIDDLEWARE, "tests.test_web.noting"]
    answer = get("/healthz")
    assert (answer["status"], answer["body"]) == (200, b"ok\n")
    assert len(threads) == 4
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_errors_and_logins_are_as_they_were() -> None:
    assert get("/nowhere")["status"] == 404
    assert get("/api/v1/runs/")["status"] == 401
    assert get("/")["status"] == 302
    _, token = create_token(User.objects.create_user("ada", password="correct horse"), "test")
    assert get("/api/v1/runs/", authorization=f"Bearer {token}")["status"] == 403


def test_what_is_refused_is_a_line_of_the_log_and_what_breaks_has_its_traceback(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(User.objects.create_user("ada"))
    client.raise_request_exception = False
    assert client.get("/ledger/").status_code == 403
    monkeypatch.setattr("runs.ledger.page", lambda *given, **more: 1 / 0)
    client.force_login(User.objects.create_superuser("olga"))
    assert client.get("/ledger/").status_code == 500
    refused, broke = (record for record in caplog.records if record.name == "django.request")
    assert (refused.getMessage(), refused.exc_info) == ("Forbidden (Permission denied): /ledger/", None)
    assert broke.exc_info is not None


def test_the_next_request_has_the_last_ones_connection(idle: base.Idle, in_a_thread: Callable[..., Any]) -> None:
    first = in_a_thread(backend)
    assert in_a_thread(backend) == first
    assert get("/healthz")["status"] == 200
    assert in_a_thread(backend) == first


def test_requests_at_once_have_connections_of_their_own(idle: base.Idle) -> None:
    barrier = threading.Barrier(3)
    pids: list[int] = []

    def request() -> None:
        pids.append(backend())
        barrier.wait(30)
        connection.close()

    threads = [threading.Thread(target=request) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(pids)) == 3


def test_a_session_that_the_server_ended_is_not_used_again(idle: base.Idle, in_a_thread: Callable[..., Any]) -> None:
    first = in_a_thread(backend)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 30000)", [first])
    second = in_a_thread(backend)
    assert isinstance(second, int)
    assert second != first


def here() -> base.Place:
    return base.place_of(base.DatabaseWrapper(connections.settings["default"]).get_connection_params())


def test_a_connection_is_not_used_for_another_database(idle: base.Idle, in_a_thread: Callable[..., Any]) -> None:
    first = in_a_thread(backend)
    elsewhere = base.DatabaseWrapper({**connections.settings["default"], "NAME": "postgres"})
    with elsewhere.cursor() as cursor:
        cursor.execute("SELECT current_database(), pg_backend_pid()")
        name, other = cursor.fetchone()
    elsewhere.close()
    assert (name, other != first) == ("postgres", True)
    assert in_a_thread(backend) == first


def broken() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM nowhere")


def left_open() -> int:
    connection.set_autocommit(False)
    return backend()


@pytest.mark.parametrize("work", [broken, left_open])
def test_what_ended_badly_is_closed(idle: base.Idle, in_a_thread: Callable[..., Any], work: Callable[[], Any]) -> None:
    in_a_thread(work)
    assert idle.take(here()) is None


@pytest.mark.parametrize(("name", "value"), [("IDLE_S", -1.0), ("LIFE_S", -1.0), ("KEPT", 0)])
def test_what_is_old_or_too_many_is_closed(
    idle: base.Idle, in_a_thread: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(base, name, value)
    in_a_thread(backend)
    assert idle.take(here()) is None


def test_connections_that_nobody_wants_any_more_leave_one_by_one(idle: base.Idle) -> None:
    def made(since: float) -> base.Connection:
        wrapper = base.DatabaseWrapper(connections.settings["default"])
        made = postgresql.DatabaseWrapper.get_new_connection(wrapper, wrapper.get_connection_params())
        assert isinstance(made, base.Connection)
        made.autocommit = True
        made.place = here()
        idle.give_back(made)
        made.idle_since += since
        return made

    old, older = made(-2 * base.IDLE_S), made(-3 * base.IDLE_S)
    young = made(0)
    assert (old.closed, older.closed, young.closed) == (1, 1, 0)
    assert idle.take(here()) is young
    young.close()
    idle.give_back(young)
    assert idle.take(here()) is None
    with pytest.raises(psycopg2.InterfaceError):
        young.cursor()


def test_the_web_loads_nothing_that_only_workers_or_pages_of_others_need() -> None:
    code = "import datamantri.asgi, sys; from django.urls import get_resolver; get_resolver().url_patterns"
    heavy = {"requests", "markdown", "pygments", "apprise", "pyarrow", "grpc", "google.cloud"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{code}; print(*{heavy} & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "datamantri.settings"},
    )
    assert done.stdout.split() == []
