"""Empty databases, used again: making one takes as long as the test that wants it."""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import closing
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import psycopg2
from psycopg2 import sql

log = logging.getLogger(__name__)

# All that a test can leave behind in a database and about it.
_FINGERPRINT = """
SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_type),
  (SELECT count(*) FROM pg_operator), (SELECT count(*) FROM pg_cast), (SELECT count(*) FROM pg_collation),
  (SELECT array_agg((nspname, nspowner, nspacl)::text ORDER BY nspname) FROM pg_namespace WHERE nspname !~ '^pg_t'),
  (SELECT count(*) FROM pg_extension), (SELECT count(*) FROM pg_language), (SELECT count(*) FROM pg_publication),
  (SELECT count(*) FROM pg_event_trigger), (SELECT count(*) FROM pg_foreign_data_wrapper),
  (SELECT count(*) FROM pg_default_acl), (SELECT count(*) FROM pg_largeobject_metadata),
  (SELECT count(*) FROM pg_db_role_setting s WHERE s.setdatabase = d.oid),
  d.datdba, d.datacl::text, d.datconnlimit
FROM pg_database d WHERE datname = current_database()
"""
_OTHERS = "FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'"


class Databases:
    """Databases of one server that `role` may make schemas in; each use has a name of its own."""

    _of: ClassVar[WeakKeyDictionary[Any, Databases]] = WeakKeyDictionary()

    @classmethod
    def of(cls, server: Any, role: str) -> Databases:
        return cls._of.setdefault(server, cls(server, role))

    def __init__(self, server: Any, role: str) -> None:
        self._server, self._role = server, role
        self._empty: list[tuple[str, Any]] = []  # name, fingerprint
        self._taken: dict[str, Any] = {}

    def take(self) -> str:
        name = f"warehouse_{uuid.uuid4().hex[:10]}"
        with closing(self._server.connect()) as connection, connection.cursor() as cursor:
            if self._empty:
                former, fingerprint = self._empty.pop()
                self._alone(cursor, former)
                cursor.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*map(sql.Identifier, (former, name))))
                self._taken[name] = fingerprint
                return name
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"GRANT CREATE ON DATABASE {name} TO {self._role}")
        with closing(self._server.connect(name)) as connection, connection.cursor() as cursor:
            self._let_in(cursor)
            cursor.execute(_FINGERPRINT)
            self._taken[name] = cursor.fetchone()
        return name

    def give_back(self, name: str) -> None:
        fingerprint = self._taken.pop(name)
        try:
            with closing(self._server.connect(name)) as connection, connection.cursor() as cursor:
                cursor.execute(f"SELECT pg_terminate_backend(pid) {_OTHERS}", (name,))
                cursor.execute("SET lock_timeout = '5s'")
                cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$|^public$'")
                for (schema,) in cursor.fetchall():
                    cursor.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
                cursor.execute("DROP SCHEMA IF EXISTS public CASCADE")
                cursor.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
                cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
                self._let_in(cursor)
                cursor.execute(_FINGERPRINT)
                if cursor.fetchone() == fingerprint:
                    self._empty.append((name, fingerprint))
                    return
        except psycopg2.Error as error:
            # Whatever stands in the way goes with the database.
            log.info("%s is not used again: %s", name, error)
        with closing(self._server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _let_in(self, cursor: Any) -> None:
        cursor.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {self._role}")

    def _alone(self, cursor: Any, name: str) -> None:
        """Wait until who used the database has left; the server itself would look every 100 ms only."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            cursor.execute(f"SELECT count(*) {_OTHERS}", (name,))
            if cursor.fetchone() == (0,):
                return
            time.sleep(0.001)
