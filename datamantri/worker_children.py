"""Imported by the process that a worker's children are copies of: they share the memory of what is loaded here.

It only imports. A thread, a connection or a gRPC channel does not survive a fork: those are each child's own to make.
"""

from __future__ import annotations

import gc
import os

import django
from celery import platforms

# It ends with the worker, whatever ends that; so do the children, who ask the same of this process.
platforms.set_pdeathsig("SIGKILL")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
django.setup(set_prefix=False)

from celery.concurrency import asynpool, prefork  # noqa: E402, F401

from datamantri import memory  # noqa: E402
from datamantri.celery import app  # noqa: E402
from runs import presence  # noqa: E402

app.loader.import_default_modules()
app.finalize()
presence.import_engine()
memory.give_back()
# The collector writes into what it looks at, and a page that is written to is shared no longer.
gc.freeze()
