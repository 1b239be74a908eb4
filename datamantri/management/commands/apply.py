"""`manage.py apply FILE`: make this installation what a file of definitions says."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.core.management.base import BaseCommand, CommandError

from pipelines.files import applying, text
from pipelines.files.applying import Overtaken
from pipelines.files.changes import ADDED, CHANGED, REMOVED, Change
from pipelines.files.exporting import SECTIONS
from pipelines.files.problems import FileRefused
from pipelines.files.work import Plan, Wish

STDIN = "-"
# What a file could make a terminal do.
_UNSEEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Command(BaseCommand):
    help = (
        "Show what a file of definitions would change, ask, and change it, all or nothing. "
        "Exit status: 0 good, 1 differences with --check or not applied, 2 a bad file."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="as `manage.py export` writes it; - for standard input")
        parser.add_argument(
            "--check", action="store_true", help="change nothing; exit status 1 if there are differences"
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="leave the rest as it is here"
        )
        parser.add_argument("--archive-missing", action="store_true", help="archive pipelines that are not in the file")
        parser.add_argument("--live", action="store_true", help="ask source and destination first, as the form does")
        parser.add_argument("--user", metavar="NAME", help="whose change it is, within their permissions")

    def handle(self, *args: object, **options: Any) -> None:
        name = "standard input" if options["file"] == STDIN else options["file"]
        try:
            wish = Wish(
                document=text.read(_read(options["file"])),
                by=_user(options["user"]),
                only=options["only"],
                archive_missing=options["archive_missing"],
                note=f"Applied from {Path(name).name}.",
            )
            plan = applying.plan(wish)
            warnings = applying.ask_live(wish, plan) if options["live"] else []
            self._show(plan, warnings)
            if not plan.changes:
                return
            if options["check"]:
                raise SystemExit(1)
            if not options["yes"] and not self._is_wanted():
                self.stdout.write("Nothing was changed.")
                raise SystemExit(1)
            applying.apply(wish, plan)
        except FileRefused as refused:
            said = "\n".join(problem.said(name) for problem in refused.problems)
            raise CommandError(f"nothing was changed.\n{said}", returncode=2) from refused
        except PermissionDenied as denied:
            raise CommandError(f"nothing was changed: {denied}", returncode=2) from denied
        except Overtaken as overtaken:
            message = "nothing was changed: definitions here became others meanwhile. Run it again."
            raise CommandError(message, returncode=1) from overtaken
        self.stdout.write("Done.")

    def _is_wanted(self) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("nothing was changed: say --yes where nobody can be asked.", returncode=2)
        return input("Apply these changes? Only “yes” does: ").strip().lower() == "yes"

    def _show(self, plan: Plan, warnings: list[str]) -> None:
        for change in plan.changes:
            self._show_change(change)
        for warning in warnings:
            self._paint(CHANGED, f"! {warning}")
        for connection, secrets in plan.lacking:
            self._paint(CHANGED, f"! {connection} has no secrets yet ({secrets}): they are entered in the admin.")
        self.stdout.write(_summary(plan))

    def _show_change(self, change: Change) -> None:
        note = f" ({change.note})" if change.note else ""
        self._paint(change.sign, f"{change.sign} {change.what} {change.name}{note}")
        for field in change.fields:
            self._paint(field.sign, f"    {field.sign} {field.label}: {field.words}".rstrip())
            for line in field.lines:
                self._paint(line[:1] if line[:1] in (ADDED, REMOVED) else "", f"        {line}")
        self.stdout.write("")

    def _paint(self, sign: str, line: str) -> None:
        styles = {ADDED: self.style.SUCCESS, CHANGED: self.style.WARNING, REMOVED: self.style.ERROR}
        self.stdout.write(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", line), styles.get(sign))


def _summary(plan: Plan) -> str:
    signs = Counter(change.sign for change in plan.changes)
    same = f"{plan.unchanged} as the file says already"
    if not signs:
        return f"Nothing to change: {same}."
    told = [f"{signs[sign]} to {verb}" for sign, verb in ((ADDED, "add"), (CHANGED, "change"), (REMOVED, "archive"))]
    return f"{', '.join(told)}; {same}."


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", returncode=2) from error


def _user(name: str | None) -> Any:
    if name is None:
        return None
    found = get_user_model().objects.filter(username=name, is_active=True).first()
    if found is None:
        raise CommandError(f"There is no active user called {name}.", returncode=2)
    return found
