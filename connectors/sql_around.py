"""SQL that people have run around a load, in the transaction that publishes it.

Nothing heavy is imported: web and beat read this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.errors import ConnectorError

BEFORE, AFTER = "before", "after"
MAX_STATEMENTS = 20
MAX_LENGTH = 100_000
LIMIT_S = 60
# What a person can mend in the SQL without another row being read: of rows that are staged already it holds the run.
MENDABLE = frozenset({"sql_failed", "sql_timeout", "sql_role"})


@dataclass(frozen=True)
class SqlAround:
    """Statements for before and after the rows come; `role` runs them if one is named, each for `limit_s` at most."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    role: str = ""
    limit_s: int = LIMIT_S

    @classmethod
    def of(cls, definition: Mapping[str, Any]) -> SqlAround:
        """What a definition says; one from before there was any says nothing."""
        return cls(
            tuple(statements(definition.get("sql_before", ""))),
            tuple(statements(definition.get("sql_after", ""))),
            definition.get("sql_role", ""),
            definition.get("sql_limit_s", LIMIT_S),
        )

    def __bool__(self) -> bool:
        return bool(self.before or self.after)


# What a semicolon may stand in: a string, a name, a text in dollars, a remark. Remarks may be nested, which no
# expression can tell: they are read by hand.
_TOKENS = re.compile(
    r"""
    (?P<string>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z))
    | (?P<name>"(?:[^"]|"")*(?:"|\Z))
    | (?P<dollar>(?<![\w$])(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|\Z))
    | (?P<line>--[^\n]*)
    | (?P<block>/\*)
    | (?P<end>;)
    | (?P<word>\w+|\()
    """,
    re.VERBOSE | re.DOTALL,
)
_REMARK = re.compile(r"/\*|\*/")
_ENDS_OUR_TRANSACTION = frozenset(
    {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare transaction"}
)


def statements(text: str) -> Iterator[str]:
    """The statements of `text`, as they stand there, without the semicolons between them.

    This decides what is told of which statement, not what may run: a text that is cut in a wrong place is refused by
    PostgreSQL. The body of a function stands in dollars, as BEGIN ATOMIC is not understood.
    """
    start = at = 0
    while (found := _TOKENS.search(text, at)) is not None:
        at = _end_of_remark(text, found.end()) if found.lastgroup == "block" else found.end()
        if found["end"]:
            yield from _told(text[start : found.start()])
            start = at
    yield from _told(text[start:])


def _end_of_remark(text: str, at: int) -> int:
    depth = 1
    while depth and (found := _REMARK.search(text, at)) is not None:
        depth += 1 if found[0] == "/*" else -1
        at = found.end()
    return len(text) if depth else at


def _told(statement: str) -> Iterator[str]:
    if first_words(statement):
        yield statement.strip()


def first_words(statement: str) -> str:
    """The first two words, in lower case; empty where there is nothing but remarks."""
    words: list[str] = []
    at = 0
    while len(words) < 2 and (found := _TOKENS.search(statement, at)) is not None:
        at = _end_of_remark(statement, found.end()) if found.lastgroup == "block" else found.end()
        if found.lastgroup in ("line", "block"):
            continue
        words.append(found[0].lower())
    return " ".join(words) or ("?" if re.sub(r"\s", "", statement) and not at else "")


def objections(fields: Mapping[str, str], role: str) -> Iterator[ConnectorError]:
    """What is wrong with SQL by itself, by the field that it stands in."""
    for field, text in fields.items():
        if len(text) > MAX_LENGTH or "\0" in text:
            yield ConnectorError(
                f"That is no SQL of at most {MAX_LENGTH:,} characters without NUL.", code="sql_text", field=field
            )
            continue
        found = list(statements(text))
        if len(found) > MAX_STATEMENTS:
            yield ConnectorError(
                f"There are {len(found)} statements, at most {MAX_STATEMENTS} may be.",
                hint="Put them into a procedure of the database, and call it.",
                code="sql_text",
                field=field,
            )
        for number, statement in enumerate(found, 1):
            words = first_words(statement)
            if words in _ENDS_OUR_TRANSACTION or words.split(" ")[0] in _ENDS_OUR_TRANSACTION:
                yield ConnectorError(
                    f"Statement {number} ({words.upper()}) is about the transaction, which is the load's.",
                    hint="Leave it out: all of it is committed with the load, or nothing is.",
                    code="sql_transaction",
                    field=field,
                )
    if role and not any(text.strip() for text in fields.values()):
        yield ConnectorError(
            "A role is named, and no SQL for it to run.", hint="Leave it empty.", code="sql_role", field="sql_role"
        )
