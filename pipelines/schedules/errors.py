"""What cannot be used as a rule."""

from __future__ import annotations


class RuleError(Exception):
    """A rule that cannot be used; `field` is kind, cron, zone or every_s."""

    code = "bad_rule"

    def __init__(self, field: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.hint = hint
