"""The OpenAPI schema is complete, and its docs are for people who are logged in."""

from __future__ import annotations

from io import StringIO

import yaml
from django.core.management import call_command
from django.test import Client


def test_the_schema_is_valid_and_gives_no_warnings():
    out = StringIO()
    call_command("spectacular", "--fail-on-warn", "--validate", stdout=out)
    schema = yaml.safe_load(out.getvalue())
    operations = {
        (method, path.removeprefix("/api/v1/")) for path, methods in schema["paths"].items() for method in methods
    }
    assert operations == {
        ("get", "connections/"), ("get", "connections/{id}/"), ("patch", "connections/{id}/"),
        ("get", "pools/"), ("post", "pools/"), ("get", "pools/{id}/"), ("patch", "pools/{id}/"),
("get", "dataset-rules/"), ("post", "dataset-rules/"), ("get", "dataset-rules/{id}/"),
        ("patch", "dataset-rules/{id}/"), ("delete", "dataset-rules/{id}/"), ("post", "dataset-rules/{id}/look/"),
        ("get", "dataset-rules/{id}/looks/"), ("get", "dataset-rules/{id}/events/"),
        ("get", "calendars/"), ("post", "calendars/"), ("get", "calendars/{id}/"), ("patch", "calendars/{id}/"),
            ("delete", "calendars/{id}/"), ("post", "schedules/preview/"),
        ("delete", "pools/{id}/"),
        ("get", "alert-channels/"), ("post", "alert-channels/"), ("get", "alert-channels/{id}/"),
        ("patch", "alert-channels/{id}/"), ("delete", "alert-channels/{id}/"), ("post", "alert-channels/{id}/test/"),
        ("get", "alert-rules/"), ("post", "alert-rules/"), ("get", "alert-rules/{id}/"),
        ("patch", "alert-rules/{id}/"), ("delete", "alert-rules/{id}/"),
        ("get", "alerts/"), ("get", "alerts/{id}/"),
        ("get", "alert-deliveries/"), ("get", "alert-deliveries/{id}/"), ("post", "alert-deliveries/{id}/resend/"),
        ("get", "pipelines/"), ("post", "pipelines/"), ("get", "pipelines/{id}/"), ("patch", "pipelines/{id}/"),
        ("get", "pipelines/{id}/columns/"),
        ("get", "pipelines/{id}/forecast/"),
        ("post", "pipelines/{id}/pause/"), ("post", "pipelines/{id}/resume/"),
        ("post", "pipelines/{pipeline_id}/runs/"), ("get", "pipelines/{pipeline_id}/comparison/"),
        ("get", "runs/"), ("get", "runs/{id}/"), ("post", "runs/{id}/cancel/"), ("get", "runs/{id}/log/"),
        ("get", "runs/{id}/parts/"), ("get", "check-results/"), ("get", "schema-changes/"),
        *((method, "pipelines/{pipeline_id}/webhook/") for method in ("get", "post", "delete")),
        ("post", "runs/{id}/start/"), ("post", "pipelines/{pipeline_id}/runs/downstream/"),
        ("post", "runs/{id}/clear/"), ("post", "runs/{id}/mark-done/"),
        ("get", "backfills/"), ("get", "backfills/{id}/"), ("get", "backfills/{id}/slices/"),
        *(("post", f"backfills/{{id}}/{name}/") for name in ("pause", "resume", "cancel", "retry")),
        ("get", "pipelines/{pipeline_id}/realtime/"),
        ("get", "pipelines/{pipeline_id}/quarantine/"),
        *(("post", f"pipelines/{{pipeline_id}}/quarantine/{name}/") for name in ("replay", "discard")),
        *((method, "pipelines/{pipeline_id}/undo/") for method in ("get", "post", "delete")),
        ("post", "pipelines/{pipeline_id}/backfills/"), ("post", "pipelines/{pipeline_id}/backfills/preview/"),
        ("post", "runs/{id}/approve/"), ("post", "runs/{id}/discard/"),
            ("post", "runs/{id}/approve-cost/"), ("get", "ledger/"),
    }  # fmt: skip
    for methods in schema["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/Error"}
    assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_schema_and_docs_need_a_login(operator):
    client = Client()
    assert client.get("/api/v1/schema/").status_code == 401
    assert client.get("/api/v1/docs/").status_code == 302
    client.force_login(operator)
    assert client.get("/api/v1/schema/").status_code == 200
    docs = client.get("/api/v1/docs/")
    assert docs.status_code == 200
    assert "swagger-ui-bundle.js" in docs.content.decode()
    # From our own files: the docs work where the internet does not.
    assert "cdn.jsdelivr" not in docs.content.decode()
