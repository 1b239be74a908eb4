"""The BigQuery emulator answers everyone who asks at once, and each with their own rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from bqemulator.streaming.read_session import ReadSessionState
from google.cloud.bigquery import SchemaField

from datamantri.embedded import emulator_server
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


def test_rows_are_added_while_others_are_listed(emulator: dict[str, str], worker_id: str) -> None:
    """The one keeps DuckDB's lock and needs Python's, the other the reverse, unless somebody orders them."""
    tables = EmulatorTables(emulator["rest"], "demo-project")
    table = f"emulator_{worker_id}.added"
    tables.make(table, [SchemaField("n", "INT64")], pa.table({"n": [0]}))
    added = 40

    def add(n: int) -> int:
        mine = EmulatorTables(emulator["rest"], "demo-project")
        for i in range(added):
            errors = mine.client.insert_rows_json(f"demo-project.{table}", [{"n": i}], timeout=60)
            assert errors == []
            list(mine.client.list_rows(f"demo-project.{table}", timeout=60))
        mine.close()
        return added

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(add, range(4))) == 4 * added
    assert tables.run(f"SELECT COUNT(*) AS n FROM {table}") == [{"n": 4 * added + 1}]
    tables.close()


def test_sessions_that_nobody_uses_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator_server, "SESSION_BYTES", 10 * 8000)
    sessions = emulator_server.Sessions()
    rows = pa.table({"n": pa.array(range(1000), pa.int64())})
    for n in range(10):
        sessions[f"s{n}"] = ReadSessionState(f"s{n}", rows, b"")
    assert sessions.get("s0").table is rows
    sessions["large"] = ReadSessionState("large", pa.concat_tables([rows] * 4), b"")
    assert list(sessions) == ["s5", "s6", "s7", "s8", "s9", "s0", "large"]
    assert sessions.get("s1") is None


def test_the_newest_sessions_stay_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator_server, "SESSION_BYTES", 1)
    sessions = emulator_server.Sessions()
    for n in range(6):
        sessions[f"s{n}"] = ReadSessionState(f"s{n}", pa.table({"n": [n]}), b"")
    assert list(sessions) == ["s2", "s3", "s4", "s5"]
