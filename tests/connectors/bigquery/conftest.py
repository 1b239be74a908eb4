from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.reading import Part
from tests.connectors.bigquery.recorded import RestServer, StorageServer
from tests.emulator_tables import EmulatorTables

PROJECT = "demo-project"
# Longer than any answer takes here, however busy the machine is: who looks at a limit sets a shorter one.
PATIENCE_S = 60.0


@pytest.fixture(scope="session")
def endpoints(emulator: dict[str, str]) -> Endpoints:
    return Endpoints(**emulator)


@pytest.fixture(scope="session")
def tables(endpoints: Endpoints) -> Iterator[EmulatorTables]:
    made = EmulatorTables(endpoints.rest, PROJECT)
    yield made
    made.close()


@pytest.fixture(scope="session")
def dataset(worker_id: str) -> str:
    """A dataset name of this test process's own."""
    return f"bq_{worker_id}"


@pytest.fixture
def connect() -> Iterator[Callable[..., BigQuerySource]]:
    """Make sources that are closed at the end: connect(endpoints, project=…, key=…, timeout_s=…, silence_s=…)."""
    made: list[BigQuerySource] = []

    def make(endpoints: Endpoints, *, project: str = PROJECT, key: str = "", **settings: float) -> BigQuerySource:
        options = BigQueryOptions(project, "US", key)
        made.append(BigQuerySource(options, endpoints=endpoints, **{"timeout_s": PATIENCE_S, **settings}))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture
def source(connect: Callable[..., BigQuerySource], endpoints: Endpoints) -> BigQuerySource:
    return connect(endpoints)


@pytest.fixture
def rest() -> Iterator[RestServer]:
    with RestServer() as server:
        yield server


@pytest.fixture
def storage() -> Iterator[StorageServer]:
    with StorageServer() as server:
        yield server


@pytest.fixture(scope="session")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def service_account(private_key: rsa.RSAPrivateKey) -> dict[str, str]:
    """A key file's content, as Google Cloud writes it."""
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account",
        "project_id": "acme",
        "private_key_id": "0123456789abcdef",
        "private_key": pem,
        "client_email": "loader@acme.iam.gserviceaccount.com",
        "client_id": "1",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "googleapis.com",
    }


@pytest.fixture(scope="session")
def key(service_account: dict[str, str]) -> str:
    return json.dumps(service_account)


def read_all(source: BigQuerySource, parts: tuple[Part, ...]) -> list[dict[str, object]]:
    """The rows of all parts, as dictionaries."""
    return [row for part in parts for batch in source.read(part, stop=NeverStop()) for row in batch.to_pylist()]
