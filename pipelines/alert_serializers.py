"""Alert channels and rules as the API shows and takes them."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from rest_framework import serializers

from pipelines import alert_urls, alert_words
from pipelines.alert_definitions import against_channel, against_rule
from pipelines.api_base import FieldErrors, problem
from pipelines.models import AlertChannel, AlertKind, AlertRule, Pipeline
from pipelines.objections import PipelineRefused
from pipelines.serializers import NoUnknownFields


class AlertChannelSerializer(NoUnknownFields, serializers.ModelSerializer[AlertChannel]):
    """Where alerts go. The address is taken and never given."""

    url = serializers.CharField(
        write_only=True, required=False, max_length=alert_urls.MAX_LENGTH, help_text=alert_urls.HELP
    )
    service = serializers.CharField(read_only=True, help_text="Which service the address is of.")

    class Meta:
        model = AlertChannel
        fields = (
            "id", "name", "url", "service", "enabled", "quiet_from", "quiet_until", "quiet_zone", "quiet_mode",
            "created_at", "updated_at",
        )  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")
        # save_channel says the same, with a hint.
        extra_kwargs: ClassVar = {"name": {"validators": []}}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Adds `candidate`, the channel as it would be."""
        candidate = copy.copy(self.instance) if self.instance is not None else AlertChannel()
        url = attrs.pop("url", None)
        for name, value in attrs.items():
            setattr(candidate, name, value)
        _refuse(against_channel(candidate, url))
        return {"candidate": candidate, "url": url}


class AlertRuleSerializer(NoUnknownFields, serializers.ModelSerializer[AlertRule]):
    """Whom to tell of what; channels and pipelines by their ids."""

    answered = frozenset({"words"})

    kinds = serializers.ListField(child=serializers.ChoiceField(choices=AlertKind.choices), min_length=1)
    channels = serializers.PrimaryKeyRelatedField(
        many=True, queryset=AlertChannel.objects.all(), pk_field=serializers.UUIDField(), allow_empty=False
    )
    pipelines = serializers.PrimaryKeyRelatedField(
        many=True, queryset=Pipeline.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    words = serializers.SerializerMethodField(help_text="What the rule does.")

    class Meta:
        model = AlertRule
        fields = (
            "id", "name", "enabled", "kinds", "every_pipeline", "pipelines", "channels", "late_after_min",
            "stale_after_h", "distance", "remind_after_h", "urgent", "words", "created_at", "updated_at",
        )  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")
        extra_kwargs: ClassVar = {"name": {"validators": []}}
        validators: tuple[Any, ...] = ()

    def get_words(self, rule: AlertRule) -> str:
        return alert_words.in_words(alert_words.said_by(rule))

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Adds `candidate`, the rule as it would be; its channels and pipelines stand beside it."""
        rule = self.instance
        candidate = copy.copy(rule) if rule is not None else AlertRule()
        channels = attrs.pop("channels", None)
        pipelines = attrs.pop("pipelines", None)
        for name, value in attrs.items():
            setattr(candidate, name, value)
        told = {
            "channels": list(rule.channels.all()) if channels is None and rule is not None else channels or [],
            "pipelines": list(rule.pipelines.all()) if pipelines is None and rule is not None else pipelines or [],
        }
        _refuse(against_rule(candidate, **told))
        return {"candidate": candidate, **told}


def _refuse(found: list[PipelineRefused]) -> None:
    if found:
        raise FieldErrors({each.field: [problem(each.code, each.message, each.hint)] for each in found})
