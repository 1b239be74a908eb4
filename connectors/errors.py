"""What can go wrong, by type: the type decides whether another try is worth it."""

from __future__ import annotations


class ConnectorError(Exception):
    """Something a person must mend: another try would end the same way.

    `code` is stable and for machines, `message` says in plain words what is wrong and names the
    thing, `hint` says what to do. `field` names the option or form field at fault, where there is one.
    """

    code = "connector_error"
    transient = False

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or type(self).code
        self.field = field


class TransientError(ConnectorError):
    """Worth another try: the network, a restart, a limit that passes.

    `retry_after_s` asks for a longer wait than the usual backoff, as for a used-up quota.
    """

    code = "transient"
    transient = True

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code, field=field)
        self.retry_after_s = retry_after_s


class Unreachable(TransientError):
    """Nobody answers at the address."""

    code = "unreachable"


class OutcomeUnknown(TransientError):
    """The connection broke while a commit was on its way: only the destination knows what happened."""

    code = "outcome_unknown"


class Overtaken(TransientError):
    """Another run was published since the plan was made: plan again."""

    code = "overtaken"


class NewGeneration(TransientError):
    """What was staged is of no use any more: the next attempt makes a new plan, and reads from the start."""

    code = "new_generation"


class Held(ConnectorError):
    """The rows are staged, and a person must say whether they may be published; `code` says which guard asks.

    `staged` are how many rows and bytes, where they are known.
    """

    code = "held"
    staged: tuple[int, int] | None = None


class StaleToken(ConnectorError):
    """A newer owner has raised the fence: this one must not write any more."""

    code = "stale_token"


class Stopped(ConnectorError):
    """Asked to stop from outside; `code` says why: cancelled, time_limit, drain or lease_lost."""

    code = "stopped"
