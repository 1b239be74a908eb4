"""The steps of a connection test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from google.cloud import bigquery

from connectors.base import StepResult
from connectors.bigquery import credentials, query, streams
from connectors.bigquery.client import REUSE_ONCE, Clients, TimeLimit
from connectors.bigquery.errors import Doing, explained
from connectors.errors import ConnectorError

_DATASETS_TO_LOOK_IN = 5


def steps(get_clients: Callable[[], Clients], limit_s: float) -> Iterator[StepResult]:
    """Yield one result per step, within `limit_s` in all, stopping at the first that fails."""
    limit = TimeLimit(limit_s)
    name = "Read the project and the key"
    try:
        clients = get_clients()
        who = credentials.email(clients.credentials)
        yield StepResult(name, True, who or "No key: this installation uses an emulator.")
        name = "Reach BigQuery"
        _reach(clients, limit)
        yield StepResult(name, True, clients.rest_url)
        name = "List datasets"
        datasets = _datasets(clients, limit)
        yield StepResult(name, True, _counted(datasets))
        name = "Run a query job (dry run)"
        query.dry_run(clients, "SELECT 1", timeout_s=limit.left(), doing=_project(clients, "bigquery.jobs.create"))
        yield StepResult(name, True)
        name = "Open a Storage read session"
        yield _try_session(clients, datasets, limit, name)
    except ConnectorError as error:
        yield StepResult.failed(name, error)


def _reach(clients: Clients, limit: TimeLimit) -> None:
    # Asks for no permission: whoever has a valid key gets an answer, if only an empty one.
    with explained(_project(clients)):
        clients.get("projects", {"maxResults": 1}, limit.left())


def _datasets(clients: Clients, limit: TimeLimit) -> list[bigquery.DatasetReference]:
    with explained(_project(clients, "bigquery.datasets.get")):
        listed = clients.rest.list_datasets(retry=REUSE_ONCE, timeout=limit.left())
        return [item.reference for item in listed]


def _counted(datasets: list[bigquery.DatasetReference]) -> str:
    if not datasets:
        return "None is visible: grant BigQuery Data Viewer on the datasets to be read."
    return f"{len(datasets)} visible: {', '.join(d.dataset_id for d in datasets[:5])}{'…' if len(datasets) > 5 else ''}"


def _try_session(
    clients: Clients, datasets: list[bigquery.DatasetReference], limit: TimeLimit, name: str
) -> StepResult:
    """Without the Storage Read API rows still come through REST, so a refusal here is a warning only."""
    slower = "Rows are read through REST instead, which is slower."
    if not clients.has_storage:
        return StepResult(name, None, f"No endpoint is set. {slower}")
    table = _some_table(clients, datasets, limit)
    if table is None:
        return StepResult(name, None, "Not tried: there is no table to try it on.")
    label = f"{table.dataset_id}.{table.table_id}"
    path = f"projects/{table.project}/datasets/{table.dataset_id}/tables/{table.table_id}"
    doing = Doing(f"Table {label}", permission="bigquery.readsessions.create")
    try:
        streams.open_session(clients, path, max_streams=1, timeout_s=limit.left(), doing=doing)
    except ConnectorError as error:
        return StepResult(name, None, f"{error.message} {slower}", error.hint)
    return StepResult(name, True, f"on {label}")


def _some_table(
    clients: Clients, datasets: list[bigquery.DatasetReference], limit: TimeLimit
) -> bigquery.TableReference | None:
    for dataset in datasets[:_DATASETS_TO_LOOK_IN]:
        with explained(Doing(f"Dataset {dataset.dataset_id}", permission="bigquery.tables.list")):
            listed = clients.rest.list_tables(dataset, max_results=20, retry=REUSE_ONCE, timeout=limit.left())
            found = next((item for item in islice(listed, 20) if item.table_type == "TABLE"), None)
        if found is not None:
            return found.reference
    return None


def _project(clients: Clients, permission: str = "") -> Doing:
    return Doing(f"Project {clients.options.project}", field="project", permission=permission)
