"""Statements that every run needs: a session of the control database plans each of them once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from django.db import Error as DatabaseError
from django.db import connection
from django.db.backends.utils import CursorWrapper
from psycopg2 import errorcodes

log = logging.getLogger(__name__)

# What a session answers that is not the one that prepared the statement.
_ANOTHER_SESSION = (errorcodes.INVALID_SQL_STATEMENT_NAME, errorcodes.DUPLICATE_PREPARED_STATEMENT)
# A plan for whatever values come. What follows shares its transaction, so the next statement has its own way again.
_ONE_PLAN = "SELECT set_config('plan_cache_mode', 'force_generic_plan', true);"


class Prepared:
    """A statement with named values, `%(name)s`, whose types are given with their names.

    `before` are statements that go before it in the same message, and so in the same transaction: each time, which is
    what they are for, and before it is planned.

    Behind a pooler in transaction mode the next message may go to another session. It then says that it knows no such
    statement, having changed nothing, and from then on this process sends the text each time. So does who is in a
    transaction, which that answer would end.
    """

    def __init__(self, name: str, text: str, types: Mapping[str, str], *, before: str = "") -> None:
        digest = hashlib.sha256(f"{text}{types}".encode()).hexdigest()[:8]
        self.name = f"datamantri_{name}_{digest}"
        self._text = f"{before} {text}"
        given = "({})".format(", ".join(f"%({value})s" for value in types)) if types else ""
        declared = "({})".format(", ".join(types.values())) if types else ""
        numbered = text % {value: f"${number}" for number, value in enumerate(types, 1)}
        # Its own percent signs are doubled again: the whole goes through the driver with the values.
        numbered = numbered.replace("%", "%%")
        self._again = f"{_ONE_PLAN} {before} EXECUTE {self.name} {given}"
        self._first = f"PREPARE {self.name} {declared} AS {numbered}; {self._again}"

    def execute(self, cursor: CursorWrapper, values: Mapping[str, Any]) -> None:
        """Execute it; `values` may hold more than it needs. Raises Django's DatabaseError."""
        known = _known_to_session() if _keeps_sessions else None
        if known is None:
            cursor.execute(self._text, values)
            return
        message = self._again if self.name in known else self._first
        try:
            self._send(cursor, message, values, known)
        except DatabaseError as error:
            if _code(error) != errorcodes.FEATURE_NOT_SUPPORTED or message is self._first:
                raise
            # Somebody's migration gave what it returns another type: for that no session plans it again by itself.
            known[self.name] = False
            self._send(cursor, f"DEALLOCATE {self.name}; {self._first}", values, known)

    def _send(self, cursor: CursorWrapper, message: str, values: Mapping[str, Any], known: dict[str, bool]) -> None:
        global _keeps_sessions
        # Whatever comes of the rest of its message: PREPARE is not undone with a transaction.
        known.setdefault(self.name, False)
        try:
            cursor.execute(message, values)
        except DatabaseError as error:
            code = _code(error)
            if code not in _ANOTHER_SESSION:
                raise
            if code == errorcodes.INVALID_SQL_STATEMENT_NAME and not known[self.name]:
                # It never was prepared: that failed, or was broken off. Next time it is tried again.
                del known[self.name]
            else:
                log.info(
                    "The control database answers from other sessions (%s): statements are planned each time.", code
                )
                _keeps_sessions = False
            cursor.execute(self._text, values)
        else:
            known[self.name] = True


_keeps_sessions = True
# Of each session: what was to be prepared there, and whether it has been executed since.
_prepared: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()


def _known_to_session() -> dict[str, bool] | None:
    """What this thread's session has prepared; None within a transaction."""
    if connection.in_atomic_block or not connection.get_autocommit():
        return None
    return _prepared.setdefault(connection.connection, {})


def _code(error: DatabaseError) -> str | None:
    return getattr(error.__cause__, "pgcode", None)
