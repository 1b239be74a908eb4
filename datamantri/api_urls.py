"""Addresses of the API, below /api/v1/."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.permissions import IsAuthenticated
from rest_framework.routers import SimpleRouter

from datamantri.api_errors import NothingHere
from pipelines.api import ConnectionViewSet, PipelineViewSet
from pipelines.api_calendars import CalendarViewSet, SchedulePreviewView
from runs.alerts.api import AlertChannelViewSet, AlertDeliveryViewSet, AlertRuleViewSet, AlertViewSet
from runs.api import ComparisonCostView, PipelineRunsViewSet, RunViewSet
from runs.api_backfills import BackfillViewSet, PipelineBackfillsViewSet
from runs.api_checks import CheckResultViewSet
from runs.api_datasets import DatasetRuleViewSet
from runs.api_downstream import DownstreamRunsView
from runs.api_ledger import LedgerViewSet
from runs.api_pools import PoolViewSet
from runs.api_quarantine import DiscardView, QuarantineView, ReplayView
from runs.api_realtime import RealtimeView
from runs.api_schema_changes import SchemaChangeViewSet
from runs.api_undo import UndoView
from runs.api_webhooks import WebhookView

router = SimpleRouter(use_regex_path=False)
router.register("connections", ConnectionViewSet, basename="connection")
router.register("calendars", CalendarViewSet, basename="calendar")
router.register("dataset-rules", DatasetRuleViewSet, basename="dataset-rule")
router.register("pools", PoolViewSet, basename="pool")
router.register("pipelines", PipelineViewSet, basename="pipeline")
router.register("runs", RunViewSet, basename="run")
router.register("check-results", CheckResultViewSet, basename="check-result")
router.register("schema-changes", SchemaChangeViewSet, basename="schema-change")
router.register("backfills", BackfillViewSet, basename="backfill")
router.register("ledger", LedgerViewSet, basename="ledger")
router.register("alert-channels", AlertChannelViewSet, basename="alert-channel")
router.register("alert-rules", AlertRuleViewSet, basename="alert-rule")
router.register("alerts", AlertViewSet, basename="alert")
router.register("alert-deliveries", AlertDeliveryViewSet, basename="alert-delivery")

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="api-docs"), name="api-root"),
    path("pipelines/<uuid:pipeline_id>/runs/", PipelineRunsViewSet.as_view({"post": "create"}), name="pipeline-runs"),
    path("pipelines/<uuid:pipeline_id>/runs/downstream/", DownstreamRunsView.as_view(), name="downstream-runs"),
    path("pipelines/<uuid:pipeline_id>/webhook/", WebhookView.as_view(), name="pipeline-webhook"),
    path(
        "pipelines/<uuid:pipeline_id>/backfills/",
        PipelineBackfillsViewSet.as_view({"post": "create"}),
        name="pipeline-backfills",
    ),
    path(
        "pipelines/<uuid:pipeline_id>/backfills/preview/",
        PipelineBackfillsViewSet.as_view({"post": "preview"}),
        name="backfill-preview",
    ),
    path("pipelines/<uuid:pipeline_id>/comparison/", ComparisonCostView.as_view(), name="comparison-cost"),
    path("pipelines/<uuid:pipeline_id>/quarantine/", QuarantineView.as_view(), name="pipeline-quarantine"),
    path("pipelines/<uuid:pipeline_id>/quarantine/replay/", ReplayView.as_view(), name="quarantine-replay"),
    path("pipelines/<uuid:pipeline_id>/quarantine/discard/", DiscardView.as_view(), name="quarantine-discard"),
    path("pipelines/<uuid:pipeline_id>/undo/", UndoView.as_view(), name="pipeline-undo"),
    path("pipelines/<uuid:pipeline_id>/realtime/", RealtimeView.as_view(), name="pipeline-realtime"),
    path("schedules/preview/", SchedulePreviewView.as_view(), name="schedule-preview"),
    path("", include(router.urls)),
    path("schema/", SpectacularAPIView.as_view(permission_classes=[IsAuthenticated]), name="api-schema"),
    path("docs/", login_required(SpectacularSwaggerView.as_view(url_name="api-schema")), name="api-docs"),
    re_path(r"^.*$", NothingHere.as_view()),
]
