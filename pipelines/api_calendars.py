"""The API's doors to calendars, and to what a schedule comes to."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from pipelines import calendars, schedules
from pipelines.api_base import ApiView, FieldErrors, problem
from pipelines.models import Calendar, Pipeline
from pipelines.serializers import NoUnknownFields, ScheduleSerializer, spec_of

MOST_TIMES = 100


class CalendarSerializer(NoUnknownFields, serializers.ModelSerializer[Calendar]):
    """Times without runs."""

    closed = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="A line each, for example `2026-12-24 to 2026-12-26 Christmas` or `every Sun 02:00-04:00`.",
    )

    class Meta:
        model = Calendar
        fields = ("id", "name", "zone", "closed", "description", "created_at", "updated_at")
        read_only_fields = ("id", "created_at", "updated_at")
        # save_calendar says the same, with a hint.
        extra_kwargs: ClassVar = {"name": {"validators": []}}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        zone = attrs.get("zone") or (self.instance.zone if self.instance else "UTC")
        lines = attrs.get("closed", self.instance.closed if self.instance else [])
        try:
            attrs["closed"] = schedules.tidy_lines(zone, lines)
        except schedules.RuleError as error:
            raise FieldErrors({error.field: [problem(error.code, error.message, error.hint)]}) from error
        return attrs


@extend_schema_view(
    list=extend_schema(summary="List calendars"),
    retrieve=extend_schema(summary="Read a calendar"),
    create=extend_schema(summary="Create a calendar"),
    partial_update=extend_schema(summary="Change a calendar"),
    destroy=extend_schema(summary="Delete a calendar"),
)
class CalendarViewSet(ApiView, viewsets.ModelViewSet[Calendar]):
    """Times in which schedules that go by them start nothing. One that schedules go by is not deleted."""

    serializer_class = CalendarSerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("name",)
    http_method_names: ClassVar = ["get", "post", "patch", "delete", "head", "options"]
    queryset = Calendar.objects.all()

    def get_queryset(self) -> QuerySet[Calendar]:
        return Calendar.objects.order_by("name")

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        calendar = Calendar(**serializer.validated_data)
        serializer.instance = calendars.save_calendar(calendar, by=self.request.user)

    def perform_update(self, serializer: serializers.BaseSerializer[Any]) -> None:
        for name, value in serializer.validated_data.items():
            setattr(serializer.instance, name, value)
        calendars.save_calendar(serializer.instance, by=self.request.user)

    def perform_destroy(self, instance: Calendar) -> None:
        calendars.delete_calendar(instance)


class WantedTimesSerializer(ScheduleSerializer):
    """A schedule as a pipeline has it, and how many of its times to tell."""

    count = serializers.IntegerField(default=schedules.TIMES, min_value=1, max_value=MOST_TIMES)
    after = serializers.DateTimeField(default=None, allow_null=True, help_text="Times after this one; now if left out.")
    words = None  # type: ignore[assignment]
    next_due = None  # type: ignore[assignment]


class UpcomingSerializer(serializers.Serializer[schedules.Upcoming]):
    """One tick."""

    at = serializers.DateTimeField(help_text="In UTC.")
    local = serializers.SerializerMethodField(help_text="On the clocks of the schedule's zone, with their offset.")
    note = serializers.CharField(help_text="What the clocks do on its day; empty on other days.")
    closed = serializers.SerializerMethodField(help_text="Whether the calendar closes it, so that it is skipped.")

    def get_local(self, told: schedules.Upcoming) -> str:
        return told.local.isoformat()

    def get_closed(self, told: schedules.Upcoming) -> bool:
        return bool(told.closed)


class PreviewSerializer(serializers.Serializer[Any]):
    """What a schedule comes to."""

    words = serializers.CharField(help_text="The rule in words.")
    next = UpcomingSerializer(many=True)
    clock_change = serializers.CharField(help_text="The next day on which the clocks change, and what it does then.")


class SchedulePreviewView(ApiView, APIView):
    """A schedule's next times."""

    queryset = Pipeline.objects.none()
    action = "preview"
    action_permissions: ClassVar = {"preview": "pipelines.view_pipeline"}

    @extend_schema(summary="Preview a schedule", request=WantedTimesSerializer, responses={200: PreviewSerializer})
    def post(self, request: Request) -> Response:
        """Tells a rule in words and its next times, on the clocks of its zone and in UTC; saves nothing."""
        told = WantedTimesSerializer(data=request.data)
        told.is_valid(raise_exception=True)
        rule = dict(told.validated_data)
        count, after = rule.pop("count"), rule.pop("after") or timezone.now()
        if schedules.is_outside(after):
            raise FieldErrors({"after": [problem("bad_rule", schedules.OUTSIDE, "Leave it out: from now on.")]})
        calendar = rule.get("calendar")
        try:
            spec = spec_of(rule).tidy()
        except schedules.RuleError as error:
            raise FieldErrors({error.field: [problem(error.code, error.message, error.hint)]}) from error
        found = schedules.Rule.of(spec)
        times = schedules.upcoming(found, after, count, calendar.closures if calendar else None)
        change = schedules.next_clock_change(found, after)
        return Response(PreviewSerializer({"words": spec.words, "next": times, "clock_change": change}).data)
