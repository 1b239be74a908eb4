"""Dataset rules in files of definitions: there and back, by names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from pipelines import dataset_rules
from pipelines.files.exporting import export
from pipelines.models import Connection, DatasetRule

pytestmark = pytest.mark.django_db


@pytest.fixture
def rules(make_pipeline: Any, source: Connection) -> list[DatasetRule]:
    """One rule that says nothing but what it must, one that says all there is, one that goes by what is archived."""
    template = make_pipeline()
    values = {"source": source, "dataset": "sales", "template": template}
    full = {
        "include": ["a*", "b"], "exclude": [], "views": True, "take_existing": True, "name_prefix": "Lake ",
        "new_state": "active", "most_at_once": 3, "every_s": 60, "enabled": False,
    }  # fmt: skip
    gone = {**values, "template": make_pipeline("Gone", state="archived")}
    made = [DatasetRule(name="Plain", **values), DatasetRule(name="no", **values, **full)]
    return [dataset_rules.save_rule(rule, by=None) for rule in [*made, DatasetRule(name="Gone", **gone)]]


def apply(tmp_path: Path, content: str) -> str:
    file, out = tmp_path / "definitions.yaml", io.StringIO()
    file.write_text(content)
    call_command("apply", str(file), "--yes", stdout=out, no_color=True)
    return out.getvalue()


def test_rules_go_there_and_back(rules, tmp_path):
    before = export(["dataset_rules"])
    assert "name_prefix: 'Lake '" in before
    assert "Gone" not in before
    stored = {rule.name: rule for rule in DatasetRule.objects.all()}
    DatasetRule.objects.all().delete()
    said = apply(tmp_path, before)
    assert "2 to add" in said
    assert export(["dataset_rules"]) == before
    for rule in DatasetRule.objects.all():
        for name in (
            "dataset",
            "include",
            "exclude",
            "name_prefix",
            "new_state",
            "source_id",
            "template_id",
            "every_s",
        ):
            assert getattr(rule, name) == getattr(stored[rule.name], name)
    assert "Nothing to change" in apply(tmp_path, before)


def test_a_change_is_told_in_words_and_a_renamed_rule_stays_the_same(rules, tmp_path):
    content = "version: 1\ndataset_rules:\n  Sales:\n    was: Plain\n    source: Lake\n    template: Orders\n"
    said = apply(tmp_path, content + "    dataset: sales\n    most_at_once: 7\n")
    assert "~ dataset rule Sales" in said
    assert "Most at once: 20 → 7" in said
    assert DatasetRule.objects.get(name="Sales").pk == rules[0].pk


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("source: Laek\n    template: Orders", ":4: dataset_rules/Sales/source: "),
        ("source: Lake\n    template: Ordres", ":5: dataset_rules/Sales/template: "),
        ("source: Lake\n    template: Orders\n    every_s: 5", ":6: dataset_rules/Sales/every_s: "),
    ],
)
def test_what_is_no_rule_is_refused_at_its_line(rules, tmp_path, change, place):
    with pytest.raises(CommandError) as refused:
        apply(tmp_path, f"version: 1\ndataset_rules:\n  Sales:\n    {change}\n    dataset: sales\n")
    assert place in str(refused.value)
