"""What goes wrong when servers and processes are started."""

from __future__ import annotations


class EmbeddedError(Exception):
    """The embedded stack cannot do what was asked."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()
