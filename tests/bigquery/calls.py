"""One request to the proxy, whichever side it comes in at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """`side` is rest or storage; `method` GET, POST, CreateReadSession, …; `target` a path, table or stream.

    Header names are in lower case.
    """

    side: str
    method: str
    target: str
    headers: Mapping[str, str]
    offset: int = 0

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")
