"""What people type, in the one form it is stored in."""

from __future__ import annotations

import re

_AROUND_A_NAME = re.compile(r"\A[\s`]+|[\s`]+\Z")
_BEFORE_A_CONDITION = re.compile(r"\A\s*(WHERE\s+)?", re.IGNORECASE)
_AFTER_A_QUERY = re.compile(r"[;\s]+\Z")


def name(text: str) -> str:
    """The name of a table or column, without the quotes that BigQuery takes."""
    return _AROUND_A_NAME.sub("", text)


def query(text: str) -> str:
    """One statement, without what ends it."""
    return _AFTER_A_QUERY.sub("", text.lstrip())


def condition(text: str) -> str:
    """One condition, without the word that stands before it and what ends it."""
    return _AFTER_A_QUERY.sub("", _BEFORE_A_CONDITION.sub("", text))
