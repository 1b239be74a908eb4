"""How a number of things is said: one of them in the singular."""

from __future__ import annotations


def counted(number: int, what: str = "row") -> str:
    """1 row, 1,234 rows"""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
