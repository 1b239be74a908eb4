"""The API's doors to a pipeline's quarantine."""

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

from connectors.quarantine import RowState
from pipelines import lookups
from pipelines.api_base import ApiView
from pipelines.models import Pipeline
from pipelines.serializers import NoUnknownFields
from runs import quarantining
from runs.api import KEY_HEADER, idempotency_key, request_digest
from runs.models import Run, Trigger
from runs.quarantine_pages import MOST_IDS, STATES
from runs.serializers import RunSerializer
from runs.services import RunRefused

RUN = "pipelines.run_pipeline"


class WantedSerializer(NoUnknownFields, serializers.Serializer[Any]):
    """Which rows; what is left out does not count."""

    ids = serializers.ListField(child=serializers.UUIDField(), required=False, min_length=1, max_length=MOST_IDS)
    run = serializers.UUIDField(required=False, help_text="The run that put them aside.")
    column = serializers.CharField(required=False, max_length=300, help_text="The column at fault.")
    code = serializers.CharField(required=False, max_length=60, help_text="Why, for example nul_character.")

    def wanted(self) -> dict[str, Any]:
        told = dict(self.validated_data)
        found = {name: str(told[name]) for name in ("run", "column", "code", "state") if name in told}
        return {**found, "ids": [str(one) for one in told.get("ids") or ()], "as_of": told.get("as_of")}


class ChosenSerializer(WantedSerializer):
    """Which open rows something is done with: by at least one of these, or `everything`, which has to be said."""

    everything = serializers.BooleanField(required=False, default=False, help_text="All open rows of the pipeline.")
    as_of = serializers.DictField(
        child=serializers.IntegerField(min_value=0),
        required=False,
        help_text="What the list that was looked at said; required unless ids are given. Rows that came since stay.",
    )

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("everything") and not values.keys() & {"ids", "run", "column", "code"}:
            message = "Say which rows: by ids, run, column or code; or everything."
            raise serializers.ValidationError({"ids": message}, "required")
        if not values.get("ids") and not values.get("as_of"):
            message = "Say which rows were looked at: as_of, as the list of what is in quarantine gave it."
            raise serializers.ValidationError({"as_of": message}, "required")
        return values


class DiscardSerializer(ChosenSerializer):
    """Which open rows nobody is to replay any more, and why."""

    note = serializers.CharField(required=False, default="", allow_blank=True, max_length=quarantining.NOTE_LENGTH)


class QuarantineFilterSerializer(WantedSerializer):
    """Which rows are listed."""

    state = serializers.ChoiceField(required=False, choices=STATES)


class ReasonSerializer(serializers.Serializer[Any]):
    """How many rows of a table are in a state for a reason."""

    target = serializers.CharField()
    column = serializers.CharField(allow_blank=True)
    code = serializers.CharField()
    state = serializers.ChoiceField(choices=STATES)
    rows = serializers.IntegerField()
    newest = serializers.DateTimeField()


class QuarantinedRowSerializer(serializers.Serializer[Any]):
    """A row as it came, and what was decided on it."""

    id = serializers.UUIDField()
    target = serializers.CharField()
    run = serializers.UUIDField()
    state = serializers.ChoiceField(choices=STATES)
    column = serializers.CharField(allow_blank=True)
    code = serializers.CharField()
    reason = serializers.CharField()
    key = serializers.DictField(allow_null=True, help_text="Null where it has no legible key.")
    seen_at = serializers.DateTimeField()
    decided_at = serializers.DateTimeField(allow_null=True)
    decided_by = serializers.CharField(allow_blank=True)
    decided_run = serializers.CharField(allow_blank=True)
    note = serializers.CharField(allow_blank=True)
    raw = serializers.CharField(help_text="JSON in which no value is lost; long ones are cut.")
    is_cut = serializers.BooleanField()


class QuarantineSerializer(serializers.Serializer[Any]):
    """Reasons with counts, and the newest rows that are wanted."""

    counts = ReasonSerializer(many=True)
    total = serializers.IntegerField(help_text="Rows that are wanted.")
    as_of = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="Up to which publish of each table this is known: for a replay or a discard of what was looked at.",
    )
    rows = QuarantinedRowSerializer(many=True)


class DiscardedSerializer(serializers.Serializer[Any]):
    """How many rows were discarded."""

    discarded = serializers.IntegerField()
    later = serializers.IntegerField(help_text="Rows like these that came since, and stay open.")


class _View(ApiView, APIView):
    queryset = Run.objects.none()

    def pipeline(self, pk: UUID) -> Pipeline:
        return get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)


class QuarantineView(_View):
    """What is in quarantine."""

    action = "list"
    action_permissions: ClassVar = {"list": RUN}

    @extend_schema(
        summary="List what is in quarantine", parameters=[QuarantineFilterSerializer], responses=QuarantineSerializer
    )
    def get(self, request: Request, pipeline_id: UUID) -> Response:
        """The destination is asked, for at most five seconds; rows of runs that were published, the newest first."""
        asked = QuarantineFilterSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        try:
            found = quarantining.look(self.pipeline(pipeline_id), asked.wanted(), with_rows=True)
        except lookups.LookupFailed as failure:
            raise RunRefused(failure.code, failure.message, failure.hint) from failure
        return Response(QuarantineSerializer(found).data)


class ReplayView(_View):
    """Where quarantined rows are replayed."""

    action = "create"
    action_permissions: ClassVar = {"create": RUN}

    @extend_schema(
        summary="Replay quarantined rows",
        parameters=[
            OpenApiParameter(
                KEY_HEADER,
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Makes a repeated request safe: the same key gives the same run.",
            )
        ],
        request=ChosenSerializer,
        responses={201: RunSerializer, 200: RunSerializer},
    )
    def post(self, request: Request, pipeline_id: UUID) -> Response:
        """Queues a run that takes the open rows that are wanted into their table, each once."""
        asked = ChosenSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        key = idempotency_key(request)
        digest = request_digest(request, pipeline_id, "replay") if key else ""
        try:
            run, is_new = quarantining.request_replay(
                self.pipeline(pipeline_id),
                asked.wanted(),
                trigger=Trigger.API,
                by=request.user,
                idempotency_key=key,
                request_digest=digest,
            )
        except lookups.LookupFailed as failure:
            raise RunRefused(failure.code, failure.message, failure.hint) from failure
        found = Run.objects.select_related("pipeline", "revision", "requested_by").get(pk=run.pk)
        headers = {"Location": reverse("run-detail", [run.pk], request=request)}
        answer_status = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
        return Response(RunSerializer(found).data, status=answer_status, headers=headers)


class DiscardView(_View):
    """Where quarantined rows are discarded."""

    action = "create"
    action_permissions: ClassVar = {"create": RUN}

    @extend_schema(summary="Discard quarantined rows", request=DiscardSerializer, responses=DiscardedSerializer)
    def post(self, request: Request, pipeline_id: UUID) -> Response:
        """Nobody can replay them any more; who, when and why is kept with them."""
        asked = DiscardSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = {**asked.wanted(), "state": RowState.OPEN.value}
        try:
            done = quarantining.discard(
                self.pipeline(pipeline_id), wanted, by=request.user, note=asked.validated_data["note"]
            )
        except lookups.LookupFailed as failure:
            raise RunRefused(failure.code, failure.message, failure.hint) from failure
        return Response(DiscardedSerializer(done).data)
