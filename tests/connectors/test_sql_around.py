"""Statements are told apart, and what could only break a load is refused before it runs."""

from __future__ import annotations

import pytest

from connectors.sql_around import SqlAround, objections, statements


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" ; -- nothing\n ; /* nor; /* here */ */ ;", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' ; SELECT E'\\';' ; SELECT ''';'", ["SELECT ';'", "SELECT E'\\';'", "SELECT ''';'"]),
        ('SELECT ";""; " FROM t; SELECT 2', ['SELECT ";""; " FROM t', "SELECT 2"]),
        ("DO $$ BEGIN x; END $$; SELECT $a$ ; $$ ; $a$;", ["DO $$ BEGIN x; END $$", "SELECT $a$ ; $$ ; $a$"]),
        ("SELECT 1 -- it's; one\n; SELECT 2", ["SELECT 1 -- it's; one", "SELECT 2"]),
        ("SELECT 1 /* a; /* b; */ c; */ + 1; SELECT 2", ["SELECT 1 /* a; /* b; */ c; */ + 1", "SELECT 2"]),
        ("SELECT a$b$; SELECT c$b$", ["SELECT a$b$", "SELECT c$b$"]),
        ("SELECT 'open; SELECT 2", ["SELECT 'open; SELECT 2"]),
        ("(SELECT 1); TABLE t", ["(SELECT 1)", "TABLE t"]),
    ],
)
def test_a_text_is_cut_at_its_own_semicolons(text: str, found: list[str]) -> None:
    assert list(statements(text)) == found


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT",
        "/* so */ rollback work",
        "SELECT 1; BEGIN",
        "prepare transaction 'x'",
        "SAVEPOINT s",
        "END",
        "start transaction",
    ],
)
def test_what_is_about_the_transaction_is_refused(text: str) -> None:
    (error,) = objections({"sql_after": text}, "")
    assert (error.code, error.field) == ("sql_transaction", "sql_after")


def test_other_words_are_no_reason() -> None:
    assert not list(objections({"sql_before": "PREPARE x AS SELECT 1; EXECUTE x", "sql_after": ""}, "lesser"))
    assert [error.code for error in objections({"sql_before": " ", "sql_after": ""}, "lesser")] == ["sql_role"]
    assert [error.code for error in objections({"sql_before": "SELECT 1;" * 21}, "")] == ["sql_text"]


def test_a_definition_from_before_has_none() -> None:
    assert not SqlAround.of({})
    assert SqlAround.of({"sql_after": "SELECT 1"}) == SqlAround(after=("SELECT 1",))
