"""Runs as the API shows them."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from connectors.errors import ConnectorError
from pipelines.api_base import FieldErrors, Problem, ProblemSerializer, problem
from runs import asking, costs, giving, queries, receipts, values
from runs.cost_serializers import RunCostSerializer
from runs.models import DoneMark, LogLine, PartLoad, Run, RunAction
from runs.part_queries import counts_of
from runs.receipt_serializers import RECEIPTS
from runs.shortage import Holder
from runs.states import Step
from runs.upstream_waits import Shown, prerequisites_of
from runs.waiting import Wait, wait_of


class BuiltOnce(serializers.ModelSerializer[Any]):
    """Its fields follow from its class alone: they are derived from the model once, and not for every answer."""

    _built: ClassVar[dict[type, dict[str, Any]]] = {}

    def get_fields(self) -> dict[str, Any]:
        built = self._built.get(type(self))
        if built is None:
            built = self._built[type(self)] = super().get_fields()
        return copy.deepcopy(built)


class RunSerializer(BuiltOnce):
    """One execution of a pipeline's revision."""

    pipeline = serializers.UUIDField(source="pipeline_id")
    pipeline_name = serializers.CharField(source="pipeline.name")
    revision = serializers.IntegerField(source="revision.number", help_text="Number of the definition it runs.")
    requested_by = serializers.CharField(source="requested_by.username", default=None, allow_null=True)
    step = serializers.ChoiceField(
        choices=Step.choices,
        help_text="Of a run in parts: parts or publish; empty while it is planned, and for others.",
    )
    parameters = serializers.SerializerMethodField(help_text="The values it goes by, of the parameters it has.")
    error = serializers.SerializerMethodField()

    class Meta:
        model = Run
        fields: tuple[str, ...] = (
            "id", "pipeline", "pipeline_name", "revision", "trigger", "action", "requested_by", "scheduled_for",
            "data_interval_start", "data_interval_end", "parameters", "status", "step", "attempt", "phase",
            "cancel_requested", "rows", "bytes", "estimated_rows", "estimated_bytes", "last_seq", "error",
            "created_at", "started_at", "finished_at",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(serializers.DictField())
    def get_parameters(self, run: Run) -> dict[str, Any]:
        return values.shown(run)

    @extend_schema_field(ProblemSerializer(allow_null=True))
    def get_error(self, run: Run) -> dict[str, str] | None:
        return _error(run)


def _error(of: Run | PartLoad) -> dict[str, str] | None:
    return {"code": of.error_code, "message": of.error_message, "hint": of.error_hint} if of.error_code else None


class ProgressSerializer(serializers.Serializer[Any]):
    rows = serializers.IntegerField()
    bytes = serializers.IntegerField()
    rows_per_s = serializers.FloatField(allow_null=True)
    percent = serializers.FloatField(allow_null=True)
    seconds_left = serializers.FloatField(allow_null=True)
    elapsed_s = serializers.FloatField(allow_null=True)
    estimated_rows = serializers.IntegerField(allow_null=True)
    phase = serializers.CharField(allow_blank=True)


class PartCountsSerializer(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    waiting = serializers.IntegerField(help_text="For a worker, or for another try.")
    running = serializers.IntegerField()
    done = serializers.IntegerField(help_text="All of their rows are staged.")
    failed = serializers.IntegerField()


class HolderSerializer(serializers.Serializer[Holder]):
    """A run that has slots."""

    run = serializers.UUIDField()
    pipeline = serializers.CharField(help_text="The name of its pipeline.")
    slots = serializers.IntegerField(help_text="How many it has: parts of one load have one each; an upstream none.")


class PrerequisiteSerializer(serializers.Serializer[Shown]):
    """An upstream that a run waits for, or has waited for."""

    upstream = serializers.UUIDField()
    name = serializers.CharField()
    words = serializers.CharField(help_text="What is waited for.")
    is_met = serializers.BooleanField()
    met_by = serializers.UUIDField(allow_null=True, help_text="The run that succeeded; null if nobody waited for it.")
    at = serializers.DateTimeField(allow_null=True)
    gives_up_at = serializers.DateTimeField()


class DoneSerializer(serializers.ModelSerializer[DoneMark]):
    """That a person said that a run needs nothing more."""

    by = serializers.SlugRelatedField("username", read_only=True)

    class Meta:
        model = DoneMark
        fields = ("by", "at", "note")
        read_only_fields = fields


class RunDetailSerializer(RunSerializer):
    """A run with what it waits for, how far it is, and its receipt."""

    waiting = serializers.SerializerMethodField(help_text="Why it waits; empty when it does not.")
    waiting_on = serializers.SerializerMethodField(
        help_text="Runs to look at: those that have the slots it waits for, or its upstreams'."
    )
    upstreams = serializers.SerializerMethodField(help_text="The upstreams that it waits for, or has waited for.")
    progress = serializers.SerializerMethodField()
    parts = serializers.SerializerMethodField(help_text="How its parts stand; null for a run that is loaded in one go.")
    receipt = serializers.SerializerMethodField(help_text="What the run did, once it succeeded.")
    cost = serializers.SerializerMethodField(help_text="What it was billed, and what a dry run said before.")
    done = serializers.SerializerMethodField(help_text="Who marked it as done and why; null for a run nobody marked.")

    class Meta(RunSerializer.Meta):
        fields = (
            *RunSerializer.Meta.fields,
            *("waiting", "waiting_on", "upstreams", "progress", "parts", "receipt", "cost", "done"),
        )
        read_only_fields = fields

    def get_waiting(self, run: Run) -> str:
        return self._wait(run).why

    @extend_schema_field(HolderSerializer(many=True))
    def get_waiting_on(self, run: Run) -> list[dict[str, Any]]:
        return HolderSerializer(self._wait(run).holders, many=True).data

    @extend_schema_field(PrerequisiteSerializer(many=True))
    def get_upstreams(self, run: Run) -> list[dict[str, Any]]:
        return PrerequisiteSerializer(prerequisites_of(run), many=True).data

    def _wait(self, run: Run) -> Wait:
        """Looked up once for each run that is shown."""
        if getattr(self, "_waits_of", None) != run.pk:
            self._waits_of, self._known = run.pk, wait_of(run)
        return self._known

    @extend_schema_field(RECEIPTS)
    def get_receipt(self, run: Run) -> dict[str, Any] | None:
        return receipts.visible(run, self.context["request"].user)

    @extend_schema_field(RunCostSerializer)
    def get_cost(self, run: Run) -> dict[str, Any]:
        return RunCostSerializer(costs.of_run(run)).data

    @extend_schema_field(DoneSerializer(allow_null=True))
    def get_done(self, run: Run) -> dict[str, Any] | None:
        mark = DoneMark.objects.filter(run=run.pk).select_related("by").first() if run.is_terminal else None
        return DoneSerializer(mark).data if mark else None

    @extend_schema_field(PartCountsSerializer(allow_null=True))
    def get_parts(self, run: Run) -> dict[str, Any] | None:
        counts = counts_of([run]).get(run.pk)
        return PartCountsSerializer(counts).data if counts else None

    @extend_schema_field(ProgressSerializer)
    def get_progress(self, run: Run) -> dict[str, Any]:
        return queries.progress_of(run)


class PartSerializer(serializers.ModelSerializer[PartLoad]):
    """A part of a run, and whoever loads it now or did last."""

    number = serializers.SerializerMethodField(help_text="Counts from 1, as in the log.")
    error = serializers.SerializerMethodField(help_text="What it failed with last.")

    class Meta:
        model = PartLoad
        fields = (
            "number", "name", "status", "worker", "rows", "bytes", "estimated_rows", "failures", "losses", "due",
            "started_at", "finished_at", "error",
        )  # fmt: skip
        read_only_fields = fields

    def get_number(self, part: PartLoad) -> int:
        return part.number + 1

    @extend_schema_field(ProblemSerializer(allow_null=True))
    def get_error(self, part: PartLoad) -> dict[str, str] | None:
        return _error(part)


# Each of these has a door of its own, which asks for what it takes.
_ASKED_ELSEWHERE = (RunAction.BACKFILL, RunAction.UNDO, RunAction.REPLAY)


class TriggerSerializer(serializers.Serializer[Any]):
    """What a run should do; nothing means an ordinary load."""

    action = serializers.ChoiceField(
        choices=[choice for choice in RunAction.choices if choice[0] not in _ASKED_ELSEWHERE],
        default=RunAction.LOAD,
    )
    watermark = serializers.CharField(
        required=False, allow_blank=True, max_length=100, help_text="For set_watermark; empty to read all rows."
    )
    at = serializers.ChoiceField(
        choices=["snapshot", "now"],
        required=False,
        help_text="For compare: the source as the last run read it (if not given), or as it is.",
    )
    keys = serializers.BooleanField(
        required=False,
        help_text="For compare: look for the keys that differ, which reads the source up to 3 times.",
    )
    maximum_bytes_billed = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=2**63 - 1,
        help_text="For compare: what its queries may bill together.",
    )
    parameters = serializers.DictField(
        required=False, help_text="Values of the pipeline's parameters, by name; defaults stand for the others."
    )
    data_interval_start = serializers.DateTimeField(
        required=False, help_text="The data interval begins here; without one it is that of the last tick."
    )
    data_interval_end = serializers.DateTimeField(required=False, help_text="It ends before this moment.")
    force = serializers.BooleanField(
        default=False,
        help_text="Append a data interval that another run has loaded: its rows are there twice then. Or begin a "
        "history anew, which deletes its versions. Or keep rows, although those that the definition leaves out go.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Adds `options`, what the action needs to know; `context` has the pipeline."""
        pipeline = self.context["pipeline"]
        found: dict[str, list[Problem]] = {}
        if not asking.has_action(pipeline, attrs["action"]):
            message = f"{pipeline.name} has no use for {attrs['action']}."
            found["action"] = [problem("action_of_no_use", message, "See the pipeline's disposition and cursor.")]
        elif ("watermark" in attrs) != (attrs["action"] == RunAction.SET_WATERMARK):
            found["watermark"] = [problem("watermark_needed", "A watermark goes with set_watermark, and only with it.")]
        elif "watermark" in attrs:
            try:
                attrs["watermark"] = asking.checked_watermark(pipeline, attrs["watermark"])
            except ConnectorError as error:
                found["watermark"] = [problem(error.code, error.message, error.hint)]
        for name in {"at", "keys", "maximum_bytes_billed"} & set(attrs):
            if attrs["action"] != RunAction.COMPARE:
                found[name] = [problem("only_for_compare", f"{name} goes with compare, and only with it.")]
        start, end = attrs.pop("data_interval_start", None), attrs.pop("data_interval_end", None)
        asked = giving.check(pipeline, attrs["action"], attrs.pop("parameters", {}), start, end)
        for name, error in asked.errors.items():
            found.setdefault(name, []).append(problem(error.code, error.message, error.hint))
        if found:
            raise FieldErrors(found)
        force = attrs.pop("force")
        options = {k: v for k, v in attrs.items() if k != "action"}
        if asked.values:
            options["parameters"] = asked.values
        return {"action": attrs["action"], "options": options, "interval": asked.interval, "force": force}


class DecisionSerializer(serializers.Serializer[Any]):
    note = serializers.CharField(
        default="", allow_blank=True, max_length=500, help_text="Why, for those who come later."
    )
    attempt = serializers.IntegerField(
        required=False,
        min_value=0,
        help_text="Of a held run: the attempt that was looked at. Held again for another reason, it is refused.",
    )


class LogLineSerializer(serializers.ModelSerializer[LogLine]):
    class Meta:
        model = LogLine
        fields = ("seq", "at", "level", "message", "attempt")
        read_only_fields = fields


class LogSerializer(serializers.Serializer[Any]):
    """Lines of a log in their one order; there is more while the last line's seq is below `last_seq`."""

    lines = LogLineSerializer(many=True)
    last_seq = serializers.IntegerField()
    finished = serializers.BooleanField(help_text="The run has ended: no line comes after last_seq.")


class LogQuerySerializer(serializers.Serializer[Any]):
    after = serializers.IntegerField(default=0, min_value=0, max_value=2**63 - 1, help_text="The last seq you have.")
    limit = serializers.IntegerField(default=1000, min_value=1, max_value=1000)
