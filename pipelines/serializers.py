"""Definitions as the API shows and takes them."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from connectors import registry
from connectors.checks import MAX_CHECKS, Check
from connectors.column import MaskKind
from connectors.masks import KEEP_MOST
from connectors.options import secret_names
from connectors.parameters import TYPES
from connectors.preflight import COSTS, ColumnPlan, Preflight
from pipelines import checks, dependencies, models, objections, schedules, upcoming
from pipelines.api_base import FieldErrors, Problem, ProblemSerializer, problem
from pipelines.dependencies import DependencySpec
from pipelines.models import Calendar, Connection, Dependency, Pipeline, PipelineState, Pool, Priority, Schedule
from pipelines.specs import ScheduleSpec


class ConnectionSerializer(serializers.ModelSerializer[Connection]):
    """A connection without its secrets."""

    kind = serializers.CharField()
    options = serializers.SerializerMethodField()

    class Meta:
        model = Connection
        fields = ("id", "name", "kind", "options", "max_running", "created_at", "updated_at")
        read_only_fields = fields

    def get_options(self, connection: Connection) -> dict[str, Any]:
        secret = secret_names(registry.options_type(connection.kind))
        return {name: value for name, value in connection.options.items() if name not in secret}


class NoUnknownFields:
    """Refuses names that are no field: a misspelt one would be left out without a word."""

    # What answers hold besides, and may be sent back.
    answered: ClassVar[frozenset[str]] = frozenset()

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)  # type: ignore[misc]
        unknown = sorted(set(data) - set(self.fields) - self.answered)  # type: ignore[attr-defined]
        if unknown:
            wrong = ErrorDetail("There is no such field.", code="unknown_field")
            raise serializers.ValidationError({name: [wrong] for name in unknown})
        return values


class ConnectionLimitSerializer(NoUnknownFields, serializers.ModelSerializer[Connection]):
    """What of a connection can be changed here."""

    class Meta:
        model = Connection
        fields = ("max_running",)
        extra_kwargs: ClassVar = {"max_running": {"required": True}}


class PoolSerializer(NoUnknownFields, serializers.ModelSerializer[Pool]):
    """Slots that pipelines share."""

    class Meta:
        model = Pool
        fields: tuple[str, ...] = ("id", "name", "slots", "description", "created_at", "updated_at")
        read_only_fields = ("id", "created_at", "updated_at")
        # save_pool says the same, with a hint.
        extra_kwargs: ClassVar = {"name": {"validators": []}}


class ScheduleSerializer(NoUnknownFields, serializers.Serializer[Schedule]):
    """A cron rule with its zone, or an interval."""

    kind = serializers.ChoiceField(choices=Schedule.Kind.choices, default=Schedule.Kind.CRON)
    cron = serializers.CharField(
        default="", allow_blank=True, max_length=schedules.MAX_CRON_LENGTH, help_text="Five fields, or @daily."
    )
    zone = serializers.CharField(default="UTC", max_length=64, help_text="A time zone, for example Europe/Berlin.")
    every_s = serializers.IntegerField(
        default=None, allow_null=True, min_value=1, max_value=schedules.MAX_EVERY_S, help_text="An interval's seconds."
    )
    active_from = serializers.DateTimeField(
        default=None, allow_null=True, help_text="No tick before it. Intervals count from here."
    )
    active_until = serializers.DateTimeField(default=None, allow_null=True, help_text="No tick after it.")
    calendar = serializers.PrimaryKeyRelatedField(
        queryset=Calendar.objects.all(),
        pk_field=serializers.UUIDField(),
        default=None,
        allow_null=True,
        help_text="Ticks that it closes are skipped.",
    )
    jitter_s = serializers.IntegerField(
        default=0,
        min_value=0,
        max_value=schedules.MAX_JITTER_S,
        help_text="Runs start up to so many seconds later; what they are scheduled for stays the same.",
    )
    words = serializers.SerializerMethodField()
    next_due = serializers.DateTimeField(read_only=True)

    def get_words(self, schedule: Schedule) -> str:
        return ScheduleSpec.of(schedule).words


def spec_of(rule: dict[str, Any]) -> ScheduleSpec:
    """What ScheduleSerializer read; a partial update leaves defaults out, but schedules are given as a whole."""
    calendar = rule.get("calendar")
    return ScheduleSpec(**{"kind": Schedule.Kind.CRON, **rule, "calendar": calendar.name if calendar else ""})


class DependencySerializer(NoUnknownFields, serializers.ModelSerializer[Dependency]):
    """A pipeline that this one waits for."""

    upstream = serializers.PrimaryKeyRelatedField(queryset=Pipeline.objects.all(), pk_field=serializers.UUIDField())
    upstream_name = serializers.CharField(source="upstream.name", read_only=True)

    class Meta:
        model = Dependency
        fields = ("upstream", "upstream_name", "rule", "offset_s", "give_up_hours", "on_give_up")

    def to_internal_value(self, data: Any) -> DependencySpec:
        values = super().to_internal_value(data)
        return DependencySpec(**{**values, "upstream": values["upstream"].pk})


class CheckSerializer(NoUnknownFields, serializers.ModelSerializer[models.Check]):
    """What rows must pass before they are published."""

    values = serializers.ListField(child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False)

    class Meta:
        model = models.Check
        fields = checks.NAMES
        # checks.against says the same, with hints.
        validators: tuple[Any, ...] = ()

    def to_internal_value(self, data: Any) -> Check:
        return checks.from_values(super().to_internal_value(data))


class ColumnRuleSerializer(serializers.Serializer[Any]):
    """Either `skip`, or a `name` and a PostgreSQL `type` or a `mask`; `zone` for a time that changes its kind."""

    skip = serializers.BooleanField(required=False)
    type = serializers.CharField(required=False, help_text="For example integer, numeric(12,2) or varchar(20)[].")
    zone = serializers.CharField(required=False, help_text="For example Europe/Berlin.")
    name = serializers.CharField(required=False, max_length=63, help_text="What it is called in the target.")
    mask = serializers.ChoiceField(
        [str(kind) for kind in MaskKind], required=False, help_text="What is stored in the place of its values."
    )
    keep = serializers.IntegerField(
        required=False, min_value=1, max_value=KEEP_MOST, help_text="For keep_last: so many characters at the end stay."
    )


@extend_schema_field(serializers.DictField(child=ColumnRuleSerializer()))
class ColumnRulesField(serializers.JSONField):
    """Rules by column; objections.against says what is wrong with them, column by column."""


class ParameterSerializer(serializers.Serializer[Any]):
    """A parameter: its type, and what a run takes that is given nothing else."""

    type = serializers.CharField(help_text=f"{', '.join(TYPES)}, or ARRAY<…> of one of these.")
    default = serializers.JSONField(required=False, allow_null=True)


@extend_schema_field(serializers.DictField(child=ParameterSerializer()))
class ParametersField(serializers.JSONField):
    """Parameters by name; objections.against says what is wrong with them, one by one."""


class ColumnPlanSerializer(serializers.Serializer[ColumnPlan]):
    """What becomes of one column of the source."""

    name = serializers.CharField()
    source_type = serializers.CharField(help_text="As BigQuery writes it.")
    skip = serializers.BooleanField(help_text="The column is not read.")
    target_name = serializers.CharField(allow_blank=True, help_text="Its name in PostgreSQL.")
    target_type = serializers.CharField(allow_blank=True, help_text="Its type in PostgreSQL.")
    is_renamed = serializers.BooleanField(help_text="The name is another, because PostgreSQL could not take it.")
    compared = serializers.ChoiceField(["by value", "counted only"], allow_blank=True)
    mind = serializers.ListField(child=serializers.CharField(), help_text="What to know of it.")
    cost = serializers.ChoiceField(COSTS, help_text="How much work it is to write a value.")
    choices = serializers.ListField(child=serializers.CharField(), help_text="Types for a rule, the usual one first.")
    needs_zone = serializers.BooleanField(help_text="Its rule has to name a zone.")
    zone = serializers.CharField(allow_blank=True)
    usual_name = serializers.CharField(help_text="What it is called without a rule.")
    masks = serializers.ListField(child=serializers.CharField(), help_text="Masks that can be made of it.")
    masked = serializers.CharField(allow_blank=True, help_text="What is stored in the place of its values, in words.")
    error = serializers.CharField(allow_blank=True, help_text="Why it cannot be loaded so.")


class PreflightSerializer(serializers.Serializer[Preflight]):
    """What becomes of the source's columns; `errors` are about none of them."""

    columns = ColumnPlanSerializer(many=True)
    errors = serializers.ListField(child=serializers.CharField())  # type: ignore[assignment]


class LastLockSerializer(serializers.Serializer[Any]):
    """The lock of the last published run."""

    method = serializers.CharField()
    wait_ms = serializers.FloatField(help_text="How long the run waited for the lock.")
    held_ms = serializers.FloatField(help_text="How long others waited for the run, at most.")


class ForecastSerializer(serializers.Serializer[Any]):
    """What a run would do to the target as things stand."""

    method = serializers.ChoiceField(["create", "rename", "in_place", "append", "merge", "history"])
    why = serializers.CharField()
    dependents = serializers.ListField(child=serializers.CharField(), help_text="What leans on the table.")
    makes = serializers.ListField(child=serializers.CharField(), help_text="Keys, indexes, partitions to be made.")
    waits = serializers.ListField(child=serializers.CharField(), help_text="Who waits for what.")
    minds = serializers.ListField(child=serializers.CharField(), help_text="What else to know.")
    last_lock = LastLockSerializer(allow_null=True)


class FindingSerializer(ProblemSerializer):
    """Something that stands against a pipeline."""

    field = serializers.CharField(help_text="The pipeline's field that it is about.")
    definite = serializers.BooleanField(help_text="False where a system could not be asked.")


class CostOutlookSerializer(serializers.Serializer[Any]):
    """What a run would bill by a dry run, and what its schedules make of it; null is what nobody can tell."""

    query_bytes = serializers.IntegerField(allow_null=True, help_text="Billed for query jobs.")
    storage_bytes = serializers.IntegerField(allow_null=True, help_text="Read through the Storage Read API.")
    money = serializers.FloatField(allow_null=True, help_text="At the prices that are set.")
    is_least = serializers.BooleanField(help_text="It may well be more.")
    why = serializers.CharField(allow_blank=True, help_text="Why it is not known.")
    is_first = serializers.BooleanField(help_text="This is of the first run, which reads all rows.")
    runs_a_month = serializers.IntegerField(allow_null=True, help_text="That schedules start in the next 30 days.")
    money_a_month = serializers.FloatField(allow_null=True)


class OutlookSerializer(serializers.Serializer[Any]):
    """What a run would do; null where something stands against it."""

    forecast = ForecastSerializer(allow_null=True)
    findings = FindingSerializer(many=True)
    cost = CostOutlookSerializer(allow_null=True, help_text="What it would bill.")


class IndexSerializer(NoUnknownFields, serializers.Serializer[Any]):
    """An index of the target."""

    columns = serializers.ListField(child=serializers.CharField(max_length=300), min_length=1)
    unique = serializers.BooleanField(default=False, help_text="No two rows may be the same in these columns.")


class PriorityField(serializers.ChoiceField):
    """A priority by its name; the numbers are ours."""

    def __init__(self, **more: Any) -> None:
        super().__init__(choices=[(level.name.lower(), level.label) for level in Priority], **more)

    def to_internal_value(self, data: Any) -> Priority:
        return Priority[super().to_internal_value(data).upper()]

    def to_representation(self, value: int) -> str:
        return Priority(value).name.lower()


class PipelineSerializer(NoUnknownFields, serializers.ModelSerializer[Pipeline]):
    """A pipeline. Its state changes through pause and resume; schedules are given as a whole."""

    answered = frozenset({"warnings"})

    source = serializers.PrimaryKeyRelatedField(
        queryset=Connection.objects.filter(kind__in=[k.name for k in registry.KINDS.values() if k.source]),
        pk_field=serializers.UUIDField(),
    )
    destination = serializers.PrimaryKeyRelatedField(
        queryset=Connection.objects.filter(kind__in=[k.name for k in registry.KINDS.values() if k.destination]),
        pk_field=serializers.UUIDField(),
    )
    state = serializers.ChoiceField(choices=PipelineState.choices, required=False)
    priority = PriorityField(required=False, help_text="Whose runs go first when workers or slots are scarce.")
    pool = serializers.PrimaryKeyRelatedField(
        queryset=Pool.objects.all(), pk_field=serializers.UUIDField(), required=False, allow_null=True
    )
    column_rules = ColumnRulesField(
        required=False,
        help_text="Columns to skip, mask, rename or store as another type, by name; the others are as usual.",
    )
    parameters = ParametersField(required=False, help_text="Typed values that the query names as @name.")
    schedules = ScheduleSerializer(source="current_schedules", many=True, required=False, max_length=20)
    dependencies = DependencySerializer(source="current_dependencies", many=True, required=False, max_length=50)
    checks = CheckSerializer(source="current_checks", many=True, required=False, max_length=MAX_CHECKS)
    indexes = IndexSerializer(many=True, required=False)
    revision = serializers.IntegerField(source="revision.number", read_only=True, help_text="Number of the definition.")
    next_due = serializers.SerializerMethodField(help_text="When a schedule fires next; null while paused.")

    class Meta:
        model = Pipeline
        fields = (
            "id", "name", "description", "state", "source", "source_table", "source_query", "row_filter", "parameters",
            "destination",
            "target_schema", "target_table", "adopt_target", "write_disposition", "merge_key", "deletes",
            "cursor_column",
            "column_rules", "schema_policy",
            "primary_key", "indexes", "partition_column", "partition_unit", "analyze", "sql_before", "sql_after",
            "sql_role", "sql_limit_s", "text_policy",
            "quarantine", "quarantine_rows", "quarantine_percent", "quarantine_beyond", "quarantine_days",
            "incremental", "lookback", "settle", "initial_value", "guard_zero_rows", "guard_shrink_percent",
            "held_days", "undo_depth", "priority", "pool", "overlap", "missed", "retries", "retry_delay_s",
            "give_up_after_s", "time_limit_s", "run_budget_bytes", "month_budget_bytes", "load_method",
            "mode", "poll_every_s", "stream_every_s", "force_read_every", "watch_every_s", "schedules",
            "dependencies", "checks", "next_due",
            "revision", "created_at", "updated_at",
        )  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")
        # Pipeline.full_clean and objections.against say the same, with hints.
        validators: tuple[Any, ...] = ()
        extra_kwargs: ClassVar = {"name": {"validators": []}}

    def get_next_due(self, pipeline: Pipeline) -> datetime | None:
        if pipeline.state != PipelineState.ACTIVE:
            return None
        found = upcoming.next_of(pipeline.current_schedules)  # type: ignore[attr-defined]
        return found[0] if found else None

    def validate_state(self, state: str) -> str:
        if self.instance is not None and state != self.instance.state:
            raise serializers.ValidationError("Use the pause and resume actions to change the state.", "read_only")
        if state == PipelineState.ARCHIVED and self.instance is None:
            raise serializers.ValidationError("A new pipeline is active or paused.", "invalid_choice")
        return state

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Adds `candidate`, as it would be, with `specs` of schedules, `waits_for` and `checks` (None: as is)."""
        rules = attrs.pop("current_schedules", None)
        waits_for = attrs.pop("current_dependencies", None)
        wanted = attrs.pop("current_checks", None)
        candidate = copy.copy(self.instance) if self.instance is not None else Pipeline()
        for name, value in attrs.items():
            setattr(candidate, name, value)
        found: dict[str, list[Problem]] = {}
        try:
            candidate.full_clean(validate_constraints=False)
        except ValidationError as error:
            for name, errors in error.error_dict.items():
                found[name] = [
                    problem(*objections.NAME_TAKEN[:3])
                    if e.code == "unique"
                    else problem(e.code or "invalid", " ".join(e.messages))
                    for e in errors
                ]
        for refused in objections.against(candidate):
            found.setdefault(refused.field, []).append(problem(refused.code, refused.message, refused.hint))
        for refused in dependencies.against(candidate, waits_for) if waits_for is not None else ():
            found.setdefault(refused.field, []).append(problem(refused.code, refused.message, refused.hint))
        for number, refused in checks.against(candidate, wanted) if wanted is not None else ():
            told = checks.place_of(number, refused)
            found.setdefault(told.field, []).append(problem(refused.code, refused.message, refused.hint))
        specs = None if rules is None else [spec_of(rule) for rule in rules]
        for number, spec in enumerate(specs or ()):
            try:
                spec.tidy()
            except schedules.RuleError as error:
                name = f"schedules.{number}.{error.field}"
                found.setdefault(name, []).append(problem(error.code, error.message, error.hint))
        if found:
            raise FieldErrors(found)
        changed = frozenset(attrs)
        return {"candidate": candidate, "specs": specs, "waits_for": waits_for, "checks": wanted, "changed": changed}


class WarningSerializer(ProblemSerializer):
    """Something that could not be checked when the pipeline was saved."""

    field = serializers.CharField(allow_blank=True)


class SavedPipelineSerializer(PipelineSerializer):
    """A pipeline as it was saved, with what could not be checked."""

    warnings = serializers.SerializerMethodField()

    class Meta(PipelineSerializer.Meta):
        fields = (*PipelineSerializer.Meta.fields, "warnings")

    @extend_schema_field(WarningSerializer(many=True))
    def get_warnings(self, pipeline: Pipeline) -> list[dict[str, str]]:
        return self.context["warnings"]
