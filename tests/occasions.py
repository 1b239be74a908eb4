"""When something goes wrong: at the n-th occasion, so many times, or by chance."""

from __future__ import annotations

import random
import threading


class Occasions:
    """The first `skip` pass, then `times` are hit (None: all), each with `probability`; `hits` counts them.

    The same `seed` hits the same ones, where they come in the same order.
    """

    def __init__(self, *, skip: int = 0, times: int | None = 1, probability: float = 1.0, seed: int = 0) -> None:
        if skip < 0 or (times is not None and times < 1) or not 0 < probability <= 1:
            raise ValueError("skip is 0 or more, times 1 or more, probability above 0 and at most 1")
        self.hits = 0
        self._left_to_skip = skip
        self._times = times
        self._probability = probability
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def strikes(self) -> bool:
        """Whether this one is hit."""
        with self._lock:
            if self._left_to_skip:
                self._left_to_skip -= 1
                return False
            if self._times is not None and self.hits >= self._times:
                return False
            if self._random.random() >= self._probability:
                return False
            self.hits += 1
            return True

    def give_back(self) -> None:
        """One that was to be hit was not after all."""
        with self._lock:
            self.hits -= 1
