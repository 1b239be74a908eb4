"""A watermark that a person sets says nothing of the definition that the table was written by."""

from __future__ import annotations

import uuid

import pytest

from connectors import transfer
from connectors.column import Column
from connectors.cursor import CursorRead
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition, WriteMode
from connectors.reading import Description, ReadRequest
from tests.connectors.memory import ID_NAME, MemorySource, batch


class Described(MemorySource):
    def describe(self, request: ReadRequest) -> Description:
        return Description((*ID_NAME, Column("at", "INT64")))


def test_a_changed_definition_is_still_asked_about_after_it(world, admin):
    world.move([1], "append", read=CursorRead("id"), fingerprint="former")
    destination = world.destination()
    fence = world.fence(destination, uuid.uuid4())
    request = transfer.TransferRequest(
        fence.owner,
        ReadRequest(table="a.b.c", cursor=CursorRead("at")),
        world.target,
        WriteMode(WriteDisposition.APPEND),
        fingerprint="another",
    )
    transfer.set_watermark(Described([batch([1])]), destination, fence, request, "7", reporter=world.recorder)
    admin.execute("SELECT watermark, fingerprint FROM _datamantri.head")
    assert admin.fetchone() == ("7", "former")
    with pytest.raises(ConnectorError) as caught:
        world.move([2], "append", fingerprint="another")
    assert caught.value.code == "definition_changed"
