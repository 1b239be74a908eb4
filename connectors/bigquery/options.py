"""What a BigQuery connection stores."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.options import option


@dataclass(frozen=True)
class BigQueryOptions:
    project: str = option("Project", help="The project that is billed, for example acme-analytics.")
    location: str = option(
        "Location", default="US", help="Where the datasets live: US, EU, or a region such as europe-west1."
    )
    credentials_json: str = option(
        "Service account key",
        default="",
        secret=True,
        multiline=True,
        help="The JSON key of a service account with the roles BigQuery Data Viewer, Job User and Read Session User.",
    )
