"""What people said of runs that ended without their rows."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from runs.models.runs import Run


class DoneMark(models.Model):
    """A person says that a failed or cancelled run needs nothing more: what waits for it may go on.

    The run's status stays what it was, for nothing of it was published.
    """

    run = models.OneToOneField(Run, on_delete=models.CASCADE, primary_key=True, related_name="done_mark")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    at = models.DateTimeField(db_default=Now())
    note = models.TextField()

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.run_id} done"
