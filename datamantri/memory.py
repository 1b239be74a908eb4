"""How processes of the product ask the system for memory, and hand it back."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Environment of a process that handles batches of some megabytes, one after the other: their memory is
# kept, not given to the system and asked for again page by page. In one arena, or what one thread has
# given back another would take anew.
FOR_BATCHES = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(12 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


def give_back() -> None:
    """Hand back what imports have left over: about 14 MB in each process."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own; musl has none
        if trim is not None:
            trim(0)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Import as if packages were not there that others would load only because they are."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
