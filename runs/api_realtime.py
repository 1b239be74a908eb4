"""The API's door to near real time: how a pipeline stands."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from pipelines.api_base import ApiView, ProblemSerializer
from pipelines.models import Pipeline
from runs import realtime_queries
from runs.models import Because
from runs.services import RunRefused


class MicroBatchesSerializer(serializers.Serializer[Any]):
    """What micro-batches came to."""

    runs = serializers.IntegerField()
    failed = serializers.IntegerField()
    rows = serializers.IntegerField()
    bytes_billed = serializers.IntegerField(help_text="For queries and reading, of all attempts.")
    money = serializers.FloatField(help_text="At the prices of the day.")


class PollProblemSerializer(ProblemSerializer):
    """Why the source cannot be asked."""

    failures = serializers.IntegerField(help_text="How often, one after the other.")


class RealtimeSerializer(serializers.Serializer[Any]):
    """How a pipeline in near real time stands."""

    is_polled = serializers.BooleanField(help_text="It is active, and a poller lives.")
    watermark = serializers.CharField(allow_blank=True, help_text="The newest value of the cursor in the target.")
    freshness_s = serializers.FloatField(allow_null=True, help_text="How old that is; null where it is no time.")
    seen_at = serializers.DateTimeField(allow_null=True, help_text="When the source last answered, noted every 15 s.")
    asked_at = serializers.DateTimeField(allow_null=True, help_text="When a micro-batch was last asked for.")
    because = serializers.ChoiceField(choices=Because.choices, allow_null=True, help_text="Why.")
    run = serializers.UUIDField(allow_null=True, help_text="That micro-batch.")
    waits_because = serializers.CharField(allow_blank=True, help_text="Why none is asked for at the moment.")
    unseen = serializers.ListField(
        child=serializers.CharField(), help_text="Tables of which no record tells when their rows change."
    )
    problem = PollProblemSerializer(allow_null=True)
    today = MicroBatchesSerializer(help_text="Of the day in UTC.")
    month = MicroBatchesSerializer(help_text="Of 30 days.")


class RealtimeView(ApiView, APIView):
    """How a pipeline in near real time stands."""

    queryset = Pipeline.objects.none()
    action = "realtime"
    action_permissions: ClassVar = {"realtime": "pipelines.view_pipeline"}

    @extend_schema(summary="Read how near real time goes", responses=RealtimeSerializer)
    def get(self, request: Request, pipeline_id: UUID) -> Response:
        """409 for a pipeline that is not in near real time."""
        pipeline = get_object_or_404(Pipeline, pk=pipeline_id)
        standing = realtime_queries.standing_of(pipeline)
        if standing is None:
            raise RunRefused("not_realtime", f"{pipeline.name} is not in near real time.", "Set its mode to realtime.")
        poll, fresh = standing.poll, standing.freshness
        problem = None
        if poll and poll.error_code:
            told = {"code": poll.error_code, "message": poll.error_message, "hint": poll.error_hint}
            problem = {**told, "failures": poll.failures}
        answer = {
            "is_polled": standing.is_polled,
            "watermark": fresh.watermark if fresh else "",
            "freshness_s": fresh.seconds if fresh else None,
            "seen_at": poll and poll.seen_at,
            "asked_at": poll and poll.asked_at,
            "because": poll.run.action_options.get("because") if poll and poll.run else None,
            "run": poll and poll.run_id,
            "waits_because": poll.refusal if poll else "",
            "unseen": standing.unseen,
            "problem": problem,
            "today": standing.today,
            "month": standing.month,
        }
        return Response(RealtimeSerializer(answer).data)
