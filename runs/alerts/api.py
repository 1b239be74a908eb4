"""The API's doors to alerts: channels and rules to define, alerts and deliveries to read."""

from __future__ import annotations

from typing import Any, ClassVar

from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from pipelines import alert_definitions
from pipelines.alert_serializers import AlertChannelSerializer, AlertRuleSerializer
from pipelines.api_base import ApiView
from pipelines.models import AlertChannel, AlertRule
from runs.alerts import bell, outbox
from runs.models import Alert, AlertDelivery
from runs.services import RunRefused

METHODS = ["get", "post", "patch", "delete", "head", "options"]


class AlertSerializer(serializers.ModelSerializer[Alert]):
    """Something that lasts, or lasted: `closed_at` is null while it is open."""

    rule_name = serializers.CharField(source="rule.name", default="", read_only=True)
    pipeline_name = serializers.CharField(source="pipeline.name", read_only=True)

    class Meta:
        model = Alert
        fields = (
            "id", "kind", "rule", "rule_name", "pipeline", "pipeline_name", "run", "count", "since", "opened_at",
            "last_at", "closed_at", "closing", "code", "cause", "hint",
        )  # fmt: skip
        read_only_fields = fields


class AlertDeliverySerializer(serializers.ModelSerializer[AlertDelivery]):
    """A message to one channel, and how its delivery stands."""

    class Meta:
        model = AlertDelivery
        fields = (
            "id", "alert", "channel", "channel_name", "event", "title", "body", "severity", "state", "due", "attempts",
            "error_code", "error_message", "merged_into", "is_resend", "created_at", "ended_at",
        )  # fmt: skip
        read_only_fields = fields


@extend_schema_view(
    list=extend_schema(summary="List alert channels"),
    retrieve=extend_schema(summary="Read an alert channel"),
    create=extend_schema(summary="Create an alert channel"),
    partial_update=extend_schema(summary="Change an alert channel"),
    destroy=extend_schema(summary="Delete an alert channel"),
)
class AlertChannelViewSet(ApiView, viewsets.ModelViewSet[AlertChannel]):
    """Where alerts go. A channel that rules tell is not deleted."""

    serializer_class = AlertChannelSerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("name",)
    http_method_names: ClassVar = METHODS
    queryset = AlertChannel.objects.order_by("name")
    action_permissions: ClassVar = {"test": "pipelines.change_alertchannel"}

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        told = serializer.validated_data
        serializer.instance = alert_definitions.save_channel(told["candidate"], told["url"], by=self.request.user)

    perform_update = perform_create

    def perform_destroy(self, instance: AlertChannel) -> None:
        alert_definitions.delete_channel(instance)

    @extend_schema(summary="Send a test message", request=None, responses={202: AlertDeliverySerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: Any = None) -> Response:
        """Answers with the delivery, which tells how it ended once it has; it is tried once, in quiet hours too."""
        delivery = outbox.send_test(self.get_object(), by=request.user)
        bell.ring()
        return _accepted(delivery)


@extend_schema_view(
    list=extend_schema(summary="List alert rules"),
    retrieve=extend_schema(summary="Read an alert rule"),
    create=extend_schema(summary="Create an alert rule"),
    partial_update=extend_schema(summary="Change an alert rule"),
    destroy=extend_schema(summary="Delete an alert rule"),
)
class AlertRuleViewSet(ApiView, viewsets.ModelViewSet[AlertRule]):
    """Whom to tell of what, for some pipelines or for all."""

    serializer_class = AlertRuleSerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("name", "enabled", "pipelines", "channels")
    http_method_names: ClassVar = METHODS
    queryset = AlertRule.objects.order_by("name").prefetch_related("channels", "pipelines")

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        told = serializer.validated_data
        saved = alert_definitions.save_rule(told["candidate"], channels=told["channels"], pipelines=told["pipelines"])
        serializer.instance = self.get_queryset().get(pk=saved.pk)

    perform_update = perform_create


class AlertFilter(filters.FilterSet):
    open = filters.BooleanFilter(field_name="closed_at", lookup_expr="isnull", label="Whether it goes on.")

    class Meta:
        model = Alert
        fields = ("pipeline", "rule", "kind", "open")


@extend_schema_view(list=extend_schema(summary="List alerts"), retrieve=extend_schema(summary="Read an alert"))
class AlertViewSet(ApiView, viewsets.ReadOnlyModelViewSet[Alert]):
    """What was or is wrong, newest first."""

    serializer_class = AlertSerializer
    lookup_value_converter = "uuid"
    filterset_class = AlertFilter
    queryset = Alert.objects.filter(is_silent=False).select_related("rule", "pipeline").order_by("-opened_at")


@extend_schema_view(
    list=extend_schema(summary="List alert deliveries"), retrieve=extend_schema(summary="Read an alert delivery")
)
class AlertDeliveryViewSet(ApiView, viewsets.ReadOnlyModelViewSet[AlertDelivery]):
    """The messages of alerts, newest first."""

    serializer_class = AlertDeliverySerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("alert", "channel", "state", "event")
    queryset = AlertDelivery.objects.order_by("-created_at")
    action_permissions: ClassVar = {"resend": "pipelines.change_alertchannel"}

    @extend_schema(summary="Send a message again", request=None, responses={202: AlertDeliverySerializer})
    @action(detail=True, methods=["post"], filterset_fields=None, pagination_class=None)
    def resend(self, request: Request, pk: Any = None) -> Response:
        """Makes a new delivery of the same message, to the same channel."""
        delivery = self.get_object()
        if delivery.channel_id is None:
            message = f"The channel {delivery.channel_name} is gone."
            raise RunRefused("channel_gone", message, "Nothing can be sent to it any more.")
        again = outbox.resend(delivery, by=request.user)
        bell.ring()
        return _accepted(again)


def _accepted(delivery: AlertDelivery) -> Response:
    """A delivery as it stands by now."""
    delivery.refresh_from_db()
    return Response(AlertDeliverySerializer(delivery).data, status=status.HTTP_202_ACCEPTED)
