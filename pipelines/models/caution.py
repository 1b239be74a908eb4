"""What keeps bad rows from a pipeline's target, and lets people take back what was published."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from connectors.modes import TextPolicy
from connectors.quarantine import KEEP_DAYS, Beyond

MAX_UNDO_DEPTH = 9


class Caution(models.Model):
    """What keeps bad rows from a pipeline's target, and lets people take back what was published."""

    guard_zero_rows = models.BooleanField(
        "hold what would empty the table",
        default=True,
        help_text="A run that finds no rows, and would leave none, waits for a person to approve or discard it.",
    )
    guard_shrink_percent = models.PositiveSmallIntegerField(
        "hold what takes away more than (%)",
        null=True,
        blank=True,
        default=50,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="A run that would make a larger share of the table's rows vanish waits for a person. Empty: never.",
    )
    held_days = models.PositiveSmallIntegerField(
        "keep held rows for (days)",
        default=7,
        validators=[MinValueValidator(1), MaxValueValidator(90)],
        help_text="Then a run that nobody decided on is discarded, with the rows it staged.",
    )
    undo_depth = models.PositiveSmallIntegerField(
        "former tables to keep",
        default=0,
        validators=[MaxValueValidator(MAX_UNDO_DEPTH)],
        help_text="How many former states are kept beside the table when a run replaces it (replace, or a full "
        "refresh), so that one can be put back; each takes as much room as the table. 0 keeps none, 9 is the most. "
        "Runs that add or merge rows replace nothing: of them there is nothing to undo.",
    )
    text_policy = models.CharField(
        "characters that cannot be stored",
        max_length=10,
        choices=[
            (TextPolicy.FAIL.value, "Fail the run"),
            (TextPolicy.STRIP.value, "Remove them"),
            (TextPolicy.REPLACE.value, "Replace them by \N{REPLACEMENT CHARACTER}"),
        ],
        default=TextPolicy.FAIL.value,
        help_text="PostgreSQL cannot store the character NUL in text or JSON. What is changed is counted in the log.",
    )
    quarantine = models.BooleanField(
        "put rows that cannot be stored into quarantine",
        default=False,
        help_text="The run publishes all other rows. Those in quarantine are kept as they came, beside the target, and "
        "can be replayed once the source, a rule or a check is mended. Checks can send their bad rows there as well.",
    )
    quarantine_rows = models.PositiveIntegerField(
        "quarantine at most (rows)",
        null=True,
        blank=True,
        default=1000,
        help_text="Of one run. Empty: any number.",
    )
    quarantine_percent = models.PositiveSmallIntegerField(
        "quarantine at most (% of the rows read)",
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text="Of one run. Empty: any share.",
    )
    quarantine_beyond = models.CharField(
        "with more to quarantine",
        max_length=10,
        choices=[(Beyond.FAIL.value, "The run fails"), (Beyond.HOLD.value, "The run waits for a person")],
        default=Beyond.FAIL.value,
        help_text="Nothing is published. What waits can be approved with all that is in quarantine, or discarded.",
    )
    quarantine_days = models.PositiveSmallIntegerField(
        "keep in quarantine for (days)",
        default=KEEP_DAYS,
        validators=[MinValueValidator(1), MaxValueValidator(3650)],
        help_text="Then the pipeline's next run forgets them, whether anybody decided on them or not.",
    )

    class Meta:
        abstract = True
