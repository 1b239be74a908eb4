"""The API's door to how the columns of pipelines' sources changed, as runs took it."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, serializers, viewsets

from connectors.types import bigquery_type
from pipelines.api_base import ApiView
from runs.models import SchemaChange
from runs.receipt_serializers import SchemaChangeSerializer


class KnownColumnSerializer(serializers.Serializer[Any]):
    """A column of the target, and the source's that it is of."""

    column = serializers.CharField(source="column.name", help_text="As the source calls it.")
    source_type = serializers.SerializerMethodField(help_text="In BigQuery's words.")
    name = serializers.CharField(help_text="As the target calls it.")
    type = serializers.CharField(help_text="In PostgreSQL's words.")
    is_gone = serializers.BooleanField(help_text="The source has dropped it, and the target keeps it.")

    def get_source_type(self, known: Any) -> str:
        return bigquery_type(known.column)


class AcceptedChangesSerializer(serializers.ModelSerializer[SchemaChange]):
    """What a published run found changed, and what the target's columns are since."""

    pipeline = serializers.UUIDField(source="pipeline_id")
    run = serializers.UUIDField(source="run_id", allow_null=True, help_text="Null once its run is past retention.")
    changes = SchemaChangeSerializer(many=True)
    columns = KnownColumnSerializer(source="known", many=True)

    class Meta:
        model = SchemaChange
        fields = ("id", "pipeline", "run", "at", "changes", "columns")
        read_only_fields = fields


class SchemaChangeFilter(filters.FilterSet):
    run = filters.UUIDFilter(field_name="run_id")
    pipeline = filters.UUIDFilter(field_name="pipeline_id")

    class Meta:
        model = SchemaChange
        fields = ("run", "pipeline")


@extend_schema_view(list=extend_schema(summary="List changes of sources' columns"))
class SchemaChangeViewSet(ApiView, mixins.ListModelMixin, viewsets.GenericViewSet[SchemaChange]):
    """How the columns of sources changed, newest first, as runs took it; of each pipeline the last 50 are kept."""

    serializer_class = AcceptedChangesSerializer
    filterset_class = SchemaChangeFilter
    action_permissions: ClassVar = {"list": "pipelines.view_pipeline"}

    def get_queryset(self) -> QuerySet[SchemaChange]:
        return SchemaChange.objects.order_by("-pk")
