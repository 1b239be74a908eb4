"""BigQuery's refusals, recorded: the emulator refuses little."""

from __future__ import annotations

import pytest

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.errors import ConnectorError, TransientError
from connectors.reading import ReadRequest
from tests.connectors.bigquery.conftest import read_all
from tests.connectors.bigquery.test_streams import table

ORDERS = ReadRequest(table="sales.orders")


@pytest.fixture
def source(connect, rest):
    rest.answer("GET", "/tables/orders", table())
    return connect(Endpoints(rest.url), project="acme")


def failure_of(act) -> ConnectorError:
    with pytest.raises(ConnectorError) as failure:
        act()
    return failure.value


def test_a_denied_table_names_permission_and_role(source, rest):
    rest.refuse(
        "GET",
        "/tables/orders",
        403,
        "accessDenied",
        "Access Denied: Table acme:sales.orders: Permission bigquery.tables.get denied on table acme:sales.orders"
        " (or it may not exist).",
    )
    error = failure_of(lambda: source.plan(ORDERS))
    assert (error.code, error.field, error.transient) == ("permission_denied", "table", False)
    assert error.message == "Table acme.sales.orders: the permission bigquery.tables.get is missing."
    assert "Grant the role BigQuery Data Viewer" in error.hint


@pytest.mark.parametrize(
    ("message", "permission", "role"),
    [
        (
            "Access Denied: Project acme: User does not have bigquery.jobs.create permission in project acme.",
            "bigquery.jobs.create",
            "BigQuery Job User",
        ),
        (
            "Access Denied: Table acme:sales.orders: User does not have permission to query table acme:sales.orders,"
            " or perhaps it does not exist.",
            "bigquery.tables.getData",
            "BigQuery Data Viewer",
        ),
    ],
)
def test_a_denied_query_names_permission_and_role(source, rest, message, permission, role):
    rest.refuse("POST", "/jobs", 403, "accessDenied", message)
    error = failure_of(lambda: source.describe(ReadRequest(query="SELECT * FROM sales.orders")))
    assert (error.code, error.field) == ("permission_denied", "query")
    assert permission in error.message
    assert role in error.hint


def test_a_project_that_is_not_there_is_named(source, rest):
    rest.refuse("GET", "/datasets", 404, "notFound", "Not found: Project acme")
    error = failure_of(source.datasets)
    assert (error.code, error.field) == ("project_not_found", "project")
    assert error.message == "Project acme was not found."


def test_a_dataset_in_another_location_is_named(source, rest):
    rest.refuse(
        "POST", "/jobs", 404, "notFound", "Not found: Dataset acme:sales was not found in location europe-west1"
    )
    error = failure_of(lambda: source.describe(ReadRequest(query="SELECT * FROM sales.orders")))
    assert error.code == "dataset_not_found"
    assert error.message == "Dataset acme.sales was not found."
    assert "location" in error.hint


def test_a_rejected_key_points_to_the_key(source, rest):
    rest.refuse("GET", "/datasets", 401, "authError", "Request had invalid authentication credentials.")
    error = failure_of(source.datasets)
    assert (error.code, error.field, error.transient) == ("credentials_rejected", "credentials_json", False)


@pytest.mark.parametrize(
    ("status", "reason", "code", "wait"),
    [
        (403, "rateLimitExceeded", "rate_limited", None),
        (403, "jobRateLimitExceeded", "rate_limited", None),
        (403, "quotaExceeded", "quota_exceeded", 3600.0),
        (429, "", "rate_limited", None),
        (500, "internalError", "bigquery_unavailable", None),
        (500, "", "bigquery_unavailable", None),
        (502, "badGateway", "bigquery_unavailable", None),
        (503, "backendError", "bigquery_unavailable", None),
        (503, "", "bigquery_unavailable", None),
        (504, "", "timeout", None),
    ],
)
def test_what_passes_is_transient(source, rest, status, reason, code, wait):
    rest.refuse("GET", "/tables/orders", status, reason, "Something passed.")
    error = failure_of(lambda: source.plan(ORDERS))
    assert isinstance(error, TransientError)
    assert (error.code, error.retry_after_s) == (code, wait)


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (400, "invalidQuery", "invalid_query"),
        (400, "invalid", "invalid_query"),
        (400, "bytesBilledLimitExceeded", "bytes_billed_limit"),
        (403, "responseTooLarge", "response_too_large"),
        (400, "resourcesExceeded", "resources_exceeded"),
        (403, "billingNotEnabled", "billing_disabled"),
        (403, "accessNotConfigured", "api_disabled"),
    ],
)
def test_what_a_person_must_mend_is_permanent_and_says_what_to_do(source, rest, status, reason, code):
    rest.refuse("POST", "/jobs", status, reason, "Something is wrong.")
    error = failure_of(lambda: source.describe(ReadRequest(query="SELECT 1")))
    assert (error.code, error.transient) == (code, False)
    assert error.hint
    assert "Something is wrong." in error.message


def test_a_token_in_an_answer_does_not_reach_the_message(source, rest):
    rest.refuse("GET", "/tables/orders", 400, "invalid", "Bad token eyJhbGciOi.eyJpc3Mi.c2ln ya29.abc")
    error = failure_of(lambda: source.plan(ORDERS))
    assert "eyJ" not in error.message
    assert "ya29" not in error.message


def test_an_answer_that_is_not_bigquerys_is_said(source, rest):
    rest.answer("GET", "/tables/orders", (200, {"kind": "login page"}))
    assert failure_of(lambda: source.plan(ORDERS)).code == "bad_answer"


def test_pages_are_followed_with_their_tokens(source, rest):
    rest.answer(
        "GET",
        "/data",
        (200, {"totalRows": "3", "rows": [{"f": [{"v": "1"}]}, {"f": [{"v": "2"}]}], "pageToken": "next"}),
        (200, {"totalRows": "3", "rows": [{"f": [{"v": "3"}]}]}),
    )
    assert read_all(source, source.plan(ORDERS).parts) == [{"id": n} for n in (1, 2, 3)]
    asked = [path for method, path, _, _ in rest.requests if "/data?" in path]
    assert "pageToken=next" in asked[1]
    assert all("useInt64Timestamp=true" in path for path in asked)


def test_a_table_that_changes_between_pages_is_read_again_later(source, rest):
    rest.answer("GET", "/data", (200, {"totalRows": "1", "rows": [{"f": [{"v": "1"}]}]}))
    parts = source.plan(ORDERS).parts
    rest.answer("GET", "/tables/orders", table(lastModifiedTime="1"), table(lastModifiedTime="2"))
    error = failure_of(lambda: read_all(source, parts))
    assert (error.code, error.transient) == ("source_changed", True)


def test_fewer_rows_than_announced_are_not_taken_for_all(source, rest):
    rest.answer("GET", "/data", (200, {"totalRows": "2", "rows": [{"f": [{"v": "1"}]}]}))
    error = failure_of(lambda: read_all(source, source.plan(ORDERS).parts))
    assert (error.code, error.transient) == ("source_changed", True)


def test_a_value_of_another_type_names_its_column(source, rest):
    rest.answer("GET", "/data", (200, {"totalRows": "1", "rows": [{"f": [{"v": "one"}]}]}))
    error = failure_of(lambda: list(source.read(*source.plan(ORDERS).parts, stop=NeverStop())))
    assert (error.code, error.field) == ("bad_answer", "id")


def test_the_connection_test_names_the_missing_permission(source, rest):
    rest.answer("GET", "/projects", (200, {"projects": []}))
    rest.answer("GET", "/datasets", (200, {"datasets": []}))
    rest.refuse(
        "POST",
        "/jobs",
        403,
        "accessDenied",
        "Access Denied: Project acme: User does not have bigquery.jobs.create permission in project acme.",
    )
    last = list(source.check())[-1]
    assert (last.name, last.passed) == ("Run a query job (dry run)", False)
    assert last.detail == "Project acme: the permission bigquery.jobs.create is missing."
    assert "BigQuery Job User" in last.hint


def test_a_table_without_columns_cannot_be_read(source, rest):
    rest.answer("GET", "/tables/orders", table(schema={}))
    assert failure_of(lambda: source.plan(ORDERS)).code == "no_columns"
