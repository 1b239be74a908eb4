"""Writes of dataset rules, and the pipelines that they make."""

from __future__ import annotations

import copy
import logging
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.utils.text import capfirst

from pipelines import checks, objections, queries, services
from pipelines.models import DatasetRule, Pipeline
from pipelines.objections import PipelineRefused, constraints_in_words
from pipelines.specs import ScheduleSpec

log = logging.getLogger(__name__)


def against(rule: DatasetRule) -> list[PipelineRefused]:
    """What save_rule would refuse, field by field."""
    found = []
    parts = rule.dataset.split(".")
    if not all(part.strip() for part in parts) or len(parts) > 2:
        message = f"{rule.dataset or 'An empty text'} does not name a dataset."
        found.append(PipelineRefused("dataset_name", message, "Write dataset or project.dataset.", "dataset"))
    if not rule.template.source_table:
        message = f"{rule.template} reads a query: others cannot be like it but for the table."
        found.append(PipelineRefused("template_reads_query", message, "Choose one that reads a table.", "template"))
    return found


def save_rule(rule: DatasetRule, *, by: Any) -> DatasetRule:
    """Save a rule; it looks at once if it is enabled. Raises PipelineRefused.

    What it makes are pipelines: who may not add any may not let it. Raises PermissionDenied.
    """
    if by is not None and not by.has_perm("pipelines.add_pipeline"):
        message = f"{by} may not add pipelines, and the rule would."
        raise PermissionDenied(message)
    for refused in against(rule):
        raise refused
    before = DatasetRule.objects.filter(pk=rule.pk).first()
    if before is None or (before.source_id, before.dataset) != (rule.source_id, rule.dataset):
        # Of another dataset nothing is known yet.
        rule.first_looked_at = None
    rule.next_look = queries.database_now()
    rule.taken_at = None  # a look that is under way does not count as the one that is due now
    with constraints_in_words():
        rule.save()
    log.info("Dataset rule %s saved by %s", rule.name, by or "a command")
    return rule


def look_soon(rule: DatasetRule) -> None:
    """Let a worker look now, whether or not the rule looks by itself."""
    DatasetRule.objects.filter(pk=rule.pk).update(next_look=queries.database_now(), asked=True, taken_at=None)


def pipeline_for(rule: DatasetRule, table: str, *, by: Any = None) -> Pipeline:
    """Make the pipeline of a table, like the rule's template; raises PipelineRefused."""
    template = rule.template
    made = copy.copy(template)
    made.pk = None
    made._state = copy.copy(template._state)
    made._state.adding = True
    fresh = Pipeline()
    made.id = fresh.id
    made.created_at = None
    made.revision = None
    made.name = f"{rule.name_prefix}{table}"
    made.description = f"Made by the dataset rule {rule.name}."
    made.state = rule.new_state
    made.source_id = rule.source_id
    made.source_table = f"{rule.dataset}.{table}"
    made.source_columns = None
    made.target_table = table
    made.adopt_target = False
    # It was written for one table, by somebody who may write SQL.
    made.sql_before = made.sql_after = made.sql_role = ""
    refused = objections.against(made)
    try:
        made.full_clean(exclude=["revision"], validate_constraints=False)
    except ValidationError as error:
        for field, messages in error.message_dict.items():
            label = capfirst(str(made._meta.get_field(field).verbose_name))
            refused.append(PipelineRefused("invalid", f"{label}: {' '.join(messages)}", field=field))
    for first in refused:
        raise first
    current = queries.current_schedules().filter(pipeline=template)
    specs = [ScheduleSpec.of(schedule) for schedule in current]
    services.save_pipeline(made, schedules=specs, checks=checks.checks_of(template), by=by)
    return made


def known_pipelines(rule: DatasetRule) -> dict[str, Pipeline]:
    """Pipelines that read tables of the rule's dataset, archived ones too, by table."""
    own = str(rule.source.options.get("project", ""))
    *project, dataset = rule.dataset.strip("` ").rsplit(".", 1)
    reading = Pipeline.objects.filter(source=rule.source_id, source_table__contains=f"{dataset}.")
    found = {}
    for pipeline in reading.only("id", "name", "source_table"):
        *before, table = pipeline.source_table.strip("` ").rsplit(".", 2)
        # The same dataset of another project is another one.
        if before[-1:] == [dataset] and (before[:-1] or [own]) == (project or [own]):
            found[table] = pipeline
    return found
