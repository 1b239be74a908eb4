"""The BigQuery emulator answers everyone who asks at once, and each with their own rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from google.cloud.bigquery import SchemaField

from tests.emulator_tables import EmulatorTables

CLIENTS = 8
ROUNDS = 15


def test_clients_that_ask_at_once_each_get_their_own_rows(emulator: dict[str, str], worker_id: str) -> None:
    tables = EmulatorTables(emulator["rest"], "demo-project")
    dataset = f"emulator_{worker_id}"
    for n in range(CLIENTS):
        rows = pa.table({f"c{n}": [f"{n}.{i}" for i in range(20)]})
        tables.make(f"{dataset}.t{n}", [SchemaField(f"c{n}", "STRING")], rows)

    def ask(n: int) -> list[object]:
        mine = EmulatorTables(emulator["rest"], "demo-project")
        wrong: list[object] = []
        for _ in range(ROUNDS):
            found = mine.run(f"SELECT c{n} FROM {dataset}.t{n}")
            listed = [dict(row.items()) for row in mine.client.list_rows(f"demo-project.{dataset}.t{n}")]
            wrong += [answer for answer in (found, listed) if answer != [{f"c{n}": f"{n}.{i}"} for i in range(20)]]
        mine.close()
        return wrong

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert [wrong for answers in pool.map(ask, range(CLIENTS)) for wrong in answers] == []
    tables.close()
