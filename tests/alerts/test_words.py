"""What a rule says in words."""

from __future__ import annotations

import pytest

from pipelines.alert_words import Said, in_words

CHANNELS = ["#data"]
ALL = ["failed", "recovered", "held", "late", "stale", "schema_drift", "over_budget", "unusual_duration"]
TAIL = " While it lasts, further cases are counted and not told. Quiet hours of a channel hold it up."


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Said(["failed"], CHANNELS, None), f"Tells #data when a run of any pipeline fails (after its retries).{TAIL}"),
        (
            Said(["failed", "recovered"], ["#data", "mail"], ["Orders", "Refunds"]),
            "Tells #data and mail when a run of Orders or Refunds fails (after its retries). "
            f"Tells again when that is over, and how long it lasted.{TAIL}",
        ),
        (
            Said(["recovered"], CHANNELS, None),
            f"Tells #data when a run of any pipeline succeeds after one that failed.{TAIL}",
        ),
        (
            Said(["late"], CHANNELS, [f"P{n}" for n in range(9)], late_after_min=90, remind_after_h=1, urgent=True),
            "Tells #data when 90 minutes after a scheduled time the data of P0, P1, P2 or 6 more is not there. "
            "While it lasts, further cases are counted and not told, but for a reminder every 1 hour. "
            "Quiet hours do not hold it up.",
        ),
        (Said(["stale"], CHANNELS, None, stale_after_h=48), "for 48 hours"),
        (Said(["late"], CHANNELS, None, late_after_min=120), "2 hours after"),
        (Said(["unusual_rows"], CHANNELS, None, distance=4), "by 4 times the usual distance"),
        (Said(["failed"], CHANNELS, []), "no pipeline (none is chosen)"),
        (Said(["failed"], CHANNELS, None, enabled=False), "It is off: nothing is watched."),
        (Said([], CHANNELS, None), "It tells nobody yet"),
        (Said(["failed"], [], None), "It tells nobody yet"),
    ],
)
def test_a_rule_says_what_it_does(said, words):
    told = in_words(said)
    assert words in told


def test_every_kind_has_its_words():
    told = in_words(Said(ALL, CHANNELS, None))
    assert told.count("; or when ") == len(ALL) - 2
