"""The bells of all processes of the suite, which one switch doubles, loses or keeps back: a file that they all know."""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FOLDER = "CHAOS_BELLS"
ROLE = "CHAOS_ROLE"
# Who rings: whoever asks for a run, a worker or one of its children, the ticker.
ASKER, WORKER, BEAT = "asker", "worker", "beat"
DOUBLED, LOST, LATE = "doubled", "lost", "late"
TIMES = 20
LATE_S = 2.0
# Somebody must ring in the end: of the ticker's bells every third comes through.
PASSES = 3
_SWITCH, _BOOK = "switch", "book"


class Switch:
    """What becomes of every bell from now on, and the bells that it became of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def turn_to(self, how: str) -> None:
        (self.folder / _BOOK).unlink(missing_ok=True)
        draft = self.folder / "draft"
        draft.write_text(how)
        draft.rename(self.folder / _SWITCH)

    def turn_off(self) -> None:
        (self.folder / _SWITCH).unlink(missing_ok=True)

    def rung(self) -> Counter[str]:
        """How many bells of whom were doubled, lost or kept back since the switch was turned."""
        book = self.folder / _BOOK
        return Counter(book.read_text().split()) if book.exists() else Counter()


class Bells:
    """Between whoever rings in this process and the broker."""

    def __init__(self, folder: Path, role: str, ring_now: Callable[[int], bool]) -> None:
        self._folder = folder
        self._role = role
        self._ring_now = ring_now
        self._lost = itertools.count(1)

    def ring_now(self, times: int = 1) -> bool:
        how = self._how()
        if how == DOUBLED:
            rung = self._ring_now(times * TIMES)
            # One that the broker did not take was not doubled.
            return rung and self._note()
        if how == LATE:
            timer = threading.Timer(LATE_S, self._ring_now, (times,))
            timer.daemon = True
            timer.start()
            return self._note()
        if how == LOST and (self._role != BEAT or next(self._lost) % PASSES):
            return self._note()
        return self._ring_now(times)

    def _how(self) -> str:
        try:
            return (self._folder / _SWITCH).read_text()
        except FileNotFoundError:
            return ""

    def _note(self) -> bool:
        with (self._folder / _BOOK).open("a") as book:
            book.write(f"{self._role}\n")
        return True


def install(folder: Path, role: str) -> None:
    """Have every bell of this process, and of what is forked from it, go by the switch."""
    from runs import doorbell

    doorbell.ring_now = Bells(folder, role, doorbell.ring_now).ring_now


def install_if_told() -> None:
    if FOLDER in os.environ:
        install(Path(os.environ[FOLDER]), os.environ[ROLE])
