"""`manage.py export`: definitions as one YAML file, for another installation or for version control."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import BaseCommand

from pipelines.files.exporting import SECTIONS, export
from pipelines.files.schema import schema


class Command(BaseCommand):
    help = "Write definitions (without secrets) as YAML, to standard output unless told where."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="write to FILE")
        parser.add_argument(
            "--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="leave the other sections out"
        )
        parser.add_argument("--schema", action="store_true", help="write the JSON Schema of such files, for editors")

    def handle(self, *args: object, **options: object) -> None:
        if options["schema"]:
            text = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
        else:
            text = export(options["only"])  # type: ignore[arg-type]
        file = options["file"]
        if isinstance(file, Path):
            file.write_text(text, encoding="utf-8")
        else:
            self.stdout.write(text, ending="")
