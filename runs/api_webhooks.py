"""The API's door to a pipeline's webhook."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.http import Http404
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from pipelines import webhooks
from pipelines.api_base import ApiView
from pipelines.models import Pipeline, Webhook
from pipelines.serializers import NoUnknownFields

CHANGE = "pipelines.change_pipeline"


class RenewalSerializer(NoUnknownFields, serializers.Serializer[Any]):
    at_once = serializers.BooleanField(default=False, help_text="The secret before ends now, and not in a day.")


class WebhookSerializer(serializers.Serializer[Any]):
    """A pipeline's webhook, without its secret."""

    url = serializers.URLField(help_text="Where signed deliveries go.")
    created_at = serializers.DateTimeField()
    rotated_at = serializers.DateTimeField()
    old_secret_until = serializers.DateTimeField(allow_null=True)
    used_at = serializers.DateTimeField(allow_null=True)


class NewSecretSerializer(WebhookSerializer):
    """With the secret, which is shown this once."""

    secret = serializers.CharField()


class WebhookView(ApiView, APIView):
    """The webhook of one pipeline."""

    queryset = Pipeline.objects.none()
    action_permissions: ClassVar = {"get": CHANGE, "post": CHANGE, "delete": CHANGE}

    @property
    def action(self) -> str:
        return str(self.request.method).lower()

    @extend_schema(summary="Read a pipeline's webhook", responses=WebhookSerializer)
    def get(self, request: Request, pipeline_id: UUID) -> Response:
        """404 if it has none."""
        webhook = get_object_or_404(Webhook, pipeline=pipeline_id)
        return Response(WebhookSerializer(_shown(webhook, request)).data)

    @extend_schema(
        summary="Make a webhook or renew its secret", request=RenewalSerializer, responses=NewSecretSerializer
    )
    def post(self, request: Request, pipeline_id: UUID) -> Response:
        """The only answer that holds the secret."""
        wanted = RenewalSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        pipeline = get_object_or_404(Pipeline, pk=pipeline_id)
        webhook, secret = webhooks.renew_secret(pipeline, at_once=wanted.validated_data["at_once"])
        return Response(NewSecretSerializer({**_shown(webhook, request), "secret": secret}).data)

    @extend_schema(summary="Remove a pipeline's webhook", responses={204: None})
    def delete(self, request: Request, pipeline_id: UUID) -> Response:
        """Its address starts nothing any more."""
        if not webhooks.remove(get_object_or_404(Pipeline, pk=pipeline_id)):
            raise Http404
        return Response(status=status.HTTP_204_NO_CONTENT)


def _shown(webhook: Webhook, request: Request) -> dict[str, Any]:
    return {"url": reverse("webhook", [webhook.pk], request=request), **webhooks.describe(webhook)}
