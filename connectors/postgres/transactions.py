"""How transactions begin that may take hours."""

from __future__ import annotations

from connectors.postgres.client import Session
from connectors.postgres.publish import append

_BEGIN = f"""
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL lock_timeout = {append.LOCK_TIMEOUT_MS};
SELECT set_config('application_name', '{{name}}', true)"""
# What the role's own settings may not do to a long load; `off` would call a run succeeded that a
# crash of the server could still take back.
_IS_SAFE = """,
       set_config('synchronous_commit', CASE setting WHEN 'off' THEN 'on' ELSE setting END, true)
FROM current_setting('synchronous_commit') AS setting;
"""
# A crash of the server may take back the last of these, with all that they wrote, as if they had not come so far.
_MAY_BE_TAKEN_BACK = ", set_config('synchronous_commit', 'off', true);"
_NO_LIMIT = "SET LOCAL transaction_timeout = 0;"  # PostgreSQL 17 and later


def begin_long(session: Session, name: str, *, is_safe: bool = True) -> str:
    """The statements that begin a transaction called `name`, which the role's time limits do not end.

    Unless it `is_safe`, its commit does not wait for the disk; the next one that is makes it safe as well.
    """
    begin = _BEGIN.format(name=name) + (_IS_SAFE if is_safe else _MAY_BE_TAKEN_BACK)
    return begin + (_NO_LIMIT if session.server_version >= 170000 else "")
