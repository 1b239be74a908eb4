"""The form of a pipeline: what is typed is checked against the live systems before it is saved."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms.models import construct_instance
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from connectors import registry
from pipelines import budgets, lookups, objections, services, tidy
from pipelines.forms.bytes import BytesField
from pipelines.forms.indexes import IndexesField
from pipelines.forms.parameters import ParametersField
from pipelines.models import Connection, Pipeline, PipelineState
from pipelines.objections import PipelineRefused


def sources() -> QuerySet[Connection]:
    return Connection.objects.filter(kind__in=[k.name for k in registry.KINDS.values() if k.source])


def destinations() -> QuerySet[Connection]:
    return Connection.objects.filter(kind__in=[k.name for k in registry.KINDS.values() if k.destination])


def live_findings(pipeline: Pipeline) -> tuple[list[lookups.Finding], list[str]]:
    """What the live systems say against a pipeline: definite findings, and warnings for what nobody could say."""
    try:
        findings = lookups.validate_pipeline(pipeline)
    except lookups.LookupFailed as failure:
        return [], [f"Not checked: {sentence(failure)}"]
    definite = [finding for finding in findings if finding.definite]
    return definite, [f"Not checked: {sentence(finding)}" for finding in findings if not finding.definite]


def say_when_too_long(form: forms.BaseForm, *names: str) -> None:
    """Let a pasted name be refused in words; a browser cuts it off without any."""
    for name in form.fields.keys() & set(names):
        form.fields[name].widget.attrs.pop("maxlength", None)


def sentence(finding: lookups.Finding | lookups.LookupFailed | PipelineRefused) -> str:
    return f"{finding.message} {finding.hint}".strip()


class RulesField(forms.JSONField):
    """Rules for columns as JSON: one rule a line, and nothing where there is none."""

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value if isinstance(value, str) else super().prepare_value(value)
        rules = [f"{_json(name)}: {_json(rule)}" for name, rule in value.items()]
        return "{" + ",\n ".join(rules) + "}" if rules else ""

    def to_python(self, value: Any) -> Any:
        text = value.strip() if isinstance(value, str) else value
        try:
            found = super().to_python(text)
        except ValidationError as error:
            raise ValidationError(_misread(text) or error.messages, code="invalid") from None
        return {} if found is None else found


def _misread(text: str) -> str:
    """Where a text ceases to be JSON; empty if it does not."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"This is not JSON, at line {error.lineno}, character {error.colno}: {error.msg}."
    return ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class PipelineForm(forms.ModelForm):
    """`warnings` holds what the person should know although the pipeline may be saved."""

    indexes = IndexesField()
    parameters = ParametersField()

    class Meta:
        model = Pipeline
        fields = (
            "name", "description", "state", "source", "source_table", "source_query", "row_filter", "parameters",
            "destination", "target_schema",
            "target_table", "adopt_target", "write_disposition", "merge_key", "deletes", "cursor_column",
            "column_rules", "schema_policy", "text_policy",
            "quarantine", "quarantine_rows", "quarantine_percent", "quarantine_beyond", "quarantine_days",
            "primary_key", "indexes", "partition_column", "partition_unit", "analyze",
            "sql_before", "sql_after", "sql_role", "sql_limit_s",
            "incremental",
            "lookback", "settle", "initial_value", "guard_zero_rows", "guard_shrink_percent", "held_days",
            "undo_depth",
            "priority", "pool", "overlap", "missed", "retries", "retry_delay_s",
            "give_up_after_s", "time_limit_s", "run_budget_bytes", "month_budget_bytes", "load_method",
            "mode", "poll_every_s", "stream_every_s", "force_read_every", "watch_every_s",
        )  # fmt: skip
        field_classes = {
            "column_rules": RulesField,
            "run_budget_bytes": BytesField,
            "month_budget_bytes": BytesField,
        }
        widgets = {
            "sql_before": UnfoldAdminTextareaWidget({"rows": 4, "spellcheck": "false", "class": "font-mono"}),
            "sql_after": UnfoldAdminTextareaWidget({"rows": 4, "spellcheck": "false", "class": "font-mono"}),
            "description": UnfoldAdminTextareaWidget({"rows": 2}),
            "source_query": UnfoldAdminTextareaWidget({"rows": 8, "spellcheck": "false", "class": "font-mono"}),
            "row_filter": UnfoldAdminTextareaWidget({"rows": 2, "spellcheck": "false", "class": "font-mono"}),
            "merge_key": UnfoldAdminTextInputWidget({"autocomplete": "off"}),
            "primary_key": UnfoldAdminTextInputWidget({"autocomplete": "off"}),
            "column_rules": UnfoldAdminTextareaWidget({"rows": 3, "spellcheck": "false", "class": "font-mono"}),
            "target_schema": UnfoldAdminTextInputWidget({"list": "desk-schemas", "autocomplete": "off"}),
        }

    # Who fills it in; the admin says.
    by: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.warnings: list[str] = []
        say_when_too_long(self, "target_schema", "target_table")
        if "state" in self.fields and self.instance.state != PipelineState.ARCHIVED:
            choices = [choice for choice in PipelineState.choices if choice[0] != PipelineState.ARCHIVED]
            self.fields["state"].choices = choices

    def clean_source_table(self) -> str:
        return tidy.name(self.cleaned_data["source_table"])

    def clean_merge_key(self) -> list[str]:
        return [tidy.name(name) for name in self.cleaned_data["merge_key"]]

    def clean_primary_key(self) -> list[str]:
        return [tidy.name(name) for name in self.cleaned_data["primary_key"]]

    def clean_partition_column(self) -> str:
        return tidy.name(self.cleaned_data["partition_column"])

    def clean_cursor_column(self) -> str:
        return tidy.name(self.cleaned_data["cursor_column"])

    def clean_initial_value(self) -> str:
        return self.cleaned_data["initial_value"].strip()

    def clean_row_filter(self) -> str:
        return tidy.condition(self.cleaned_data["row_filter"])

    def clean_source_query(self) -> str:
        return tidy.query(self.cleaned_data["source_query"])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            candidate = construct_instance(self, copy.copy(self.instance))
            before = None if self.instance._state.adding else self.instance
            for refused in (*objections.against(candidate), *budgets.against(before, candidate, self.by)):
                self.add_error(refused.field, sentence(refused))
        return cleaned

    def _post_clean(self) -> None:
        """Ask the live systems last, once the instance holds what was typed and all else is right."""
        super()._post_clean()
        if self.errors:
            return
        # The admin takes a new object's key away until it is saved; the destination wants to know whom it is asked for.
        key, self.instance.pk = self.instance.pk, self.instance.pk or uuid.uuid4()
        definite, self.warnings = live_findings(self.instance)
        self.instance.pk = key
        refuses = self.instance._state.adding or bool(services.MOVING & set(self.changed_data))
        for finding in definite:
            if refuses:
                self.add_error(finding.field if finding.field in self.fields else None, sentence(finding))
            else:
                self.warnings.append(sentence(finding))


class UncheckedForm(PipelineForm):
    """The form as it is typed, without asking the live systems."""

    def _post_clean(self) -> None:
        super(PipelineForm, self)._post_clean()
