"""`manage.py doctor`: is this installation able to work, and if not, what to do about it."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connection
from django.db.models import F, Q
from django.db.models.functions import Now
from kombu import Connection as Link

from connectors.counts import counted
from connectors.errors import ConnectorError
from datamantri import schema_check
from datamantri.celery import app
from datamantri.management.commands.prepare import pending_migrations
from pipelines import broker as broker_errors
from pipelines.fields import fernet
from pipelines.models import Connection, Mode, Pipeline, PipelineState
from runs.models import Process

OLDEST_POSTGRES = 14
LITTLE_SPACE_BYTES = 2 * 1024**3
NO_SPACE_BYTES = 200 * 1024**2
BROKER_LIMIT_S = 5
# After this many heartbeats without a word a process counts as gone.
SILENT_HEARTBEATS = 6
CHECK_DATABASE = "Check DATABASE_URL and that the server runs."
CHECK_LIVE = "Check LIVE_URL and that the server runs; until then pages are up to 15 s late."
CHECK_BROKER = "Check BROKER_URL and that the server runs."


@dataclass(frozen=True)
class Finding:
    """What one check saw; `hint` says what to do when it is not good."""

    good: bool
    text: str
    hint: str = ""
    serious: bool = True


def database() -> Finding:
    try:
        connection.ensure_connection()
    except DatabaseError as error:
        return Finding(
            False, f"cannot be reached: {_first_line(error)}", "Check DATABASE_URL and that the server runs."
        )
    version = connection.pg_version // 10_000
    if version < OLDEST_POSTGRES:
        return Finding(False, f"is PostgreSQL {version}", f"PostgreSQL {OLDEST_POSTGRES} or newer is needed.")
    return Finding(True, f"PostgreSQL {version}, database {connection.settings_dict['NAME']}")


def migrations() -> Finding:
    pending = pending_migrations()
    if pending:
        return Finding(False, f"{len(pending)} pending, the first is {pending[0]}", "Run `manage.py prepare`.")
    try:
        schema_check.refuse_other_schema()
    except ConnectorError as error:
        return Finding(False, error.message, error.hint)
    return Finding(True, "all applied")


def broker() -> Finding:
    return _reach(app.connection(connect_timeout=BROKER_LIMIT_S), CHECK_BROKER)


def live_pages() -> Finding:
    if not settings.LIVE_URL:
        return Finding(True, "nothing is pushed, pages ask every other second; LIVE_URL can name a Redis for it")
    return _reach(Link(settings.LIVE_URL, connect_timeout=BROKER_LIMIT_S), CHECK_LIVE, serious=False)


def _reach(link: Link, hint: str, *, serious: bool = True) -> Finding:
    with link:
        try:
            link.ensure_connection(max_retries=1, timeout=BROKER_LIMIT_S)
        except broker_errors.failures() as error:
            return Finding(False, f"cannot be reached: {_first_line(error)}", hint, serious)
        return Finding(True, link.as_uri())


def encryption_keys() -> Finding:
    """The keys themselves were checked when the settings were read; here, whether they open what is stored."""
    probe = b"datamantri"
    if fernet().decrypt(fernet().encrypt(probe)) != probe:
        return Finding(False, "do not work", "Make a new one with `manage.py doctor --new-key`.")
    lost = [each.name for each in Connection.objects.order_by("name") if each.has_lost_secrets]
    if lost:
        hint = "Put the former key back at the end of ENCRYPTION_KEYS, or enter these secrets again."
        return Finding(False, f"do not open the secrets of: {', '.join(lost)}", hint)
    return Finding(True, f"{len(settings.ENCRYPTION_KEYS)}, and they open every stored secret")


def processes_of(kind: Process.Kind) -> Finding:
    recent = Q(seen_at__gte=Now() - settings.HEARTBEAT * SILENT_HEARTBEATS)
    names = sorted(Process.objects.filter(recent, kind=kind).values_list("name", flat=True))
    if names:
        return Finding(True, ", ".join(names))
    last = Process.objects.filter(kind=kind).annotate(age=Now() - F("seen_at")).order_by("age").first()
    seen = f"last seen {timedelta(seconds=round(last.age.total_seconds()))} ago" if last else "never seen"
    return Finding(False, f"none runs, {seen}", "Start it: `manage.py up`, or the service of that name.")


def poller() -> Finding:
    """Nobody needs one that has no pipeline in near real time."""
    found = processes_of(Process.Kind.POLLER)
    count = Pipeline.objects.filter(mode=Mode.REALTIME, state=PipelineState.ACTIVE).count()
    if found.good:
        return replace(found, text=f"{found.text}; {counted(count, 'pipeline')} in near real time")
    return found if count else Finding(True, "none runs, and no pipeline is in near real time")


def disk_space() -> Finding:
    free = shutil.disk_usage(settings.BASE_DIR).free
    text = f"{free / 1024**3:.1f} GiB free where DataMantri lies"
    if free < LITTLE_SPACE_BYTES:
        return Finding(False, text, "Make room; embedded PostgreSQL stops when none is left.", free < NO_SPACE_BYTES)
    return Finding(True, text)


class Command(BaseCommand):
    help = "Check settings, servers, keys, processes and disk. Exit status: 0 good, 1 something is bad, 2 bad settings."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--new-key", action="store_true", help="only print a new key for ENCRYPTION_KEYS")

    def handle(self, *args: object, **options: object) -> None:
        # manage.py ends with status 2 before it comes here when the settings are not usable.
        self._say("settings", Finding(True, f"usable, pages at {settings.PUBLIC_URL}"))
        of_database: dict[str, Callable[[], Finding]] = {
            "migrations": migrations,
            "encryption keys": encryption_keys,
            "worker": lambda: processes_of(Process.Kind.WORKER),
            "beat": lambda: processes_of(Process.Kind.BEAT),
            "poller": poller,
        }
        reachable = self._say("database", database())
        good = [reachable, self._say("broker", broker())]
        if settings.LIVE_URL != settings.BROKER_URL:
            good.append(self._say("live pages", live_pages()))
        good.append(self._say("disk", disk_space()))
        for name, check in of_database.items() if reachable else ():
            good.append(self._say(name, check()))
            if name == "migrations" and not good[-1]:
                break  # the other checks read tables that may not be there yet
        if not all(good):
            raise SystemExit(1)

    def _say(self, name: str, finding: Finding) -> bool:
        mark = "ok  " if finding.good else "BAD " if finding.serious else "mind"
        self.stdout.write(f"{mark} {name}: {finding.text}")
        if finding.hint:
            self.stdout.write(f"     {finding.hint}")
        return finding.good or not finding.serious


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
