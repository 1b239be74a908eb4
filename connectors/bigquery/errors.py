"""What Google's clients raise, as errors that name the thing and say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import requests
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors
from google.rpc.error_details_pb2 import RetryInfo

from connectors.errors import ConnectorError, TransientError, Unreachable

QUOTA_WAIT_S = 3600.0
_ROLES = {
    "bigquery.jobs.create": "BigQuery Job User",
    "bigquery.readsessions.create": "BigQuery Read Session User",
    "bigquery.readsessions.getData": "BigQuery Read Session User",
}
_DATA_VIEWER = "BigQuery Data Viewer"
_NETWORK = (requests.exceptions.ConnectionError, requests.exceptions.Timeout)
_RENAMED = "Check its name; it may have been renamed or deleted."
_KINDS = {
    "project": "Check the project's ID in the connection: it is not always the project's name.",
    "dataset": "Check its name, and that the connection's location is where the dataset lives.",
    "table": _RENAMED,
    "routine": _RENAMED,
    "model": _RENAMED,
    "job": "BigQuery forgets jobs after some time; run it again.",
}
# Some refusals name the thing and not the permission.
_REFUSED = re.compile(r"Access Denied: (\w+)")
_PERMISSIONS = {
    "Table": "bigquery.tables.getData",
    "View": "bigquery.tables.getData",
    "Dataset": "bigquery.datasets.get",
}
_PERMISSION = re.compile(r"bigquery\.[a-z]+\.[a-zA-Z]+")
_NOT_FOUND = re.compile(r"Not found: (?P<kind>\w+):?\s*(?P<name>[^\s;]+)", re.IGNORECASE)
# gRPC's words for a connection that is gone, and for a call that the other side threw away.
_BROKEN = re.compile(r"socket|RST_STREAM|reset by peer|broken pipe|stream removed|GOAWAY", re.IGNORECASE)
_NO_SUCH_TIME = re.compile(r"Invalid (?:snapshot time|time travel timestamp)|TIMESTAMP value in the future")
_REQUEST = re.compile(r"^\d{3} |^(GET|POST|PUT|PATCH|DELETE) \S+?: ")
_PEER = re.compile(r"ipv[46]:(\S+?:\d+)")
# Neither a signed token nor a key may reach a log, wherever Google's text got it from.
_SECRET = re.compile(r"eyJ[\w-]+\.[\w-]+(\.[\w-]+)?|ya29\.[\w-]+|-----BEGIN.*?(-----END[^-]*-----|$)", re.DOTALL)


@dataclass(frozen=True)
class Doing:
    """What was being done when Google refused: words for the sentence, and the permission it takes.

    `thing` starts a sentence: "Table acme.sales.orders", "The query". `field` is the option or
    request field that named it.
    """

    thing: str
    field: str = ""
    permission: str = ""


@dataclass(frozen=True)
class _Meaning:
    code: str
    sentence: str
    hint: str = ""
    transient: bool = False
    retry_after_s: float | None = None


_BUSY = _Meaning("rate_limited", "BigQuery limits how often it may be asked just now", transient=True)
_OUTAGE = _Meaning("bigquery_unavailable", "BigQuery had a fault of its own", transient=True)
_INVALID = _Meaning("invalid_query", "{thing} was refused", "Correct it, and try again.")
_NO_SPACE = "Ask for less: fewer columns, a filter, or a table that was prepared before."
_REJECTED = _Meaning(
    "credentials_rejected",
    "BigQuery does not accept the service account key",
    "The key may have been deleted or its account disabled, or this machine's clock is wrong.",
)
_SNAPSHOT_GONE = _Meaning(
    "snapshot_gone",
    "{thing} cannot be read as it was at the time of the snapshot",
    "It was made anew meanwhile, or the time lies before its time travel window: another try takes a new snapshot.",
    transient=True,
)
_DISABLED = _Meaning(
    "api_disabled", "The BigQuery API is not enabled in this project", "Enable it in Google Cloud, then wait a minute."
)

# Reasons: https://cloud.google.com/bigquery/docs/error-messages
_REASONS: Mapping[str, _Meaning] = {
    "rateLimitExceeded": _BUSY,
    "jobRateLimitExceeded": _BUSY,
    "tableUnavailable": _OUTAGE,
    "backendError": _OUTAGE,
    "internalError": _OUTAGE,
    "jobBackendError": _OUTAGE,
    "jobInternalError": _OUTAGE,
    "badGateway": _OUTAGE,
    "timeout": _Meaning("timeout", "{thing} took too long", transient=True),
    "quotaExceeded": _Meaning(
        "quota_exceeded",
        "A quota of the project is used up",
        "See Quotas in Google Cloud, or wait until it is filled again.",
        transient=True,
        retry_after_s=QUOTA_WAIT_S,
    ),
    "invalidQuery": _INVALID,
    "invalid": _INVALID,
    "badRequest": _INVALID,
    "parseError": _INVALID,
    "required": _INVALID,
    "bytesBilledLimitExceeded": _Meaning(
        "bytes_billed_limit",
        "{thing} would read more than the limit allows",
        "Raise the pipeline's budget, or read less: fewer columns or a filter on the partition.",
    ),
    "responseTooLarge": _Meaning("response_too_large", "The answer to {thing} is too large for BigQuery", _NO_SPACE),
    "resourcesExceeded": _Meaning("resources_exceeded", "{thing} needs more than BigQuery gives a query", _NO_SPACE),
    "billingNotEnabled": _Meaning(
        "billing_disabled", "Billing is not enabled in the project", "Enable it in Google Cloud, under Billing."
    ),
    "billingTierLimitExceeded": _Meaning(
        "resources_exceeded", "{thing} needs more than the project may use", _NO_SPACE
    ),
    "accessNotConfigured": _DISABLED,
    "SERVICE_DISABLED": _DISABLED,
    "authError": _REJECTED,
    "stopped": _Meaning("job_stopped", "{thing} was cancelled in BigQuery", "Run it again.", transient=True),
}
# What is left when there is no reason, or none of these.
_STATUS: tuple[tuple[type[Exception], _Meaning], ...] = (
    (google_errors.Unauthorized, _REJECTED),
    (google_errors.TooManyRequests, _BUSY),
    (google_errors.DeadlineExceeded, _REASONS["timeout"]),
    (google_errors.GatewayTimeout, _REASONS["timeout"]),
    (google_errors.Cancelled, _Meaning("interrupted", "Reading {thing} was interrupted", transient=True)),
    (google_errors.Aborted, _OUTAGE),
    (google_errors.MethodNotImplemented, _Meaning("not_supported", "{thing} cannot be read this way")),
    (google_errors.ServerError, _OUTAGE),
    (google_errors.BadRequest, _INVALID),
)


@contextmanager
def explained(doing: Doing) -> Iterator[None]:
    """Turn whatever Google's clients raise inside into a ConnectorError."""
    try:
        yield
    except (
        google_errors.GoogleAPIError,
        auth_errors.GoogleAuthError,
        requests.exceptions.RequestException,
        grpc.RpcError,
        TimeoutError,
        KeyError,  # what Google's clients raise for an answer that is not BigQuery's
        ValueError,
    ) as error:
        raise explain(error, doing) from error


def explain(error: BaseException, doing: Doing) -> ConnectorError:
    """The ConnectorError that says what `error` means."""
    if isinstance(error, google_errors.RetryError) and error.cause is not None:
        error = error.cause
    if isinstance(error, grpc.RpcError):
        error = google_errors.from_grpc_error(error)
    if isinstance(error, google_errors.GoogleAPICallError):
        return _explain_answer(error, doing)
    if isinstance(error, requests.exceptions.SSLError):
        return ConnectorError(
            "BigQuery's certificate is not trusted here.",
            hint="A proxy between here and Google may replace it: its certificate must be known to this machine.",
            code="tls_failed",
        )
    aborted = isinstance(error, requests.exceptions.ConnectionError) and "Connection aborted" in str(error)
    if aborted or isinstance(error, requests.exceptions.ChunkedEncodingError):
        return TransientError("The connection to BigQuery broke.", code="connection_lost")
    if isinstance(error, requests.exceptions.ReadTimeout | TimeoutError):
        return TransientError(f"{doing.thing}: BigQuery did not answer in time.", code="timeout")
    if isinstance(error, (*_NETWORK, auth_errors.TransportError)):
        return _unreachable(_host(error))
    if isinstance(error, auth_errors.GoogleAuthError):
        return _make(_REJECTED, doing, "", "credentials_json")
    return TransientError(f"{doing.thing}: BigQuery's answer was not understood.", code="bad_answer")


def explain_job(result: Mapping[str, Any], doing: Doing) -> ConnectorError:
    """The same for the `errorResult` of a job that failed."""
    reason, text = str(result.get("reason", "")), str(result.get("message", ""))
    if _NO_SUCH_TIME.search(text):
        return _make(_SNAPSHOT_GONE, doing, text)
    if reason == "notFound":
        return _not_found(text, doing)
    if reason in ("accessDenied", "forbidden"):
        return _denied(text, doing)
    return _make(_REASONS.get(reason, _INVALID), doing, text)


def _explain_answer(error: google_errors.GoogleAPICallError, doing: Doing) -> ConnectorError:
    first: Mapping[str, Any] = next((e for e in error.errors if isinstance(e, Mapping)), {})
    reason = str(first.get("reason") or error.reason or "")
    text = str(first.get("message") or _REQUEST.sub("", str(error.message or "")))
    if "has not been used in project" in text or "it is disabled" in text:
        return _make(_DISABLED, doing, text)
    if _NO_SUCH_TIME.search(text):
        return _make(_SNAPSHOT_GONE, doing, text)
    if reason in _REASONS:
        return _make(_REASONS[reason], doing, text)
    if re.search(r"session.*expired", text, re.IGNORECASE) and isinstance(error, google_errors.ClientError):
        return TransientError(f"{doing.thing}: the read session expired.", code="session_lost")
    if isinstance(error, google_errors.NotFound):
        return _not_found(text, doing)
    if isinstance(error, google_errors.Forbidden):
        return _denied(text, doing)
    if isinstance(error, google_errors.ServiceUnavailable) and "failed to connect" in text.lower():
        peer = _PEER.search(text)
        return _unreachable(peer[1] if peer else "bigquerystorage.googleapis.com")
    if isinstance(error, google_errors.ServerError) and _BROKEN.search(text):
        return TransientError("The connection to BigQuery broke.", code="connection_lost")
    meaning = next((m for kind, m in _STATUS if isinstance(error, kind)), _INVALID)
    return _make(meaning, doing, text, retry_after_s=_retry_delay(error))


def _make(
    meaning: _Meaning, doing: Doing, text: str, field: str = "", *, retry_after_s: float | None = None
) -> ConnectorError:
    sentence = meaning.sentence.format(thing=doing.thing)
    said = _plain(text)
    message = f"{sentence}: {said}" if said else f"{sentence}."
    if meaning is _REJECTED:
        field = "credentials_json"
    if meaning.transient:
        wait = retry_after_s if retry_after_s is not None else meaning.retry_after_s
        return TransientError(message, hint=meaning.hint, code=meaning.code, retry_after_s=wait)
    field = field or (doing.field if meaning is _INVALID else "")
    return ConnectorError(message, hint=meaning.hint, code=meaning.code, field=field)


def _not_found(text: str, doing: Doing) -> ConnectorError:
    found = _NOT_FOUND.search(text)
    kind = found["kind"].lower() if found else doing.field
    if kind not in _KINDS:
        return ConnectorError(f"{doing.thing} was not found.", code="not_found", field=doing.field)
    name = found["name"].rstrip(".,").replace(":", ".") if found else ""
    return ConnectorError(
        f"{kind.capitalize()} {name} was not found." if name else f"{doing.thing} was not found.",
        hint=_KINDS[kind],
        code=f"{kind}_not_found",
        field="project" if kind == "project" else doing.field,
    )


def _denied(text: str, doing: Doing) -> ConnectorError:
    named, refused = _PERMISSION.search(text), _REFUSED.search(text)
    permission = named[0] if named else _PERMISSIONS.get(refused[1] if refused else "", doing.permission)
    if not permission:
        return ConnectorError(
            f"{doing.thing}: access is denied: {_plain(text)}",
            hint=f"Grant the role {_DATA_VIEWER} to the connection's service account.",
            code="permission_denied",
            field=doing.field,
        )
    role = _ROLES.get(permission, _DATA_VIEWER)
    return ConnectorError(
        f"{doing.thing}: the permission {permission} is missing.",
        hint=f"Grant the role {role} to the connection's service account. BigQuery says: {_plain(text)}",
        code="permission_denied",
        field=doing.field,
    )


def _unreachable(address: str) -> Unreachable:
    return Unreachable(
        f"BigQuery cannot be reached at {address}.", hint="Check that this machine may connect to that address."
    )


def _host(error: BaseException) -> str:
    request = getattr(error, "request", None)
    return urlsplit(request.url or "").netloc if request is not None else "Google's address"


def _retry_delay(error: google_errors.GoogleAPICallError) -> float | None:
    for detail in error.details:
        if isinstance(detail, RetryInfo):
            return float(detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9)
    return None


def _plain(text: str) -> str:
    """BigQuery's words as one line of bounded length, without anything that is secret."""
    return " ".join(_SECRET.sub("…", text).split())[:1000]
