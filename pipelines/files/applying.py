"""Making an installation what a file says, all of it or nothing."""

from __future__ import annotations

from django.db import transaction

from pipelines import lookups
from pipelines.files import checking
from pipelines.files.problems import FileRefused
from pipelines.files.work import Plan, Wish, Work, problem_of


class Overtaken(Exception):
    """Somebody changed definitions after the plan was made; nothing was applied."""


def plan(wish: Wish) -> Plan:
    """What applying would do, found by doing it and taking it back; raises FileRefused, PermissionDenied."""
    checking.check(wish.document)
    with transaction.atomic():
        made = Work(wish).do()
        transaction.set_rollback(True)
    return made


def apply(wish: Wish, planned: Plan) -> None:
    """Do what was planned, as one change; raises Overtaken if that is not what there is to do any more."""
    with transaction.atomic():
        done = Work(wish, planned.seen).do()
        if done.changes != planned.changes:
            raise Overtaken


def ask_live(wish: Wish, planned: Plan) -> list[str]:
    """Ask the live systems about what is made or moved, as the form does; says what could not be checked.

    Raises FileRefused for what is definitely wrong.
    """
    problems, warnings = [], []
    for pipeline, path in planned.moved:
        try:
            findings = lookups.validate_pipeline(pipeline)
        except lookups.LookupFailed as failure:
            warnings.append(f"{pipeline.name}: not checked: {failure.message} {failure.hint}".strip())
            continue
        if pipeline.source_columns is not None:
            planned.seen[pipeline.name] = pipeline.source_columns
        for finding in findings:
            if finding.definite:
                problems.append(problem_of(wish.document, path, finding))
            else:
                warnings.append(f"{pipeline.name}: not checked: {finding.message} {finding.hint}".strip())
    if problems:
        raise FileRefused(problems)
    return warnings
