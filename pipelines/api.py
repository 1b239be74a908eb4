"""The API's doors to definitions."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from pipelines import lookups, prices, queries, services
from pipelines.api_base import ApiView, FieldErrors, Problem, problem
from pipelines.columns import columns_now, known_columns
from pipelines.models import Connection, Pipeline, PipelineState
from pipelines.objections import PipelineRefused
from pipelines.serializers import (
    ConnectionLimitSerializer,
    ConnectionSerializer,
    OutlookSerializer,
    PipelineSerializer,
    PreflightSerializer,
    SavedPipelineSerializer,
)


@extend_schema_view(list=extend_schema(summary="List connections"), retrieve=extend_schema(summary="Read a connection"))
class ConnectionViewSet(ApiView, viewsets.ReadOnlyModelViewSet[Connection]):
    """Connections, without their secrets."""

    queryset = Connection.objects.defer("secrets").order_by("name")
    serializer_class = ConnectionSerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("kind", "name")

    @extend_schema(
        summary="Change a connection's limit", request=ConnectionLimitSerializer, responses={200: ConnectionSerializer}
    )
    def partial_update(self, request: Request, pk: Any = None) -> Response:
        """Takes `max_running`, how many steps may use it at once; null for the default. What waits goes by it at once.

        All else of a connection is changed in the admin, which tests it.
        """
        connection = self.get_object()
        told = ConnectionLimitSerializer(connection, data=request.data)
        told.is_valid(raise_exception=True)
        services.limit_connection(connection, told.validated_data["max_running"])
        return Response(self.get_serializer(self.get_object()).data)


class PipelineFilter(filters.FilterSet):
    class Meta:
        model = Pipeline
        fields: ClassVar = {
            "name": ["exact", "icontains"], "state": ["exact"], "source": ["exact"], "destination": ["exact"],
        }  # fmt: skip


@extend_schema_view(list=extend_schema(summary="List pipelines"), retrieve=extend_schema(summary="Read a pipeline"))
class PipelineViewSet(ApiView, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Pipeline]):
    """What to move, how and when."""

    serializer_class = PipelineSerializer
    lookup_value_converter = "uuid"
    filterset_class = PipelineFilter
    action_permissions: ClassVar = {"pause": "pipelines.run_pipeline", "resume": "pipelines.run_pipeline"}

    def get_queryset(self) -> QuerySet[Pipeline]:
        return queries.pipelines_with_parts().order_by("name")

    @extend_schema(summary="Create a pipeline", responses={201: SavedPipelineSerializer})
    def create(self, request: Request) -> Response:
        """Checks the live systems first, for at most 5 seconds.

        What is definitely wrong is refused, field by field; what could not be checked is told in `warnings`.
        """
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return self._save(request, serializer.validated_data, status.HTTP_201_CREATED)

    @extend_schema(summary="Change a pipeline", responses={200: SavedPipelineSerializer})
    def partial_update(self, request: Request, pk: Any = None) -> Response:
        """Takes the fields to change; `schedules`, `dependencies` and `checks` replace all there are.

        A change of what is moved is checked against the live systems, as on creation.
        """
        pipeline = self.get_object()
        _refuse_archived(pipeline)
        serializer = self.get_serializer(pipeline, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        return self._save(request, serializer.validated_data, status.HTTP_200_OK)

    @extend_schema(summary="Look at a pipeline's columns", responses={200: PreflightSerializer})
    @action(detail=True, methods=["get"], filterset_class=None, pagination_class=None)
    def columns(self, request: Request, pk: Any = None) -> Response:
        """What becomes of each: its type and name in PostgreSQL, how both sides compare it, what to mind.

        By the source's columns as they were when the pipeline was saved; where they could not be seen then,
        the source is asked, for at most 5 seconds.
        """
        pipeline = self.get_object()
        try:
            found = known_columns(pipeline) or columns_now(pipeline)
        except lookups.LookupFailed as failure:
            raise PipelineRefused(failure.code, failure.message, failure.hint) from failure
        return Response(PreflightSerializer(found).data)

    @extend_schema(summary="Ask what a run would do", responses={200: OutlookSerializer})
    @action(detail=True, methods=["get"], filterset_class=None, pagination_class=None)
    def forecast(self, request: Request, pk: Any = None) -> Response:
        """How the next run would publish and why, what leans on the table, what would be made, who would wait.

        Both systems are asked, for at most 5 seconds; nothing is written.
        """
        try:
            findings, forecast = lookups.look_ahead(pipeline := self.get_object())
        except lookups.LookupFailed as failure:
            raise PipelineRefused(failure.code, failure.message, failure.hint) from failure
        return Response(
            OutlookSerializer({"forecast": forecast, "findings": findings, "cost": prices.outlook(pipeline)}).data
        )

    @extend_schema(summary="Pause a pipeline", request=None, responses={200: PipelineSerializer})
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: Any = None) -> Response:
        """Lets no schedule start runs; what runs or waits goes on. Pausing twice changes nothing."""
        pipeline = self.get_object()
        _refuse_archived(pipeline)
        services.pause([pipeline], by=request.user)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(summary="Resume a pipeline", request=None, responses={200: PipelineSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: Any = None) -> Response:
        """Lets schedules start runs from now on; ticks of the pause are not made up for."""
        pipeline = self.get_object()
        _refuse_archived(pipeline)
        services.resume([pipeline], by=request.user)
        return Response(self.get_serializer(self.get_object()).data)

    def _save(self, request: Request, valid: dict[str, Any], answer_status: int) -> Response:
        candidate: Pipeline = valid["candidate"]
        warnings = _refuse_what_cannot_work(candidate) if valid["changed"] & services.MOVING else []
        is_new = candidate._state.adding
        services.save_pipeline(
            candidate,
            schedules=valid["specs"],
            dependencies=valid["waits_for"],
            checks=valid["checks"],
            by=request.user,
            keep_state=not is_new,
        )
        saved = self.get_queryset().get(pk=candidate.pk)
        context = {**self.get_serializer_context(), "warnings": warnings}
        headers = {"Location": reverse("pipeline-detail", [saved.pk], request=request)} if is_new else {}
        return Response(SavedPipelineSerializer(saved, context=context).data, status=answer_status, headers=headers)


def _refuse_archived(pipeline: Pipeline) -> None:
    if pipeline.state == PipelineState.ARCHIVED:
        raise PipelineRefused(
            "pipeline_archived", f"{pipeline.name} is archived.", "Restore it in the admin, or make a new pipeline."
        )


def _refuse_what_cannot_work(pipeline: Pipeline) -> list[dict[str, str]]:
    """Ask the live systems; raises FieldErrors for what is definitely wrong, returns what could not be checked."""
    try:
        findings = lookups.validate_pipeline(pipeline)
    except lookups.LookupFailed as failure:
        return [{"field": failure.field, **problem(failure.code, failure.message, failure.hint)}]
    wrong: dict[str, list[Problem]] = {}
    for finding in findings:
        if finding.definite:
            wrong.setdefault(finding.field, []).append(problem(finding.code, finding.message, finding.hint))
    if wrong:
        raise FieldErrors(wrong)
    return [{"field": f.field, **problem(f.code, f.message, f.hint)} for f in findings]
