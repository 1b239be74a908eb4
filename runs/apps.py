from __future__ import annotations

from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "runs"
    verbose_name = "Runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from pipelines.signals import paused, revised
        from runs.services.pausing import take_back
        from runs.services.revising import follow

        paused.connect(take_back, dispatch_uid="runs.take_back")
        revised.connect(follow, dispatch_uid="runs.follow")
