"""The servers and processes that a bench measures, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from datamantri.embedded.product import Product
from datamantri.embedded.stack import WAREHOUSE

PROJECT, DATASET = "bench", "bench"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def running_product() -> Iterator[Product]:
    """The whole product with an emulator, and Django set up in this process against it."""
    folder = Path(tempfile.mkdtemp(prefix="datamantri-bench-"))
    # From a folder that the database server's own account may read.
    product = Product(data_dir=folder, port=8700, emulator=True, say=lambda text: None)
    try:
        product.start()
        product.stack.warehouse()
        os.environ.update(product.env)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
        import django

        django.setup()
        yield product
    finally:
        product.stop()
        shutil.rmtree(folder, ignore_errors=True)


def warehouse_options(product: Product) -> dict[str, Any]:
    """Options of a PostgreSQL connection to the destination."""
    assert product.stack.postgres is not None
    address = urlsplit(product.stack.postgres.url(WAREHOUSE, WAREHOUSE))
    return {
        "host": address.hostname,
        "port": address.port,
        "dbname": address.path.lstrip("/"),
        "user": address.username,
        "password": unquote(address.password or ""),
        "sslmode": "disable",
    }


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, round(share * len(ranked) + 0.5) - 1))]
