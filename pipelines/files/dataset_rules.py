"""Dataset rules in files: source and template by their names."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from pipelines import dataset_rules
from pipelines.files import fields, values
from pipelines.files.changes import ADDED, CHANGED, Change, between, first
from pipelines.files.fields import TEXT, Field
from pipelines.files.values import Values
from pipelines.models import Connection, DatasetRule, Pipeline, PipelineState
from pipelines.objections import PipelineRefused


def _named(name: str, label: str, help_: str) -> Field:
    return Field(name, label, help_, {"type": TEXT, "minLength": 1}, required=True)


_SOURCE = _named("source", "Source", "The name of the connection to look through.")
_TEMPLATE = _named("template", "Template", "The name of the pipeline that new ones are like.")
_PLAIN = fields.of_model(
    DatasetRule, "dataset", "enabled", "include", "exclude", "views", "take_existing", "name_prefix", "new_state",
    "most_at_once", "every_s",
)  # fmt: skip
FIELDS = (_SOURCE, _TEMPLATE, *_PLAIN)


def rules() -> Iterable[DatasetRule]:
    return DatasetRule.objects.select_related("source", "template").defer("source__secrets").order_by("name")


def of_rule(rule: DatasetRule) -> Values:
    plain = {field.name: getattr(rule, field.name) for field in _PLAIN}
    return values.filled(FIELDS, {**plain, "source": rule.source.name, "template": rule.template.name})


def export() -> dict[str, Any]:
    """What is archived is in no file, and neither is a rule that goes by it."""
    kept = (rule for rule in rules() if rule.template.state != PipelineState.ARCHIVED)
    return {rule.name: values.spared(FIELDS, of_rule(rule)) for rule in kept}


def save(name: str, entry: Values, rule: DatasetRule | None, *, by: Any) -> tuple[DatasetRule, Change] | None:
    """Make a rule what a file says; None if it is so already. Raises PipelineRefused."""
    wanted = values.filled(FIELDS, entry)
    before = of_rule(rule) if rule else {}
    changes = between(FIELDS, before, wanted) if rule else first(FIELDS, wanted)
    note = f"called {rule.name} so far" if rule and rule.name != name else ""
    if rule and not changes and not note:
        return None
    saved = copy.copy(rule) if rule else DatasetRule()
    saved.name = name
    for field in _PLAIN:
        setattr(saved, field.name, wanted[field.name])
    saved.source = _row(Connection.objects.defer("secrets"), "connection", wanted["source"], "source")
    saved.template = _row(Pipeline.objects.all(), "pipeline", wanted["template"], "template")
    dataset_rules.save_rule(saved, by=by)
    return saved, Change(CHANGED if rule else ADDED, "dataset rule", name, changes, note)


def _row(rows: Any, what: str, name: str, field: str) -> Any:
    found = rows.filter(name=name).first()
    if found is None:
        hint = f"Correct the name, or put the {what} into the file."
        raise PipelineRefused("no_such_name", f"There is no {what} called {name}.", hint, field)
    return found
