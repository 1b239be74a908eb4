"""Query jobs as BigQuery keeps them: the emulator runs each at once and forgets names, labels and limits."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from connectors.bigquery import client, query
from connectors.bigquery.client import Endpoints
from connectors.bigquery.query import clean_labels, job_id
from connectors.errors import ConnectorError, Stopped, TransientError
from connectors.reading import ReadRequest
from tests.connectors.bigquery.conftest import PATIENCE_S, read_all
from tests.connectors.bigquery.test_streams import FIELDS, Stopper

SQL = "SELECT id FROM sales.orders"
PAGE = {"jobComplete": True, "schema": {"fields": FIELDS}, "totalRows": "1", "rows": [{"f": [{"v": "7"}]}]}


class Jobs:
    """Answers jobs.insert and jobs.get: dry runs say SELECT, real jobs are in `state`."""

    def __init__(self, rest) -> None:
        self.rest = rest
        self.state = "DONE"
        self.error: dict[str, str] | None = None
        self.taken = False
        self.polls: list[tuple[int, dict[str, object]]] = []  # given first when the job is looked at
        self.lasts: int | None = None  # after so many looks it is done
        self.begun = threading.Event()
        rest.answer("POST", "/jobs", self.insert)

    def insert(self, body):
        name = body["jobReference"]["jobId"]
        if body["configuration"].get("dryRun"):
            return 200, self.job(body, "DONE", {"statementType": "SELECT", "schema": {"fields": FIELDS}})
        self.name, self.body = name, body
        self.begun.set()
        self.rest.answer("GET", f"/jobs/{name}", lambda _: self.poll(body))
        self.rest.answer("POST", f"/jobs/{name}/cancel", lambda _: (200, {"job": self.job(body, "DONE")}))
        self.rest.answer("GET", f"/queries/{name}", (200, PAGE))
        if self.taken:
            return 409, {"error": {"code": 409, "message": "Already Exists: Job", "errors": [{"reason": "duplicate"}]}}
        return 200, self.job(body, self.state)

    def poll(self, body):
        if self.polls:
            return self.polls.pop(0)
        if self.lasts is not None:
            self.lasts -= 1
        return 200, self.job(body, "DONE" if self.lasts == 0 else self.state)

    def job(self, body, state, query=None):
        status = {"state": state} | ({"errorResult": self.error} if self.error and state == "DONE" else {})
        destination = {"projectId": "acme", "datasetId": "_anon", "tableId": "anon1"}
        configuration = {"query": {**body["configuration"]["query"], "destinationTable": destination}}
        return {
            "jobReference": {**body["jobReference"], "location": "US"},
            "configuration": {**body["configuration"], **configuration},
            "status": status,
            "statistics": {"query": query or {}},
        }


@pytest.fixture
def jobs(rest) -> Jobs:
    return Jobs(rest)


@pytest.fixture
def source(connect, rest):
    return connect(Endpoints(rest.url), project="acme")


def test_the_job_carries_name_labels_location_and_limit(source, jobs):
    request = ReadRequest(
        query=SQL, job_key="run-1/2", labels={"Pipeline": "Sales Orders!", "run": "x" * 70}, maximum_bytes_billed=10**9
    )
    plan = source.plan(request)
    assert jobs.name == job_id("run-1/2", SQL) == plan.facts["job"]
    assert jobs.name.startswith("datamantri_run_1_2_")
    assert jobs.body["jobReference"]["location"] == "US"
    configuration = jobs.body["configuration"]
    assert configuration["labels"] == {"pipeline": "sales-orders-", "run": "x" * 63}
    assert configuration["query"]["maximumBytesBilled"] == str(10**9)
    assert configuration["query"]["useLegacySql"] is False


def test_a_job_that_is_there_already_is_adopted(source, jobs, rest):
    jobs.taken = True
    plan = source.plan(ReadRequest(query=SQL, job_key="run-1"))
    assert read_all(source, plan.parts) == [{"id": 7}]
    assert [path for method, path, _, _ in rest.requests if f"/jobs/{jobs.name}" in path]


def test_the_same_key_with_another_text_is_another_job():
    assert job_id("run-1", "SELECT 1") != job_id("run-1", "SELECT 2")
    assert job_id("run-1", "SELECT 1") == job_id("run-1", "SELECT 1")
    assert job_id("", "SELECT 1") != job_id("", "SELECT 1")


def test_a_running_job_is_waited_for(source, jobs):
    jobs.state, jobs.lasts = "RUNNING", 3
    assert source.plan(ReadRequest(query=SQL)).estimated_rows == 1
    assert jobs.lasts == 0


BUSY = (503, {"error": {"code": 503, "message": "Busy.", "errors": [{"reason": "backendError"}]}})


def test_a_running_job_is_not_given_up_because_it_cannot_be_looked_at_for_a_while(source, jobs, rest, monkeypatch):
    monkeypatch.setattr(query, "POLL_FAILURE_WAIT_S", 0.02)
    jobs.polls = [BUSY] * query.POLL_FAILURES_MOST
    jobs.state, jobs.lasts = "RUNNING", 2
    assert source.plan(ReadRequest(query=SQL)).estimated_rows == 1
    assert (jobs.polls, jobs.lasts) == ([], 0)
    assert len(rest.bodies("POST", "/jobs")) == 2  # a dry run and the job


def test_a_running_job_that_cannot_be_looked_at_at_all_is_worth_another_try(source, jobs, monkeypatch):
    monkeypatch.setattr(query, "POLL_FAILURE_WAIT_S", 0.02)
    jobs.state = "RUNNING"
    jobs.polls = [BUSY] * 100
    with pytest.raises(TransientError) as failure:
        source.plan(ReadRequest(query=SQL))
    assert failure.value.code == "bigquery_unavailable"


def test_stopping_wakes_whoever_waits_for_a_job_and_cancels_it(source, jobs, rest, monkeypatch):
    monkeypatch.setattr(query, "_POLL_FIRST_S", PATIENCE_S)
    jobs.state = "RUNNING"
    stopper = Stopper()

    def pull() -> None:
        jobs.begun.wait(PATIENCE_S)
        time.sleep(0.1)
        stopper.pull()

    begun = time.monotonic()
    threading.Thread(target=pull).start()
    with pytest.raises(Stopped):
        source.plan(ReadRequest(query=SQL), stop=stopper)
    assert time.monotonic() - begun < PATIENCE_S / 2
    assert rest.bodies("POST", f"/jobs/{jobs.name}/cancel")


def test_a_preview_that_takes_too_long_is_cancelled(source, jobs, rest, monkeypatch):
    def clock() -> float:
        """Its time is over once its job has begun."""
        return time.monotonic() + (PATIENCE_S if jobs.begun.is_set() else 0.0)

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=clock))
    jobs.state = "RUNNING"
    with pytest.raises(TransientError) as failure:
        source.preview(ReadRequest(query=SQL))
    assert failure.value.code == "timeout"
    assert rest.bodies("POST", f"/jobs/{jobs.name}/cancel")


def test_a_preview_limits_what_it_may_bill(source, jobs):
    assert source.preview(ReadRequest(query=SQL)).rows == (("7",),)
    assert jobs.body["configuration"]["query"]["maximumBytesBilled"] == str(10 * 2**30)


@pytest.mark.parametrize(
    ("reason", "message", "code", "transient"),
    [
        ("invalidQuery", "Division by zero: 1 / 0", "invalid_query", False),
        ("bytesBilledLimitExceeded", "Query exceeded limit for bytes billed: 1.", "bytes_billed_limit", False),
        ("accessDenied", "Access Denied: Table acme:sales.orders: User does not", "permission_denied", False),
        ("notFound", "Not found: Table acme:sales.orders was not found in location US", "table_not_found", False),
        ("backendError", "Error encountered during execution.", "bigquery_unavailable", True),
        ("stopped", "Job execution was cancelled: User requested cancellation", "job_stopped", True),
    ],
)
def test_a_job_that_failed_says_why(source, jobs, reason, message, code, transient):
    jobs.error = {"reason": reason, "message": message}
    with pytest.raises(ConnectorError) as failure:
        source.plan(ReadRequest(query=SQL))
    assert (failure.value.code, failure.value.transient) == (code, transient)


def test_labels_keep_to_what_bigquery_takes():
    assert clean_labels({"Team": "Größe & mehr", "": "x"}) == {"team": "gr--e---mehr"}
