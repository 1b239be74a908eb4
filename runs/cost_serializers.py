"""What runs cost, as the API shows it."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from runs.costs import RunCost
from runs.models import CostApproval, Ledger, RunAction


class CostApprovalSerializer(serializers.ModelSerializer[CostApproval]):
    """Somebody let the run read beyond its pipeline's budget."""

    by = serializers.SlugRelatedField("username", read_only=True)

    class Meta:
        model = CostApproval
        fields = ("at", "by", "note", "bytes")
        read_only_fields = fields


class RunCostSerializer(serializers.Serializer[RunCost]):
    """What a run was billed in all its attempts, and what a dry run said before; null is what nobody could tell."""

    query_bytes = serializers.IntegerField(help_text="Billed for query jobs.")
    storage_bytes = serializers.IntegerField(help_text="Read through the Storage Read API.")
    money = serializers.FloatField(help_text="At the prices of the day.")
    estimated_query_bytes = serializers.IntegerField(allow_null=True)
    estimated_storage_bytes = serializers.IntegerField(allow_null=True)
    estimated_money = serializers.FloatField(allow_null=True, help_text="At the prices that are set now.")
    approvals = CostApprovalSerializer(many=True)


class LedgerSerializer(serializers.ModelSerializer[Ledger]):
    """What one pipeline's runs that did one thing were billed on one day of UTC."""

    pipeline = serializers.UUIDField(source="pipeline_id")
    pipeline_name = serializers.CharField(source="pipeline.name")
    action = serializers.ChoiceField(choices=RunAction.choices)
    money = serializers.SerializerMethodField(help_text="At the prices of the day.")

    class Meta:
        model = Ledger
        fields = ("day", "pipeline", "pipeline_name", "action", "runs", "query_bytes", "storage_bytes", "money")
        read_only_fields = fields

    @extend_schema_field(serializers.FloatField())
    def get_money(self, entry: Ledger) -> float:
        return float(entry.cost)
