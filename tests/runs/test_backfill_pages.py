"""Pages of backfills: what one would take, and a picture of how one stands."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from pipelines import lookups
from runs import services
from runs.backfill_plans import Wish, plan
from runs.models import Backfill, BackfillState, Run
from runs.states import RunStatus
from runs.words import size

QUERY = "SELECT * FROM d.t WHERE at >= @data_interval_start AND c = @country"
TYPED = {"low": "2026-01-01", "high": "2026-01-04", "step": "1 day", "zone": "UTC", "parameters.country": "FR"}


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline(
        source_table="",
        source_query=QUERY,
        write_disposition="merge",
        merge_key=["id"],
        parameters={"country": {"type": "STRING", "default": "DE"}},
    )


@pytest.fixture
def browser(client, operator, monkeypatch):
    codes = ("view_pipeline", "view_run", "run_pipeline")
    operator.user_permissions.add(*Permission.objects.filter(codename__in=codes))
    client.force_login(operator)
    monkeypatch.setattr(lookups, "range_bytes", lambda *_: [1 << 30, 3 << 30])
    return client


def ask(browser, pipeline, button="preview", **changes):
    address, typed = reverse("backfill_pipeline", args=[pipeline.pk]), {**TYPED, **changes}
    looked_at = browser.post(address, typed).context["form"]
    return browser.post(address, {**typed, button: "" if looked_at.errors else looked_at.told})


def test_what_is_started_is_what_was_looked_at(browser, pipeline):
    address = reverse("backfill_pipeline", args=[pipeline.pk])
    looked_at = browser.post(address, TYPED).context["form"].told
    page = text(browser.post(address, {**TYPED, "low": "2025-12-01", "start": looked_at}))
    assert "This is not what was looked at before" in page
    assert "Start 34 runs" in page
    assert not Backfill.objects.exists()


def text(response) -> str:
    return " ".join(response.content.decode().split())


def test_a_preview_says_what_it_takes_and_starts_nothing(browser, pipeline):
    page = text(ask(browser, pipeline))
    assert "3, one after another" in page
    assert f"about {size(6 << 30)}, by the first and the last slice" in page
    assert "Start 3 runs" in page
    assert not Backfill.objects.exists()


def test_a_yes_starts_it_and_its_page_has_a_cell_for_each_slice(browser, pipeline):
    answer = ask(browser, pipeline, "start")
    backfill = Backfill.objects.get()
    assert answer["Location"] == backfill.get_absolute_url()
    assert backfill.parameters == {"country": "FR"}
    page = browser.get(answer["Location"]).content.decode()
    assert page.count('class="part is-') + page.count('class="part"') == 3
    assert 'class="part is-r f4"' in page
    run = Run.objects.get()
    assert reverse("run", args=[run.pk]) in page
    shown = browser.get(run.get_absolute_url()).content.decode()
    assert f'<a href="{backfill.get_absolute_url()}">slice 1</a>' in shown
    assert backfill.get_absolute_url() in browser.get(pipeline.get_absolute_url()).content.decode()


def test_what_failed_is_named_and_can_be_tried_again(browser, pipeline):
    ask(browser, pipeline, "start")
    failed = {"status": RunStatus.FAILED, "finished_at": datetime.now(UTC), "error_message": "<b>The source is gone."}
    Run.objects.update(**failed, error_code="table_not_found")
    services.advance_backfills()
    backfill = Backfill.objects.get()
    page = browser.get(backfill.get_absolute_url()).content.decode()
    assert "&lt;b&gt;The source is gone." in page
    browser.post(reverse("retry_backfill", args=[backfill.pk]))
    assert backfill.slices.filter(status="failed").count() == 0


def test_buttons_do_what_they_say(browser, pipeline):
    ask(browser, pipeline, "start")
    backfill = Backfill.objects.get()
    for button, state in (("pause", BackfillState.PAUSED), ("resume", BackfillState.RUNNING), ("cancel", "cancelled")):
        browser.post(reverse(f"{button}_backfill", args=[backfill.pk]))
        backfill.refresh_from_db()
        assert backfill.state == state
    answer = browser.post(reverse("resume_backfill", args=[backfill.pk]), follow=True)
    assert "This backfill has ended." in answer.content.decode()


@pytest.mark.parametrize(
    ("field", "typed"), [("low", "soon"), ("high", "2025-01-01"), ("step", "often"), ("zone", "Nowhere"), ("low", "")]
)
def test_a_bad_wish_is_told_at_its_field(browser, pipeline, field, typed):
    answer = ask(browser, pipeline, "start", **{field: typed})
    assert list(answer.context["form"].errors) == [field]
    assert not Backfill.objects.exists()


def test_what_cannot_be_filled_in_says_why(browser, make_pipeline):
    page = browser.get(reverse("backfill_pipeline", args=[make_pipeline().pk])).content.decode()
    assert "there is no range to fill in" in page
    assert "<button" not in page.split("<h1>Backfill</h1>")[1].split("</section>")[0]


def test_who_may_not_run_does_not_start_one(client, django_user_model, pipeline):
    backfill = services.start_backfill(pipeline, plan(pipeline, Wish("2026-01-01", "2026-01-04")), by=None)
    client.force_login(django_user_model.objects.create_user("vera"))
    assert client.post(reverse("backfill_pipeline", args=[pipeline.pk]), TYPED).status_code == 403
    assert client.get(backfill.get_absolute_url()).status_code == 403
    for button in ("pause", "resume", "cancel", "retry"):
        assert client.post(reverse(f"{button}_backfill", args=[backfill.pk])).status_code == 403


def test_the_admin_leads_to_it(admin_client, pipeline):
    address = reverse("admin:pipelines_pipeline_backfill", args=[pipeline.pk])
    assert admin_client.get(address)["Location"] == reverse("backfill_pipeline", args=[pipeline.pk])
