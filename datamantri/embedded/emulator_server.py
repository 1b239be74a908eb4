"""`python -P emulator_server.py …`: the BigQuery emulator, with threads enough for its reads.

A reader that goes away in the middle of a stream keeps one of the emulator's threads for ever, and a
machine with two cores has six of them: a few killed workers, and nobody can read any more.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from bqemulator.cli import main

THREADS = 512  # made when needed

if __name__ == "__main__":
    grpc.aio.server = functools.partial(grpc.aio.server, migration_thread_pool=ThreadPoolExecutor(THREADS))
    main()
