"""Settings of the statements that bring staged rows over: how PostgreSQL is to go about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.publish.fragments import one_row
from connectors.postgres.publish.merge_rules import Table
from connectors.writing import Target

# A batch this many times smaller than its target is looked up in the index, as ON CONFLICT would do.
# PostgreSQL, which reckons with disks that seek, would read the whole target: twice the work at a
# tenth of it (measured). Bytes and not rows, as the target may never have been analysed.
INDEX_FROM = 8
_SIZES = """
SELECT coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(%(oid)s)), pg_relation_size(%(oid)s)),
       pg_relation_size(to_regclass(%(staging)s))
"""
_LOOK_UP = "; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
# What a sort and a hash of some 100,000 rows take; with PostgreSQL's own 4 MB they would go through the disk.
_MORE_MEMORY = """
SELECT set_config('work_mem', '64MB', true) WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')
"""
# Compiling the statement, with nodes for every partition, takes longer than it saves: a second for 60 (measured).
_NO_JIT = "SET LOCAL jit = off"
_AS_BEFORE = "; ".join(
    f"SET LOCAL {name} TO DEFAULT" for name in ("work_mem", "jit", "enable_hashjoin", "enable_mergejoin")
)


def is_small(session: Session, table: Table, staging: Target) -> bool:
    """Whether so little is staged that looking up each row beats reading the whole target."""
    staged = errors.quoted(staging.schema, staging.table)
    target_bytes, staged_bytes = one_row(session.one(_SIZES, {"oid": table.oid, "staging": staged}))
    return bool(staged_bytes * INDEX_FROM <= target_bytes)


@contextmanager
def tuned(session: Session, *, looks_up: bool) -> Iterator[None]:
    """Within, statements have memory to sort and hash in, and look rows up in indexes if told so.

    After an error there is nothing to restore: the settings end with the transaction.
    """
    session.execute(f"{_NO_JIT}; {_MORE_MEMORY}{_LOOK_UP if looks_up else ''}")
    yield
    session.execute(_AS_BEFORE)
