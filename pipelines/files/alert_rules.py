"""Alert rules in files: channels and pipelines by their names. Channels, which are secrets, are made in the admin."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines import alert_definitions
from pipelines.alert_definitions import KINDS
from pipelines.files import fields, values
from pipelines.files.changes import ADDED, CHANGED, Change, between, first
from pipelines.files.fields import LIST, NAMES, TEXT, Field
from pipelines.files.values import Values
from pipelines.models import AlertChannel, AlertKind, AlertRule, Pipeline, PipelineState
from pipelines.objections import PipelineRefused

_KINDS = Field(
    "kinds",
    "Tell when",
    str(AlertRule._meta.get_field("kinds").help_text),
    {"type": LIST, "items": {"type": TEXT, "enum": KINDS}, "minItems": 1},
    required=True,
    choices=dict(AlertKind.choices),
)
_CHANNELS = Field("channels", "Channels", "The names of those that are told.", {**NAMES, "minItems": 1}, required=True)
_PIPELINES = Field(
    "pipelines", "Pipelines", "The names of those that it is about. Left out: all of them.", NAMES, default=[]
)
FIELDS = (
    _KINDS,
    _CHANNELS,
    _PIPELINES,
    *fields.of_model(AlertRule, "enabled", "late_after_min", "stale_after_h", "distance", "remind_after_h", "urgent"),
)


def rules() -> Iterable[AlertRule]:
    return AlertRule.objects.prefetch_related("channels", "pipelines").order_by("name")


def of_rule(rule: AlertRule) -> Values:
    plain = {field.name: getattr(rule, field.name) for field in FIELDS if field not in (_CHANNELS, _PIPELINES)}
    living = [each for each in rule.pipelines.all() if each.state != PipelineState.ARCHIVED]
    named = {
        "channels": [channel.name for channel in rule.channels.all()],
        "pipelines": [] if rule.every_pipeline else [pipeline.name for pipeline in living],
    }
    return _filled({**plain, **named})


def _filled(given: Mapping[str, Any]) -> Values:
    """In one order, however they were chosen."""
    filled = values.filled(FIELDS, given)
    ordered = {name: sorted(set(filled[name])) for name in ("channels", "pipelines")}
    return {**filled, **ordered, "kinds": [kind for kind in KINDS if kind in filled["kinds"]]}


def export() -> dict[str, Any]:
    """A rule about pipelines that are all archived would read as one about all: it is left out."""
    kept = ((rule, of_rule(rule)) for rule in rules())
    return {rule.name: values.spared(FIELDS, has) for rule, has in kept if rule.every_pipeline or has["pipelines"]}


def save(name: str, entry: Values, rule: AlertRule | None) -> tuple[AlertRule, Change] | None:
    """Make a rule what a file says; None if it is so already. Raises PipelineRefused."""
    wanted = _filled(entry)
    channels = _named(AlertChannel, "channel", wanted["channels"])
    pipelines = _named(Pipeline, "pipeline", wanted["pipelines"])
    before = of_rule(rule) if rule else {}
    changes = between(FIELDS, before, wanted) if rule else first(FIELDS, wanted)
    note = f"called {rule.name} so far" if rule and rule.name != name else ""
    if rule and not changes and not note:
        return None
    saved = copy.copy(rule) if rule else AlertRule()
    saved.name, saved.every_pipeline = name, not wanted["pipelines"]
    for field in FIELDS:
        if field not in (_CHANNELS, _PIPELINES):
            setattr(saved, field.name, wanted[field.name])
    alert_definitions.save_rule(saved, channels=channels, pipelines=pipelines)
    return saved, Change(CHANGED if rule else ADDED, "alert rule", name, changes, note)


def _named(model: type[AlertChannel] | type[Pipeline], what: str, names: list[str]) -> list[Any]:
    found = {each.name: each for each in model.objects.filter(name__in=names).defer(*_SECRET.get(what, ()))}
    for name in names:
        if name not in found:
            hints = {
                "channel": "Correct the name, or make the channel in the admin: its address is a secret.",
                "pipeline": "Correct the name, or put the pipeline into the file.",
            }
            message = f"There is no {what} called {name}."
            raise PipelineRefused("no_such_name", message, hints[what], f"{what}s")
    return [found[name] for name in names]


_SECRET = {"channel": ("secrets",)}
