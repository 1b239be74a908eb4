"""A real web server on the test database, and Debian's Chromium to look at its pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from datamantri import processes
from datamantri.embedded import ports
from tests.loops import in_a_loop

STARTS_WITHIN_S = 120
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


class Web:
    """daphne, as the product starts it; it can be stopped and started again on its port."""

    def __init__(self, folder: Path, port: int, **env: str) -> None:
        self.port, self.url, self.env = port, f"http://127.0.0.1:{port}", env
        self._log = folder / "web.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        spec = processes.web(port=self.port)
        base = os.environ["DATABASE_URL"].rsplit("/", 1)[0]
        database = f"{base}/{settings.DATABASES['default']['NAME']}"
        own = {"DATABASE_URL": database, "PUBLIC_URL": self.url, "PORT": str(self.port)}
        with self._log.open("ab") as log:
            env = {**os.environ, **spec.env, **own, **self.env}
            self._process = subprocess.Popen(spec.argv, env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2):
                return True
        except (urllib.error.URLError, TimeoutError):
            return False


@contextmanager
def running_web(folder: Path, **env: str) -> Iterator[Web]:
    chosen = ports.Ports(folder / "ports.json")
    web = Web(folder, chosen.choose("web"), **env)
    try:
        web.start()
        yield web
    finally:
        web.stop()
        chosen.give_back()


@pytest.fixture(scope="session")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with running_web(tmp_path_factory.mktemp("web")) as web:
        yield web


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, in_a_loop():
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), timeout=90_000)
        yield browser
        browser.close()


def cookies_of(user: User, web: Web) -> list[dict[str, str]]:
    """A session of the user, under the name that this web server gives its cookie."""
    client = Client()
    client.force_login(user)
    value = client.cookies[settings.SESSION_COOKIE_NAME].value
    return [{"name": f"datamantri_session_{web.port}", "value": value, "url": web.url}]
