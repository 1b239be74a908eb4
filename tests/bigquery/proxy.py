"""The proxy as tests use it: both sides in front of one emulator, and the place that every request passes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Self

import pyarrow as pa
from google.cloud.bigquery import SchemaField

from connectors.bigquery.client import Endpoints
from tests.bigquery.calls import Call
from tests.bigquery.faults import Faults
from tests.bigquery.jobs import Jobs
from tests.bigquery.rest import Rest
from tests.bigquery.roles import Roles
from tests.bigquery.snapshots import Snapshots
from tests.bigquery.statements import TableName
from tests.bigquery.storage import Storage
from tests.bigquery.upstream import Upstream
from tests.relay import Relay


class BehavingBigQuery(AbstractContextManager["BehavingBigQuery"]):
    """BigQuery's REST and Storage Read API at `endpoints`, over the emulator at `rest` and `storage`.

    It honours offsets, snapshot times (also in SQL) and byte limits; sessions expire, names of jobs are unique,
    results of queries are read like tables. `roles.trust(…)` switches authentication on. It sees only the changes that
    pass through it: make and fill tables at `endpoints.rest`. `keeps_history=False` saves the copy of a table
    that is made before each change, and with it the way back in time.

    `faults` go wrong at chosen calls. `with_relays` puts a relay in front of each side, which connections can be
    broken by; `rest_port` and `storage_port` choose the addresses of these.
    """

    def __init__(
        self,
        *,
        rest: str,
        storage: str,
        keeps_history: bool = True,
        with_relays: bool = False,
        rest_port: int = 0,
        storage_port: int = 0,
    ) -> None:
        self.roles = Roles()
        self.faults = Faults()
        self.calls: list[Call] = []
        self._upstream = Upstream(rest, storage)
        self.snapshots = Snapshots(self._upstream, keeps_history=keeps_history)
        self.jobs = jobs = Jobs(self._upstream, self.snapshots, self.roles)
        self._rest = Rest(self._upstream, self.snapshots, jobs, self.roles, self.faults, self.admit)
        self.storage = Storage(self._upstream, self.snapshots, jobs, self.roles, self.faults, self.admit)
        self._relays = ExitStack()
        ports = [self._rest.port, self.storage.port]
        if with_relays:
            in_front = [Relay(ports[0], port=rest_port), Relay(ports[1], port=storage_port)]
            ports = [self._relays.enter_context(relay).port for relay in in_front]
            self._rest.reset, self.storage.strikes.reset = (relay.reset for relay in in_front)
        self.endpoints = Endpoints(f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")

    def __enter__(self) -> Self:
        self._rest.start()
        self.storage.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.faults.clear()
        self._relays.close()
        self.storage.stop()
        self._rest.stop()
        self.jobs.close()
        self._upstream.close()

    def hold(self, name: str, schema: Sequence[SchemaField], rows: pa.Table, project: str = "demo-project") -> None:
        """Serve `rows` exactly as they are as the table `name`, a `dataset.table`: for what the emulator cannot hold.

        Such a table can be described and read through the Storage API, not queried; holding it again changes it.
        """
        table = TableName(project, *name.split("."))
        resource = {
            "kind": "bigquery#table",
            "id": str(table),
            "tableReference": {"projectId": project, "datasetId": table.dataset, "tableId": table.table},
            "type": "TABLE",
            "creationTime": str(int(time.time() * 1000)),
            "schema": {"fields": [field.to_api_repr() for field in schema]},
        }
        with self.snapshots.changing([table]):
            self._upstream.held[table] = resource, rows

    def admit(self, call: Call) -> str:
        """Every request of both sides passes here first; returns who sends it, raises Unauthenticated."""
        self.calls.append(call)
        return self.roles.identify(call.authorization)

    def made(self, method: str, ending: str = "") -> list[Call]:
        """The calls so far of this method, whose path, table or stream ends so."""
        return [call for call in self.calls if call.method == method and call.target.endswith(ending)]
