"""What the docs say must be so: codes, types, settings, addresses, links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from django.urls import Resolver404, resolve

from connectors import column_rules
from connectors.column import Column
from connectors.types import _RANGES, CASTS, FORMS, base_type, bigquery_text
from runs.states import TRANSITIONS
from tests.deployment import compose

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md"])

# Errors -----------------------------------------------------------------------------------------

# Callables whose first text is a code, and those whose second one is.
FIRST = {
    "Failure", "KeyReused", "LookupFailed", "PipelineRefused", "RunRefused", "_Meaning", "_Saying", "_broke", "problem",
    "Objection", "Outcome", "_answer",
}  # fmt: skip
SECOND = {"refusal", "ValidationError", "_drop"}
# What tells of a command line that failed; the sentence is all that anybody sees.
NOT_SHOWN = ("datamantri/embedded/", "datamantri/demo/", "datamantri/management/")


def codes_in_source() -> set[str]:
    """Every stable code of the product's own; `*` stands for what is put in at run time."""
    found: set[str] = set()
    for package in ("connectors", "pipelines", "runs", "datamantri"):
        for path in (CHECKOUT / package).rglob("*.py"):
            if not str(path.relative_to(CHECKOUT)).startswith(NOT_SHOWN) and "migrations" not in path.parts:
                found |= set(codes_of(ast.parse(path.read_text())))
    return found


def codes_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = 0 if name in FIRST else 1 if name in SECOND else None
            if place is not None and len(node.args) > place:
                yield from texts(node.args[place])
            for keyword in node.keywords:
                if keyword.arg in ("code", "error_code"):
                    yield from texts(keyword.value)
        elif isinstance(node, ast.ClassDef):
            yield from class_codes(node)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield from texts(value)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from table_codes(node)


def class_codes(node: ast.ClassDef) -> Iterator[str]:
    for line in node.body:
        if isinstance(line, ast.Assign) and line.targets[0].id in ("code", "default_code"):  # type: ignore[attr-defined]
            yield from texts(line.value)


def table_codes(node: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    """Tables of the source that hold codes: as keys, or first in each value."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    name = getattr(target, "id", "")
    if name == "code" and node.value is not None:
        yield from texts(node.value)
    if isinstance(node.value, ast.Dict) and name in ("REASONS", "HINTS"):
        for key in node.value.keys:
            yield from texts(key)
    if isinstance(node.value, ast.Dict) and name == "BROKEN_CONSTRAINTS":
        for value in node.value.values:
            yield from texts(value.elts[0])  # type: ignore[attr-defined]


def texts(node: ast.expr | None) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)) if re.fullmatch(r"[a-z_{}]+", text):
            yield re.sub(r"\{\w+\}", "*", text)
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in parts)  # type: ignore[misc]
        case ast.IfExp(body=one, orelse=other):
            yield from texts(one)
            yield from texts(other)
        case ast.BoolOp(values=parts):
            for part in parts:
                yield from texts(part)


def codes_in_docs() -> set[str]:
    return set(re.findall(r"^\| `([a-z_*]+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))


def test_every_code_is_explained_and_nothing_else() -> None:
    source, docs = codes_in_source(), codes_in_docs()
    assert source - docs == set(), "codes without a word in docs/errors.md"
    assert docs - source == set(), "docs/errors.md explains codes that are gone"


# The rest ---------------------------------------------------------------------------------------


def table(page: str, header: str) -> list[list[str]]:
    """The cells of the table that begins with `header`."""
    _, _, rest = (DOCS / page).read_text().partition(header)
    assert rest, f"{page} has no table {header}"
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_types_are_those_of_the_code() -> None:
    told = {
        row[0].strip("`"): (row[1].strip("`"), row[2] == "counted only") for row in table("types.md", "| BigQuery |")
    }
    forms = {name: (form.postgres, not form.bigquery_text) for name, form in FORMS.items()}
    ranges = {f"RANGE<{element}>": (name, False) for element, name in _RANGES.items()}
    assert told == forms | ranges


def test_types_that_a_rule_may_choose_are_those_of_the_code() -> None:
    told = {
        (source, column_rules.spelled(base_type(type_)), compared == "counted only")
        for sources, types, compared, _ in table("types.md", "| BigQuery | may be |")
        for source in re.findall(r"`(\w+)`", sources)
        for type_ in re.findall(r"`([^`]+)`", types)
    }
    known = {
        (source, form.postgres, not bigquery_text(Column("v", source, element="DATE", target_type=form.postgres), "v"))
        for source, forms in CASTS.items()
        for form in forms
    }
    assert told == known


def test_every_setting_is_told() -> None:
    told = {row[0].strip("`") for row in table("operating.md", "| variable |")}
    settings = (CHECKOUT / "datamantri" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\("([A-Z_]+)"', settings)) | {"DATABASE_URL", "BROKER_URL", "ENCRYPTION_KEYS"}
    assert told == read | {"DATAMANTRI_DATA_DIR"}
    text = (DOCS / "operating.md").read_text()
    assert not [name for name in compose.variables() if f"`{name}`" not in text]


def test_states_become_each_other_as_told() -> None:
    told: dict[str, set[str]] = {}
    for start, ends in ((row[0], row[1:]) for row in table("how-a-run-works.md", "| from |")):
        for state in start.split(", "):
            told[state] = {end for end in ", ".join(ends).split(", ") if end}
    assert told == {start.value: {end.value for end in ends} for start, ends in TRANSITIONS.items()}


def test_addresses_of_the_api_lead_somewhere() -> None:
    named = re.findall(r"`((?:connections|pipelines|runs)/[^`]*)`", (DOCS / "api.md").read_text())
    assert len(named) >= 12
    for address in named:
        path = "/api/v1/" + address.partition("?")[0].replace("{id}", "01234567-89ab-cdef-0123-456789abcdef")
        try:
            found = resolve(path)
        except Resolver404:
            pytest.fail(f"{path} leads nowhere")
        assert found.url_name, path


def test_figures_are_those_of_the_bench() -> None:
    bench = "".join(path.read_text() for path in (CHECKOUT / "bench").glob("*.py"))
    for row in table("benchmarks.md", "| figure |"):
        name = row[0].strip("`")
        assert f'"{name}"' in bench or f'{{table}}_{name.partition("_")[2]}"' in bench, name


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        place, _, part = link.partition("#")
        target = page.parent / unquote(place) if place else page
        assert target.exists(), link
        if part:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert part in map(anchor, headings), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_exist(page: Path) -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)", page.read_text()) + re.findall(
        r"^make (\w+)", page.read_text(), re.MULTILINE
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}
