"""Checks as a person sets them and sees what they found: the desk's form, the pages, a real browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from connectors.checks import Check, CheckKind, Severity
from pipelines import checks
from pipelines import services as definitions
from runs.models import CheckResult
from runs.states import RunStatus
from tests.runs.browser import *  # noqa: F403
from tests.runs.pages import *  # noqa: F403
from tests.runs.test_pages_in_browser import page

__all__ = ["page"]
pytestmark = pytest.mark.django_db(transaction=True)


def test_set_a_check_and_look_at_what_it_found(page, operator, make_pipeline, make_run):
    operator.is_staff = operator.is_superuser = True
    operator.save()
    unique = Check(CheckKind.UNIQUE, "ids are unique", ("id",))
    pipeline = make_pipeline("Orders")
    definitions.save_pipeline(pipeline, schedules=None, checks=[unique], by=None)
    page.goto(f"/admin/pipelines/pipeline/{pipeline.pk}/change/")
    group = page.locator("#checks-group")
    assert group.locator("[name=checks-0-columns]").is_visible()
    assert not group.locator("[name=checks-0-pattern]").is_visible()
    group.get_by_role("link", name="Add another").click()
    kind = group.locator("[name=checks-1-kind]")
    assert group.locator("[name=checks-1-columns]").is_visible()
    assert not group.locator("[name=checks-1-minimum]").is_visible()
    kind.select_option("range")
    assert group.locator("[name=checks-1-minimum]").is_visible()
    kind.select_option("accepted_values")
    assert not group.locator("[name=checks-1-minimum]").is_visible()
    group.locator("[name=checks-1-columns]").fill("state")
    group.locator("[name=checks-1-values]").fill("open\ndone")
    group.locator("[name=checks-1-severity]").select_option("warn")
    page.click("[name=_save]")
    page.wait_for_selector("text=was changed successfully")
    accepted = Check(CheckKind.ACCEPTED, columns=("state",), severity=Severity.WARN, values=("open", "done"))
    assert checks.checks_of(pipeline) == [unique, accepted]

    now = timezone.now()
    for number in range(4):
        run = make_run(pipeline, RunStatus.HELD if number == 3 else RunStatus.SUCCEEDED)
        bad = number == 3
        rows = [[str(row), "open", None, "<b>a note</b> that is long enough to need some room"] for row in range(7)]
        sample = {"columns": ["id", "state", "at", "note"], "rows": rows}
        for name, is_bad, severity in (
            ("ids are unique", bad, "hold"),
            ("state: accepted values", bad, "warn"),
        ):
            CheckResult.objects.create(
                run=run, pipeline=pipeline, name=name, kind="unique", severity=severity, value=7 * is_bad,
                status="failed" if is_bad else "passed", at=now - timedelta(minutes=4 - number), seconds=0.2,
                message="7 rows of 1,000 are bad." if is_bad else "1,000 rows, none of them bad.",
                sample=sample if is_bad else None,
            )  # fmt: skip
    run.revision = pipeline.revisions.first()
    run.save()
    page.goto(f"/runs/{run.pk}/")
    assert page.get_by_text("<b>a note</b> that is long").first.is_visible(), "what failed is open"
    page.goto(f"/pipelines/{pipeline.pk}/")
    assert page.locator(".checks svg rect").count() == 8
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over on a phone"
