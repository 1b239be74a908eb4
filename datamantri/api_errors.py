"""Every error of the API in one shape: code, message, hint, and what is wrong field by field."""

from __future__ import annotations

import logging
from typing import Any

from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest
from rest_framework import status
from rest_framework.exceptions import APIException, ErrorDetail, NotFound, ParseError, ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from pipelines.api_base import FieldErrors, Problem, problem
from pipelines.objections import PipelineRefused
from pipelines.schedules import RuleError
from runs.services import RunRefused

log = logging.getLogger(__name__)

WHOLE = "non_field_errors"
HINTS = {
    "invalid": "Mend what `fields` names and send it again.",
    "parse_error": "Send JSON.",
    "not_authenticated": "Send a token as `Authorization: Bearer dm_…`, or log in.",
    "authentication_failed": "Make a new token on your profile page.",
    "permission_denied": "Ask an admin for the group that may do this.",
    "not_found": "Check the address, which ends with a slash, and the id.",
    "method_not_allowed": "The schema at /api/v1/schema/ lists what each address takes.",
    "not_acceptable": "Ask for application/json.",
    "unsupported_media_type": "Send JSON, with Content-Type: application/json.",
    "throttled": "Wait as long as the header Retry-After says.",
    "csrf_failed": "Send the CSRF token with the session, or use an API token.",
}


def answer(error: Exception, context: dict[str, Any]) -> Response:
    """Django REST framework's exception handler."""
    told = _of_the_product(error)
    if told is not None:
        return told
    if isinstance(error, RecursionError):
        # Lists within lists within lists; logged, should it be a defect of ours after all.
        log.warning("A body nests too deeply to be read", exc_info=error)
        error = ParseError("The JSON is nested too deeply.")
    response = exception_handler(error, context)
    if response is not None:
        response.data = _body(error, response)
        return response
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("The database does not answer: %s", error)
        body = _whole(problem("database_unavailable", "The database does not answer.", "Try again in a moment."))
        return Response(body, status=status.HTTP_503_SERVICE_UNAVAILABLE, headers={"Retry-After": "5"})
    request = context.get("request")
    got_request_exception.send(sender=None, request=getattr(request, "_request", request))
    log.error("The API failed", exc_info=error)
    body = _whole(problem("internal_error", "Something broke on our side.", "The server's log says more."))
    return Response(body, status=status.HTTP_500_INTERNAL_SERVER_ERROR)


def _of_the_product(error: Exception) -> Response | None:
    if isinstance(error, FieldErrors):
        return Response(_invalid(error.fields), status=error.status_code)
    if isinstance(error, RuleError):
        found = problem(error.code, error.message, error.hint)
        return Response(_invalid({f"schedules.{error.field}": [found]}), status=status.HTTP_400_BAD_REQUEST)
    if isinstance(error, PipelineRefused) and error.field:
        found = problem(error.code, error.message, error.hint)
        return Response(_invalid({error.field: [found]}), status=status.HTTP_400_BAD_REQUEST)
    if isinstance(error, PipelineRefused | RunRefused):
        return Response(_whole(problem(error.code, error.message, error.hint)), status=status.HTTP_409_CONFLICT)
    return None


def _body(error: Exception, response: Response) -> dict[str, Any]:
    if isinstance(error, ValidationError):
        return _invalid(_flat(error.detail))
    if isinstance(error, APIException):
        detail = error.detail
        message = detail if isinstance(detail, str) else "The request cannot be answered."
        code = detail.code if isinstance(detail, ErrorDetail) else error.default_code
    elif response.status_code == status.HTTP_404_NOT_FOUND:
        message, code = NotFound.default_detail, "not_found"
    else:
        message, code = "You may not do this.", "permission_denied"
    if message.startswith("CSRF Failed"):
        code = "csrf_failed"
    return _whole(problem(code, f"{str(message).rstrip('.')}.", HINTS.get(code, "")))


def _whole(told: Problem) -> dict[str, Any]:
    return {**told, "fields": {}}


def _invalid(fields: dict[str, list[Problem]]) -> dict[str, Any]:
    named = ", ".join(name for name in fields if name != WHOLE)
    message = f"These fields cannot be accepted: {named}." if named else fields[WHOLE][0]["message"]
    return {**problem("invalid", message, HINTS["invalid"]), "fields": fields}


def _flat(detail: Any, at: str = "") -> dict[str, list[Problem]]:
    """Nested errors under dotted names, as in schedules.0.cron."""
    if isinstance(detail, ErrorDetail):
        return {at or WHOLE: [problem(detail.code, str(detail))]}
    fields: dict[str, list[Problem]] = {}
    if isinstance(detail, dict):
        # Numbers are places in a list.
        inner = [(str(name) if name != WHOLE or not at else "", child) for name, child in detail.items()]
    else:
        plain = all(isinstance(child, ErrorDetail) for child in detail)
        inner = [("" if plain else str(number), child) for number, child in enumerate(detail)]
    for name, child in inner:
        for path, problems in _flat(child, ".".join(part for part in (at, name) if part)).items():
            fields.setdefault(path, []).extend(problems)
    return fields


class NothingHere(APIView):
    """Addresses below the API that lead nowhere, told in the API's own shape."""

    permission_classes = ()
    authentication_classes = ()
    schema = None

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        raise NotFound

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        raise NotFound
