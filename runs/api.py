"""The API's doors to runs."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from pipelines import lookups
from pipelines.api_base import ApiView, FieldErrors, problem
from pipelines.budgets import APPROVES
from pipelines.models import Pipeline
from runs import part_queries, queries, services
from runs.models import Decision, Run, RunAction, Trigger
from runs.receipt_serializers import ComparisonCostSerializer
from runs.serializers import (
    DecisionSerializer,
    LogQuerySerializer,
    LogSerializer,
    PartSerializer,
    RunDetailSerializer,
    RunSerializer,
    TriggerSerializer,
)
from runs.services import RunRefused
from runs.states import RunStatus

MAX_KEY_LENGTH = 200
KEY_HEADER = "Idempotency-Key"


class RunFilter(filters.FilterSet):
    pipeline = filters.UUIDFilter(field_name="pipeline_id")
    status = filters.MultipleChoiceFilter(choices=RunStatus.choices, distinct=False)
    trigger = filters.MultipleChoiceFilter(choices=Trigger.choices, distinct=False)
    action = filters.MultipleChoiceFilter(choices=RunAction.choices, distinct=False)
    created_after = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="gte")
    created_before = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt")

    class Meta:
        model = Run
        fields: ClassVar = ["pipeline", "status", "trigger", "action", "created_after", "created_before"]


@extend_schema_view(list=extend_schema(summary="List runs"), retrieve=extend_schema(summary="Read a run"))
class RunViewSet(ApiView, viewsets.ReadOnlyModelViewSet[Run]):
    """What ran, what runs and what waits, newest first; micro-batches if you ask by pipeline, status or trigger."""

    lookup_value_converter = "uuid"
    filterset_class = RunFilter
    action_permissions: ClassVar = dict.fromkeys(
        ("cancel", "clear", "mark_done", "approve", "discard", "start"), "pipelines.run_pipeline"
    ) | {"approve_cost": APPROVES}

    def get_queryset(self) -> QuerySet[Run]:
        return Run.objects.select_related("pipeline", "revision", "requested_by").order_by("-created_at", "-id")

    def filter_queryset(self, queryset: QuerySet[Run]) -> QuerySet[Run]:
        """Of all pipelines, and whatever their status, micro-batches are left out unless they are asked for."""
        found = super().filter_queryset(queryset)
        asked = any(self.request.query_params.get(name) for name in ("pipeline", "status", "trigger"))
        return found if asked or self.action != "list" else found.exclude(trigger=Trigger.REALTIME)

    def get_serializer_class(self) -> type[RunSerializer]:
        return RunSerializer if self.action == "list" else RunDetailSerializer

    @extend_schema(summary="Cancel a run", request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: Any = None) -> Response:
        """What waits ends at once; what runs is asked to stop, and may have published by then."""
        run = services.cancel_run(self.get_object(), by=request.user)
        if run.is_terminal and run.status != RunStatus.CANCELLED:
            raise RunRefused("run_ended", f"This run has ended already: {run.status}.", "There is nothing to cancel.")
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(summary="Start a blocked run anyway", request=None)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: Any = None) -> Response:
        """Does not wait for its upstreams any more."""
        services.start_anyway(self.get_object(), by=request.user)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(summary="Clear a run", request=DecisionSerializer)
    @action(detail=True, methods=["post"])
    def clear(self, request: Request, pk: Any = None) -> Response:
        """Tries a failed or cancelled run again as the same run, with the pipeline's definition as it is now."""
        services.clear_run(self.get_object(), by=request.user, note=self._note(request))
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(summary="Mark a run as done", request=DecisionSerializer)
    @action(detail=True, methods=["post"], url_path="mark-done")
    def mark_done(self, request: Request, pk: Any = None) -> Response:
        """Says, with a note, that a failed or cancelled run needs nothing more: what waits for it may go on."""
        services.mark_done(self.get_object(), by=request.user, note=self._note(request))
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(summary="Approve a held run", request=DecisionSerializer)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: Any = None) -> Response:
        """Publishes the rows that the run staged, as they are."""
        return self._decide(request, Decision.PUBLISH)

    @extend_schema(summary="Approve what a run costs", request=DecisionSerializer)
    @action(detail=True, methods=["post"], url_path="approve-cost")
    def approve_cost(self, request: Request, pk: Any = None) -> Response:
        """Lets a run that is held with over_budget go on and read, as much as its dry run says."""
        services.approve_cost(self.get_object(), by=request.user, **self._told(request))
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(summary="Discard a held run", request=DecisionSerializer)
    @action(detail=True, methods=["post"])
    def discard(self, request: Request, pk: Any = None) -> Response:
        """Takes the staged rows away; the run ends as cancelled."""
        return self._decide(request, Decision.DISCARD)

    def _decide(self, request: Request, decision: Decision) -> Response:
        services.decide(self.get_object(), decision, by=request.user, **self._told(request))
        return Response(self.get_serializer(self.get_object()).data)

    def _note(self, request: Request) -> str:
        return self._told(request)["note"]

    def _told(self, request: Request) -> dict[str, Any]:
        told = DecisionSerializer(data=request.data)
        told.is_valid(raise_exception=True)
        return told.validated_data

    @extend_schema(summary="Read a run's log", parameters=[LogQuerySerializer], responses=LogSerializer, filters=False)
    @action(detail=True, pagination_class=None)
    def log(self, request: Request, pk: Any = None) -> Response:
        """Ask again with `after` set to the last seq you have: lines come once each, without gaps."""
        wanted = LogQuerySerializer(data=request.query_params)
        wanted.is_valid(raise_exception=True)
        # Read before its lines: when it says finished, they are all there.
        run = self.get_object()
        lines = queries.log_lines(run.pk, **wanted.validated_data)
        last_seq = max(run.last_seq, lines[-1].seq if lines else 0)
        return Response(LogSerializer({"lines": lines, "last_seq": last_seq, "finished": run.is_terminal}).data)

    @extend_schema(summary="List a run's parts", responses=PartSerializer(many=True))
    @action(detail=True, filterset_class=None)
    def parts(self, request: Request, pk: Any = None) -> Response:
        """In the order in which they are taken; none for a run that is loaded in one go."""
        page = self.paginate_queryset(part_queries.parts_of(self.get_object()))
        return self.get_paginated_response(PartSerializer(page, many=True).data)


class PipelineRunsViewSet(ApiView, viewsets.GenericViewSet[Run]):
    """Where runs of one pipeline are triggered."""

    queryset = Run.objects.none()
    serializer_class = RunSerializer
    pagination_class = None
    filter_backends: ClassVar = []
    action_permissions: ClassVar = {"create": "pipelines.run_pipeline"}

    @extend_schema(
        summary="Trigger a run",
        parameters=[
            OpenApiParameter(
                KEY_HEADER,
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Makes a repeated request safe: the same key gives the same run.",
            )
        ],
        request=TriggerSerializer,
        responses={201: RunSerializer, 200: RunSerializer},
    )
    def create(self, request: Request, pipeline_id: UUID) -> Response:
        """201 with a new run; 200 with the earlier one if the key was used before; 409 if it came with other words."""
        pipeline = get_object_or_404(Pipeline.objects.select_related("revision"), pk=pipeline_id)
        wanted = TriggerSerializer(data=request.data, context={"pipeline": pipeline})
        wanted.is_valid(raise_exception=True)
        key = idempotency_key(request)
        run, created = services.request_run(
            pipeline,
            trigger=Trigger.API,
            by=request.user,
            **wanted.validated_data,
            idempotency_key=key,
            request_digest=request_digest(request, pipeline_id) if key else "",
        )
        # Both are at hand: the answer needs no query of its own.
        run.requested_by = request.user
        if run.revision_id == pipeline.revision_id:
            run.revision = pipeline.revision
        headers = {"Location": reverse("run-detail", [run.pk], request=request)}
        answer_status = status.HTTP_201_CREATED if created else status.HTTP_200_OK
        return Response(self.get_serializer(run).data, status=answer_status, headers=headers)


class ComparisonCostView(ApiView, APIView):
    """What comparing both sides of a pipeline would cost."""

    queryset = Pipeline.objects.none()
    action = "cost"
    action_permissions: ClassVar = {"cost": "pipelines.run_pipeline"}

    @extend_schema(summary="Tell what a comparison costs", responses=ComparisonCostSerializer)
    def get(self, request: Request, pipeline_id: UUID) -> Response:
        """Both systems are asked, for at most five seconds; nothing is billed."""
        pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination"), pk=pipeline_id)
        try:
            return Response(lookups.comparison_cost(pipeline))
        except lookups.LookupFailed as failure:
            raise RunRefused(failure.code, failure.message, failure.hint) from failure


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get(KEY_HEADER, "").strip()
    if len(key) > MAX_KEY_LENGTH:
        message = f"The key is longer than {MAX_KEY_LENGTH} characters."
        raise FieldErrors({KEY_HEADER: [problem("max_length", message, "A UUID is long enough.")]})
    return key or None


def request_digest(request: Request, pipeline_id: UUID, what: str = "") -> str:
    """Tells a request from another one that comes with the same key."""
    told = {"pipeline": str(pipeline_id), "body": request.data}
    told = json.dumps({**told, "what": what} if what else told, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
