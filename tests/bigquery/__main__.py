"""The BigQuery that behaves as a process of its own, told through its door what shall go wrong.

    python -m tests.bigquery --rest http://127.0.0.1:9050 --storage 127.0.0.1:9060

It prints its addresses as one line of JSON. The door's functions are those of `Told` below; see `tests.door`.
"""

from __future__ import annotations

import argparse
from typing import Any

from tests import door
from tests.bigquery.proxy import BehavingBigQuery

_SETTINGS = ("lifetime_s", "throttle_percent", "message_bytes", "small_bytes")


class Told:
    """What the door offers; arguments and results are JSON."""

    def __init__(self, proxy: BehavingBigQuery) -> None:
        self._proxy = proxy

    def inject(self, kind: Any, method: str = "", target: str = "", **how: Any) -> int:
        """The number of the fault; arguments as those of Faults.inject."""
        return self._proxy.faults.inject(kind, method, target, **how).number

    def clear(self) -> None:
        self._proxy.faults.clear()

    def faults(self) -> list[dict[str, Any]]:
        """Those in wait, with their hits."""
        return self._proxy.faults.told()

    def expire(self) -> None:
        """All sessions are over."""
        self._proxy.storage.expire()

    def set(self, **settings: float) -> None:
        if unknown := set(settings) - set(_SETTINGS):
            raise ValueError(f"there is no {', '.join(unknown)}; there are {', '.join(_SETTINGS)}")
        for name, value in settings.items():
            setattr(self._proxy.storage, name, value)

    def calls(self, method: str, target: str = "") -> int:
        """How many calls there were of this method, whose target ends so."""
        return len(self._proxy.made(method, target))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bigquery", description="A BigQuery that behaves.")
    parser.add_argument("--rest", required=True, help="the emulator's URL")
    parser.add_argument("--storage", required=True, help="the emulator's host:port for gRPC")
    parser.add_argument("--rest-port", type=int, default=0)
    parser.add_argument("--storage-port", type=int, default=0)
    parser.add_argument("--door-port", type=int, default=0)
    parser.add_argument("--no-history", action="store_true", help="do not copy a table before it changes")
    chosen = parser.parse_args()
    with BehavingBigQuery(
        rest=chosen.rest,
        storage=chosen.storage,
        keeps_history=not chosen.no_history,
        with_relays=True,
        rest_port=chosen.rest_port,
        storage_port=chosen.storage_port,
    ) as proxy:
        told = Told(proxy)
        functions = {name: getattr(told, name) for name in ("inject", "clear", "faults", "expire", "set", "calls")}
        addresses = {"rest": proxy.endpoints.rest, "storage": proxy.endpoints.storage}
        door.serve(functions, addresses, port=chosen.door_port)


if __name__ == "__main__":
    main()
