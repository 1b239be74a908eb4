"""Key, indexes and partitions on the desk: typed, checked, kept, copied."""

from __future__ import annotations

import pytest

from pipelines import services
from pipelines.models import Pipeline
from tests.pipelines.test_admin_pipelines import ADD, again, change_url, findings, form_errors, typed

__all__ = ["findings"]

FORM = {
    "primary_key": " order_id, `day` ",
    "indexes": "customer, day\n\nUnique: number, `day`\n",
    "partition_column": " day",
    "partition_unit": "year",
    "analyze": "full",
}
DEFINED = {
    "primary_key": ["order_id", "day"],
    "indexes": [{"columns": ["customer", "day"], "unique": False}, {"columns": ["number", "day"], "unique": True}],
    "partition_column": "day",
    "partition_unit": "year",
    "analyze": "full",
}


def test_what_is_typed_is_kept_shown_again_and_part_of_the_revision(admin_client, source, destination, findings):
    assert admin_client.post(ADD, typed(source, destination, **FORM)).status_code == 302
    pipeline = Pipeline.objects.get()
    assert pipeline.revision.definition["target_options"] == DEFINED
    page = admin_client.get(change_url(pipeline)).content.decode()
    assert 'value="order_id,day"' in page
    assert "customer, day\nunique: number, day</textarea>" in page
    assert "Begin with “unique:”" in page
    assert admin_client.post(change_url(pipeline), again(pipeline, **FORM)).status_code == 302
    assert pipeline.revisions.count() == 1
    assert admin_client.post(change_url(pipeline), again(pipeline, **FORM | {"indexes": "customer"})).status_code == 302
    assert pipeline.revisions.count() == 2


def test_how_a_table_is_made_does_not_change_which_rows_belong_in_it(make_pipeline, operator):
    pipeline = make_pipeline()
    before = pipeline.revision.fingerprint
    pipeline.primary_key, pipeline.partition_column = ["id", "day"], "day"
    assert services.save_pipeline(pipeline, schedules=None, by=operator).fingerprint == before


def test_a_duplicate_has_them_too(make_pipeline, operator):
    copy = services.duplicate(make_pipeline(**DEFINED), by=operator)
    assert copy.revision.definition["target_options"] == DEFINED


REFUSED = {
    "a key outside the partitions": ({"primary_key": "id", "partition_column": "day"}, "primary_key"),
    "a unique index outside them": ({"indexes": "unique: id", "partition_column": "day"}, "indexes"),
    "a merge key outside them": (
        {"write_disposition": "merge", "merge_key": "id", "partition_column": "day"},
        "merge_key",
    ),
    "a column twice": ({"primary_key": "id, ID"}, "primary_key"),
    "an index twice": ({"indexes": "a, b\nunique: A, B"}, "indexes"),
    "an index of nothing": ({"indexes": "unique:"}, "indexes"),
    "too many": ({"indexes": "\n".join(f"c{i}" for i in range(21))}, "indexes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_at_its_field(admin_client, source, destination, findings, what):
    changes, field = REFUSED[what]
    assert set(form_errors(admin_client.post(ADD, typed(source, destination, **changes)))) == {field}
