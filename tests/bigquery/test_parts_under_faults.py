"""Loads in parts from a BigQuery that fails: plan, parts, publish, each by a process of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField, TimePartitioning

from connectors import staged, transfer
from connectors.base import NeverStop
from connectors.bigquery import ranges, streams
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.errors import NewGeneration, TransientError
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres.checkpoints import PartKey
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from connectors.reading import ReadRequest
from connectors.writing import Fence, Owner, Target
from tests.bigquery.conftest import PROJECT
from tests.bigquery.proxy import BehavingBigQuery
from tests.bigquery.test_source_under_faults import CUTS
from tests.connectors.memory import Recorder

ROWS, SHARE = 2400, 1200
SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("day", "DATE", "REQUIRED")]
NEVER = NeverStop()


@pytest.fixture(autouse=True)
def small_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of some 60 rows, a commit every two or three of them."""
    monkeypatch.setattr(streams, "REOPEN_WAIT_S", 0.002)
    monkeypatch.setattr(staged, "BATCH_BYTES", 2_000)


@dataclass
class Parts:
    """One run after the other of a table: a source and a destination for each step, and for each part."""

    bigquery: BehavingBigQuery
    table: str
    warehouse: dict[str, Any]
    cursor: Any
    target: Target
    pipeline: uuid.UUID = field(default_factory=uuid.uuid4)
    run: uuid.UUID = field(default_factory=uuid.uuid4)
    wanted: int = 2
    token: int = 0
    generation: int = 0
    silence_s: float = 30.0
    fence: Fence | None = None

    def steps(self, step: Callable[[BigQuerySource, PostgresDestination], Any]) -> Any:
        options = BigQueryOptions(PROJECT, "US", "")
        source = BigQuerySource(options, endpoints=self.bigquery.endpoints, timeout_s=30.0, silence_s=self.silence_s)
        destination = PostgresDestination(PostgresOptions(**self.warehouse), allow_superuser=True)
        try:
            return step(source, destination)
        finally:
            source.close()
            destination.close()

    def request(self, fence: Fence) -> transfer.TransferRequest:
        return transfer.TransferRequest(
            fence.owner,
            ReadRequest(table=self.table),
            self.target,
            WriteMode(WriteDisposition.REPLACE),
            fingerprint="f",
        )

    def raised(self, destination: PostgresDestination) -> Fence:
        self.token += 1
        owner = Owner(uuid.UUID(int=1), self.pipeline, self.run, self.token)
        return destination.raise_fence(self.target, owner)

    def plan(self) -> staged.Staged:
        def plan(source: BigQuerySource, destination: PostgresDestination) -> staged.Staged | None:
            self.generation += 1
            self.fence = self.raised(destination)
            request = self.request(self.fence)
            prepared = transfer.prepare(source, destination, self.fence, request, parts=self.wanted, stop=NEVER)
            return staged.stage(
                *(destination, self.fence, request, prepared),
                generation=self.generation,
                reporter=Recorder(),
                stop=NEVER,
            )

        return self.steps(plan)

    def load(self, part: int, token: int = 1) -> staged.PartDone:
        fence, key = self.fence, PartKey(self.generation, part, token)
        assert fence is not None
        return self.steps(
            lambda source, destination: staged.load_part(
                *(source, destination, fence, key, self.request(fence)), reporter=Recorder(), stop=NEVER
            )
        )

    def publish(self) -> transfer.Receipt:
        def publish(source: BigQuerySource, destination: PostgresDestination) -> transfer.Receipt:
            fence = self.raised(destination)
            return staged.publish_parts(
                *(source, destination, fence, self.request(fence)), reporter=Recorder(), stop=NEVER
            )

        return self.steps(publish)

    def position(self, part: int) -> int:
        """How many rows of the part are committed."""
        self.cursor.execute(
            "SELECT position FROM _datamantri.checkpoint WHERE run = %s AND generation = %s AND part = %s",
            (str(self.run), self.generation, part),
        )
        return self.cursor.fetchone()[0]

    def staged(self) -> list[tuple[int, str]]:
        """The ids that are staged, each with the row's place and the transaction that brought it."""
        self.cursor.execute(
            f"SELECT id, xmin::text || ctid::text FROM public._datamantri_new_{self.run.hex}_{self.generation}"
        )
        return sorted(self.cursor.fetchall())

    def published(self) -> list[int] | None:
        self.cursor.execute("SELECT to_regclass(%s)", (f"public.{self.target.table}",))
        if self.cursor.fetchone() == (None,):
            return None
        self.cursor.execute(f"SELECT id FROM public.{self.target.table} ORDER BY id")
        return [row[0] for row in self.cursor.fetchall()]

    def offsets(self, of: Callable[[], object]) -> list[int]:
        """Where the streams were asked to begin meanwhile."""
        before = len(self.bigquery.made("ReadRows"))
        of()
        return [call.offset for call in self.bigquery.made("ReadRows")[before:]]


@pytest.fixture
def parts(request, bigquery, bigquery_tables, dataset, warehouse, warehouse_cursor, monkeypatch) -> Iterator[Parts]:
    """Of streams of one session, or of ranges that are opened one by one."""
    if request.param == "ranges":
        monkeypatch.setattr(ranges, "PART_BYTES_LEAST", 1)
        monkeypatch.setattr(ranges, "PARTS_LEAST", 1)
    first = date(2024, 1, 1)
    rows = pa.table(
        {"id": pa.array(range(ROWS), pa.int64()), "day": [first + timedelta(days=i // 300) for i in range(ROWS)]}
    )
    bigquery_tables.make(f"{dataset}.in_parts", SCHEMA, rows, partitioned=TimePartitioning("DAY", "day"))
    bigquery.storage.small_bytes = 0
    bigquery.storage.message_bytes = 1_000
    target = Target("public", f"parts_{uuid.uuid4().hex[:8]}")
    yield Parts(bigquery, f"{dataset}.in_parts", warehouse, warehouse_cursor, target)
    warehouse_cursor.execute(f"DROP TABLE IF EXISTS public.{target.table}")


@pytest.mark.parametrize("parts", ["streams", "ranges"], indirect=True)
def test_a_part_whose_stream_breaks_at_every_call_goes_on_behind_its_last_commit(parts):
    """Each part breaks in another way, until its owner gives it up."""
    parts.wanted = 8
    plan = parts.plan()
    assert [plan.parts[n].rows or SHARE // 4 for n in range(8)] == [SHARE // 4] * 8
    kinds = [kind for kind in (*CUTS, "silence") if kind != "short"]
    for part, kind in enumerate(kinds):
        faults = parts.bigquery.faults
        faults.inject(kind, "ReadRows", after_messages=3)
        faults.inject(kind, "ReadRows", skip=1, times=None)
        # Nothing but silence itself is to be taken for it.
        parts.silence_s = 0.5 if kind == "silence" else 30.0
        with pytest.raises(TransientError):
            parts.load(part)
        parts.silence_s = 30.0
        faults.clear()
        had = parts.position(part)
        assert had < SHARE // 4, kind
        # What was on its way is lost with a connection that is reset.
        assert had > 0 or kind == "reset", kind
        # A channel may be told late that its connection was reset, and asks there once more.
        offsets = parts.offsets(lambda part=part: parts.load(part, token=2))
        assert set(offsets) == {had}, kind
        assert len(offsets) == 1 or kind == "reset", kind
    parts.bigquery.faults.inject("short", "ReadRows", after_messages=3)
    first, second = parts.offsets(lambda: parts.load(6))
    assert first == 0 < second
    assert parts.load(7).done
    assert parts.publish().rows == ROWS
    assert parts.published() == list(range(ROWS))


@pytest.mark.parametrize("parts", ["streams"], indirect=True)
def test_a_stream_that_is_taken_for_ended_too_early_publishes_nothing(parts):
    """One that ends early, and gives nothing when it is asked once more, is believed: the count of the table is not."""
    parts.plan()
    parts.bigquery.faults.inject("short", "ReadRows", after_messages=3, times=1)
    parts.bigquery.faults.inject("short", "ReadRows", skip=1)
    done = parts.load(0)
    assert done.done
    assert 0 < done.rows < SHARE
    assert parts.load(1).done
    with pytest.raises(NewGeneration) as missing:
        parts.publish()
    assert missing.value.code == "rows_missing"
    assert parts.published() is None
    parts.plan()
    assert [parts.load(part).rows for part in (0, 1)] == [SHARE, SHARE]
    assert parts.publish().rows == ROWS
    assert parts.published() == list(range(ROWS))


@pytest.mark.parametrize("parts", ["streams"], indirect=True)
def test_streams_whose_session_expires_are_planned_anew_and_nothing_of_them_is_published(parts):
    parts.plan()
    assert parts.load(1).done
    parts.bigquery.faults.inject("expired", "ReadRows", after_messages=5)
    with pytest.raises(NewGeneration):
        parts.load(0)
    assert 0 < parts.position(0) < SHARE
    before = parts.staged()
    parts.plan()
    assert parts.offsets(lambda: [parts.load(part) for part in (0, 1)]) == [0, 0]
    assert not {place for _, place in before} & {place for _, place in parts.staged()}
    receipt = parts.publish()
    assert (receipt.rows, receipt.source["generation"]) == (ROWS, 2)
    assert parts.published() == list(range(ROWS))


@pytest.mark.parametrize("parts", ["ranges"], indirect=True)
def test_a_range_whose_session_expires_is_read_again_and_the_finished_ones_stay_as_they_are(parts):
    parts.plan()
    assert parts.load(0).done
    finished = parts.staged()
    parts.bigquery.faults.inject("expired", "ReadRows", after_messages=5)
    offsets = parts.offsets(lambda: parts.load(1))
    assert offsets == [0, 0]
    assert len(finished) == SHARE
    assert set(finished) < set(parts.staged())
    receipt = parts.publish()
    assert (receipt.rows, receipt.source["generation"]) == (ROWS, 1)
    assert parts.published() == list(range(ROWS))


@pytest.mark.parametrize("parts", ["ranges"], indirect=True)
def test_a_range_whose_owner_died_before_its_session_expired_is_read_again_by_the_next_one(parts):
    parts.plan()
    assert parts.load(1).done
    finished = parts.staged()
    parts.bigquery.faults.inject("unavailable", "ReadRows", after_messages=5)
    parts.bigquery.faults.inject("unavailable", "ReadRows", skip=1, times=None)
    with pytest.raises(TransientError):
        parts.load(0)
    had = parts.position(0)
    assert had > 0
    parts.bigquery.faults.clear()
    parts.bigquery.storage.expire()
    assert parts.offsets(lambda: parts.load(0, token=2)) == [had, 0]
    assert set(finished) < set(parts.staged())
    assert parts.publish().source["generation"] == 1
    assert parts.published() == list(range(ROWS))


@pytest.mark.parametrize("parts", ["ranges"], indirect=True)
def test_a_range_whose_session_cannot_be_opened_is_worth_another_try(parts):
    parts.plan()
    assert parts.load(0).done
    for token, answered in enumerate((False, True), 1):
        parts.bigquery.faults.inject("unavailable", "CreateReadSession", answered=answered)
        with pytest.raises(TransientError) as refused:
            parts.load(1, token=token)
        assert refused.value.code == "bigquery_unavailable"
        assert parts.position(1) == 0
    assert parts.load(1, token=3).rows == SHARE
    parts.publish()
    assert parts.published() == list(range(ROWS))
