"""The API's doors to pools."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers, viewsets

from pipelines import services
from pipelines.api_base import ApiView
from pipelines.models import Pool
from pipelines.serializers import PoolSerializer
from runs import pools


class UsedPoolSerializer(PoolSerializer):
    """A pool, with who uses it now."""

    pipelines = serializers.IntegerField(source="used_by", read_only=True, help_text="How many are in it.")
    in_use = serializers.IntegerField(read_only=True, help_text="Slots that are taken.")
    waiting = serializers.IntegerField(read_only=True, help_text="Runs of it that are due and wait, for whatever.")

    class Meta(PoolSerializer.Meta):
        fields = (*PoolSerializer.Meta.fields, "pipelines", "in_use", "waiting")
        read_only_fields = (*PoolSerializer.Meta.read_only_fields, "pipelines", "in_use", "waiting")


@extend_schema_view(
    list=extend_schema(summary="List pools"),
    retrieve=extend_schema(summary="Read a pool"),
    create=extend_schema(summary="Create a pool"),
    partial_update=extend_schema(summary="Change a pool"),
    destroy=extend_schema(summary="Delete a pool"),
)
class PoolViewSet(ApiView, viewsets.ModelViewSet[Pool]):
    """Slots that pipelines share. A change holds for what waits already; a pool with pipelines is not deleted."""

    serializer_class = UsedPoolSerializer
    lookup_value_converter = "uuid"
    filterset_fields = ("name",)
    http_method_names: ClassVar = ["get", "post", "patch", "delete", "head", "options"]
    queryset = Pool.objects.all()

    def get_queryset(self) -> QuerySet[Pool]:
        return pools.with_use().order_by("name")

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        pool = Pool(**serializer.validated_data)
        services.save_pool(pool)
        serializer.instance = self.get_queryset().get(pk=pool.pk)

    def perform_update(self, serializer: serializers.BaseSerializer[Any]) -> None:
        pool = serializer.instance
        for name, value in serializer.validated_data.items():
            setattr(pool, name, value)
        services.save_pool(pool)
        serializer.instance = self.get_queryset().get(pk=pool.pk)

    def perform_destroy(self, instance: Pool) -> None:
        services.delete_pool(instance)
