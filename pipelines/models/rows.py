"""Which rows a pipeline's run takes, and what they do to those of its target."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from connectors.modes import Deletes


class RowRules(models.Model):
    """Which rows a pipeline's run takes, and what they do to those of its target."""

    merge_key = ArrayField(
        models.CharField(max_length=300),
        verbose_name="key",
        default=list,
        blank=True,
        help_text="The columns that identify a row, separated by commas, for example: order_id, line. Merge and "
        "history need them; replace uses them where something depends on the table and its rows are changed in place.",
    )
    deletes = models.CharField(
        "rows that vanish",
        max_length=10,
        choices=[
            (Deletes.KEEP.value, "Keep them"),
            (Deletes.SOFT.value, "Mark them as deleted"),
            (Deletes.HARD.value, "Delete them"),
        ],
        default=Deletes.KEEP.value,
        help_text="For a merge that reads all rows: what becomes of rows that the source no longer has. Marked, they "
        "stay, and the column _deleted_at says since when; it is emptied when the row is back. Guards count them "
        "either way.",
    )
    cursor_column = models.CharField(
        max_length=300,
        blank=True,
        help_text="A column that says how new a row is, such as updated_at. Merge: of several rows with one key the "
        "newest wins, and no row is replaced by an older one. History: when a version began to hold. Reading only new "
        "rows needs it.",
    )
    incremental = models.BooleanField(
        "read only new rows",
        default=False,
        help_text="Each run reads the rows whose cursor is above the watermark: the highest value that the target has. "
        "Needs a cursor that is a TIMESTAMP, DATETIME, DATE or INT64; for append, merge or history.",
    )
    lookback = models.PositiveIntegerField(
        default=0,
        help_text="For merge and history: how far below the watermark rows are read again, for those that come late. "
        "Seconds; of a whole-number cursor, units.",
    )
    settle = models.PositiveIntegerField(
        "settling time",
        null=True,
        blank=True,
        help_text="For append: rows this close to the newest wait for the next run, since others may still join them. "
        "Seconds, 60 if empty; of a whole-number cursor, units, none if empty. Of a date, today always waits.",
    )
    initial_value = models.CharField(
        max_length=100,
        blank=True,
        help_text="The first run begins with this value of the cursor. Empty: with all rows.",
    )

    class Meta:
        abstract = True
