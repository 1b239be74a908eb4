"""What is wrong with a file, told by place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    code: str
    message: str
    hint: str = ""
    path: Path = ()
    line: int = 1

    def said(self, file: str) -> str:
        place = "/".join(map(str, self.path))
        return f"{file}:{self.line}: {place and place + ': '}{self.message} [{self.code}]" + (
            f"\n    {self.hint}" if self.hint else ""
        )


class FileRefused(Exception):
    """A file that cannot be applied; `problems` in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__(" ".join(problem.message for problem in self.problems))
