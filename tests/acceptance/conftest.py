"""A whole product for the tests of this folder, which run one after another on one xdist worker."""

from __future__ import annotations

import itertools
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from django.contrib.auth.models import Group, User
from django.db import connections
from google.cloud import bigquery

from connectors.bigquery.client import Clients, Endpoints
from connectors.bigquery.options import BigQueryOptions
from datamantri.demo import loader
from datamantri.embedded import ports
from pipelines import services as definitions
from pipelines.models import Connection, Pipeline
from runs import services
from runs.models import Run, Trigger
from runs.states import TERMINAL, RunStatus
from tests.acceptance.product import Product, options_without_secret, wait_for

PROJECT, DATASET = "acceptance", "shop"
_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups, also when a file of this folder is named
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # A test of another product may run beside those of this one.
        if "acceptance" in item.path.parts and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("product"))


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    chosen = ports.Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    product = Product(tmp_path_factory.mktemp("product"), chosen.choose("web"))
    try:
        product.start_all()
        _warm_up(product)
        yield product
    finally:
        product.stop_all()
        chosen.give_back()


def _warm_up(product: Product) -> None:
    """The first look-up imports Google's clients: on a busy machine that takes longer than a page waits."""
    ask = "from pipelines import lookups; lookups.test_connection('bigquery', {'project': 'acceptance'})"
    for last in (False, False, True):
        try:
            product.manage("shell", "-c", ask)
        except AssertionError:
            if last:
                raise
        else:
            return


@pytest.fixture(autouse=True)
def on_the_products_database(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[None]:
    """Point this process's ORM at the database that the product's processes use."""
    if "product" not in request.fixturenames:
        yield
        return
    product = request.getfixturevalue("product")
    connection = connections["default"]
    with django_db_blocker.unblock():
        connection.close()
        before = connection.settings_dict["NAME"]
        connection.settings_dict["NAME"] = product.database
        try:
            yield
        finally:
            connection.close()
            connection.settings_dict["NAME"] = before


@pytest.fixture
def operator(on_the_products_database: None) -> User:
    user = User.objects.filter(username="olga").first()
    if user is None:
        user = User.objects.create_user("olga", password="a long enough password", is_staff=True)
        user.groups.add(Group.objects.get(name="operator"))
    return user


@pytest.fixture(scope="session")
def bigquery_client() -> bigquery.Client:
    client = Clients(BigQueryOptions(PROJECT), Endpoints.from_environment()).rest
    loader.ensure_dataset(client, DATASET)
    return client


@pytest.fixture
def source_table(bigquery_client: bigquery.Client) -> Callable[..., str]:
    """Make a table in the emulator from Arrow rows; returns its name as a pipeline takes it."""

    def make(rows: pa.Table, columns: dict[str, str] | None = None) -> str:
        name = f"t{next(_numbers)}_{secrets.token_hex(3)}"
        types = {pa.int64(): "INT64", pa.string(): "STRING", pa.float64(): "FLOAT64"}
        columns = columns or {field.name: types[field.type] for field in rows.schema}
        loader.load(bigquery_client, f"{PROJECT}.{DATASET}.{name}", columns, rows)
        return f"{DATASET}.{name}"

    return make


@pytest.fixture(scope="session")
def large_table(bigquery_client):
    """Enough rows that a load can be caught in the middle."""
    loader.load(bigquery_client, "acceptance.shop.large", {"id": "INT64", "name": "STRING"}, numbers(3_000_000))
    return "shop.large"


@pytest.fixture
def source(product: Product, on_the_products_database: None) -> Connection:
    connection, _ = Connection.objects.get_or_create(
        name="BigQuery", defaults={"kind": "bigquery", "options": {"project": PROJECT, "location": "US"}}
    )
    return connection


@pytest.fixture
def destination(product: Product, on_the_products_database: None, warehouse: dict[str, Any]) -> Connection:
    options, hidden = options_without_secret(warehouse)
    connection, _ = Connection.objects.get_or_create(
        name="Warehouse", defaults={"kind": "postgres", "options": options, "secrets": hidden}
    )
    return connection


@pytest.fixture
def make_pipeline(source: Connection, destination: Connection, operator: User) -> Callable[..., Pipeline]:
    def make(table: str = "", *, schedules: Any = (), **changes: Any) -> Pipeline:
        name = f"p{next(_numbers)}_{secrets.token_hex(3)}"
        values = {"source": source, "destination": destination, "target_schema": "public", "target_table": name}
        pipeline = Pipeline(name=name, source_table=table, **{**values, **changes})
        definitions.save_pipeline(pipeline, schedules=list(schedules), by=operator)
        return pipeline

    return make


@pytest.fixture
def run_now(operator: User) -> Callable[[Pipeline], Run]:
    """Ask for a run, as the button does."""
    return lambda pipeline: services.request_run(pipeline, trigger=Trigger.MANUAL, by=operator)[0]


def ended(run: Run, *, limit_s: float = 60) -> Run:
    """The run once it has ended."""

    def look() -> bool:
        run.refresh_from_db()
        return run.status in TERMINAL

    wait_for(look, limit_s=limit_s, saying=f"run {run.pk} ends (it is {run.status}: {run.error_message})")
    return run


def caught_loading(run: Run) -> Run:
    def is_loading() -> bool:
        run.refresh_from_db()
        assert run.status in (RunStatus.QUEUED, RunStatus.RUNNING), run.error_message or run.status
        return run.phase == "loading" and run.rows > 0

    wait_for(is_loading, every_s=0.01, saying="rows are being loaded")
    return run


# What a pipeline needs for `slow_target`.
SLOW = {"write_disposition": "append", "adopt_target": True}


def make_slow(cursor: Any, table: str) -> None:
    """A target that takes minutes for a large table, until `make_quick`: a load is caught in the middle for sure."""
    cursor.execute(
        f"""
        CREATE TABLE public.{table} (id bigint, name text);
        CREATE TABLE public.pace_{table} AS SELECT 0.0002 AS seconds;
        GRANT SELECT ON public.pace_{table} TO PUBLIC;
        CREATE FUNCTION public.slow_{table}() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(seconds) FROM public.pace_{table}; RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON public.{table} FOR EACH ROW EXECUTE FUNCTION public.slow_{table}();
        """
    )


def make_quick(cursor: Any, table: str) -> None:
    # An attempt that has the table already sees it at its next row: the DROP waits for it, but not for minutes.
    cursor.execute(f"UPDATE public.pace_{table} SET seconds = 0")
    cursor.execute(f"DROP TRIGGER slow ON public.{table}")


@pytest.fixture
def slow_target(warehouse_cursor: Any) -> Callable[[Pipeline], Pipeline]:
    def slow(pipeline: Pipeline) -> Pipeline:
        make_slow(warehouse_cursor, pipeline.target_table)
        return pipeline

    return slow


class Api:
    """A client of the REST API with a token."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                **(headers or {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")


@pytest.fixture
def api(product: Product, operator: User) -> Api:
    from pipelines import tokens

    _, plain = tokens.create_token(operator, f"test {time.time()}")
    return Api(product.url, plain)


def numbers(count: int) -> pa.Table:
    """Rows whose sum tells whether one is missing or doubled."""
    ids = pa.array(range(count), pa.int64())
    return pa.table({"id": ids, "name": ids.cast(pa.string())})
