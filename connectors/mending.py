"""What keeps staged rows from being published and a person can mend, without a row being read again."""

from __future__ import annotations

from collections.abc import Callable

from connectors.errors import ConnectorError
from connectors.sql_around import MENDABLE

# Constraints of the target, and how they come to let the rows in.
_ROWS_REFUSED = {
    "foreign_key_violated": "add the rows that it refers to, or drop the foreign key",
    "check_violated": "change the constraint, or make the partition that is missing",
    "duplicate_key": "remove the rows that are in the way, or drop the constraint",
    "null_not_allowed": "allow NULL in that column",
}
# What the target refuses, by its constraints, triggers, rights or form. A full disk is not among it: to keep what is
# staged would keep the disk full, for everybody on that server.
AT_DESTINATION = frozenset(
    {
        *_ROWS_REFUSED,
        "rows_referenced",
        "trigger_failed",
        "rows_differ",
        "missing_grant",
        "row_security",
        "replace_would_break",
        "replica_identity_missing",
        "target_column_missing",
        "target_column_mismatch",
        "target_extra_column",
    }
)
# What a look at the target may find against it besides, before its rows are touched: later these are the source's.
ON_OPENING = AT_DESTINATION | {"key_not_unique", "history_unique", "target_not_a_table"}
# What passes, but has not in all attempts: somebody's locks, a server that is short of something.
PASSING = frozenset({"target_locked", "serialization", "server_out_of_memory", "server_resources"})

# Of whoever approves what was held for one of these nothing is known but that it was mended.
NO_DECISION = MENDABLE | ON_OPENING | PASSING

Ends = Callable[[ConnectorError], bool]
"""Whether an error ends the run, which would take away what it staged."""


def ends_at_once(error: ConnectorError) -> bool:
    return not error.transient


def hint(error: ConnectorError, *, is_opening: bool) -> str:
    """What to do about an error that holds rows that are staged; empty for one that nobody can mend so."""
    kept, code = "What was read is kept", error.code
    if code in MENDABLE:
        return f"{error.hint} {kept}: correct the pipeline's SQL, or what it needs, then approve the run.".lstrip()
    if code in _ROWS_REFUSED:
        return f"{kept}: {_ROWS_REFUSED[code]}, then approve the run. Or discard it, and correct the source."
    if code in PASSING:
        return f"{error.hint} {kept}: once that is over, approve the run.".lstrip()
    if code in (ON_OPENING if is_opening else AT_DESTINATION):
        return f"{error.hint} {kept}: mend that at the destination, then approve the run.".lstrip()
    return ""
