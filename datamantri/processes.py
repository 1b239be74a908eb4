"""The commands of web, worker, look-ups, beat and poller: one place for `up`, tests and compose.

`python -m datamantri.processes web` becomes that process; compose starts its services this way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

from datamantri import env, memory

# Threads that hold an allocation arena each waste memory; two are enough for what these processes allocate.
LEAN = {"DJANGO_SETTINGS_MODULE": "datamantri.settings", "MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}
# No pages, and no system checks that deployment has run already.
NO_PAGES = {**LEAN, "DATAMANTRI_PAGES": "0", "CELERY_SKIP_CHECKS": "1"}
CELERY = (sys.executable, "-m", "datamantri.run_celery")


@dataclass(frozen=True)
class ProcessSpec:
    """A process of the product: `env` goes over the environment, `ready` is what its log says when it is."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=lambda: dict(LEAN))
    ready: str = ""


def web(host: str = "127.0.0.1", port: int = 8000) -> ProcessSpec:
    """Pages, API and sockets; it is ready when it answers on its port."""
    daphne = (sys.executable, "-m", "daphne", "--bind", host, "--port", str(port), "--verbosity", "0")
    return ProcessSpec("web", (*daphne, "--no-server-name", "datamantri.asgi:application"))


def worker(children: int = 2, name: str = "worker") -> ProcessSpec:
    """Runs transfers, in `children` processes; names tell several workers on one machine apart."""
    return _worker(name, "transfers", "prefork", children, memory.FOR_BATCHES)


def lookups(threads: int = 6, name: str = "lookups") -> ProcessSpec:
    """Answers what a page waits for, and sends alerts; apart from `worker`: neither waits behind a transfer."""
    return _worker(name, "lookups,control", "threads", threads, {})


def beat(name: str = "beat") -> ProcessSpec:
    """Turns due times into runs; any number may run."""
    return ProcessSpec(name, (*CELERY, "beat"), dict(NO_PAGES), ready="beat: Starting")


def poller(name: str = "poller") -> ProcessSpec:
    """Asks the sources of pipelines in near real time whether they changed; small until there are any."""
    return ProcessSpec(name, (sys.executable, "-m", "datamantri.poller"), dict(NO_PAGES), ready="poller: ready")


def _worker(name: str, queues: str, pool: str, concurrency: int, allocator: dict[str, str]) -> ProcessSpec:
    argv = (*CELERY, "worker", "--name", name, "--queues", queues, "--pool", pool, "--concurrency", str(concurrency))
    return ProcessSpec(name, argv, {**NO_PAGES, **allocator}, ready=" ready.")


def main(arguments: list[str]) -> None:
    """Become the named process, with PORT and WORKERS from the environment, listening on every interface."""
    specs: dict[str, Callable[[], ProcessSpec]] = {
        "web": lambda: web("0.0.0.0", env.integer("PORT", 8000, least=1, most=65535)),  # noqa: S104 - in a container
        "worker": lambda: worker(env.integer("WORKERS", 2, least=1, most=256)),
        "lookups": lookups,
        "beat": beat,
        "poller": poller,
    }
    if len(arguments) != 1 or arguments[0] not in specs:
        sys.stderr.write(f"usage: python -m datamantri.processes {'|'.join(specs)}\n")
        sys.exit(2)
    try:
        # Read here already: a bad value ends the start with its name, and not with a traceback of whoever reads it.
        import_module("datamantri.settings")
        spec = specs[arguments[0]]()
    except env.ImproperlyConfigured as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
    os.execve(spec.argv[0], spec.argv, {**os.environ, **spec.env})  # noqa: S606 - argv is our own


if __name__ == "__main__":
    main(sys.argv[1:])
