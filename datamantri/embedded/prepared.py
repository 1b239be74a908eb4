"""Remembers that a database is prepared, so that a warm start need not load Django to find out (2 s)."""

from __future__ import annotations

import hashlib
import sysconfig
from contextlib import closing
from pathlib import Path

from datamantri.embedded.postgres import Postgres
from datamantri.embedded.secrets import write_private

CHECKOUT = Path(__file__).resolve().parents[2]


class Prepared:
    """A stamp over everything that decides whether migrations are pending or the first login is missing.

    That is the code (migrations, settings, installed packages) and the database (its identity, what was applied
    to it and whether it has a login). Any difference means that it has to be looked at again.
    """

    def __init__(self, stamp: Path, postgres: Postgres, database: str) -> None:
        self._stamp = stamp
        self._postgres = postgres
        self._database = database

    def holds(self) -> bool:
        return self._stamp.exists() and self._stamp.read_text() == self._now()

    def remember(self) -> None:
        write_private(self._stamp, self._now())

    def _now(self) -> str:
        code = hashlib.sha256()
        for path in sorted([*CHECKOUT.glob("*/migrations/*.py"), CHECKOUT / "datamantri" / "settings.py"]):
            code.update(path.name.encode() + b"\0" + path.read_bytes())
        for package in sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info")):
            code.update(package.name.encode() + b"\0")
        return f"{code.hexdigest()} {self._database_state()}\n"

    def _database_state(self) -> str:
        with closing(self._postgres.connect(self._database)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT system_identifier, to_regclass('django_migrations'), to_regclass('auth_user')"
                " FROM pg_control_system()"
            )
            [(identity, migrations, users)] = cursor.fetchall()
            if migrations is None or users is None:
                return f"{identity} empty"
            cursor.execute("SELECT count(*), max(applied), EXISTS (SELECT FROM auth_user) FROM django_migrations")
            [applied] = cursor.fetchall()
            return " ".join(str(value) for value in (identity, *applied))
