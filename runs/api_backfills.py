"""The API's doors to backfills."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_view
from rest_framework import serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from pipelines.api_base import ApiView, FieldErrors, problem
from pipelines.models import Pipeline
from pipelines.serializers import NoUnknownFields
from runs import backfill_queries, services
from runs.backfill_costs import Estimate, estimate
from runs.backfill_plans import Plan, Refused, Wish, plan
from runs.models import Backfill, BackfillSlice

READ, RUN = "runs.view_run", "pipelines.run_pipeline"


class BackfillWishSerializer(NoUnknownFields, serializers.Serializer[Any]):
    """A past range, and how it is cut."""

    low = serializers.CharField(max_length=100, help_text="Where it begins: a value of the cursor, or a time.")
    high = serializers.CharField(
        max_length=100, default="", allow_blank=True, help_text="Before what it ends. Empty: at the watermark, or now."
    )
    step = serializers.CharField(max_length=40, default="1 day", help_text="1 day, 6 hours, 1 month; or whole units.")
    zone = serializers.CharField(max_length=64, default="UTC", help_text="Whose days and months are meant.")
    parameters = serializers.DictField(default=dict, help_text="Values that all of its runs are given.")


class BackfillPreviewSerializer(serializers.Serializer[Any]):
    """What a backfill would take; null where nobody can tell."""

    kind = serializers.CharField(help_text="Whether slices are ranges of the cursor or of the data interval.")
    low = serializers.CharField()
    high = serializers.CharField()
    remarks = serializers.ListField(child=serializers.CharField())
    slices = serializers.IntegerField()
    seconds = serializers.FloatField(allow_null=True, help_text="At past speed.")
    bytes = serializers.IntegerField(allow_null=True, help_text="Read from the source, by the first and last slice.")
    money = serializers.FloatField(allow_null=True, help_text="At `price_per_tib`, a setting.")
    price_per_tib = serializers.FloatField()
    problem = serializers.CharField(allow_blank=True, help_text="Why the bytes are not known.")


class BackfillSerializer(serializers.ModelSerializer[Backfill]):
    """A backfill, with how many of its slices are in which state."""

    pipeline = serializers.UUIDField(source="pipeline_id")
    pipeline_name = serializers.CharField(source="pipeline.name")
    created_by = serializers.CharField(source="created_by.username", default=None, allow_null=True)
    slices = serializers.SerializerMethodField()
    rows = serializers.SerializerMethodField()
    seconds_left = serializers.SerializerMethodField(help_text="At its own pace so far.")

    class Meta:
        model = Backfill
        fields = (
            "id", "pipeline", "pipeline_name", "kind", "low", "high", "step", "zone", "parameters", "state", "reason",
            "slices", "rows", "seconds_left", "created_by", "created_at", "ended_at",
        )  # fmt: skip
        read_only_fields = fields

    def _tally(self, backfill: Backfill) -> backfill_queries.Tally:
        """Looked up once for all that are shown."""
        known: dict[UUID, backfill_queries.Tally] = self.__dict__.setdefault("_tallies", {})
        if backfill.pk not in known:
            shown = getattr(self.parent, "instance", None) or [backfill]
            known.update(backfill_queries.tallies_of(shown))
        return known[backfill.pk]

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField()))
    def get_slices(self, backfill: Backfill) -> dict[str, int]:
        return self._tally(backfill).counts

    def get_rows(self, backfill: Backfill) -> int:
        return self._tally(backfill).rows

    @extend_schema_field(serializers.FloatField(allow_null=True))
    def get_seconds_left(self, backfill: Backfill) -> float | None:
        return self._tally(backfill).seconds_left


class SliceSerializer(serializers.ModelSerializer[BackfillSlice]):
    """One slice, with its last run."""

    run = serializers.UUIDField(source="run_id", allow_null=True)

    class Meta:
        model = BackfillSlice
        fields = ("number", "low", "high", "status", "run", "tries", "rows", "seconds", "error_code", "finished_at")
        read_only_fields = fields


def _planned(request: Request, pipeline: Pipeline) -> Plan:
    told = BackfillWishSerializer(data=request.data)
    told.is_valid(raise_exception=True)
    try:
        return plan(pipeline, Wish(**told.validated_data))
    except Refused as refused:
        raise FieldErrors(
            {
                name or "non_field_errors": [problem(error.code, error.message, error.hint)]
                for name, error in refused.errors.items()
            }
        ) from refused


class PipelineBackfillsViewSet(ApiView, viewsets.GenericViewSet[Backfill]):
    """Where backfills of one pipeline are started."""

    queryset = Backfill.objects.none()
    serializer_class = BackfillSerializer
    pagination_class = None
    filter_backends: ClassVar = []
    action_permissions: ClassVar = {"create": RUN, "preview": RUN}

    @extend_schema(summary="Preview a backfill", request=BackfillWishSerializer, responses=BackfillPreviewSerializer)
    def preview(self, request: Request, pipeline_id: UUID) -> Response:
        """How many runs, how long at past speed, how many bytes and how much money; looking costs nothing."""
        pipeline = _pipeline(pipeline_id)
        found = _planned(request, pipeline)
        taken: Estimate = estimate(pipeline, found)
        told = {"kind": found.kind, "low": found.low, "high": found.high, "remarks": found.remarks, **vars(taken)}
        return Response(BackfillPreviewSerializer(told).data)

    @extend_schema(summary="Start a backfill", request=BackfillWishSerializer, responses={201: BackfillSerializer})
    def create(self, request: Request, pipeline_id: UUID) -> Response:
        """Cuts the range into slices, which run one after another behind live runs; 409 while another one goes on."""
        pipeline = _pipeline(pipeline_id)
        backfill = services.start_backfill(pipeline, _planned(request, pipeline), by=request.user)
        headers = {"Location": reverse("backfill-detail", [backfill.pk], request=request)}
        return Response(self.get_serializer(backfill).data, status=status.HTTP_201_CREATED, headers=headers)


def _pipeline(pk: UUID) -> Pipeline:
    return get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)


@extend_schema_view(list=extend_schema(summary="List backfills"), retrieve=extend_schema(summary="Read a backfill"))
class BackfillViewSet(ApiView, viewsets.ReadOnlyModelViewSet[Backfill]):
    """Backfills, newest first."""

    serializer_class = BackfillSerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("pipeline", "state")
    action_permissions: ClassVar = {
        **dict.fromkeys(("list", "retrieve", "slices"), READ),
        **dict.fromkeys(("pause", "resume", "cancel", "retry"), RUN),
    }

    def get_queryset(self) -> QuerySet[Backfill]:
        return Backfill.objects.select_related("pipeline", "created_by").order_by("-created_at", "-id")

    @extend_schema(summary="List a backfill's slices", responses=SliceSerializer(many=True))
    @action(detail=True, filterset_fields=None)
    def slices(self, request: Request, pk: Any = None) -> Response:
        """In the order of the range."""
        page = self.paginate_queryset(self.get_object().slices.order_by("number"))
        return self.get_paginated_response(SliceSerializer(page, many=True).data)

    @extend_schema(summary="Pause a backfill", request=None)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: Any = None) -> Response:
        """Starts no further slice; what runs goes on."""
        return self._do(services.pause_backfill)

    @extend_schema(summary="Resume a backfill", request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: Any = None) -> Response:
        return self._do(services.resume_backfill)

    @extend_schema(summary="Cancel a backfill", request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: Any = None) -> Response:
        """Asks what runs to stop; what was published stays."""
        return self._do(services.cancel_backfill)

    @extend_schema(summary="Try again what failed", request=None)
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: Any = None) -> Response:
        """Gives new runs to slices that failed or were cancelled, and to no others."""
        return self._do(services.retry_backfill)

    def _do(self, what: Any) -> Response:
        what(self.get_object(), by=self.request.user)
        return Response(self.get_serializer(self.get_object()).data)
