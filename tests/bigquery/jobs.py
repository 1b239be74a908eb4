"""Query jobs with names of their own, real byte counts, a limit of bytes, and a cache."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from tests.bigquery import results
from tests.bigquery.roles import Denied, Roles
from tests.bigquery.scans import columns_read
from tests.bigquery.sizes import billed_bytes
from tests.bigquery.snapshots import Snapshots
from tests.bigquery.statements import Statement, TableName, understand
from tests.bigquery.travel import Travel, Travelled
from tests.bigquery.upstream import Answer, Upstream

Forward = Callable[[], Answer]
_UNCACHEABLE = ("CURRENT_", "RAND(", "SESSION_USER(", "GENERATE_UUID(", "INFORMATION_SCHEMA", "SYSTEM_TIME")


class Jobs:
    def __init__(self, upstream: Upstream, snapshots: Snapshots, roles: Roles) -> None:
        self._upstream = upstream
        self._snapshots = snapshots
        self._roles = roles
        self._travel = Travel(upstream, snapshots)
        self._lock = threading.Lock()
        self._names: set[tuple[str, str]] = set()
        self._figures: dict[tuple[str, str], dict[str, Any]] = {}
        self._failed: dict[tuple[str, str], dict[str, Any]] = {}
        self._results: dict[TableName, tuple[str, str]] = {}
        self._texts: dict[tuple[str, str], str] = {}
        self._queries: dict[tuple[str, str], tuple[dict[str, Any], Callable[[], str], str]] = {}
        self._cache: set[str] = set()

    @property
    def run(self) -> int:
        """How many were run so far: dry runs are none."""
        return len(self._figures)

    def insert(self, who: str, project: str, body: dict[str, Any], forward: Forward) -> Answer:
        """Answer a request to start a job; `forward` starts it in the emulator."""
        self._roles.check_project(who, "bigquery.jobs.create", project)
        configuration = body.get("configuration", {})
        limit = configuration.get("query", {}).get("maximumBytesBilled") or 0
        if not str(limit).isdecimal():
            where = "job.configuration.query.maximum_bytes_billed.value"
            return Answer.refusal(400, "badRequest", f"Invalid value at '{where}' (TYPE_INT64), \"{limit}\"")
        if configuration.get("dryRun") and "query" in configuration:
            return self._dry_run(who, project, configuration["query"], forward)
        reference = body.setdefault("jobReference", {})
        name = reference.setdefault("jobId", f"job_{uuid.uuid4().hex}")
        location = reference.get("location") or "US"
        if not self._reserve(project, name):
            return Answer.refusal(409, "duplicate", f"Already Exists: Job {project}:{location}.{name}")
        answer = None
        try:
            if "query" in configuration:
                answer = self._run(who, project, name, location, body, forward)
            else:
                answer = self.write(who, written_by(configuration, project), forward)
        finally:
            if answer is None or not answer.is_good:
                with self._lock:
                    self._names.discard((project, name))
        return answer

    def write(self, who: str, names: Iterable[TableName], forward: Forward) -> Answer:
        """Forward a request that changes these tables."""
        names = list(names)
        for name in names:
            self._roles.check_table(who, "bigquery.tables.updateData", name)
        with self._snapshots.changing(names):
            return forward()

    def query(self, who: str, project: str, body: dict[str, Any], forward: Forward) -> Answer:
        """Answer `jobs.query`: a job and its first page in one request."""
        self._roles.check_project(who, "bigquery.jobs.create", project)
        statement = _understand(body, project)
        self._check_tables(who, statement)
        with self._snapshots.lock:
            travelled = self._travel.to_the_times_of(project, body)
            processed, figures = self._measure(who, project, body, statement, travelled)
            if body.get("dryRun"):
                with _saying(body, travelled.sql):
                    return _with_content(forward(), {"totalBytesProcessed": str(processed)})
            if too_much := _beyond_limit(body, figures):
                return Answer.refusal(400, "bytesBilledLimitExceeded", too_much)
            with self._snapshots.changing(statement.writes), _saying(body, travelled.sql):
                answer = forward()
        if answer.is_good:
            job = answer.content.get("jobReference", {}).get("jobId", "")
            self._remember(who, project, job, body, statement, figures)
            told = {name: figures[name] for name in ("totalBytesProcessed", "totalBytesBilled", "cacheHit")}
            answer = _with_content(answer, told)
        return answer

    def get(self, project: str, job: str, forward: Forward) -> Answer:
        if failed := self._failed.get((project, job)):
            return Answer.of(failed)
        answer = forward()
        return Answer.of(self.completed(answer.content)) if answer.is_good else answer

    def results(self, project: str, job: str, forward: Forward) -> Answer:
        if failed := self._failed.get((project, job)):
            error = failed["status"]["errorResult"]
            status = 403 if error["reason"] == "accessDenied" else 400
            return Answer.refusal(status, error["reason"], error["message"])
        figures = self._figures.get((project, job), {})
        told = {name: value for name, value in figures.items() if name in ("totalBytesProcessed", "cacheHit")}
        return _with_content(forward(), told)

    def completed(self, content: dict[str, Any]) -> dict[str, Any]:
        """A job's resource with what the emulator leaves out."""
        reference = content.get("jobReference", {})
        project, job = reference.get("projectId", ""), reference.get("jobId", "")
        figures = self._figures.get((project, job))
        if figures:
            statistics = content.setdefault("statistics", {})
            statistics["totalBytesProcessed"] = figures["totalBytesProcessed"]
            statistics.setdefault("query", {}).update(figures)
        configuration = content.get("configuration", {}).get("query", {})
        if text := self._texts.get((project, job)):
            configuration["query"] = text
        destination = configuration.get("destinationTable", {})
        if destination.get("datasetId", "").startswith("_"):
            self._results[TableName.of(destination, project)] = (project, job)
        return content

    def behind(self, result: TableName) -> tuple[str, str] | None:
        """Project and name of the job whose rows are in this anonymous table."""
        return self._results.get(result)

    def rows(self, project: str, job: str) -> pa.Table:
        """The rows that a query job gave."""
        query, key, before = self._queries.get((project, job), ({}, str, ""))
        with self._snapshots.lock:
            if before and key() == before:
                return results.run_again(self._upstream, project, job, query)
        return results.pages(self._upstream, project, job)

    def close(self) -> None:
        self._travel.close()

    def _reserve(self, project: str, name: str) -> bool:
        with self._lock:
            is_free = (project, name) not in self._names
            self._names.add((project, name))
        return is_free

    def _dry_run(self, who: str, project: str, query: dict[str, Any], forward: Forward) -> Answer:
        statement = _understand(query, project)
        self._check_tables(who, statement)
        with self._snapshots.lock:
            travelled = self._travel.to_the_times_of(project, query)
            processed, figures = self._measure(who, project, query, statement, travelled)
            with _saying(query, travelled.sql):
                answer = forward()
        if answer.is_good:
            content = answer.content
            content["configuration"]["query"]["query"] = query["query"]
            statistics = content.setdefault("statistics", {})
            statistics["totalBytesProcessed"] = str(processed)
            behind = sorted(self._snapshots.tables_behind(statement.reads))
            statistics.setdefault("query", {}).update(
                totalBytesProcessed=str(processed),
                totalBytesBilled="0",
                cacheHit=figures["cacheHit"],
                referencedTables=[
                    {"projectId": name.project, "datasetId": name.dataset, "tableId": name.table} for name in behind
                ],
            )
            answer = Answer.of(content)
        return answer

    def _run(self, who: str, project: str, name: str, location: str, body: dict[str, Any], forward: Forward) -> Answer:
        query = body["configuration"]["query"]
        statement = _understand(query, project)
        try:
            self._check_tables(who, statement)
        except Denied as denied:
            return self._fail(who, project, name, location, body, "accessDenied", str(denied))
        destination = query.get("destinationTable")
        written = statement.writes | ({TableName.of(destination, project)} if destination else set())
        with self._snapshots.lock:
            travelled = self._travel.to_the_times_of(project, query)
            _, figures = self._measure(who, project, query, statement, travelled)
            if too_much := _beyond_limit(query, figures):
                return self._fail(who, project, name, location, body, "bytesBilledLimitExceeded", too_much)
            with self._snapshots.changing(written), _saying(query, travelled.sql):
                answer = forward()
        self._texts[project, name] = query["query"]
        if not answer.is_good:
            return answer
        content = answer.content
        if not content.get("status", {}).get("errorResult"):
            self._remember(who, project, name, query, statement, figures)
        return Answer.of({**self.completed(content), "id": f"{project}:{location}.{name}", "user_email": who})

    def _fail(
        self, who: str, project: str, name: str, location: str, body: dict[str, Any], reason: str, message: str
    ) -> Answer:
        error = {"reason": reason, "message": message}
        now = str(int(time.time() * 1000))
        self._failed[project, name] = {
            "kind": "bigquery#job",
            "id": f"{project}:{location}.{name}",
            "jobReference": {"projectId": project, "jobId": name, "location": location},
            "configuration": {"jobType": "QUERY", **body["configuration"]},
            "status": {"state": "DONE", "errorResult": error, "errors": [error]},
            "statistics": {"creationTime": now, "startTime": now, "endTime": now, "query": {}},
            "user_email": who,
        }
        return Answer.of(self._failed[project, name])

    def _check_tables(self, who: str, statement: Statement) -> None:
        for name in sorted(statement.reads):
            self._roles.check_query(who, name)
        for name in sorted(statement.writes):
            self._roles.check_table(who, "bigquery.tables.updateData", name)

    def _measure(
        self, who: str, project: str, query: dict[str, Any], statement: Statement, travelled: Travelled
    ) -> tuple[int, dict[str, Any]]:
        """Bytes that a fresh run reads, and the figures of the run that this will be."""
        tables = self._snapshots.tables_behind(statement.reads)
        names = {name: self._snapshots.columns(name) for name in statement.reads}
        read = columns_read(query.get("query", ""), project, _dataset(query), names)
        processed = sum(self._snapshots.size(name, read.get(name), travelled.rows.get(name)) for name in tables)
        uses_cache = query.get("useQueryCache") is not False
        if uses_cache and self._key(who, project, query, statement) in self._cache:
            return 0, {"totalBytesProcessed": "0", "totalBytesBilled": "0", "cacheHit": True}
        billed = billed_bytes(processed, len(statement.reads))
        told = {"totalBytesProcessed": str(processed), "totalBytesBilled": str(billed), "cacheHit": False}
        return processed, told

    def _remember(
        self,
        who: str,
        project: str,
        job: str,
        query: dict[str, Any],
        statement: Statement,
        figures: dict[str, Any],
    ) -> None:
        for name in statement.writes:
            if statement.makes == "VIEW":
                self._snapshots.note_view(name, statement.reads)
            elif statement.makes == "TABLE":
                self._travel.keep(name)
        self._figures[project, job] = figures
        if key := self._key(who, project, query, statement):
            self._queries[project, job] = query, partial(self._key, who, project, query, statement), key
            if query.get("useQueryCache") is not False:
                self._cache.add(key)

    def _key(self, who: str, project: str, query: dict[str, Any], statement: Statement) -> str:
        """What must be the same for a result to be used again; empty if it never is."""
        text = query.get("query", "")
        is_fixed = statement.is_query and statement.reads and not any(word in text.upper() for word in _UNCACHEABLE)
        if not is_fixed or query.get("destinationTable"):
            return ""
        tables = sorted(self._snapshots.tables_behind(statement.reads))
        versions = [(str(name), str(self._snapshots.changed(name))) for name in tables]
        return json.dumps([who, project, text, query.get("defaultDataset"), query.get("queryParameters"), versions])


def written_by(configuration: dict[str, Any], project: str) -> list[TableName]:
    """The tables that a load or copy job changes."""
    kinds = (configuration[kind] for kind in ("load", "copy") if kind in configuration)
    return [TableName.of(kind["destinationTable"], project) for kind in kinds if "destinationTable" in kind]


def _understand(query: dict[str, Any], project: str) -> Statement:
    return understand(query.get("query", ""), project, _dataset(query))


def _dataset(query: dict[str, Any]) -> str:
    return query.get("defaultDataset", {}).get("datasetId", "")


@contextmanager
def _saying(query: dict[str, Any], sql: str) -> Iterator[None]:
    """For as long as the emulator is asked, `query` has the words that it understands."""
    text = query.get("query", "")
    query["query"] = sql
    try:
        yield
    finally:
        query["query"] = text


def _beyond_limit(query: dict[str, Any], figures: dict[str, Any]) -> str:
    limit, billed = int(query.get("maximumBytesBilled") or 0), int(figures["totalBytesBilled"])
    if not limit or billed <= limit:
        return ""
    return f"Query exceeded limit for bytes billed: {limit}. {billed} or higher required."


def _with_content(answer: Answer, more: dict[str, Any]) -> Answer:
    return Answer.of({**answer.content, **more}) if answer.is_good else answer
