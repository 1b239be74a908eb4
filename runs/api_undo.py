"""The API's doors to former states of a target, and to putting one back."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from pipelines import lookups
from pipelines.api_base import ApiView
from pipelines.models import Pipeline
from pipelines.serializers import NoUnknownFields
from runs import services, undoing
from runs.api import KEY_HEADER, idempotency_key, request_digest
from runs.models import Run, Trigger
from runs.serializers import RunSerializer
from runs.services import RunRefused


class FormerStateSerializer(serializers.Serializer[undoing.Former]):
    """A state of the table that was replaced and is kept."""

    kept = serializers.UUIDField(help_text="The run that put it aside: names it.")
    expected = serializers.UUIDField(allow_null=True, help_text="The run that published last: send it back.")
    schema = serializers.CharField()
    table = serializers.CharField()
    kept_as = serializers.CharField(help_text="The table's name meanwhile.")
    kept_at = serializers.DateTimeField()
    made_by = serializers.UUIDField(
        source="made_by.pk", default=None, allow_null=True, help_text="The run that left it so, where it is known."
    )
    watermark = serializers.CharField(allow_blank=True)
    is_copy = serializers.BooleanField(help_text="A copy, made before rows were changed in place.")
    is_there = serializers.BooleanField(help_text="False: somebody dropped or renamed it.")
    rows = serializers.IntegerField(allow_null=True, help_text="About; null where nobody knows.")
    bytes = serializers.IntegerField(help_text="On disk.")
    is_redefined = serializers.BooleanField(
        help_text="Written under another definition than what is there now, which may mask or leave out what it has."
    )


class UndoSerializer(NoUnknownFields, serializers.Serializer[Any]):
    """Which state to put back."""

    kept = serializers.UUIDField(help_text="Of the state, as the list has it.")
    expected = serializers.UUIDField(
        allow_null=True, help_text="As the list has it: refused if anything was published since."
    )


class LeftSerializer(serializers.Serializer[Any]):
    """A former state that could not be dropped."""

    table = serializers.CharField()
    why = serializers.CharField()


class DroppedSerializer(serializers.Serializer[Any]):
    """How many former states are gone, and which are left."""

    dropped = serializers.IntegerField()
    left = LeftSerializer(many=True)


class UndoView(ApiView, APIView):
    """Former states of a pipeline's targets."""

    queryset = Run.objects.none()
    action_permissions: ClassVar = dict.fromkeys(("list", "create", "destroy"), "pipelines.run_pipeline")

    @property
    def action(self) -> str:
        return {"POST": "create", "DELETE": "destroy"}.get(self.request.method if self.request else "", "list")

    @extend_schema(summary="List former states that can be put back", responses=FormerStateSerializer(many=True))
    def get(self, request: Request, pipeline_id: UUID) -> Response:
        """The destination is asked, for at most five seconds; of each target, the newest first."""
        return Response(FormerStateSerializer(self._states(self._pipeline(pipeline_id)), many=True).data)

    @extend_schema(
        summary="Undo: put a former state back",
        parameters=[
            OpenApiParameter(
                KEY_HEADER,
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Makes a repeated request safe: the same key gives the same run.",
            )
        ],
        request=UndoSerializer,
        responses={201: RunSerializer, 200: RunSerializer},
    )
    def post(self, request: Request, pipeline_id: UUID) -> Response:
        """Pauses the pipeline, cancels what waits of it, and queues the run that puts the state back."""
        pipeline = self._pipeline(pipeline_id)
        wanted = UndoSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        key = idempotency_key(request)
        digest = request_digest(request, pipeline_id, "undo") if key else ""
        # Before the states are looked at: that of a request that was answered once is kept no more.
        if key and (earlier := services.requested_before(request.user, key, digest)):
            return self._answer(request, earlier, is_new=False)
        state = undoing.find(self._states(pipeline), wanted.validated_data["kept"])
        if state is None:
            raise RunRefused("kept_gone", "This state is no longer kept.", "Look at the list as it is now.")
        if state.expected != wanted.validated_data["expected"]:
            message = f"Another run was published to {state.target} since."
            raise RunRefused("undo_overtaken", message, "Look at the list as it is now.")
        run, is_new = undoing.request(
            pipeline, state, trigger=Trigger.API, by=request.user, idempotency_key=key, request_digest=digest
        )
        return self._answer(request, run, is_new=is_new)

    @extend_schema(summary="Drop the former states", responses=DroppedSerializer)
    def delete(self, request: Request, pipeline_id: UUID) -> Response:
        """Nothing can be put back then; who and when is in the admin's log. What is in use stays, with the reason."""
        try:
            done = undoing.drop(self._pipeline(pipeline_id), by=request.user)
        except lookups.LookupFailed as failure:
            raise RunRefused(failure.code, failure.message, failure.hint) from failure
        return Response(DroppedSerializer(done).data)

    def _answer(self, request: Request, run: Run, *, is_new: bool) -> Response:
        found = Run.objects.select_related("pipeline", "revision", "requested_by").get(pk=run.pk)
        headers = {"Location": reverse("run-detail", [run.pk], request=request)}
        answer_status = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
        return Response(RunSerializer(found).data, status=answer_status, headers=headers)

    def _pipeline(self, pk: UUID) -> Pipeline:
        return get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)

    def _states(self, pipeline: Pipeline) -> list[undoing.Former]:
        try:
            return undoing.former_states(pipeline)
        except lookups.LookupFailed as failure:
            raise RunRefused(failure.code, failure.message, failure.hint) from failure
