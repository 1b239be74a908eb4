"""The commands that run before Django's settings are read: `up`, `demo`, and making a key.

They start servers whose addresses those settings need, and the process that supervises stays small without Django.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.product import Interrupted, Product, running_environment
from datamantri.embedded.secrets import random_fernet_key
from datamantri.embedded.stack import DATA_DIR_VARIABLE, DEFAULT_DATA_DIR, EMULATOR, WAREHOUSE

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GOOD, FAILURE, BAD_CONFIGURATION = 0, 1, 2
# Set for the `demo` that is started with the product around it.
INSIDE = "DATAMANTRI_INSIDE"


def takes(argv: list[str]) -> Callable[[list[str]], int] | None:
    """The function that runs this command line in place of Django, if there is one."""
    command, rest = (argv[1] if len(argv) > 1 else ""), argv[2:]
    if command == "up":
        return up
    if command == "demo" and not os.environ.get(INSIDE):
        return demo
    if command == "doctor" and "--new-key" in rest:
        return new_key
    return None


def join_running_product() -> None:
    """Let any other command (doctor, shell, ...) reach what `up` runs, unless the environment names servers itself."""
    if not os.environ.get("DATABASE_URL") and not os.environ.get("BROKER_URL"):
        for name, value in running_environment().items():
            os.environ.setdefault(name, value)


def add_up_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, help="port of the web pages; the next free one when busy (PORT, or 8000)")
    text = f"where data, logs and secrets lie ({DATA_DIR_VARIABLE})"
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help=text)


def add_serving_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--emulator", action="store_true", help="also start a BigQuery emulator")
    parser.add_argument("--echo", action="store_true", help="copy the processes' logs to this terminal")


def up(arguments: list[str]) -> int:
    """Run the product until Ctrl-C."""
    parser = argparse.ArgumentParser("manage.py up", description=up.__doc__)
    add_up_arguments(parser)
    add_serving_arguments(parser)
    options = parser.parse_args(arguments)

    def serve(product: Product) -> int:
        _announce(product)
        if "BIGQUERY_REST_ENDPOINT" not in product.env and (product.stack.data_dir / EMULATOR).exists():
            _say("The demo's pipelines find no tables: `make demo` starts their emulator, and `up --emulator` does.")
        product.serve(echo=options.echo)
        return GOOD

    return _with_product(options, serve, emulator=options.emulator)


def demo(arguments: list[str]) -> int:
    """Load real data into a BigQuery emulator, move it, compare both sides, then serve until Ctrl-C."""
    parser = argparse.ArgumentParser("manage.py demo", description=demo.__doc__)
    add_up_arguments(parser)
    parser.add_argument("--once", action="store_true", help="exit after the comparison: 0 only if all agree")
    options = parser.parse_args(arguments)

    def show(product: Product) -> int:
        postgres = product.stack.postgres
        if postgres is None:
            raise EmbeddedError("demo_database", "The demo uses a database of its own.", "Unset DATABASE_URL.")
        product.stack.warehouse()
        warehouse = postgres.url(WAREHOUSE, WAREHOUSE)
        product.env |= {INSIDE: str(product.stack.data_dir), "WAREHOUSE_URL": warehouse}
        status = product.run("demo")
        if not options.once:
            _announce(product)
            product.serve()
        return status

    return _with_product(options, show, emulator=True)


def new_key(arguments: list[str]) -> int:
    """Print a key for ENCRYPTION_KEYS."""
    sys.stdout.write(random_fernet_key() + "\n")
    return GOOD


def _with_product(options: argparse.Namespace, body: Callable[[Product], int], *, emulator: bool) -> int:
    """Run `body` with the product started, and stop it in every case; return the exit status."""
    stopping = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in STOP_SIGNALS}
    product: Product | None = None
    try:
        port, workers = _number("PORT", options.port, 8000, 65_535), _number("WORKERS", None, 2, 256)
        product = Product(
            data_dir=options.data_dir, port=port, workers=workers, emulator=emulator, say=_say, stopping=stopping
        )
        _say("Starting …")
        product.start()
        return body(product)
    except Interrupted:
        return GOOD
    except EmbeddedError as error:
        _say(f"Error: {error.message}" + (f"\n{error.hint}" if error.hint else ""))
        return BAD_CONFIGURATION if error.code == "not_configured" else FAILURE
    finally:
        if product is not None:
            try:
                _say("Stopping …")
            finally:  # the terminal may be gone
                product.stop()
            _say("Stopped.")
        for number, handler in previous.items():
            signal.signal(number, handler)


def _number(name: str, given: int | None, default: int, most: int) -> int:
    raw = given if given is not None else os.environ.get(name) or default
    try:
        value = int(raw)
    except ValueError:
        raise EmbeddedError("not_configured", f"{name} must be a whole number, not {raw!r}.") from None
    if not 1 <= value <= most:
        raise EmbeddedError("not_configured", f"{name} must be between 1 and {most}, not {value}.")
    return value


def _announce(product: Product) -> None:
    _say(f"\nDataMantri is ready at {product.url}")
    if product.password_file.exists():
        _say(f"Login: operator, with the password in {product.password_file}")
    _say("Ctrl-C stops it.")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
