"""What all API views share: permissions, the shape of errors, and how OpenAPI tells of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from django.db.models import QuerySet
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers
from rest_framework.exceptions import APIException
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.permissions import DjangoModelPermissions
from rest_framework.request import Request
from rest_framework.views import APIView


class ProblemSerializer(serializers.Serializer[Any]):
    """One thing that is wrong with one field."""

    code = serializers.CharField()
    message = serializers.CharField()
    hint = serializers.CharField()


class ErrorSerializer(serializers.Serializer[Any]):
    """Every answer that is not a success: `code` is stable, `hint` says what to do, `fields` names what was sent."""

    code = serializers.CharField()
    message = serializers.CharField()
    hint = serializers.CharField()
    fields = serializers.DictField(child=ProblemSerializer(many=True))  # type: ignore[assignment]


Problem = dict[str, str]


def problem(code: str, message: str, hint: str = "") -> Problem:
    return {"code": code, "message": message, "hint": hint}


class FieldErrors(APIException):
    """Values that cannot be accepted, field by field, each problem with its hint."""

    status_code = 400
    default_code = "invalid"

    def __init__(self, fields: Mapping[str, Iterable[Problem]]) -> None:
        super().__init__("Some values cannot be accepted.")
        self.fields = {name: list(problems) for name, problems in fields.items()}


class ModelPermissions(DjangoModelPermissions):
    """Reading needs view, writing add or change; `action_permissions` of a view says what its actions need."""

    perms_map: ClassVar = {
        **DjangoModelPermissions.perms_map,
        **{method: ["%(app_label)s.view_%(model_name)s"] for method in ("GET", "HEAD", "OPTIONS")},
    }

    def has_permission(self, request: Request, view: APIView) -> bool:
        needed = getattr(view, "action_permissions", {}).get(getattr(view, "action", None))
        if needed is None:
            return super().has_permission(request, view)
        return bool(request.user and request.user.is_authenticated and request.user.has_perm(needed))


class ApiSchema(AutoSchema):
    """Adds the one shape of errors to every operation."""

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        bodies = super()._get_response_bodies(direction)
        if direction == "response":
            bodies["default"] = self._get_response_for_code(ErrorSerializer(), "default")
            bodies["default"]["description"] = "What went wrong."
        return bodies


class TokenScheme(OpenApiAuthenticationExtension):
    target_class = "pipelines.tokens.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API token from your profile page."}


class Pages(LimitOffsetPagination):
    max_limit = 500


class KnownFilters(DjangoFilterBackend):
    """Refuses filters that a list does not have: a misspelt one would answer with everything."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        if view.action == "list":
            filterset = self.get_filterset(request, queryset, view)
            of_pages = (Pages.limit_query_param, Pages.offset_query_param, "format")
            known = [*(filterset.filters if filterset else ()), *of_pages]
            wrong = problem("unknown_field", "There is no such filter.", f"This list has {', '.join(known)}.")
            if unknown := sorted(request.query_params.keys() - set(known)):
                raise FieldErrors({name: [wrong] for name in unknown})
        return super().filter_queryset(request, queryset, view)


class ApiView:
    """Mixed into every API view."""

    pagination_class: ClassVar[type[Pages] | None] = Pages
    filter_backends: ClassVar = [KnownFilters]

    permission_classes: ClassVar = [ModelPermissions]
    # OPTIONS would describe forms; the OpenAPI schema says more.
    metadata_class = None
    schema = ApiSchema()
    action_permissions: ClassVar[dict[str, str]] = {}
