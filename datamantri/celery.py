"""Celery: messages are doorbells, so they may be lost, doubled or reordered."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")

app = Celery("datamantri")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=2,
    broker_heartbeat=10,
    worker_consumer="datamantri.celery_consumer:Consumer",
    task_acks_late=False,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_default_queue="control",
    # A bell that is lost with its broker is rung again.
    task_default_delivery_mode="transient",
    task_routes={"runs.ring": {"queue": "transfers"}, "pipelines.look_up": {"queue": "lookups"}},
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=1,
    # Celery's word for leaving it to the pool: see prefork.py. gRPC does not survive a fork once it is in use.
    worker_pool_start_method="fork",
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    timezone="UTC",
)
app.autodiscover_tasks()
