"""Why a write to a run is refused."""

from __future__ import annotations


class RunRefused(Exception):
    """A run that cannot be started; `code`, `message` and `hint` as in every error."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class KeyReused(RunRefused):
    """The idempotency key was used before, with another request."""


class StaleToken(Exception):
    """The run has a newer owner: this one must not write any more."""


class InvalidTransition(Exception):
    """The run is in a state that cannot become the one asked for."""
