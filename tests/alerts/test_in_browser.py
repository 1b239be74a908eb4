"""Rules and channels in a real browser: words that follow what is typed, on a desk and on a phone."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group

from pipelines.models import AlertChannel, AlertRule
from tests.runs.browser import browser, cookies_of, web

__all__ = ["browser", "web"]

pytestmark = pytest.mark.django_db(transaction=True)
WORDS = "[data-alert-words]"


@pytest.fixture
def page(web: Any, browser: Any, operator: Any) -> Any:
    operator.is_staff = True
    operator.save()
    operator.groups.add(Group.objects.get_or_create(name="operator")[0])
    operator.user_permissions.set(_permissions())
    context = browser.new_context(base_url=web.url, viewport={"width": 390, "height": 844})
    context.add_cookies(cookies_of(operator, web))
    page = context.new_page()
    page.set_default_timeout(20_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def _permissions() -> Any:
    from django.contrib.auth.models import Permission

    return Permission.objects.filter(content_type__app_label__in=["pipelines", "runs"])


def test_a_rule_says_what_it_does_while_it_is_typed(page, make_channel, make_pipeline):
    make_channel()
    make_pipeline("Orders")
    page.goto("/admin/pipelines/alertrule/add/")
    words = page.locator(WORDS)
    page.get_by_text("choose what to tell").wait_for()
    page.fill("[name=name]", "Mornings")
    page.check("[name=kinds][value=late]")
    page.check("[name=channels]")
    page.get_by_text("Tells #data when 1 hour after a scheduled time the data of any pipeline is not there.").wait_for()
    page.fill("[name=late_after_min]", "90")
    page.get_by_text("90 minutes after a scheduled time").wait_for()
    page.uncheck("[name=every_pipeline]")
    page.get_by_text("of no pipeline (none is chosen)").wait_for()
    page.locator(".field-pipelines .select2-selection").click()
    page.locator(".select2-results__option", has_text="Orders").click()
    page.get_by_text("the data of Orders is not there").wait_for()
    assert words.inner_text().endswith("Quiet hours of a channel hold it up.")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/alertrule/")
    rule = AlertRule.objects.get()
    assert [pipeline.name for pipeline in rule.pipelines.all()] == ["Orders"]


def test_a_channels_address_is_typed_unseen_and_its_zone_is_offered(page):
    page.goto("/admin/pipelines/alertchannel/add/")
    assert page.locator("[name=url]").get_attribute("type") == "password"
    assert page.locator("#desk-zones option").count() > 300
    page.fill("[name=name]", "#data")
    page.fill("[name=url]", "json://hooks.example.com/Tok3nOfMine")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/alertchannel/")
    assert AlertChannel.objects.get().service == "Webhook (JSON)"
    assert "Tok3nOfMine" not in page.content()
