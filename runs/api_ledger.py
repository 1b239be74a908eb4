"""The API's door to what runs were billed."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, viewsets

from pipelines.api_base import ApiView
from runs.cost_serializers import LedgerSerializer
from runs.models import Ledger, RunAction


class LedgerFilter(filters.FilterSet):
    pipeline = filters.UUIDFilter(field_name="pipeline_id")
    action = filters.MultipleChoiceFilter(choices=RunAction.choices, distinct=False)
    day_from = filters.DateFilter(field_name="day", lookup_expr="gte")
    day_before = filters.DateFilter(field_name="day", lookup_expr="lt")

    class Meta:
        model = Ledger
        fields: ClassVar = ["pipeline", "action", "day_from", "day_before"]


@extend_schema_view(list=extend_schema(summary="List what was billed"))
class LedgerViewSet(ApiView, mixins.ListModelMixin, viewsets.GenericViewSet[Ledger]):
    """By day of UTC, pipeline and kind of run, newest first; it outlives the runs."""

    serializer_class = LedgerSerializer
    filterset_class = LedgerFilter
    queryset = Ledger.objects.none()

    def get_queryset(self) -> QuerySet[Ledger]:
        return Ledger.objects.select_related("pipeline").order_by("-day", "-id")

    def list(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Days, in UTC, on which something was billed."""
        return super().list(request, *args, **kwargs)
