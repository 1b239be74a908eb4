"""Loads that became full refreshes, since their targets could not follow the source: nobody asked for those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Q

from runs.models import Run, RunAction

# The mark of such a run, among its options; it is no parameter, and what is asked for anew goes without it.
BEGUN_ANEW = "begun_anew"
IS_LOAD = Q(action=RunAction.LOAD) | Q(action=RunAction.FULL_REFRESH, action_options__has_key=BEGUN_ANEW)


def is_load(action: str, options: Mapping[str, Any]) -> bool:
    """Whether a run was asked for as a load, whatever it has become."""
    return action == RunAction.LOAD or (action == RunAction.FULL_REFRESH and BEGUN_ANEW in options)


def as_asked(run: Run) -> tuple[RunAction, dict[str, Any]]:
    """What a run was to do, with its options, before it became anything else."""
    action = RunAction.LOAD if is_load(run.action, run.action_options) else RunAction(run.action)
    return action, {name: value for name, value in run.action_options.items() if name != BEGUN_ANEW}
