"""The API's door to what checks came to."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_view
from rest_framework import mixins, serializers, viewsets

from pipelines.api_base import ApiView
from runs.models import CheckResult


class BadRowsSerializer(serializers.Serializer[Any]):
    """The first bad rows, as text; null is NULL."""

    columns = serializers.ListField(child=serializers.CharField())
    rows = serializers.ListField(child=serializers.ListField(child=serializers.CharField(allow_null=True)))


class CheckResultSerializer(serializers.ModelSerializer[CheckResult]):
    """How one check of one run ended."""

    run = serializers.UUIDField(source="run_id")
    pipeline = serializers.UUIDField(source="pipeline_id")
    value = serializers.FloatField(
        allow_null=True, help_text="Bad rows; of a row count the rows, of freshness the seconds, of sums the columns."
    )
    bad_rows = serializers.SerializerMethodField(
        help_text="Of the newest failure and of held runs, where one `run` is asked for; null for those who may not "
        "run the pipeline."
    )

    class Meta:
        model = CheckResult
        fields = (
            *("id", "run", "pipeline", "name", "kind", "severity", "status"),
            *("message", "value", "seconds", "at", "bad_rows"),
        )
        read_only_fields = fields

    @extend_schema_field(BadRowsSerializer(allow_null=True))
    def get_bad_rows(self, result: CheckResult) -> dict[str, Any] | None:
        request = self.context["request"]
        shows = "run" in request.query_params and request.user.has_perm("pipelines.run_pipeline")
        return result.sample if shows else None


class CheckResultFilter(filters.FilterSet):
    run = filters.UUIDFilter(field_name="run_id")
    pipeline = filters.UUIDFilter(field_name="pipeline_id")

    class Meta:
        model = CheckResult
        fields = ("run", "pipeline", "name", "status")


@extend_schema_view(list=extend_schema(summary="List results of checks"))
class CheckResultViewSet(ApiView, mixins.ListModelMixin, viewsets.GenericViewSet[CheckResult]):
    """What checks of rows came to, newest first: of one run, or over time by a check's name."""

    serializer_class = CheckResultSerializer
    filterset_class = CheckResultFilter
    action_permissions: ClassVar = {"list": "runs.view_run"}

    def get_queryset(self) -> QuerySet[CheckResult]:
        found = CheckResult.objects.order_by("-pk")
        return found if "run" in self.request.query_params else found.defer("sample")
