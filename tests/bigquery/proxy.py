"""The proxy as tests use it: both sides in front of one emulator, and the place that every request passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Self

from google.cloud.bigquery_storage_v1 import types

from connectors.bigquery.client import Endpoints
from tests.bigquery.calls import Call
from tests.bigquery.jobs import Jobs
from tests.bigquery.rest import Rest
from tests.bigquery.roles import Roles
from tests.bigquery.snapshots import Snapshots
from tests.bigquery.storage import Storage
from tests.bigquery.upstream import Upstream


class BehavingBigQuery(AbstractContextManager["BehavingBigQuery"]):
    """BigQuery's REST and Storage Read API at `endpoints`, over the emulator at `rest` and `storage`.

    It honours offsets, snapshot times and byte limits; sessions expire, names of jobs are unique, results of
    queries are read like tables. `roles.trust(…)` switches authentication on. It sees only the changes that
    pass through it: make and fill tables at `endpoints.rest`. `keeps_history=False` saves the copy of a table
    that is made before each change, and with it the way back in time.
    """

    def __init__(self, *, rest: str, storage: str, keeps_history: bool = True) -> None:
        self.roles = Roles()
        self.calls: list[Call] = []
        self._upstream = Upstream(rest, storage)
        self.snapshots = Snapshots(self._upstream, keeps_history=keeps_history)
        jobs = Jobs(self.snapshots, self.roles)
        self._rest = Rest(self._upstream, self.snapshots, jobs, self.roles, self.admit)
        self.storage = Storage(self._upstream, self.snapshots, jobs, self.roles, self.admit, self.sending)
        self.endpoints = Endpoints(self._rest.url, self.storage.address)

    def __enter__(self) -> Self:
        self._rest.start()
        self.storage.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.storage.stop()
        self._rest.stop()
        self._upstream.close()

    def admit(self, call: Call) -> str:
        """Every request of both sides passes here first; returns who sends it, raises Unauthenticated."""
        self.calls.append(call)
        return self.roles.identify(call.authorization)

    def sending(self, call: Call, messages: Iterator[types.ReadRowsResponse]) -> Iterator[types.ReadRowsResponse]:
        """Every message of a read stream passes here on its way out."""
        yield from messages

    def made(self, method: str, ending: str = "") -> list[Call]:
        """The calls so far of this method, whose path, table or stream ends so."""
        return [call for call in self.calls if call.method == method and call.target.endswith(ending)]
