"""Going back to an earlier definition, as a person does: what would change is read, then it is done."""

from __future__ import annotations

import pytest

from pipelines import services as definitions
from runs.states import RunStatus
from tests.acceptance import browser
from tests.acceptance.conftest import ended, numbers
from tests.acceptance.product import wait_for
from tests.acceptance.test_journey import page

__all__ = ["page"]
pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="Chromium is not installed")


def test_a_pipeline_goes_back_to_its_first_revision(product, page, make_pipeline, source_table, run_now, operator):
    pipeline = make_pipeline(source_table(numbers(10)), retries=3)
    pipeline.retries, pipeline.text_policy = 7, "strip"
    definitions.save_pipeline(pipeline, schedules=None, by=operator)
    page.goto(f"{product.url}/admin/pipelines/pipeline/{pipeline.pk}/change/")
    page.get_by_text("Revisions", exact=True).first.click()
    page.get_by_role("link", name="Revision 1", exact=True).first.click()
    page.get_by_role("link", name="Revert to this revision").first.click()
    page.get_by_role("button", name="Revert").click()
    wait_for(lambda: pipeline.revisions.count() == 3, saying="the old definition is the newest revision")
    pipeline.refresh_from_db()
    assert (pipeline.retries, pipeline.text_policy) == (3, "fail")
    assert ended(run_now(pipeline)).status == RunStatus.SUCCEEDED
