"""`manage.py rotate_keys`: encrypt every stored secret with the newest key."""

from __future__ import annotations

from argparse import ArgumentParser

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from pipelines import rotation
from pipelines.rotation import SecretsLost


class Command(BaseCommand):
    help = (
        "Encrypt every stored secret with the first of ENCRYPTION_KEYS, so that the others can be taken away. "
        "Exit status: 0 good, 1 older ones with --check, or secrets that no key opens."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="only say whether older keys are still needed")

    def handle(self, *args: object, **options: object) -> None:
        try:
            counts = rotation.count()
            if options["check"]:
                return self._check(counts)
            done = rotation.rotate(self._tell)
        except SecretsLost as lost:
            raise CommandError(
                f"nothing was changed: no key opens the secrets of {', '.join(lost.names)}.\n"
                "Put their key back at the end of ENCRYPTION_KEYS, or enter these secrets again in the admin."
            ) from lost
        self.stdout.write(
            f"{_secrets(done)} encrypted anew; {_secrets(counts.stored - counts.older)} had the first key already."
        )
        if len(settings.ENCRYPTION_KEYS) > 1:
            self.stdout.write("The other keys can be taken out of ENCRYPTION_KEYS.")
        return None

    def _check(self, counts: rotation.Counts) -> None:
        if counts.older:
            self.stdout.write(
                f"{counts.older} of {_secrets(counts.stored)} need an older key: run `manage.py rotate_keys`."
            )
            raise SystemExit(1)
        self.stdout.write(f"{_secrets(counts.stored)}, all by the first key: the others are not needed.")

    def _tell(self, done: int) -> None:
        self.stdout.write(f"{_secrets(done)} …")


def _secrets(count: int) -> str:
    """Of connections and of alert channels."""
    return "1 stored secret" if count == 1 else f"{count} stored secrets"
