"""What people type, in the one form it is stored in."""

from __future__ import annotations

import re

_AROUND_A_NAME = re.compile(r"\A[\s`]+|[\s`]+\Z")
_AFTER_A_QUERY = re.compile(r"[;\s]+\Z")


def name(text: str) -> str:
    """The name of a table or column, without the quotes that BigQuery takes."""
    return _AROUND_A_NAME.sub("", text)


def query(text: str) -> str:
    """One statement, without what ends it."""
    return _AFTER_A_QUERY.sub("", text.lstrip())
