"""Google's clients for one connection, kept between runs because making them costs much."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import grpc
import requests
from google.api_core import exceptions as google_errors
from google.api_core.client_options import ClientOptions
from google.api_core.gapic_v1 import routing_header
from google.api_core.retry import Retry
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports.grpc import BigQueryReadGrpcTransport

from connectors.bigquery import credentials
from connectors.bigquery.options import BigQueryOptions
from connectors.errors import ConnectorError, TransientError

REST_VARIABLE = "BIGQUERY_REST_ENDPOINT"
STORAGE_VARIABLE = "BIGQUERY_STORAGE_ENDPOINT"
GOOGLE_REST = "https://bigquery.googleapis.com"
GOOGLE_STORAGE = "bigquerystorage.googleapis.com:443"
_READ_ROWS = "/google.cloud.bigquery.storage.v1.BigQueryRead/ReadRows"
KEPT_CLIENTS = 16
_KEEPALIVE_MS = 60_000
# A date names a whole second, and servers write it down once a second.
_CLOCK_TOLERANCE = timedelta(seconds=3)
_LAGS_KEPT = 16

_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A channel outlives a restart of the other side: look again soon, not in two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # What may lie here unread, per stream: enough for a distant BigQuery. gRPC's own measure of the way
    # takes in ever more while PostgreSQL is the slower side.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2 << 20),
    ("grpc.primary_user_agent", "datamantri"),
)


@dataclass(frozen=True)
class Endpoints:
    """Where an emulator answers; empty is Google's own. An installation's choice, never a form's.

    `rest` is a URL, `storage` is host:port; without `storage` rows come through REST.
    """

    rest: str = ""
    storage: str = ""

    def __post_init__(self) -> None:
        if self.rest and not re.fullmatch(r"https?://[^/\s@?#]+/?", self.rest):
            raise _bad_endpoint(REST_VARIABLE, "an address such as http://127.0.0.1:9050")
        if self.storage and not re.fullmatch(r"[^/\s@?#]+:\d{1,5}", self.storage):
            raise _bad_endpoint(STORAGE_VARIABLE, "host:port, such as 127.0.0.1:9060")
        if self.storage and not self.rest:
            raise ConnectorError(
                f"{STORAGE_VARIABLE} is set without {REST_VARIABLE}.",
                hint="An emulator needs both; Google's own service needs neither.",
                code="bad_endpoint",
            )

    @staticmethod
    def from_environment() -> Endpoints:
        """The installation's endpoints, read once per process."""
        return _endpoints_from_environment()


class Clients:
    """The REST client and the Storage Read API of one connection; safe to use from several threads."""

    def __init__(self, options: BigQueryOptions, endpoints: Endpoints) -> None:
        self.options = options
        self.endpoints = endpoints
        self.credentials = credentials.load(options.credentials_json, emulator=bool(endpoints.rest))
        self.rest_url = (endpoints.rest or GOOGLE_REST).rstrip("/")
        self.session = AuthorizedSession(self.credentials, refresh_timeout=5)
        # An emulator is never behind the proxy that the way to Google may need.
        self.session.trust_env = not endpoints.rest
        self.session.hooks["response"].append(self._compare_clocks)
        self._lags: deque[timedelta] = deque(maxlen=_LAGS_KEPT)
        self.rest = bigquery.Client(
            project=options.project,
            credentials=self.credentials,
            location=options.location,
            client_options=ClientOptions(api_endpoint=self.rest_url),
            _http=self.session,
        )
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._storage: BigQueryReadGrpcTransport | None = None

    @property
    def has_storage(self) -> bool:
        return not self.endpoints.rest or bool(self.endpoints.storage)

    @property
    def storage(self) -> BigQueryReadGrpcTransport:
        """The Storage Read API, without the high-level client: that one blocks in its constructor and retries a day."""
        with self._lock:
            if self._storage is None:
                self._channel = self._open_channel()
                self._storage = BigQueryReadGrpcTransport(channel=self._channel)
            return self._storage

    def read_rows(self, stream: str, position: int) -> grpc.Call:
        """A read stream's messages from row `position` on, as bytes; see `messages`."""
        ask = self.storage.grpc_channel.unary_stream(_READ_ROWS, request_serializer=types.ReadRowsRequest.serialize)
        request = types.ReadRowsRequest(read_stream=stream, offset=position)
        return ask(request, metadata=(routing_header.to_grpc_metadata((("read_stream", stream),)),))

    def get(self, path: str, parameters: Mapping[str, Any], timeout_s: float) -> Any:
        """The JSON at a path of the REST API; raises as Google's client does."""

        def call() -> Any:
            url = f"{self.rest_url}/bigquery/v2/{path}"
            response = self.session.get(url, params=parameters, timeout=timeout_s)
            if not response.ok:
                raise google_errors.from_http_response(response)
            return response.json()

        return REUSE_ONCE(call)()

    def now(self) -> datetime:
        """The time, by BigQuery's clock where ours is off: no snapshot is in the future, and an old one lacks rows."""
        # What lies between an answer's date and its arrival is our clock's lead and the answer's way. The shortest way
        # tells a lead best; behind a clock that lags the longest one is taken, which is never in the future.
        lags = list(self._lags) or [timedelta(0)]
        off = min(lags) if min(lags) > _CLOCK_TOLERANCE else min(max(lags), timedelta(0))
        return datetime.now(UTC) - (off if abs(off) > _CLOCK_TOLERANCE else timedelta(0))

    def close(self) -> None:
        self.session.close()
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = self._storage = None

    def _compare_clocks(self, response: requests.Response, **_: object) -> None:
        if date := response.headers.get("Date"):
            self._lags.append(datetime.now(UTC) - parsedate_to_datetime(date))

    def _open_channel(self) -> grpc.Channel:
        if self.endpoints.storage:
            return grpc.insecure_channel(self.endpoints.storage, options=_CHANNEL)
        keepalive = (("grpc.keepalive_time_ms", _KEEPALIVE_MS), ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS))
        return BigQueryReadGrpcTransport.create_channel(
            GOOGLE_STORAGE, credentials=self.credentials, options=[*_CHANNEL, *keepalive]
        )


class ClientCache:
    """The clients last used, at most `size`; those pushed out are closed once nobody uses them."""

    def __init__(self, size: int = KEPT_CLIENTS) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[BigQueryOptions, Endpoints], Clients] = OrderedDict()
        self._users: dict[int, int] = {}

    def borrow(self, options: BigQueryOptions, endpoints: Endpoints) -> Clients:
        """Clients for these options, new or kept; give them back with `give_back`."""
        key = (options, endpoints)
        with self._lock:
            clients = self._kept.get(key) or Clients(options, endpoints)
            self._kept[key] = clients
            self._kept.move_to_end(key)
            self._users[id(clients)] = self._users.get(id(clients), 0) + 1
            evicted = [self._kept.popitem(last=False)[1] for _ in range(len(self._kept) - self._size)]
            idle = [old for old in evicted if not self._users.get(id(old))]
        for old in idle:
            old.close()
        return clients

    def give_back(self, clients: Clients) -> None:
        with self._lock:
            self._users[id(clients)] -= 1
            if self._users[id(clients)]:
                return
            del self._users[id(clients)]
            if any(kept is clients for kept in self._kept.values()):
                return
        clients.close()


class TimeLimit:
    """What is left of the seconds that a look-up may take over all its calls."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left; raises TransientError with code timeout when there are none."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TransientError(f"BigQuery took longer than {self._seconds:g} s.", code="timeout")
        return left


def _was_dropped(error: BaseException) -> bool:
    """Whether a kept connection was closed by the other side just as it was used again."""
    return (
        isinstance(error, requests.exceptions.ConnectionError)
        and not isinstance(error, requests.exceptions.Timeout | requests.exceptions.SSLError)
        and "Connection aborted" in str(error)
    )


# The only retry here: everything else surfaces at once, and the run's own retry waits longer and says so.
REUSE_ONCE = Retry(predicate=_was_dropped, initial=0.05, maximum=0.1, timeout=0.5)

CACHE = ClientCache()


@lru_cache(maxsize=1)
def _endpoints_from_environment() -> Endpoints:
    return Endpoints(os.environ.get(REST_VARIABLE, ""), os.environ.get(STORAGE_VARIABLE, ""))


def _bad_endpoint(variable: str, wanted: str) -> ConnectorError:
    return ConnectorError(f"{variable} must be {wanted}.", code="bad_endpoint")
