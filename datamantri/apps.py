from __future__ import annotations

from django.apps import AppConfig


class DataMantriConfig(AppConfig):
    name = "datamantri"
    verbose_name = "DataMantri"

    def ready(self) -> None:
        # Tasks declared with shared_task find the app only once it is imported.
        from datamantri import celery  # noqa: F401
