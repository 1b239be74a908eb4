"""Where everything is: pages, buttons, accounts, admin, API."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.templatetags.static import static
from django.urls import include, path
from django.utils.functional import lazystr
from django.views.generic import RedirectView

from datamantri import accounts
from runs import (
    backfill_pages,
    cost_pages,
    graph_views,
    quarantine_pages,
    undo_pages,
    value_pages,
    views,
    webhook_views,
)

urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("pipelines/", views.pipelines, name="pipelines"),
    path("pipelines/<uuid:pk>/", views.pipeline, name="pipeline"),
    path("pipelines/<uuid:pk>/compare/", views.compare_pipeline, name="compare_pipeline"),
    path("pipelines/<uuid:pk>/quarantine/", quarantine_pages.quarantine, name="quarantine"),
    path("pipelines/<uuid:pk>/quarantine/decide/", quarantine_pages.decide_quarantine, name="decide_quarantine"),
    path("pipelines/<uuid:pk>/undo/", undo_pages.undo_pipeline, name="undo_pipeline"),
    path("pipelines/<uuid:pk>/undo/drop/", undo_pages.drop_former, name="drop_former"),
    path("pipelines/<uuid:pk>/run/", views.run_pipeline, name="run_pipeline"),
    path("pipelines/<uuid:pk>/webhook/", webhook_views.webhook_page, name="webhook_page"),
    path("pipelines/<uuid:pk>/webhook/drop/", webhook_views.drop_old_secret, name="drop_old_secret"),
    path("pipelines/<uuid:pk>/webhook/remove/", webhook_views.remove_webhook, name="remove_webhook"),
    path("hooks/<uuid:pk>/", webhook_views.receive, name="webhook"),
    path("pipelines/<uuid:pk>/downstream/", graph_views.run_downstream, name="run_downstream"),
    path("pipelines/<uuid:pk>/backfill/", backfill_pages.backfill_pipeline, name="backfill_pipeline"),
    path("backfills/<uuid:pk>/", backfill_pages.backfill, name="backfill"),
    path("backfills/<uuid:pk>/pause/", backfill_pages.pause, name="pause_backfill"),
    path("backfills/<uuid:pk>/resume/", backfill_pages.resume, name="resume_backfill"),
    path("backfills/<uuid:pk>/cancel/", backfill_pages.cancel, name="cancel_backfill"),
    path("backfills/<uuid:pk>/retry/", backfill_pages.retry, name="retry_backfill"),
    path("pipelines/<uuid:pk>/values/", value_pages.run_with_values, name="run_with_values"),
    path("pipelines/<uuid:pk>/start/<slug:name>/", views.start_action, name="start_action"),
    path("pipelines/<uuid:pk>/pause/", views.pause_pipeline, name="pause_pipeline"),
    path("pipelines/<uuid:pk>/resume/", views.resume_pipeline, name="resume_pipeline"),
    path("graph/", graph_views.graph, name="graph"),
    path("ledger/", cost_pages.ledger_page, name="ledger"),
    path("ledger.csv", cost_pages.ledger_csv, name="ledger_csv"),
    path("monitor/", views.monitor, name="monitor"),
    path("runs/", views.runs, name="runs"),
    path("runs/<uuid:pk>/", views.run, name="run"),
    path("runs/<uuid:pk>/log/", views.run_log, name="run_log"),
    path("runs/<uuid:pk>/log.txt", views.run_log_text, name="run_log_text"),
    path("runs/<uuid:pk>/receipt.json", views.run_receipt, name="run_receipt"),
    path("runs/<uuid:pk>/cancel/", views.cancel_run, name="cancel_run"),
    path("runs/<uuid:pk>/clear/", views.clear_run, name="clear_run"),
    path("runs/<uuid:pk>/done/", views.mark_done, name="mark_done"),
    path("runs/<uuid:pk>/approve/", views.approve_run, name="approve_run"),
    path("runs/<uuid:pk>/approve-cost/", cost_pages.approve_cost, name="approve_cost"),
    path("runs/<uuid:pk>/discard/", views.discard_run, name="discard_run"),
    path("runs/<uuid:pk>/start/", graph_views.start_run_anyway, name="start_run_anyway"),
    path("runs/<uuid:pk>/again/", views.run_again, name="run_again"),
    path("accounts/login/", accounts.LoginView.as_view(), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("accounts/profile/", accounts.profile, name="profile"),
    path("accounts/profile/tokens/", accounts.create_token, name="create_token"),
    path("accounts/profile/tokens/<uuid:pk>/revoke/", accounts.revoke_token, name="revoke_token"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("datamantri.api_urls")),
    path("favicon.ico", RedirectView.as_view(url=lazystr(static("favicon.svg")), permanent=False)),
    path("healthz", views.healthz, name="healthz"),
]
