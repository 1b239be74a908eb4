"""The API's doors to dataset rules and to what their looks found."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from connectors import registry
from pipelines import dataset_rules
from pipelines.api_base import ApiView, FieldErrors, problem
from pipelines.models import Connection, DatasetRule, Pipeline
from pipelines.serializers import NoUnknownFields
from runs import looking_bell
from runs.models import DatasetLook, TableEvent


class DatasetRuleSerializer(NoUnknownFields, serializers.ModelSerializer[DatasetRule]):
    """What becomes of tables that appear in a dataset."""

    source = serializers.PrimaryKeyRelatedField(
        queryset=Connection.objects.filter(kind__in=[k.name for k in registry.KINDS.values() if k.source]),
        pk_field=serializers.UUIDField(),
    )
    template = serializers.PrimaryKeyRelatedField(
        queryset=Pipeline.objects.all(),
        pk_field=serializers.UUIDField(),
        help_text="A pipeline that reads a table: new ones are like it but for the tables and the name.",
    )

    class Meta:
        model = DatasetRule
        fields = (
            "id", "name", "enabled", "source", "dataset", "include", "exclude", "views", "take_existing", "template",
            "name_prefix", "new_state", "most_at_once", "every_s", "next_look", "created_at", "updated_at",
        )  # fmt: skip
        read_only_fields = ("id", "next_look", "created_at", "updated_at")
        # save_rule says the same, with a hint.
        extra_kwargs: ClassVar = {"name": {"validators": []}, "name_prefix": {"trim_whitespace": False}}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        candidate = copy.copy(self.instance) if self.instance is not None else DatasetRule()
        for name, value in attrs.items():
            setattr(candidate, name, value)
        found: dict[str, list[dict[str, str]]] = {}
        try:
            candidate.clean_fields()
        except ValidationError as error:
            for name, messages in error.message_dict.items():
                found[name] = [problem("invalid", " ".join(messages))]
        for refused in [] if found else dataset_rules.against(candidate):
            found.setdefault(refused.field, []).append(problem(refused.code, refused.message, refused.hint))
        if found:
            raise FieldErrors(found)
        return attrs


class TableEventSerializer(serializers.ModelSerializer[TableEvent]):
    """Something that happened to a table."""

    class Meta:
        model = TableEvent
        fields = ("id", "at", "table", "kind", "pipeline", "message")
        read_only_fields = fields


class DatasetLookSerializer(serializers.ModelSerializer[DatasetLook]):
    """One look at a dataset."""

    class Meta:
        model = DatasetLook
        fields = (
            "id", "at", "tables", "appeared", "made", "refused", "vanished", "left", "error_code", "error_message",
            "error_hint",
        )  # fmt: skip
        read_only_fields = fields


@extend_schema_view(
    list=extend_schema(summary="List dataset rules"),
    retrieve=extend_schema(summary="Read a dataset rule"),
    create=extend_schema(summary="Create a dataset rule"),
    partial_update=extend_schema(summary="Change a dataset rule"),
    destroy=extend_schema(summary="Delete a dataset rule"),
)
class DatasetRuleViewSet(ApiView, viewsets.ModelViewSet[DatasetRule]):
    """Rules that make pipelines for tables that appear. One that is saved looks at once; its pipelines outlive it."""

    serializer_class = DatasetRuleSerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("name", "source", "dataset", "enabled")
    http_method_names: ClassVar = ["get", "post", "patch", "delete", "head", "options"]
    queryset = DatasetRule.objects.all()
    action_permissions: ClassVar = {
        "look": "pipelines.change_datasetrule",
        "looks": "pipelines.view_datasetrule",
        "events": "pipelines.view_datasetrule",
    }

    def get_queryset(self) -> QuerySet[DatasetRule]:
        return DatasetRule.objects.order_by("name")

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        self._save(serializer, DatasetRule())

    def perform_update(self, serializer: serializers.BaseSerializer[Any]) -> None:
        self._save(serializer, serializer.instance)

    def _save(self, serializer: serializers.BaseSerializer[Any], rule: DatasetRule) -> None:
        for name, value in serializer.validated_data.items():
            setattr(rule, name, value)
        serializer.instance = dataset_rules.save_rule(rule, by=self.request.user)
        looking_bell.ring()

    @extend_schema(summary="Look at a dataset now", request=None, responses={202: DatasetRuleSerializer})
    @action(detail=True, methods=["post"])
    def look(self, request: Request, pk: Any = None) -> Response:
        """A worker does it soon; `looks` has what it found."""
        rule = self.get_object()
        dataset_rules.look_soon(rule)
        looking_bell.ring()
        return Response(self.get_serializer(self.get_object()).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(summary="List the looks of a dataset rule", responses=DatasetLookSerializer(many=True))
    @action(detail=True, filter_backends=[])
    def looks(self, request: Request, pk: Any = None) -> Response:
        """Newest first."""
        page = self.paginate_queryset(DatasetLook.objects.filter(rule=self.get_object()))
        return self.get_paginated_response(DatasetLookSerializer(page, many=True).data)

    @extend_schema(summary="List what happened to tables", responses=TableEventSerializer(many=True))
    @action(detail=True, filter_backends=[])
    def events(self, request: Request, pk: Any = None) -> Response:
        """Tables that appeared, got a pipeline or could not, vanished or came back; newest first."""
        page = self.paginate_queryset(TableEvent.objects.filter(rule=self.get_object()))
        return self.get_paginated_response(TableEventSerializer(page, many=True).data)
