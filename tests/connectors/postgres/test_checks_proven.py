"""Checks that Arrow answers while rows are sent: never otherwise than PostgreSQL would, and of all rows or of none."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors import staged
from connectors.checks import Check, CheckKind, Severity, Status
from connectors.column import Column, Mask, MaskKind
from connectors.columns.proving import Prover
from connectors.errors import Held
from connectors.modes import TextPolicy
from connectors.postgres.auditing import judging, one_look
from connectors.postgres.auditing.conditions import condition
from connectors.proofs import is_provable, mark
from connectors.quarantine import QuarantineRule
from tests.connectors.memory import MemorySource, PartedSource, batch
from tests.connectors.postgres.conftest import World
from tests.connectors.postgres.test_checks import warn
from tests.connectors.postgres.test_checks_in_one_look import CheckedRun
from tests.connectors.postgres.test_staged import parts_of

PATTERNS = (
    *("^[a-z0-9 ]+$", "^[a-z]*$", "[A-Z]", "^a", "b$", "a?b{2}c*", r"^\d{4}-\d{2}$", r"\.", "^[a-f-]+$"),
    *(r"^[A-Za-z0-9_.]+@[a-z]+\.[a-z]{2}$", "^[0-9.]{3}$", "a b", "^#a", "^x{0}$"),
)
TEXTS = (
    *("", "a", "A", "ab", "abbc", "bb", "a b", "a\n", "\n", "b\n", "a\nb", "é", "aé", "ａ", "１２３４-１２", "१२३४-१२"),
    *(
        "2026-11",
        "2026-11\n",
        ".",
        "1.2",
        "x",
        "#a",
        "-",
        "a-f",
        "ß",
        "İ",
        "😀",
        "\x7f",
        "a\r",
        "me@home.de",
        "me@home.dé",
    ),
)
INTS = (-(2**63), -8, -7, 0, 6, 7, 8, 2**53 + 1, 2**63 - 1)
FLOATS = (float("-inf"), -0.5, -0.0, 0.0, 0.1, 0.30000000000000004, 0.3, 1e300, float("inf"), float("nan"))
OF = {"STRING": (TEXTS, pa.string()), "INT64": (INTS, pa.int64()), "FLOAT64": (FLOATS, pa.float64())}


def cases() -> dict[str, list[Check]]:
    ranges = [("-7", "7"), ("7", ""), ("", "-8"), ("0", "999999999999999999")]
    decimals = [("0.1", "0.3"), ("-0", ""), ("", "0.30000000000000"), ("0.300000000000000", "")]
    return {
        "STRING": [
            *(Check(CheckKind.REGEX, columns=("v",), pattern=pattern) for pattern in PATTERNS),
            Check(CheckKind.ACCEPTED, columns=("v",), values=("a", "é", "İ", "it's")),
        ],
        "INT64": [
            *(Check(CheckKind.RANGE, columns=("v",), minimum=low, maximum=high) for low, high in ranges),
            Check(CheckKind.ACCEPTED, columns=("v",), values=("-7", "007", "-0")),
        ],
        "FLOAT64": [Check(CheckKind.RANGE, columns=("v",), minimum=low, maximum=high) for low, high in decimals],
    }


@pytest.mark.parametrize("kind", OF)
def test_what_is_proven_of_a_value_postgresql_says_as_well(world, connect, kind):
    values, type_ = OF[kind]
    columns = (Column("v", kind),)
    checks = [replace(check, name=f"{number}") for number, check in enumerate(cases()[kind])]
    assert all(is_provable(check, columns) for check in checks)
    wrong, proven = [], 0
    world.move(source=MemorySource([pa.record_batch([pa.array([*values, None], type_)], ["v"])], columns))
    with connect() as connection, connection.cursor() as cursor:
        bad = sql.SQL(", ").join(sql.SQL("({}) IS TRUE").format(condition(check, columns)) for check in checks)
        # As many as there are, each with its own value: rows are told apart by what was sent.
        cursor.execute(sql.SQL("SELECT {} FROM flights AS s ORDER BY ctid").format(bad))
        for value, told in zip([*values, None], cursor.fetchall(), strict=True):
            prover = Prover(checks, columns)
            prover.look(pa.record_batch([pa.array([value], type_)], ["v"]))
            for check, is_bad in zip(checks, told, strict=True):
                is_proven = mark(check) in prover.proven
                proven += is_proven
                # Digits of other scripts are digits to PostgreSQL, which is asked of them.
                wide = "\\d" in check.pattern and not str(value).isascii()
                nan = value != value and not check.maximum
                if is_proven is is_bad and not ((wide or nan) and not is_proven):
                    wrong.append((check, value))
    assert wrong == []
    assert len(checks) < proven < len(checks) * len(values), "some are good, some are not"


NOT_ALIKE = (
    *("[^a]", "(a)", "a|b", r"\w", "a+?", ".", "[[:alpha:]]", "***=a", "(?i)a", r"\n", "é", "a{2,1}", "[]a]", "a**"),
    *(r"\D", "^*", "[a.-z]", "[.a", "$a", "[a-Z]", ""),
)


@pytest.mark.parametrize("pattern", NOT_ALIKE)
def test_patterns_that_two_may_read_differently_are_left_to_postgresql(pattern):
    assert not is_provable(Check(CheckKind.REGEX, columns=("v",), pattern=pattern), (Column("v", "STRING"),))


def test_what_arrow_cannot_compile_is_left_to_postgresql_too():
    assert not Prover([Check(CheckKind.REGEX, columns=("v",), pattern="[z-a]")], (Column("v", "STRING"),)).proven


HMAC = Mask(MaskKind.HMAC, Column("v", "STRING"))


@pytest.mark.parametrize(
    "column",
    [
        *(Column("v", "STRING", max_length=3), Column("v", "STRING", target_type="uuid"), Column("w", "STRING")),
        *(Column("v", "STRING", mask=HMAC), Column("v", "STRING", repeated=True), Column("v", "JSON")),
    ],
)
def test_of_what_is_not_stored_as_it_comes_nothing_is_proven(column):
    assert not is_provable(Check(CheckKind.NOT_NULL, columns=("v",)), (column,))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("FLOAT64", {"kind": CheckKind.RANGE, "minimum": "1e3"}),
        ("FLOAT64", {"kind": CheckKind.ACCEPTED, "values": ("1",)}),
        ("INT64", {"kind": CheckKind.RANGE, "maximum": "9223372036854775808"}),
        ("INT64", {"kind": CheckKind.RANGE, "maximum": "٣"}),
        ("INT64", {"kind": CheckKind.ACCEPTED, "values": ("1", "x")}),
        ("DATE", {"kind": CheckKind.RANGE, "maximum": "today"}),
        ("STRING", {"kind": CheckKind.RANGE, "minimum": "a"}),
        ("STRING", {"kind": CheckKind.UNIQUE}),
    ],
)
def test_what_a_type_reads_in_more_ways_than_one_is_left_to_postgresql(kind, check):
    assert not is_provable(Check(**check, columns=("v",)), (Column("v", kind),))


# What becomes of proofs ---------------------------------------------------------------------------

LOW = Check(CheckKind.RANGE, "low", ("id",), maximum="3000")
ROW = Check(CheckKind.REGEX, "words", ("name",), pattern=r"^row \d+$")
GIVEN = Check(CheckKind.NOT_NULL, "given", ("id", "NAME"))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The checks that PostgreSQL is asked of, statement by statement."""
    seen: list[list[str]] = []
    real = one_look.statement

    def statement(staged: Any, columns: Any, checks: Any) -> Any:
        seen.append([check.name for check in checks])
        return real(staged, columns, checks)

    for module in (one_look, judging):
        monkeypatch.setattr(module, "statement", statement)
    return seen


def told(world: World) -> list[Any]:
    return [(result.status, result.value) for result in world.recorder.results]


def test_what_all_parts_have_proven_is_not_looked_at_again(world, looks, ids):
    unique = Check(CheckKind.UNIQUE, "id", ("id",))
    run = CheckedRun(world, PartedSource(parts_of(1)), checks=(LOW, ROW, unique, GIVEN))
    run.load_all()
    run.publish()
    assert looks == [["id"]]
    assert told(world) == [(Status.PASSED, 0)] * 4
    assert world.recorder.results[0].message == "3,000 rows, none of them bad."
    assert ids() == list(range(1, 3001))


def test_rows_of_a_load_in_one_go_are_proven_as_well(world, looks):
    world.move([1, 2], checks=(LOW, ROW, GIVEN))
    assert (looks, told(world)) == ([], [(Status.PASSED, 0)] * 3)


@pytest.mark.parametrize("bad", [1, 1500, 3000], ids=["the first row", "one in the middle", "the last"])
def test_one_bad_row_anywhere_leaves_the_check_to_postgresql(world, looks, bad):
    parts = parts_of(1)
    part, number = divmod(bad - 1, 1000)
    row = parts[part][number // 100]
    names = [None if id == bad else f"row {id}" for id in row.column("id").to_pylist()]
    parts[part][number // 100] = pa.record_batch([row.column("id"), pa.array(names)], ["id", "name"])
    run = CheckedRun(world, PartedSource(parts), checks=(LOW, ROW, GIVEN))
    run.load_all()
    with pytest.raises(Held, match="1 row of 3,000 has no id, NAME"):
        run.publish()
    assert looks == [["given"]]
    assert told(world) == [(Status.PASSED, 0)] * 2 + [(Status.FAILED, 1)]
    assert world.recorder.results[2].sample.rows == ((str(bad), None),)


def test_a_check_that_was_changed_in_between_has_not_been_proven(world, looks):
    """A run that is tried again follows the definition as it is by then; names stay."""
    run = CheckedRun(world, PartedSource(parts_of(1)), checks=(LOW, ROW))
    run.load_all()
    run.checks = (replace(LOW, maximum="2999", severity=Severity.WARN), replace(ROW, severity=Severity.WARN))
    run.publish()
    assert looks == [["low"]]
    assert told(world) == [(Status.FAILED, 1), (Status.PASSED, 0)]


def test_a_part_that_was_begun_without_a_proof_has_none(world, looks, monkeypatch):
    monkeypatch.setattr(staged, "BATCH_BYTES", 5000)
    run = CheckedRun(world, PartedSource(parts_of(1)), checks=())
    run.plan()
    committed = threading.Event()
    run.source.fail = lambda part, row: row != 500 or committed.wait(60)
    told = {"is_over": committed.is_set, "on_commit": lambda rows, size, done: committed.set() if rows else None}
    begun = run.load(0, **told)
    assert (begun.done, begun.rows > 0) == (False, True)
    run.checks = (warn(CheckKind.NOT_NULL, "id", name="n"),)
    run.load(0, token=2)
    run.load(1)
    run.load(2)
    run.publish()
    assert looks == [["n"]]


def test_a_part_of_a_plan_of_an_earlier_version_goes_on(world, admin, ids):
    run = CheckedRun(world, PartedSource(parts_of(1)), checks=(LOW,))
    run.plan()
    admin.execute("ALTER TABLE _datamantri.checkpoint DROP COLUMN proven")
    for part in range(3):
        run.load(part)
    run.publish()
    assert len(ids()) == 3000


@pytest.mark.parametrize(("policy", "found"), [(TextPolicy.STRIP, 0), (TextPolicy.REPLACE, 1)])
def test_what_is_stored_is_proven_and_not_what_came(world, looks, policy, found):
    source = MemorySource([pa.record_batch([pa.array([1]), pa.array(["a\0b"])], ["id", "name"])])
    words = warn(CheckKind.REGEX, "name", pattern="^[a-z]+$")
    world.move(source=source, checks=(words,), text_policy=policy)
    assert [result.value for result in world.recorder.results] == [found]
    assert len(looks) == found


def test_rows_that_quarantine_takes_out_leave_proofs_as_they_are(world, looks, ids):
    aside = Check(CheckKind.RANGE, "aside", ("id",), Severity.QUARANTINE, maximum="2")
    world.move(source=MemorySource([batch([1, 2, 3])]), checks=(aside, ROW), quarantine=QuarantineRule(is_on=True))
    assert ids() == [1, 2]
    assert [name for names in looks for name in names] == ["aside"]
    assert told(world)[1] == (Status.PASSED, 0)
