"""Alert rules in files of definitions: by names, without secrets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from pipelines import alert_definitions
from pipelines.files.exporting import export
from pipelines.models import AlertChannel, AlertKind, AlertRule
from tests.pipelines.test_admin_permissions import client_in

__all__ = ["client_in"]

pytestmark = pytest.mark.django_db


@pytest.fixture
def rules(make_rule: Any, make_channel: Any, make_pipeline: Any) -> list[AlertRule]:
    """One rule that says nothing but what it must, and one that says all there is."""
    mail = make_channel("mail: no", url="mailtos://me:P4ssword@example.com")
    full = make_rule(
        *(AlertKind.LATE, AlertKind.FAILED, AlertKind.RECOVERED),
        name="1e3",
        channel=mail,
        pipelines=[make_pipeline("Refunds"), make_pipeline("Orders"), make_pipeline("Gone", state="archived")],
        enabled=False,
        late_after_min=15,
        stale_after_h=2,
        distance=9,
        remind_after_h=4,
        urgent=True,
    )
    full.channels.add(make_channel("#data"))
    return [full, make_rule(AlertKind.FAILED, name="Failures", channel=mail)]


def apply(tmp_path: Path, content: str, *arguments: str) -> str:
    file, out = tmp_path / "definitions.yaml", io.StringIO()
    file.write_text(content)
    call_command("apply", str(file), "--yes", *arguments, stdout=out, no_color=True)
    return out.getvalue()


RULES = """\
alert_rules:
  '1e3':
    kinds: [failed, recovered, late]
    channels: ['#data', 'mail: no']
    pipelines: [Orders, Refunds]
    enabled: false
    late_after_min: 15
    stale_after_h: 2
    distance: 9
    remind_after_h: 4
    urgent: true

  Failures:
    kinds: [failed]
    channels: ['mail: no']
"""


def test_a_rule_is_written_by_names_and_short(rules):
    written = export(["alert_rules"])
    assert "P4ssword" not in written
    assert written.endswith(RULES), written


def test_an_export_applied_where_the_channels_are_exports_the_same_bytes(rules, tmp_path):
    written = export()
    AlertRule.objects.all().delete()
    assert "+ alert rule 1e3" in apply(tmp_path, written)
    assert export() == written
    assert "Nothing to change" in apply(tmp_path, written)
    assert AlertRule.objects.get(name="Failures").every_pipeline is True


def test_a_plan_tells_what_changes_in_words(rules, tmp_path):
    content = "version: 1\n" + RULES.replace("[failed]", "[failed, held]").replace(
        "    pipelines: [Orders, Refunds]\n", ""
    )
    said = apply(tmp_path, content, "--only", "alert_rules")
    assert "~ alert rule Failures\n    ~ Tell when: failed → failed, held" in said
    assert "~ alert rule 1e3\n    ~ Pipelines: Orders, Refunds → empty" in said
    assert AlertRule.objects.get(name="1e3").every_pipeline is True


def test_a_rule_is_renamed_once(rules, tmp_path):
    content = "version: 1\n" + RULES.replace("  Failures:\n", "  Any failure:\n    was: Failures\n")
    assert "called Failures so far" in apply(tmp_path, content)
    assert set(AlertRule.objects.values_list("name", flat=True)) == {"1e3", "Any failure"}


@pytest.mark.parametrize(
    ("before", "after", "code", "told"),
    [
        ("['mail: no']", "[pager]", "no_such_name", "There is no channel called pager."),
        ("[Orders, Refunds]", "[Orders, Nobody]", "no_such_name", "There is no pipeline called Nobody."),
        ("kinds: [failed]\n", "kinds: [boredom]\n", "invalid_choice", "boredom"),
        ("kinds: [failed]\n", "kinds: []\n", "blank", "must not be empty"),
        ("    kinds: [failed]\n", "", "required", "kinds is missing"),
        ("distance: 9", "distance: 1", "min_value", "too small"),
        ("urgent: true", "url: json://x", "unknown_field", "url"),
    ],
)
def test_a_bad_file_is_refused_with_code_and_nothing_of_it_is_done(rules, tmp_path, before, after, code, told):
    assert before in RULES
    content = "version: 1\n" + RULES.replace(before, after, 1).replace("'1e3':", "'1e4':")
    with pytest.raises(CommandError) as refused:
        apply(tmp_path, content)
    assert f"[{code}]" in str(refused.value)
    assert told in str(refused.value)
    assert not AlertRule.objects.filter(name="1e4").exists()


def test_a_rule_about_archived_pipelines_does_not_become_one_about_all(make_rule, make_pipeline):
    make_rule(AlertKind.FAILED, pipelines=[make_pipeline(state="archived")])
    assert "alert_rules" not in export()


def test_a_user_needs_the_permission(rules, tmp_path, client_in):
    client_in("viewer")
    content = "version: 1\n" + RULES.replace("distance: 9", "distance: 8")
    with pytest.raises(CommandError, match="may not change alert rules"):
        apply(tmp_path, content, "--user", "viewer-person")
    client_in("operator")
    apply(tmp_path, content, "--user", "operator-person")
    assert AlertRule.objects.get(name="1e3").distance == 8


def test_channels_are_saved_with_their_scheme(db):
    channel = alert_definitions.save_channel(AlertChannel(name="x"), " JSONS://hooks.example.com/a ", by=None)
    assert (channel.scheme, channel.secrets) == ("jsons", {"url": "JSONS://hooks.example.com/a"})
