"""Service accounts with tokens that they sign themselves, and what their roles allow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
import pyarrow as pa
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions
from google.cloud import bigquery as google
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports.grpc import BigQueryReadGrpcTransport
from google.oauth2 import service_account

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.errors import ConnectorError
from connectors.reading import ReadRequest
from tests.bigquery.conftest import PROJECT
from tests.bigquery.proxy import BehavingBigQuery

EMAIL = f"loader@{PROJECT}.iam.gserviceaccount.com"
SCOPES = ("https://www.googleapis.com/auth/bigquery",)


@dataclass(frozen=True)
class Key:
    """A service account's key as its file says, and the public half of it."""

    info: dict[str, str]
    public: str

    def credentials(self, scopes: Sequence[str] = SCOPES) -> service_account.Credentials:
        made = service_account.Credentials.from_service_account_info(self.info, scopes=scopes)
        return made.with_always_use_jwt_access(True)


def make_key() -> Key:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    info = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "0123456789abcdef",
        "private_key": pem.decode(),
        "client_email": EMAIL,
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return Key(info, public.decode())


@pytest.fixture(scope="module")
def key() -> Key:
    return make_key()


@pytest.fixture
def table(bigquery_tables, bigquery: BehavingBigQuery, dataset: str, key: Key) -> str:
    """A table of three rows, made before tokens are asked for."""
    schema = [google.SchemaField("id", "INT64")]
    bigquery_tables.make(f"{dataset}.guarded", schema, pa.table({"id": [1, 2, 3]}))
    bigquery.roles.trust(EMAIL, key.public)
    return f"{dataset}.guarded"


@pytest.fixture
def connect(bigquery: BehavingBigQuery) -> Iterator[Callable[..., google.Client]]:
    made = []

    def make(credentials) -> google.Client:
        options = {"api_endpoint": bigquery.endpoints.rest}
        made.append(google.Client(PROJECT, credentials, location="US", client_options=options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(connect, key: Key) -> google.Client:
    return connect(key.credentials())


class _Signed(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds the token to each call, which gRPC itself does over TLS only."""

    def __init__(self, credentials: service_account.Credentials) -> None:
        self._credentials = credentials

    def intercept_unary_unary(self, continuation, details, request):
        headers: dict[str, str] = {}
        self._credentials.before_request(None, "POST", "https://bigquerystorage.googleapis.com/", headers)
        metadata = [*(details.metadata or ()), *headers.items()]
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_stream = intercept_unary_unary


@pytest.fixture
def storage(bigquery: BehavingBigQuery) -> Iterator[Callable[[Key], BigQueryReadClient]]:
    channel = grpc.insecure_channel(bigquery.endpoints.storage)

    def make(key: Key) -> BigQueryReadClient:
        signed = grpc.intercept_channel(channel, _Signed(key.credentials()))
        return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=signed))

    yield make
    channel.close()


def open_session(client: BigQueryReadClient, table: str) -> types.ReadSession:
    dataset, name = table.split(".")
    path = f"projects/{PROJECT}/datasets/{dataset}/tables/{name}"
    session = types.ReadSession(table=path, data_format=types.DataFormat.ARROW)
    return client.create_read_session(
        parent=f"projects/{PROJECT}", read_session=session, max_stream_count=1, retry=None, timeout=30
    )


def get(client: google.Client, table: str) -> google.Table:
    return client.get_table(f"{PROJECT}.{table}", retry=None, timeout=30)


def count(client: google.Client, table: str) -> int:
    job = client.query(f"SELECT COUNT(*) AS n FROM {table}", retry=None, job_retry=None, timeout=30)
    return next(iter(job.result(retry=None, job_retry=None, timeout=30)))["n"]


def test_without_a_token_nothing_is_answered(bigquery, table):
    dataset, name = table.split(".")
    path = f"/bigquery/v2/projects/{PROJECT}/datasets/{dataset}/tables/{name}"
    # Google's client has no word for this: it tries to get a token.
    answer = requests.get(bigquery.endpoints.rest + path, timeout=30)
    assert answer.status_code == 401
    assert answer.json()["error"]["errors"][0]["reason"] == "required"
    with grpc.insecure_channel(bigquery.endpoints.storage) as channel:
        plain = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
        with pytest.raises(exceptions.Unauthenticated, match="missing required authentication credential"):
            open_session(plain, table)


def test_another_key_of_the_same_name_is_not_believed(connect, storage, table):
    forged = make_key()
    with pytest.raises(exceptions.Unauthorized, match="invalid authentication credentials") as refused:
        get(connect(forged.credentials()), table)
    assert refused.value.errors[0]["reason"] == "authError"
    with pytest.raises(exceptions.Unauthenticated, match="invalid authentication credentials"):
        open_session(storage(forged), table)


def test_a_token_for_another_service_is_not_believed(connect, key, table):
    with pytest.raises(exceptions.Unauthorized, match="invalid authentication credentials"):
        get(connect(key.credentials(["https://www.googleapis.com/auth/drive"])), table)


def test_each_missing_role_is_named(client, storage, bigquery, dataset, key, table):
    name = f"{PROJECT}:{table}"
    with pytest.raises(exceptions.Forbidden, match=rf"Access Denied: Table {name}: Permission bigquery\.tables\.get "):
        get(client, table)
    with pytest.raises(exceptions.Forbidden, match=r"User does not have bigquery\.jobs\.create permission in project"):
        count(client, table)
    with pytest.raises(exceptions.PermissionDenied, match=r"'bigquery\.readsessions\.create' permission for"):
        open_session(storage(key), table)

    bigquery.roles.grant(EMAIL, "jobUser")
    bigquery.roles.grant(EMAIL, "readSessionUser")
    with pytest.raises(exceptions.Forbidden, match=f"User does not have permission to query table {name}"):
        count(client, table)
    with pytest.raises(exceptions.PermissionDenied, match=r"User does not have bigquery\.tables\.getData permission"):
        open_session(storage(key), table)

    bigquery.roles.grant(EMAIL, "dataViewer", on=dataset)
    assert get(client, table).num_rows == 3
    assert count(client, table) == 3
    session = open_session(storage(key), table)
    assert sum(m.row_count for m in storage(key).read_rows(session.streams[0].name)) == 3


def test_reading_is_not_writing(client, bigquery, table):
    for role in ("jobUser", "dataViewer"):
        bigquery.roles.grant(EMAIL, role)
    job = client.query(f"DELETE FROM {table} WHERE TRUE", retry=None, job_retry=None, timeout=30)
    assert job.error_result["reason"] == "accessDenied"
    assert "bigquery.tables.updateData" in job.error_result["message"]
    with pytest.raises(exceptions.Forbidden, match="updateData"):
        client.insert_rows_json(f"{PROJECT}.{table}", [{"id": 4}], retry=None)
    assert count(client, table) == 3
    bigquery.roles.grant(EMAIL, "dataEditor", on=table)
    client.query(f"DELETE FROM {table} WHERE id = 1", retry=None, job_retry=None, timeout=30)
    assert count(client, table) == 2


def test_a_session_is_of_no_use_to_who_lost_the_role(storage, bigquery, key, table):
    bigquery.roles.grant(EMAIL, "readSessionUser")
    bigquery.roles.grant(EMAIL, "dataViewer")
    session = open_session(storage(key), table)
    bigquery.roles.revoke(EMAIL)
    with pytest.raises(exceptions.PermissionDenied, match=r"bigquery\.readsessions\.getData"):
        list(storage(key).read_rows(session.streams[0].name))


def test_our_source_signs_its_requests_with_its_key(bigquery, key, table):
    # Through REST alone: gRPC carries tokens over TLS only.
    options = BigQueryOptions(PROJECT, "US", json.dumps(key.info))
    source = BigQuerySource(options, endpoints=Endpoints(bigquery.endpoints.rest), timeout_s=30.0)
    try:
        with pytest.raises(ConnectorError, match=r"bigquery\.tables\.get is missing") as refused:
            source.plan(ReadRequest(table=table))
        assert refused.value.code == "permission_denied"
        bigquery.roles.grant(EMAIL, "dataViewer", on=table)
        plan = source.plan(ReadRequest(table=table))
        batches = [batch for part in plan.parts for batch in source.read(part, stop=NeverStop())]
        assert sum(batch.num_rows for batch in batches) == 3
    finally:
        source.close()
