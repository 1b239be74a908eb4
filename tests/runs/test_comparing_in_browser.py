"""Compare now, as a person does it: real systems on both sides, a real look-up of the cost, a real browser."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.postgres import keep
from pipelines import services as definitions
from pipelines.models import Pipeline
from runs import services
from runs.models import Run, RunAction, Trigger
from tests.definitions import living_destination, lookups_worker
from tests.emulator_tables import EmulatorTables
from tests.runs.browser import *  # noqa: F403
from tests.runs.pages import *  # noqa: F403
from tests.runs.test_pages_in_browser import page

__all__ = ["living_destination", "lookups_worker", "page"]
# In no group of xdist's: groups come first, and these tests empty the database.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("lookups_worker")]
# The emulator is shared by all test workers, which may run these tests side by side.
TABLE = f"compare_{uuid.uuid4().hex[:8]}.things"


@pytest.fixture
def pipeline(
    source: Any, living_destination: Any, emulator: dict[str, str], warehouse_cursor: Any, work: Callable[..., int]
) -> Iterator[Pipeline]:
    """A pipeline that was run."""
    tables = EmulatorTables(emulator["rest"])
    rows = pa.table({"id": pa.array([1, 2], pa.int64()), "name": ["one", "two"]})
    tables.make(TABLE, [SchemaField("id", "INT64"), SchemaField("name", "STRING")], rows)
    pipeline = Pipeline(
        name="Things", source=source, source_table=TABLE, destination=living_destination, target_table="things",
        merge_key=["id"],
    )  # fmt: skip
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)
    assert work() == 1
    yield pipeline
    keep.sessions.clear()
    warehouse_cursor.execute("DROP TABLE IF EXISTS things; DROP SCHEMA IF EXISTS _datamantri CASCADE")
    tables.drop(TABLE)
    tables.close()


def test_press_compare_read_the_cost_and_see_the_answer(page, pipeline, work, warehouse_cursor):
    warehouse_cursor.execute("UPDATE things SET name = 'mine' WHERE id = 2")
    page.goto(f"/pipelines/{pipeline.pk}/")
    page.click("text=Compare …")
    page.wait_for_load_state()
    told = page.inner_text("main")
    assert TABLE in told
    assert "public.things is read as a whole" in told
    assert "Nothing is written at either side." in told
    assert page.is_checked("[value=snapshot]")
    page.click("form.panel button.primary")
    page.wait_for_load_state()
    run = Run.objects.get(action=RunAction.COMPARE)
    assert page.url.endswith(f"/runs/{run.pk}/")
    assert page.inner_text(".status .tag") == "Compare"
    assert work() == 1
    page.wait_for_selector(".comparison")
    assert page.inner_text(".status .tag") == "Compare: differs"
    assert "something else changed the target" in page.inner_text(".findings li >> nth=0")
    cells = page.inner_text(".keys tbody").split()
    assert cells == ["2", "differs", "name", "two", "mine"]
    assert page.inner_text(".sides tr.differs th") == "name STRING"
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.goto("/runs/")
    assert page.inner_text("tbody tr >> nth=0 >> .tag") == "Compare: differs"


def test_before_the_first_run_the_page_says_so(page, pipeline, warehouse_cursor):
    warehouse_cursor.execute("DROP SCHEMA _datamantri CASCADE")
    page.goto(f"/pipelines/{pipeline.pk}/compare/")
    assert "Nothing of this pipeline was published to public.things yet" in page.inner_text("main")
    assert page.query_selector("main button") is None


def test_a_query_says_that_it_is_read_as_it_is(page, pipeline, work):
    pipeline.source_table, pipeline.source_query = "", f"SELECT * FROM {TABLE}"
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    page.goto(f"/pipelines/{pipeline.pk}/compare/")
    assert "It is read as it is now: a query cannot be read as it was" in page.inner_text("main")
    assert page.query_selector("[type=radio]") is None
    page.click("form.panel button.primary")
    page.wait_for_load_state()
    assert Run.objects.get(action=RunAction.COMPARE).action_options["at"] == "snapshot"


def test_the_api_tells_the_cost_and_compares(pipeline, operator_client, viewer_client, work):
    address = f"/api/v1/pipelines/{pipeline.pk}"
    cost = operator_client.get(f"{address}/comparison/").json()
    assert cost["target"]["bytes"] > 0
    assert cost["source"]["most_billed"] >= cost["source"]["least_billed"] >= 10 * 2**20
    assert cost["source"]["no_snapshot"] == ""
    assert viewer_client.get(f"{address}/comparison/").status_code == 403
    assert viewer_client.post(f"{address}/runs/", {"action": "compare"}, "application/json").status_code == 403
    wanted = {"action": "compare", "keys": False, "maximum_bytes_billed": cost["source"]["most_billed"]}
    made = operator_client.post(f"{address}/runs/", wanted, "application/json")
    assert (made.status_code, made.json()["action"]) == (201, "compare")
    assert work() == 1
    run = operator_client.get(f"/api/v1/runs/{made.json()['id']}/").json()
    assert (run["receipt"]["answer"], run["receipt"]["agrees"]) == ("equal", True)
    refused = operator_client.post(f"{address}/runs/", {"at": "now"}, "application/json")
    assert refused.json()["fields"]["at"][0]["code"] == "only_for_compare"
