"""A worker looks into live systems while the page waits, at most five seconds."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from celery import current_app
from django_celery_results.models import TaskResult
from google.cloud.bigquery import SchemaField
from kombu import Connection as BrokerConnection

from pipelines import answers, look_ends, lookups
from pipelines.fields import LostSecrets, fernet
from pipelines.lookups import LookupFailed
from pipelines.models import Pipeline
from pipelines.tasks import look_up
from tests.definitions import PATIENCE_S
from tests.emulator_tables import EmulatorTables

pytestmark = [pytest.mark.django_db, pytest.mark.xdist_group("lookups")]

SCHEMA = (
    SchemaField("id", "INT64", "REQUIRED"),
    SchemaField("price", "NUMERIC"),
    SchemaField("tags", "STRING", "REPEATED"),
    SchemaField("place", "RECORD", fields=[SchemaField("lat", "FLOAT64"), SchemaField("name", "STRING")]),
)


@pytest.fixture(scope="module")
def shop(emulator: dict[str, str]) -> Iterator[str]:
    """A dataset with one small table, items."""
    tables = EmulatorTables(emulator["rest"])
    place = pa.struct([("lat", pa.float64()), ("name", pa.string())])
    rows = pa.table(
        {
            "id": pa.array([1, 2], pa.int64()),
            "price": pa.array([None, 1], pa.decimal128(38, 9)),
            "tags": pa.array([["a"], []], pa.list_(pa.string())),
            "place": pa.array([{"lat": 1.5, "name": "Rome"}, None], place),
        }
    )
    tables.make("lookups_shop.items", SCHEMA, rows)
    yield "lookups_shop"
    tables.close()


@pytest.fixture
def pipeline(source: Any, living_destination: Any, shop: str) -> Pipeline:
    return Pipeline(
        name="Items", source=source, source_table=f"{shop}.items", destination=living_destination, target_table="items"
    )


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def take() -> None:
            try:
                while True:
                    kept.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=take)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for taken in kept:
            taken.close()


# A worker answers ------------------------------------------------------------------------------


@pytest.mark.usefixtures("lookups_worker")
class TestWithAWorker:
    def test_browsing_a_source(self, source, shop):
        assert shop in lookups.datasets(source)
        (table,) = [t for t in lookups.tables(source, shop) if t["name"] == "items"]
        assert (table["dataset"], table["kind"]) == (shop, "TABLE")

    def test_describing_a_table_names_its_types_as_bigquery_does(self, source, shop):
        seen = lookups.describe(source, table=f"{shop}.items")
        assert seen["columns"] == [
            {"name": "id", "type": "INT64"},
            {"name": "price", "type": "NUMERIC"},
            {"name": "tags", "type": "ARRAY<STRING>"},
            {"name": "place", "type": "STRUCT<lat FLOAT64, name STRING>"},
        ]

    def test_a_preview_has_rows_as_text(self, source, shop):
        seen = lookups.preview(source, table=f"{shop}.items")
        assert [column["name"] for column in seen["columns"]] == ["id", "price", "tags", "place"]
        assert sorted(row[:2] for row in seen["rows"]) == [["1", None], ["2", "1"]]

    def test_a_query_is_described_and_previewed(self, source, shop):
        query = f"SELECT id, id * 2 AS twice FROM {shop}.items WHERE id = 2"
        assert [c["name"] for c in lookups.describe(source, query=query)["columns"]] == ["id", "twice"]
        assert lookups.preview(source, query=query)["rows"] == [["2", "4"]]

    def test_schemas_of_a_destination(self, living_destination):
        assert "public" in lookups.schemas(living_destination)

    @pytest.mark.parametrize("which", ["source", "living_destination"])
    def test_a_connection_that_works_passes_its_test(self, request, which):
        connection = request.getfixturevalue(which)
        steps = lookups.test_connection(connection.kind, {**connection.options, **connection.secrets})
        assert steps
        assert [step for step in steps if step["passed"] is False] == []

    def test_a_connection_that_is_down_fails_a_step_that_says_it_may_pass(self, destination):
        steps = lookups.test_connection("postgres", {**destination.options, "password": "x"})
        assert (steps[-1]["passed"], steps[-1]["transient"]) == (False, True)

    def test_a_wrong_password_fails_a_step_and_is_told_nowhere(self, living_destination):
        options = {**living_destination.options, "password": "not-the-password"}
        steps = lookups.test_connection("postgres", options)
        assert (steps[-1]["passed"], steps[-1]["transient"]) == (False, False)
        assert "not-the-password" not in json.dumps(steps)

    def test_what_is_not_there_is_told_with_its_field(self, source, shop):
        with pytest.raises(LookupFailed) as caught:
            lookups.describe(source, table=f"{shop}.nowhere")
        assert (caught.value.code, caught.value.field) == ("table_not_found", "table")
        assert "nowhere" in caught.value.message

    def test_answers_are_forgotten_once_read(self, source, shop):
        before = TaskResult.objects.count()
        lookups.preview(source, table=f"{shop}.items")
        assert TaskResult.objects.count() == before

    def test_a_pipeline_that_can_work_has_no_findings(self, pipeline):
        assert lookups.validate_pipeline(pipeline) == []

    def test_each_end_is_judged_whatever_the_other_says(self, pipeline, shop):
        pipeline.source_table, pipeline.target_schema = f"{shop}.nowhere", "no_such_schema"
        found = {finding.field: finding for finding in lookups.validate_pipeline(pipeline)}
        assert {field: (f.code, f.definite) for field, f in found.items()} == {
            "source_table": ("table_not_found", True),
            "target_schema": ("schema_missing", True),
        }
        pipeline.write_disposition = "append"
        assert {f.field for f in lookups.validate_pipeline(pipeline)} == {"source_table", "target_schema"}

    @pytest.mark.parametrize(
        "query", ["DELETE FROM lookups_shop.items WHERE TRUE", "SELECT nonsense FROM", "SELECT 1; SELECT 2"]
    )
    def test_a_query_must_be_a_select(self, pipeline, query):
        pipeline.source_table, pipeline.source_query = "", query
        (finding,) = lookups.validate_pipeline(pipeline)
        assert (finding.field, finding.definite) == ("source_query", True)

    def test_a_table_of_somebody_else_is_not_taken_over_unasked(self, pipeline, warehouse_cursor):
        warehouse_cursor.execute("CREATE TABLE public.lookups_theirs (id bigint)")
        pipeline.target_table = "lookups_theirs"
        (finding,) = lookups.validate_pipeline(pipeline)
        assert (finding.field, finding.definite) == ("target_table", True)
        pipeline.adopt_target = True
        assert lookups.validate_pipeline(pipeline) == []

    def test_a_filter_that_bigquery_does_not_take_is_told_of_its_field(self, pipeline):
        pipeline.row_filter = "no_such_column = 1"
        (finding,) = lookups.validate_pipeline(pipeline)
        assert (finding.field, finding.code, finding.definite) == ("row_filter", "invalid_query", True)

    def test_a_target_that_lacks_a_column_cannot_be_appended_to(self, pipeline, warehouse_cursor):
        warehouse_cursor.execute("CREATE TABLE public.lookups_narrow (id bigint)")
        pipeline.target_table, pipeline.adopt_target, pipeline.write_disposition = "lookups_narrow", True, "append"
        findings = lookups.validate_pipeline(pipeline)
        assert {f.field for f in findings} == {"target_table"}
        assert "price" in " ".join(f.message for f in findings)

    def test_a_destination_that_is_down_is_no_definite_finding(self, pipeline, destination, shop):
        pipeline.destination, pipeline.source_table = destination, f"{shop}.nowhere"
        found = {finding.field: finding for finding in lookups.validate_pipeline(pipeline)}
        assert (found["destination"].definite, found["source_table"].definite) == (False, True)

    def test_options_of_a_connection_that_are_wrong_point_at_the_connection(self, pipeline, living_destination):
        living_destination.secrets = {"password": "wrong"}
        (finding,) = lookups.validate_pipeline(pipeline)
        assert (finding.field, finding.definite) == ("destination", True)


# Nobody answers --------------------------------------------------------------------------------


def test_a_silent_destination_does_not_keep_the_page_waiting(pipeline, destination, silent_port, shop, monkeypatch):
    monkeypatch.setattr(lookups, "_ask", lambda what, **details: asked(what=what, **details)["ok"])
    destination.options["port"] = silent_port
    destination.options["sslmode"] = "disable"
    pipeline.destination, pipeline.source_table = destination, f"{shop}.nowhere"
    began = time.monotonic()
    found = {finding.field: finding for finding in lookups.validate_pipeline(pipeline)}
    assert time.monotonic() - began < PATIENCE_S / 2
    assert (found["destination"].definite, found["source_table"].definite) == (False, True)
    assert look_ends.CALL_LIMIT_S < answers.ANSWER_LIMIT_S < lookups.WAIT_S <= 5


@pytest.fixture
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions go to a queue without workers: the session's worker listens on the usual one."""
    apply = look_up.apply_async
    monkeypatch.setattr(look_up, "apply_async", lambda *args, **named: apply(*args, **named, queue="nobody_listens"))


@pytest.mark.usefixtures("nobody_listens")
def test_without_a_worker_the_page_hears_so_in_time(source, monkeypatch):
    monkeypatch.setattr(lookups, "WAIT_S", 1.0)
    began = time.monotonic()
    with pytest.raises(LookupFailed) as caught:
        lookups.datasets(source)
    assert caught.value.code == "no_worker"
    assert time.monotonic() - began < PATIENCE_S / 2


def test_without_a_broker_the_page_hears_so_at_once(source, monkeypatch):
    monkeypatch.setattr(lookups, "WAIT_S", PATIENCE_S)
    options = current_app.conf.broker_transport_options
    apply = look_up.apply_async
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and listens to nobody; nobody else does there meanwhile
        port = nobody.getsockname()[1]
        closed = BrokerConnection(f"redis://127.0.0.1:{port}/0", transport_options=options)
        monkeypatch.setattr(look_up, "apply_async", lambda *args, **named: apply(*args, **named, connection=closed))
        began = time.monotonic()
        with pytest.raises(LookupFailed) as caught:
            lookups.datasets(source)
    assert caught.value.code == "broker_down"
    assert time.monotonic() - began < PATIENCE_S / 2


def test_lost_keys_and_bad_options_are_told_without_asking(source, destination):
    destination.secrets = LostSecrets("token")
    with pytest.raises(LookupFailed) as lost:
        lookups.schemas(destination)
    assert lost.value.code == "key_lost"
    findings = lookups.validate_pipeline(Pipeline(source=source, destination=destination))
    assert [(f.field, f.code) for f in findings] == [("destination", "key_lost")]
    with pytest.raises(LookupFailed) as bad:
        lookups.test_connection("postgres", {"host": "db"})
    assert (bad.value.code, bad.value.field) == ("required", "dbname")


# The worker's side -----------------------------------------------------------------------------


def asked(**details: Any) -> dict[str, Any]:
    return answers.answer(fernet().encrypt(json.dumps(details).encode()).decode())


def test_a_question_in_another_key_is_refused_in_words():
    assert answers.answer("gibberish")["error"]["code"] == "keys_differ"


def test_a_defect_is_logged_and_told_without_its_details(caplog):
    answer = asked(what="datasets", nonsense=True)
    assert answer["error"]["code"] == "lookup_failed"
    assert "nonsense" not in json.dumps(answer)
    assert "nonsense" in caplog.text


def test_questions_carry_no_secret_in_the_clear(destination, monkeypatch):
    sent = []
    monkeypatch.setattr(look_up, "apply_async", lambda args, **_: sent.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lookups.schemas(destination)
    assert "s3cret" not in json.dumps(sent)
    assert "s3cret" in fernet().decrypt(sent[0][0].encode()).decode()
