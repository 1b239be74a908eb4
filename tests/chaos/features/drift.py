"""Columns that join the source while runs are under way: each row has them from the change on that added them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
from google.cloud.bigquery import SchemaField

from runs.models import Run
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Append, Feed, Merge, Replace, Row, Rows
from tests.chaos.lanes import Outcome
from tests.chaos.oracle import Seen


class Growing(Feed):
    """Goes before a feed: a column more in every other round. `_since` are the first changes that have each."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._since: list[int] = []
        # How many of them the target has; it has them once a run was published that read them.
        self.known = 0

    def begin(self, target: Rows) -> None:
        if self.round % 2:
            self._since.append(self._change + 1)
        super().begin(target)

    def fields(self) -> list[SchemaField]:
        return [SchemaField(f"more_{number}", "INT64") for number in range(len(self._since))]

    def columns(self) -> list[tuple[str, str]]:
        return [*super().columns(), *((f"more_{number}", "bigint") for number in range(self.known))]

    def more_of(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        return {
            f"more_{number}": pa.array([row[2] if row[2] >= since else None for row in rows], pa.int64())
            for number, since in enumerate(self._since)
        }

    def faults(self, seen: Seen) -> Iterable[str]:
        for number, since in enumerate(self._since[: self.known]):
            seen.cursor.execute(
                f"SELECT count(*) FROM {seen.place.key} WHERE more_{number} IS DISTINCT FROM"
                f" CASE WHEN change >= {since} THEN change END"
            )
            wrong = seen.cursor.fetchone()[0]
            if wrong:
                yield f"{wrong} rows have another value of more_{number} than theirs"


class GrowingAppend(Growing, Append):
    pass


class GrowingMerge(Growing, Merge):
    pass


class GrowingReplace(Growing, Replace):
    pass


class DriftLane(Watched):
    FEEDS = {"drift_append": GrowingAppend, "drift_merge": GrowingMerge, "drift_replace": GrowingReplace}

    def judge(self, run: Run) -> Outcome:
        feed = self.feed
        assert isinstance(feed, Growing)
        if run.status == "succeeded":
            feed.known = len(feed._since)
        return super().judge(run)


LANES = (DriftLane,)
