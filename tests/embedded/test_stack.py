"""The servers start anywhere, keep what they hold, and stay out of each other's way."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.stack import EmbeddedStack
from tests.embedded.conftest import processes_in, wait_until

MakeStack = Callable[..., EmbeddedStack]


def query(url: str, text: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchone()[0] if cursor.description else None


def ask_valkey(url: str) -> bool:
    with closing(redis.Redis.from_url(url)) as client:
        return client.ping()


def test_a_new_data_directory_gets_working_servers(make_stack: MakeStack) -> None:
    stack = make_stack()
    env = stack.start()
    assert query(env["DATABASE_URL"], "SELECT current_database()") == "datamantri"
    assert query(env["DATABASE_URL"], "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert query(env["DATABASE_URL"], "SHOW fsync") == "off"
    assert ask_valkey(env["BROKER_URL"])
    warehouse = stack.warehouse()
    with closing(psycopg2.connect(**warehouse)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE landed (a int)")
    assert set(env) == {"SECRET_KEY", "ENCRYPTION_KEYS", "DATABASE_URL", "BROKER_URL"}


def test_servers_refuse_those_without_the_password(make_stack: MakeStack) -> None:
    stack = make_stack()
    env = stack.start()
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host="127.0.0.1", port=stack.postgres.port, dbname="datamantri", user="datamantri")
    with pytest.raises(redis.AuthenticationError):
        ask_valkey(f"redis://127.0.0.1:{env['BROKER_URL'].rpartition(':')[2]}")


def test_data_is_safe_unless_a_test_asks_for_speed(make_stack: MakeStack) -> None:
    env = make_stack(durable=True, valkey=False).start()
    assert query(env["DATABASE_URL"], "SHOW fsync") == "on"
    assert query(env["DATABASE_URL"], "SHOW full_page_writes") == "on"


def test_a_second_start_finds_ports_secrets_and_data_again(make_stack: MakeStack) -> None:
    first = make_stack()
    env = first.start()
    query(env["DATABASE_URL"], "CREATE TABLE kept AS SELECT 7 AS n")
    first.stop()
    again = make_stack().start()
    assert again == env
    assert query(again["DATABASE_URL"], "SELECT n FROM kept") == 7


def test_secrets_are_for_their_owner_only(make_stack: MakeStack, data_dir: Path) -> None:
    make_stack().start()
    secrets = [path for path in (data_dir / "secrets").iterdir() if path.is_file()]
    assert {path.name for path in secrets} >= {"secret_key", "encryption_keys", "postgres-postgres", "valkey"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    command_lines = " ".join(process.command_line for process in processes_in(data_dir))
    assert not [path.name for path in secrets if path.read_text().strip() in command_lines]


def test_killed_servers_come_back_with_what_was_committed(make_stack: MakeStack) -> None:
    stack = make_stack(durable=True)
    env = stack.start()
    query(env["DATABASE_URL"], "CREATE TABLE kept AS SELECT 7 AS n")
    stack.postgres.kill()
    stack.valkey.kill()
    with pytest.raises(psycopg2.OperationalError):
        query(env["DATABASE_URL"], "SELECT 1")
    stack.postgres.start()
    stack.valkey.start()
    assert stack.environment() == env
    assert query(env["DATABASE_URL"], "SELECT n FROM kept") == 7
    assert ask_valkey(env["BROKER_URL"])


def test_a_killed_server_takes_its_busy_sessions_with_it(make_stack: MakeStack) -> None:
    """One of them would go on to its commit, and hold up the next start."""
    stack = make_stack(valkey=False)
    url = stack.start()["DATABASE_URL"]
    ended = []

    def count() -> None:
        with pytest.raises(psycopg2.Error):
            query(url, "SELECT count(*) FROM generate_series(1, 100000000000)")
        ended.append(True)

    busy = threading.Thread(target=count, daemon=True)
    busy.start()
    looks = "SELECT bool_or(query LIKE '%generate_series%' AND pid <> pg_backend_pid()) FROM pg_stat_activity"
    wait_until(lambda: query(url, looks))
    stack.postgres.kill()
    busy.join(30)
    assert ended == [True]


def test_a_pid_file_whose_number_another_process_has_now_is_no_obstacle(make_stack: MakeStack) -> None:
    stack = make_stack(valkey=False)
    stack.start()
    [pid_file] = stack.data_dir.rglob("postmaster.pid")
    content = pid_file.read_text().splitlines()
    stack.postgres.kill()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *content[1:]]) + "\n")
        stack.postgres.start()
        assert query(stack.environment()["DATABASE_URL"], "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_busy_port_is_chosen_around_and_the_new_one_remembered(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.start()
    old = stack.postgres.port, stack.valkey.port
    stack.stop()
    with closing(socket.socket()) as postgres_port, closing(socket.socket()) as valkey_port:
        for taken, port in zip((postgres_port, valkey_port), old, strict=True):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        moved = make_stack()
        env = moved.start()
        assert not {moved.postgres.port, moved.valkey.port} & set(old)
        assert query(env["DATABASE_URL"], "SELECT 1") == 1
        moved.stop()
    assert make_stack().start() == env


def test_two_stacks_run_side_by_side(make_stack: MakeStack, data_dir: Path) -> None:
    one, other = make_stack(data_dir / "one"), make_stack(data_dir / "other")
    envs = one.start(), other.start()
    for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "DATABASE_URL", "BROKER_URL"):
        assert envs[0][name] != envs[1][name]
    one.stop()
    assert query(envs[1]["DATABASE_URL"], "SELECT 1") == 1


def test_a_data_directory_in_use_is_refused_with_its_user(make_stack: MakeStack, data_dir: Path) -> None:
    make_stack(valkey=False).start()
    with pytest.raises(EmbeddedError, match=r"already runs .* \(process \d+\)") as refused:
        EmbeddedStack(data_dir)
    assert refused.value.code == "already_running"


def test_nothing_runs_after_stop(make_stack: MakeStack, data_dir: Path) -> None:
    stack = make_stack()
    stack.start()
    assert {process.name for process in processes_in(data_dir)} >= {"postgres", "valkey-server"}
    stack.stop()
    wait_until(lambda: not processes_in(data_dir))


def test_a_failed_start_leaves_nothing_running(make_stack: MakeStack, data_dir: Path) -> None:
    first = make_stack(valkey=False)
    first.start()
    first.stop()
    [version] = [path for path in data_dir.rglob("PG_VERSION") if path.parent.name == "data"]
    version.write_text("9\n")
    stack = make_stack()
    with pytest.raises(EmbeddedError) as failed:
        stack.start()
    assert failed.value.code == "postgres_start"
    assert "incompatible" in failed.value.hint
    wait_until(lambda: not processes_in(data_dir))


def test_the_emulator_speaks_to_googles_client_and_keeps_its_tables(make_stack: MakeStack) -> None:
    stack = make_stack(emulator=True, postgres=False, valkey=False)
    env = stack.start()

    def client() -> bigquery.Client:
        options = {"api_endpoint": env["BIGQUERY_REST_ENDPOINT"]}
        return bigquery.Client(project="p", credentials=AnonymousCredentials(), client_options=options)

    with closing(client()) as google:
        google.create_dataset("shop", timeout=60)
    stack.emulator.kill()
    stack.emulator.start()
    assert stack.environment() == env
    with closing(client()) as google:
        assert [dataset.dataset_id for dataset in google.list_datasets(timeout=60)] == ["shop"]
    host, port = env["BIGQUERY_STORAGE_ENDPOINT"].split(":")
    socket.create_connection((host, int(port)), timeout=5).close()
