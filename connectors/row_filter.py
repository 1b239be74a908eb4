"""A person's condition on the rows of a table: looked at word by word, so that nothing but one expression is in it.

It becomes part of statements and of the conditions of read sessions, always within parentheses. What closes those,
or hides what follows, cannot be written; what is left is for BigQuery's dry run to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from connectors.errors import ConnectorError

FIELD = "row_filter"
MAX_CHARACTERS = 10_000
_STRING = r"""
    (?P<string>(?:[rRbB]|[rR][bB]|[bB][rR])?
      (?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?!'')(?:\\.|[^'\\\n])*'|"(?!"")(?:\\.|[^"\\\n])*"))
"""
_LEXEME = re.compile(
    rf"""{_STRING}
    |(?P<quoted>`(?:\\.|[^`\\\n])+`)
    |(?P<comment>--|\#|/\*)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9][0-9A-Za-z_.]*)
    |(?P<space>\s+)
    |(?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS, _CLOSES = {"(": ")", "[": "]"}, ")]"
_SIGNS = frozenset("()[],.+-*/<>=!|&^~")
_SUBQUERIES = frozenset({"SELECT", "WITH", "TABLE", "FROM"})
# What may be true of a row at one look and not at the next: the same rows are read, counted and compared several times.
_CHANGING = frozenset(
    {
        *("CURRENT_DATE", "CURRENT_DATETIME", "CURRENT_TIME", "CURRENT_TIMESTAMP", "RAND", "GENERATE_UUID"),
        *("SESSION_USER", "EXTERNAL_QUERY"),
    }
)


def check(text: str) -> None:
    """Raise ConnectorError, code row_filter, for a text that is not one expression that always says the same."""
    if len(text) > MAX_CHARACTERS:
        raise _wrong(f"The filter has {len(text):,} characters.", f"It may have {MAX_CHARACTERS:,}.")
    depth: list[str] = []
    before = ""
    for kind, lexeme in _lexemes(text):
        word = lexeme.upper()
        if kind == "comment":
            raise _wrong(f"The filter has a comment: {lexeme}", "Take it out, or quote what is a text.")
        if kind == "word" and word in _CHANGING and before != ".":
            hint = "Write the value itself, or read a query, which each run works out anew."
            raise _wrong(f"The filter goes by {word}, which changes while rows are read.", hint)
        # EXTRACT(YEAR FROM day) is no query; a query of pipes may begin with FROM.
        is_extract = word == "FROM" and depth and before != "("
        if kind == "word" and word in _SUBQUERIES and before != "." and not is_extract:
            raise _wrong(f"The filter has {word} in it.", "It is a condition on a row: for more, read a query.")
        if kind == "sign":
            _check_sign(lexeme, depth)
        before = lexeme
    if depth:
        raise _wrong(f"In the filter a parenthesis is not closed: {depth[-1]} is missing.", "")


def condition(text: str) -> str:
    """The filter as it stands in GoogleSQL; empty for none. Raises ConnectorError as `check` does."""
    if not text.strip():
        return ""
    check(text)
    return f"({text.strip()})"


def names(text: str) -> frozenset[str]:
    """What may be a column's name in the filter, in lower case."""
    return frozenset(lexeme.strip("`").lower() for kind, lexeme in _lexemes(text) if kind in ("word", "quoted"))


def refuse_query(text: str) -> None:
    """Raise ConnectorError where a query is read with a filter."""
    if text.strip():
        raise ConnectorError(
            "A query has no use for a row filter.",
            hint="Write it into the query's WHERE.",
            code="row_filter",
            field=FIELD,
        )


def refuse_lacking(text: str, table: str, column: str) -> None:
    """Raise ConnectorError where a table that is to be read by its partitions would be read without them."""
    also = {"_partitiontime", "_partitiondate"} if column.startswith("_PARTITION") else {column.lower()}
    if names(text) & also:
        return
    raise ConnectorError(
        f"{table} requires a filter on {column}, by which it is partitioned, and the pipeline has none.",
        hint=f"Give it a row filter that names {column}, for example {column} >= '2026-01-01'."
        f" {column} IS NOT NULL reads every partition.",
        code="partition_filter_required",
        field=FIELD,
    )


def _lexemes(text: str) -> Iterator[tuple[str, str]]:
    for found in _LEXEME.finditer(text):
        kind = str(found.lastgroup)
        if kind != "space":
            yield kind, found[0]


def _check_sign(sign: str, depth: list[str]) -> None:
    if sign in _OPENS:
        depth.append(_OPENS[sign])
    elif sign in _CLOSES:
        if not depth or depth.pop() != sign:
            raise _wrong(f"In the filter a {sign} closes nothing.", "")
    elif sign in "@?":
        raise _wrong("The filter names a parameter, which a read session does not know.", "Read a query for that.")
    elif sign in "'\"`":
        raise _wrong(f"In the filter a text is not closed: {sign} is missing.", "")
    elif sign not in _SIGNS:
        raise _wrong(f"The filter has {sign} in it, which no condition has.", "Write it as in a query's WHERE.")


def _wrong(message: str, hint: str) -> ConnectorError:
    return ConnectorError(message, hint=hint, code="row_filter", field=FIELD)
