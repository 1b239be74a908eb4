"""`manage.py prepare`: what must be true of the database before the product's processes start."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from connectors.errors import ConnectorError
from datamantri import schema_check
from datamantri.embedded.secrets import random_password, write_private

FIRST_LOGIN = "operator"
OTHER_SCHEMA = 3


class Command(BaseCommand):
    help = "Apply pending migrations and, with --login, make the first login when there is none."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--login", type=Path, metavar="FILE", help="keep the first login's password in FILE")

    def handle(self, *args: object, **options: object) -> None:
        try:
            pending = pending_migrations()
        except OperationalError as error:
            raise CommandError(f"The database cannot be reached: {error}", returncode=2) from error
        try:
            schema_check.refuse_other_schema()
        except ConnectorError as error:
            raise CommandError(f"{error.message}\n{error.hint} [{error.code}]", returncode=OTHER_SCHEMA) from error
        if pending:
            self.stdout.write(f"Applying {len(pending)} migrations …")
            call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
        schema_check.remember()
        password_file = options["login"]
        if isinstance(password_file, Path):
            self._make_first_login(password_file)

    def _make_first_login(self, password_file: Path) -> None:
        users = get_user_model()
        if users.objects.exists():
            return
        password = random_password()
        # The file first: a login whose password nobody knows would be worse than a file without a login.
        password_file.parent.mkdir(parents=True, exist_ok=True)
        write_private(password_file, password + os.linesep)
        with transaction.atomic():
            user = users.objects.create_superuser(FIRST_LOGIN, "", password)
            user.groups.set(Group.objects.filter(name="admin"))
        self.stdout.write(f"Made the first login: {FIRST_LOGIN}, password {password} (kept in {password_file})")


def pending_migrations() -> list[str]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
