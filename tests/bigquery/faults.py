"""What goes wrong at the proxy, and when."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tests.bigquery.calls import Call
from tests.occasions import Occasions

Kind = Literal[
    "unavailable", "internal", "deadline", "exhausted", "expired", "reset", "short", "silence", "slow", "rate"
]
STREAM = "ReadRows"
# They go on for as long as the call lasts.
_LASTING = ("slow", "rate")


@dataclass(frozen=True)
class Fault:
    """One kind of fault, and the calls that it is for: of this `method` and with a target that ends so; empty is any.

    `unavailable`, `internal`, `deadline`, `exhausted`: refusals, as UNAVAILABLE, … or 503, 500, 504, 429.
    `expired`: the session of a stream is over. `reset`: the connection breaks. `short`: a stream ends
    as if it were at its end, an answer breaks off in the middle. `silence`: nothing for `seconds`, or until the
    call is given up or the fault cleared; then the connection breaks. `slow`: `seconds` before each message
    or answer. `rate`: at most `bytes_per_s` for each stream or answer.
    A stream is struck when at least `after_rows` rows and `after_messages` messages of the call have passed.
    `answered`: the request is carried out, and then the fault takes its answer. `seconds` of `exhausted` is
    the time after which to ask again.
    """

    kind: Kind
    method: str = ""
    target: str = ""
    after_rows: int = 0
    after_messages: int = 0
    answered: bool = False
    seconds: float = 0.0
    bytes_per_s: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}")
        if self.kind == "expired" and self.method != STREAM:
            raise ValueError(f"only streams expire: method is {STREAM}")
        if self.kind == "short" and self.method == "CreateReadSession":
            raise ValueError("a session is not opened by halves")
        if (self.kind == "rate") != (self.bytes_per_s > 0):
            raise ValueError("bytes_per_s is what rate needs, and only rate")
        if self.kind == "slow" and self.seconds <= 0:
            raise ValueError("slow needs seconds")
        if (self.after_rows or self.after_messages) and self.method != STREAM:
            raise ValueError(f"rows and messages are counted of streams: method is {STREAM}")

    @property
    def lasts(self) -> bool:
        return self.kind in _LASTING

    def is_for(self, call: Call) -> bool:
        return self.method in ("", call.method) and call.target.endswith(self.target)


class Injected:
    """A fault that lies in wait; `hits` counts the calls that it struck."""

    def __init__(self, number: int, fault: Fault, occasions: Occasions) -> None:
        self.number = number
        self.fault = fault
        self.occasions = occasions
        self.hits = 0
        self.is_cleared = False

    def told(self) -> dict[str, Any]:
        return {"number": self.number, **asdict(self.fault), "hits": self.hits}


class Strike:
    """A fault on its way to one call, of which so much has passed."""

    def __init__(self, injected: Injected, target: str) -> None:
        self.fault = injected.fault
        self.target = target
        self._injected = injected
        self._is_over = False
        self._has_hit = False

    @property
    def is_cleared(self) -> bool:
        """Whether the faults were cleared since: nothing waits because of it any more."""
        return self._injected.is_cleared

    def is_due(self, rows: int = 0, messages: int = 0) -> bool:
        """Whether it strikes now; a fault that does not last strikes once."""
        if self._is_over or rows < self.fault.after_rows or messages < self.fault.after_messages:
            return False
        self._is_over = not self.fault.lasts
        if not self._has_hit:
            self._has_hit = True
            self._injected.hits += 1
        return True

    def end(self) -> None:
        """The call is over: a fault that never was due lies in wait again."""
        if not self._has_hit:
            self._injected.occasions.give_back()


class Faults:
    """The faults of one proxy; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._injected: dict[int, Injected] = {}
        self._waits: set[threading.Event] = set()

    def inject(
        self,
        kind: Kind,
        method: str = "",
        target: str = "",
        *,
        skip: int = 0,
        times: int | None = 1,
        probability: float = 1.0,
        seed: int = 0,
        **how: Any,
    ) -> Injected:
        """Put a Fault in wait for the calls that Occasions choose: by default for the next one."""
        fault = Fault(kind, method, target, **how)
        occasions = Occasions(skip=skip, times=times, probability=probability, seed=seed)
        with self._lock:
            injected = Injected(next(self._numbers), fault, occasions)
            self._injected[injected.number] = injected
        return injected

    def clear(self) -> None:
        """Take all faults back, and end what waits because of them."""
        with self._lock:
            for injected in self._injected.values():
                injected.is_cleared = True
            self._injected.clear()
            for wait in self._waits:
                wait.set()

    def told(self) -> list[dict[str, Any]]:
        """The faults in wait and how often each has struck, as JSON holds it."""
        with self._lock:
            return [injected.told() for injected in self._injected.values()]

    def meet(self, call: Call) -> list[Strike]:
        """The faults that strike this call, now or later in it."""
        with self._lock:
            lying = [injected for injected in self._injected.values() if injected.fault.is_for(call)]
        return [Strike(injected, call.target) for injected in lying if injected.occasions.strikes()]

    def wait(self, seconds: float, until: threading.Event | None = None, *, because: Strike | None = None) -> None:
        """Wait for so long (0: without limit), or until the event, or until the faults are cleared.

        `because` of a fault that was cleared just before it does not begin.
        """
        until = until or threading.Event()
        with self._lock:
            if because is not None and because.is_cleared:
                return
            self._waits.add(until)
        until.wait(seconds or None)
        with self._lock:
            self._waits.discard(until)


class Pace:
    """How long to wait so that no more than `bytes_per_s` pass, from the start on."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._began = time.monotonic()
        self._passed = 0

    def seconds(self, size: int) -> float:
        """Before `size` more bytes."""
        self._passed += size
        return max(0.0, self._began + self._passed / self._bytes_per_s - time.monotonic())


def cannot_reset(port: int) -> None:
    """Where there is no relay."""
    raise RuntimeError("connections are broken by relays: make the proxy with_relays")
