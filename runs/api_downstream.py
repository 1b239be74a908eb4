"""The API's door to running a pipeline and all downstream of it."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from pipelines.api_base import ApiView
from pipelines.models import Pipeline
from runs import services
from runs.api import KEY_HEADER, idempotency_key, request_digest
from runs.models import Run, Trigger
from runs.serializers import RunSerializer


class DownstreamRunsView(ApiView, APIView):
    """Runs of a pipeline and of everything that depends on it."""

    queryset = Run.objects.none()
    action = "create"
    action_permissions: ClassVar = {"create": "pipelines.run_pipeline"}

    @extend_schema(
        summary="Run a pipeline and all downstream of it",
        parameters=[
            OpenApiParameter(
                KEY_HEADER,
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Makes a repeated request safe: the same key gives the same runs.",
            )
        ],
        request=None,
        responses={201: RunSerializer(many=True), 200: RunSerializer(many=True)},
    )
    def post(self, request: Request, pipeline_id: UUID) -> Response:
        """The runs in their order; each but the first is blocked until those above it have succeeded."""
        pipeline = get_object_or_404(Pipeline.objects.select_related("revision"), pk=pipeline_id)
        key = idempotency_key(request)
        digest = request_digest(request, pipeline_id, "downstream") if key else ""
        runs, is_new = services.request_chain(
            pipeline, trigger=Trigger.API, by=request.user, idempotency_key=key, request_digest=digest
        )
        found = Run.objects.select_related("pipeline", "revision", "requested_by").in_bulk([run.pk for run in runs])
        answer = RunSerializer([found[run.pk] for run in runs], many=True).data
        return Response(answer, status=status.HTTP_201_CREATED if is_new else status.HTTP_200_OK)
