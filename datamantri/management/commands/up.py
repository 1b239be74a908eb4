"""`manage.py up`: the product itself, with embedded servers unless real ones are named."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from django.core.management.base import BaseCommand, CommandError

from datamantri.embedded import launch


class Command(BaseCommand):
    """Here for `manage.py help`: manage.py starts it before Django's settings are read, which need the servers."""

    help = "Run the product on this machine until Ctrl-C, with embedded servers unless the environment names real ones."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        launch.add_up_arguments(parser)
        launch.add_serving_arguments(parser)

    def handle(self, *args: object, **options: object) -> None:
        command = launch.takes(sys.argv)
        if command is None:
            raise CommandError("Start it as `manage.py up`.", returncode=2)
        sys.exit(command(sys.argv[2:]))
