"""What a second start of the demo leaves as it was."""

from __future__ import annotations

import pytest

from datamantri.demo import definitions
from pipelines import lookups
from pipelines.models import Connection


@pytest.mark.django_db
def test_the_key_that_masks_were_made_with_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "validate_pipeline", lambda pipeline: None)  # nobody is there to ask

    def start() -> Connection:
        warehouse = {"host": "127.0.0.1", "port": 1, "dbname": "shop", "user": "mover", "password": "s3cret"}
        definitions.ensure(project="demo", warehouse=warehouse, by=None)
        return Connection.objects.get(name=definitions.DESTINATION)

    first = start()
    assert len(first.secrets["mask_key"]) >= 32
    assert start().secrets == first.secrets
    first.secrets = {**first.secrets, "mask_key": "chosen by a person: " + "x" * 32}
    first.save()
    assert start().secrets == first.secrets
