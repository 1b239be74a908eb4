"""What pipelines wait for: through the form, the API and files; and never in a circle."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.db.models import ProtectedError
from django.urls import reverse

from pipelines import dependencies, lookups, revisions, services
from pipelines.dependencies import DependencySpec
from pipelines.files.exporting import export
from pipelines.models import Dependency, Pipeline, PipelineState
from pipelines.objections import PipelineRefused
from tests.pipelines.test_admin_pipelines import again
from tests.pipelines.test_files import applied, refused

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The live systems have nothing against anything; stands for those systems."""
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: [])


def wait_for(pipeline: Pipeline, *upstreams: Pipeline | DependencySpec) -> None:
    specs = [each if isinstance(each, DependencySpec) else DependencySpec(each.pk) for each in upstreams]
    services.save_pipeline(pipeline, schedules=None, dependencies=specs, by=None)


def upstreams_of(pipeline: Pipeline) -> list[str]:
    return list(pipeline.dependencies.order_by("upstream__name").values_list("upstream__name", flat=True))


def test_a_cycle_is_refused_with_all_that_are_in_it(make_pipeline):
    first, second, third, beside = (make_pipeline(name) for name in ("Orders", "Items", "Sales", "Beside"))
    wait_for(second, first, beside)
    wait_for(third, second)
    with pytest.raises(PipelineRefused) as error:
        wait_for(first, third)
    assert error.value.code == "dependency_cycle"
    assert error.value.field == "dependencies"
    assert "Orders → Items → Sales → Orders" in str(error.value)
    assert upstreams_of(first) == []
    with pytest.raises(PipelineRefused, match="Orders cannot wait for itself"):
        wait_for(first, first)


def test_a_diamond_is_no_cycle(make_pipeline):
    top, left, right, bottom = (make_pipeline(name) for name in ("Top", "Left", "Right", "Bottom"))
    wait_for(left, top)
    wait_for(right, top)
    wait_for(bottom, left, right, top)
    assert upstreams_of(bottom) == ["Left", "Right", "Top"]


def test_the_database_knows_no_pipeline_that_waits_for_itself(make_pipeline):
    pipeline = make_pipeline()
    with pytest.raises(IntegrityError), transaction.atomic():
        Dependency.objects.create(pipeline=pipeline, upstream=pipeline)


def somebody_waits() -> bool:
    """Whether somebody waits for a lock in this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return cursor.fetchone()[0]


@pytest.mark.django_db(transaction=True)
def test_two_people_who_save_at_the_same_moment_make_no_cycle(make_pipeline, monkeypatch):
    """The second one waits for the first, and then sees what that one saved."""
    one, other = make_pipeline("One"), make_pipeline("Other")
    has_checked, may_go_on = threading.Event(), threading.Event()
    against = dependencies.against

    def slowly(*args: Any) -> Any:
        found = against(*args)
        if threading.current_thread().name == "first":
            has_checked.set()
            may_go_on.wait(60)
        return found

    monkeypatch.setattr(dependencies, "against", slowly)
    results: dict[str, Exception | None] = {}

    def save(name: str, pipeline: Pipeline, upstream: Pipeline) -> None:
        try:
            wait_for(pipeline, upstream)
            results[name] = None
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[name] = error
        finally:
            connection.close()

    first = threading.Thread(target=save, args=("first", one, other), name="first")
    second = threading.Thread(target=save, args=("second", other, one), name="second")
    first.start()
    assert has_checked.wait(60)
    second.start()
    while second.is_alive() and not somebody_waits():
        time.sleep(0.02)
    assert second.is_alive(), "it does not look while another one changes the graph"
    may_go_on.set()
    first.join(60)
    second.join(60)
    assert results["first"] is None
    assert isinstance(results["second"], PipelineRefused)
    assert "Other → One → Other" in str(results["second"])


def test_dependencies_are_part_of_a_revision(make_pipeline, operator):
    upstream, pipeline = make_pipeline("Orders"), make_pipeline("Sales")
    wait_for(pipeline, DependencySpec(upstream.pk, "offset", 86400, 6, "skip"))
    first, second = pipeline.revisions.order_by("number")
    told = [(each.sign, each.label, each.words) for each in revisions.changes(first, second)]
    words = "until it has succeeded for the data interval 1 day earlier, at most 6 h, then the run is skipped"
    assert told == [("+", "Waits for Orders", words)]
    wait_for(pipeline, DependencySpec(upstream.pk, "offset", 86400, 6, "skip"))
    assert pipeline.revisions.count() == 2, "the same again is no change"
    revisions.revert(revisions.prepare(first), by=operator)
    assert upstreams_of(pipeline) == []
    revisions.revert(revisions.prepare(second), by=operator)
    assert [DependencySpec.of(each) for each in pipeline.dependencies.all()] == [
        DependencySpec(upstream.pk, "offset", 86400, 6, "skip")
    ]


def test_going_back_to_what_is_a_cycle_by_now_is_refused(make_pipeline, operator):
    orders, sales = make_pipeline("Orders"), make_pipeline("Sales")
    wait_for(sales, orders)
    wait_for(sales)
    wait_for(orders, sales)
    prepared = revisions.prepare(sales.revisions.get(number=2))
    assert [each.code for each in prepared.refused] == ["dependency_cycle"]
    with pytest.raises(PipelineRefused, match="Sales → Orders → Sales"):
        revisions.revert(prepared, by=operator)


def test_an_archived_pipeline_waits_for_nothing_and_is_not_waited_for(make_pipeline):
    orders, sales = make_pipeline("Orders"), make_pipeline("Sales")
    wait_for(sales, orders)
    services.archive([sales], by=None)
    assert upstreams_of(sales) == []
    with pytest.raises(PipelineRefused, match="Sales is archived and will not run"):
        wait_for(orders, sales)


def test_a_pipeline_that_others_wait_for_is_not_deleted(make_pipeline):
    orders, sales = make_pipeline("Orders"), make_pipeline("Sales")
    wait_for(sales, orders)
    with pytest.raises(ProtectedError):
        orders.delete()


def test_a_copy_waits_for_the_same(make_pipeline):
    orders, sales = make_pipeline("Orders"), make_pipeline("Sales")
    wait_for(sales, orders)
    assert upstreams_of(services.duplicate(sales, by=None)) == ["Orders"]


# The API --------------------------------------------------------------------------------------


def patch(client: Any, pipeline: Pipeline, value: Any) -> Any:
    address = f"/api/v1/pipelines/{pipeline.pk}/"
    return client.patch(address, {"dependencies": value}, content_type="application/json")


def test_the_api_sets_shows_and_refuses_dependencies(make_pipeline, admin_client):
    orders, sales = make_pipeline("Orders"), make_pipeline("Sales")
    said = {"upstream": str(orders.pk), "rule": "offset", "offset_s": 3600, "give_up_hours": 2, "on_give_up": "skip"}
    answer = patch(admin_client, sales, [said])
    assert answer.status_code == 200, answer.json()
    assert answer.json()["dependencies"] == [{**said, "upstream_name": "Orders"}]
    assert patch(admin_client, sales, [{"upstream": str(orders.pk)}]).json()["dependencies"] == [
        {
            "upstream": str(orders.pk), "upstream_name": "Orders", "rule": "same_interval", "offset_s": None,
            "give_up_hours": 24, "on_give_up": "fail",
        }
    ]  # fmt: skip
    cycle = patch(admin_client, orders, [{"upstream": str(sales.pk)}])
    assert cycle.status_code == 400
    (problem,) = cycle.json()["fields"]["dependencies"]
    assert problem["code"] == "dependency_cycle"
    assert "Orders → Sales → Orders" in problem["message"]
    twice = patch(admin_client, sales, [{"upstream": str(orders.pk)}, {"upstream": str(orders.pk)}])
    assert [each["code"] for each in twice.json()["fields"]["dependencies"]] == ["dependency_twice"]
    without = patch(admin_client, sales, [{"upstream": str(orders.pk), "rule": "offset"}])
    assert [each["code"] for each in without.json()["fields"]["dependencies"]] == ["dependency_offset"]


# Files ----------------------------------------------------------------------------------------


def test_a_file_has_dependencies_by_name_and_comes_back_as_it_was(make_pipeline, tmp_path: Path):
    orders, items, sales = make_pipeline("Orders"), make_pipeline("Items"), make_pipeline("Sales")
    wait_for(sales, DependencySpec(orders.pk, "offset", 86400, 6, "skip"), items)
    content = export()
    assert "dependencies:\n      - pipeline: Items\n      - pipeline: Orders\n        rule: offset" in content
    assert "Nothing to change" in applied(content, tmp_path)
    wait_for(sales)
    applied(content, tmp_path)
    assert export() == content


def test_a_file_may_name_what_comes_later_in_it_and_turn_a_dependency_round(make_pipeline, tmp_path: Path):
    a, b = make_pipeline("A"), make_pipeline("B")
    wait_for(b, a)
    turned = (
        export()
        .replace("      dependencies:\n      - pipeline: A\n", "")
        .replace("    dependencies:\n      - pipeline: A\n", "")
    )
    at = turned.index("  B:")
    turned = turned[:at] + "    dependencies:\n      - pipeline: New\n      - pipeline: B\n" + turned[at:]
    new = turned[turned.index("  B:") :].replace("  B:", "  New:").replace("target_table: b", "target_table: new")
    applied(turned + new, tmp_path)
    assert upstreams_of(a) == ["B", "New"]
    assert upstreams_of(b) == []


def test_a_file_with_a_cycle_is_refused_with_the_cycle_and_its_line(make_pipeline, tmp_path: Path):
    a, b = make_pipeline("A"), make_pipeline("B")
    wait_for(b, a)
    content = export()
    at = content.index("  B:")
    message = refused(content[:at] + "    dependencies:\n      - pipeline: B\n" + content[at:], tmp_path)
    assert "A → B → A" in message or "B → A → B" in message
    assert upstreams_of(b) == ["A"]
    assert upstreams_of(a) == []
    assert "There is no pipeline called Nowhere" in refused(
        content.replace("- pipeline: A", "- pipeline: Nowhere"), tmp_path
    )


# The form -------------------------------------------------------------------------------------


@pytest.fixture
def form_of(admin_client: Any, admin_user: User) -> Any:
    """Posts a pipeline's form as it is, with these dependencies."""

    def post(pipeline: Pipeline, rows: list[dict[str, Any]]) -> Any:
        values = again(pipeline)
        values |= {"dependencies-TOTAL_FORMS": len(rows), "dependencies-INITIAL_FORMS": pipeline.dependencies.count()}
        for number, row in enumerate(rows):
            filled = {"rule": "same_interval", "give_up_hours": 24, "on_give_up": "fail", **row}
            values |= {f"dependencies-{number}-{name}": value for name, value in filled.items()}
        return admin_client.post(reverse("admin:pipelines_pipeline_change", args=[pipeline.pk]), values)

    return post


def test_the_form_sets_changes_and_takes_out_dependencies(make_pipeline, form_of):
    orders, items, sales = make_pipeline("Orders"), make_pipeline("Items"), make_pipeline("Sales")
    assert form_of(sales, [{"upstream": orders.pk}, {"upstream": items.pk, "rule": "new_data"}]).status_code == 302
    assert upstreams_of(sales) == ["Items", "Orders"]
    first, second = sales.dependencies.order_by("pk")
    rows = [
        {"id": first.pk, "pipeline": sales.pk, "upstream": orders.pk, "rule": "offset", "offset_s": 60},
        {"id": second.pk, "pipeline": sales.pk, "upstream": items.pk, "DELETE": "on"},
    ]
    assert form_of(sales, rows).status_code == 302
    assert [DependencySpec.of(each) for each in sales.dependencies.all()] == [DependencySpec(orders.pk, "offset", 60)]


def test_the_form_shows_the_cycle(make_pipeline, form_of):
    orders, sales = make_pipeline("Orders"), make_pipeline("Sales")
    wait_for(sales, orders)
    answer = form_of(orders, [{"upstream": sales.pk}])
    assert answer.status_code == 200
    assert "for each other for ever: Orders → Sales → Orders." in answer.content.decode()
    assert upstreams_of(orders) == []
    lacks = form_of(sales, [{"upstream": orders.pk, "rule": "offset"}])
    assert "Give the seconds by which" in lacks.content.decode()


def test_a_pipeline_that_is_archived_by_the_form_waits_no_more(make_pipeline):
    orders, sales = make_pipeline("Orders"), make_pipeline("Sales")
    wait_for(sales, orders)
    sales.state = PipelineState.ARCHIVED
    services.save_pipeline(sales, schedules=None, by=None)
    assert upstreams_of(sales) == []
