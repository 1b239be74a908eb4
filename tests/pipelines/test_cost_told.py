"""What runs will cost, by a dry run: told on saving, in the form as it is typed, and in the API."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.bigquery.client import Endpoints
from connectors.billing import TIB
from pipelines import answers, lookups
from pipelines.fields import fernet
from pipelines.models import Pipeline
from tests.bigquery.fixtures import bigquery, bigquery_tables  # noqa: F401
from tests.pipelines.test_admin_pipelines import ADD, DESK, typed

pytestmark = pytest.mark.django_db
ROWS = 50_000
TABLE = "cost_told.orders"
# 400,000 bytes of the column that is not skipped, at 1 for each 1,000.
A_RUN = "A run bills about 400 kB: 400.00."


@pytest.fixture
def table(
    bigquery: Any,  # noqa: F811
    bigquery_tables: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> dict[str, Any]:
    """What a form says of a table in a BigQuery whose dry runs tell bytes; this process itself looks things up."""

    def ask(what: str, **details: Any) -> Any:
        question = fernet().encrypt(json.dumps({"what": what, **details}).encode()).decode()
        return answers.answer(question)["ok"]

    monkeypatch.setattr(lookups, "_ask", ask)
    monkeypatch.setattr(Endpoints, "from_environment", lambda: bigquery.endpoints)
    settings.PRICE_PER_TIB, settings.STORAGE_PRICE_PER_TIB = 0.0, TIB / 1000
    rows = pa.table({"id": pa.array(range(ROWS), pa.int64()), "text": ["x"] * ROWS})
    bigquery_tables.make(TABLE, [SchemaField("id", "INT64"), SchemaField("text", "STRING")], rows)
    return {"source_table": TABLE, "target_table": "cost_told", "column_rules": '{"text": {"skip": true}}'}


def test_a_save_a_typed_form_and_the_api_tell_what_runs_bill(
    admin_client: Any, source: Any, living_destination: Any, table: dict[str, Any]
) -> None:
    told = admin_client.post(f"{DESK}forecast/", typed(source, living_destination, **table)).json()
    assert (told["findings"], told["cost"]) == ([], [A_RUN])
    saved = admin_client.post(ADD, typed(source, living_destination, {"cron": "0 6 * * *"}, **table), follow=True)
    a_month = f"{A_RUN} Its schedules start 30 runs in the next 30 days: about 12,000.00."
    assert a_month in [str(message) for message in saved.context["messages"]]
    answer = admin_client.get(f"/api/v1/pipelines/{Pipeline.objects.get().pk}/forecast/").json()["cost"]
    assert (answer["query_bytes"], answer["storage_bytes"], answer["money"]) == (0, 8 * ROWS, 400.0)
    assert (answer["runs_a_month"], answer["money_a_month"], answer["is_first"]) == (30, 12_000.0, False)
