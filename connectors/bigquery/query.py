"""Query jobs: dry runs that must say SELECT, and jobs under names of our own."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import requests
from google.api_core import exceptions as google_errors
from google.cloud import bigquery

from connectors.base import NeverStop, StopSignal
from connectors.bigquery import parameters as query_parameters
from connectors.bigquery.client import REUSE_ONCE, Clients, TimeLimit
from connectors.bigquery.errors import Doing, explain_job, explained
from connectors.bigquery.schema import columns_of
from connectors.billing import NOT_METERED, Meter
from connectors.column import Column
from connectors.errors import ConnectorError, TransientError
from connectors.parameters import Parameter, used_in

QUERY = Doing("The query", field="query", permission="bigquery.jobs.create")
_POLL_FIRST_S, _POLL_MOST_S = 0.05, 1.0
# The job goes on whether or not we hear of it, and a new one would be billed again.
POLL_FAILURES_MOST, POLL_FAILURE_WAIT_S = 5, 1.0
_CANCEL_LIMIT_S = 3.0
# What may be said of a request that was carried out.
_PERHAPS_DONE = (google_errors.ServerError, requests.exceptions.ConnectionError, requests.exceptions.Timeout)
_ONLY_SELECT = "Write one SELECT (or WITH … SELECT): scripts, DML, DDL, CALL and EXPORT are refused."


@dataclass(frozen=True)
class DryRun:
    """What a query would give and read; `tables` are those behind it.

    `accuracy` is BigQuery's word for how far `bytes` can be trusted, empty where it says none.
    """

    columns: tuple[Column, ...]
    bytes: int | None
    tables: tuple[bigquery.TableReference, ...] = ()
    accuracy: str = ""

    @property
    def known_bytes(self) -> int | None:
        """The bytes, None where nobody can tell: a server that knows no sizes says 0, and no more."""
        if self.accuracy == "UNKNOWN" or (not self.bytes and self.accuracy != "PRECISE"):
            return None
        return self.bytes


def dry_run(
    clients: Clients, sql: str, *, timeout_s: float, parameters: Sequence[Parameter] = (), doing: Doing = QUERY
) -> DryRun:
    """Ask BigQuery to check `sql` without running it; raises ConnectorError if it is not one SELECT."""
    config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False, use_legacy_sql=False)
    config.query_parameters = query_parameters.of_query(sql, parameters)
    with explained(doing):
        job = _insert(clients, sql, job_id("", sql), config, timeout_s)
    if job.statement_type != "SELECT":
        kind = (job.statement_type or "statement of an unknown kind").replace("_", " ")
        raise ConnectorError(
            f"{doing.thing} is not a SELECT: BigQuery calls it {kind}.",
            hint=_ONLY_SELECT,
            code="not_a_select",
            field=doing.field,
        )
    told = job.to_api_repr().get("statistics", {}).get("query", {})
    return DryRun(
        columns_of(job.schema or ()),
        job.total_bytes_processed,
        tuple(job.referenced_tables),
        told.get("totalBytesProcessedAccuracy", ""),
    )


def run(
    clients: Clients,
    sql: str,
    *,
    timeout_s: float,
    parameters: Sequence[Parameter] = (),
    job_key: str = "",
    labels: Mapping[str, str] | None = None,
    maximum_bytes_billed: int | None = None,
    stop: StopSignal | None = None,
    limit: TimeLimit | None = None,
    doing: Doing = QUERY,
    meter: Meter = NOT_METERED,
) -> bigquery.QueryJob:
    """Run `sql` and wait until it is done; the same `job_key`, text and values adopt the job that is there.

    `timeout_s` is for each call, `limit` for the whole. Stopping, or running out of time, cancels the job.
    What it bills goes to the `meter`, also of a job that was cancelled, as far as BigQuery tells then.
    """
    config = bigquery.QueryJobConfig(use_legacy_sql=False, labels=clean_labels(labels or {}))
    config.query_parameters = query_parameters.of_query(sql, parameters)
    if maximum_bytes_billed is not None:  # Google's client would send the word None
        config.maximum_bytes_billed = maximum_bytes_billed
    stop = stop or NeverStop()
    name = job_id(job_key, sql, used_in(sql, parameters))
    woken = threading.Event()
    forget = stop.on_stop(woken.set)
    try:
        stop.check()
        with explained(doing):
            job = _begin(clients, sql, name, config, timeout_s, again=limit is None)
        try:
            _wait(job, woken, stop, limit, timeout_s, doing)
        finally:
            meter.job(job.job_id, job.total_bytes_billed)
    finally:
        forget()
    if job.error_result:
        raise explain_job(job.error_result, doing)
    return job


def job_id(key: str, sql: str, parameters: Sequence[Parameter] = ()) -> str:
    """A name that the same key, text and values make again, of letters, digits and `_`."""
    if not key:
        return f"datamantri_{uuid.uuid4().hex}"
    digest = hashlib.sha256(f"{key}\n{sql}{query_parameters.told(parameters)}".encode()).hexdigest()[:16]
    return f"datamantri_{re.sub(r'[^A-Za-z0-9_]', '_', key)[:200]}_{digest}"


def clean_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels as BigQuery takes them: lowercase letters, digits, `-` and `_`, at most 63 characters."""
    return {_clean(key): _clean(value) for key, value in labels.items() if _clean(key)}


def _clean(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def _begin(
    clients: Clients, sql: str, name: str, config: bigquery.QueryJobConfig, timeout_s: float, *, again: bool
) -> bigquery.QueryJob:
    try:
        try:
            return _insert(clients, sql, name, config, timeout_s)
        except _PERHAPS_DONE:
            if not again:
                raise
            # If it was, the name is taken now, and nothing is run twice.
            return _insert(clients, sql, name, config, timeout_s)
    except google_errors.Conflict:
        # An earlier try got through and its answer was lost: this is that job.
        location = clients.options.location
        return clients.rest.get_job(name, location=location, retry=REUSE_ONCE, timeout=timeout_s)


def _insert(
    clients: Clients, sql: str, name: str, config: bigquery.QueryJobConfig, timeout_s: float
) -> bigquery.QueryJob:
    return clients.rest.query(sql, job_config=config, job_id=name, retry=REUSE_ONCE, job_retry=None, timeout=timeout_s)


def _wait(
    job: bigquery.QueryJob,
    woken: threading.Event,
    stop: StopSignal,
    limit: TimeLimit | None,
    timeout_s: float,
    doing: Doing,
) -> None:
    pause, failures = _POLL_FIRST_S, 0
    while job.state != "DONE":
        woken.wait(pause)
        try:
            stop.check()
            if limit:
                limit.left()
        except ConnectorError:
            _cancel(job)
            raise
        try:
            with explained(doing):
                job.reload(retry=REUSE_ONCE, timeout=timeout_s)
            pause, failures = min(pause * 1.5, _POLL_MOST_S), 0
        except TransientError:
            failures += 1
            if failures > POLL_FAILURES_MOST:
                raise
            pause = POLL_FAILURE_WAIT_S


def _cancel(job: bigquery.QueryJob) -> None:
    # Best effort: nobody reads the result, and BigQuery ends the job by itself.
    with contextlib.suppress(ConnectorError), explained(QUERY):
        job.cancel(retry=None, timeout=_CANCEL_LIMIT_S)
