"""What changed in the source's columns since the target was last written, and what a pipeline makes of that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from connectors import column_rules, masks
from connectors.base import Reporter
from connectors.column import Column
from connectors.column_rules import skipped, without
from connectors.errors import ConnectorError
from connectors.modes import Refresh, WriteDisposition
from connectors.postgres.names import column_names, names_by_source
from connectors.reading import ReadPlan
from connectors.request import TransferRequest, write_mode
from connectors.schema_policy import SchemaPolicy
from connectors.target_columns import Known, Memory, as_declared, named, source_key, stored_as
from connectors.types import bigquery_type, postgres_type, usual_type
from connectors.writing import Fence


class ChangeKind(StrEnum):
    ADDED = "added"
    IGNORED = "ignored"
    GONE = "gone"
    RETYPED = "retyped"


_SIGNS = {ChangeKind.ADDED: "+", ChangeKind.IGNORED: "+", ChangeKind.GONE: "-", ChangeKind.RETYPED: "~"}


@dataclass(frozen=True)
class Change:
    """One column, or field of a STRUCT (`address.zip`), that is not what it was; types in BigQuery's words."""

    kind: ChangeKind
    column: str
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        types = " → ".join(type_ for type_ in (self.before, self.after) if type_)
        left = " (not read)" if self.kind is ChangeKind.IGNORED else ""
        return f"{_SIGNS[self.kind]} {self.column} {types}{left}"

    def to_json(self) -> dict[str, str]:
        return {"change": self.kind.value, "column": self.column, "before": self.before, "after": self.after}

    @classmethod
    def from_json(cls, values: Mapping[str, str]) -> Change:
        return cls(ChangeKind(values["change"]), values["column"], values["before"], values["after"])


# Changes -----------------------------------------------------------------------------------------


def accepted(fence: Fence, request: TransferRequest) -> tuple[Column, ...]:
    """The source's columns as they were last taken: by the target's own record, else by the definition.

    Once the definition is another one it speaks first: what a person has changed there is no change of the source.
    """
    memory = Memory.from_json(fence.columns)
    known = tuple(k.column for k in memory.columns if not k.is_gone) if memory.is_of(request.read) else ()
    if not known or (request.expected and fence.fingerprint != request.fingerprint):
        known = request.expected
    return without(known, skipped(request.rules))


def changes_of(fence: Fence, request: TransferRequest, plan: ReadPlan) -> tuple[Change, ...]:
    """How the columns of the plan differ from those that were last taken, and which new ones are ignored."""
    before = accepted(fence, request)
    told = {name.lower() for name in Memory.from_json(fence.columns).ignored}
    ignored = [
        Change(ChangeKind.IGNORED, column.name, after=bigquery_type(column))
        for column in plan.ignored
        if column.name.lower() not in told
    ]
    if not before:
        return tuple(ignored)
    return (*differences(before, tuple(map(as_declared, plan.columns))), *ignored)


def differences(before: Sequence[Column], after: Sequence[Column], inside: str = "") -> Iterator[Change]:
    """What differs, by name in any case; the order of columns, their lengths and whether they are required do not."""
    was, now = ({column.name.lower(): column for column in columns} for columns in (before, after))
    for key, column in was.items():
        name, here = f"{inside}{column.name}", now.get(key)
        if here is None:
            yield Change(ChangeKind.GONE, name, before=bigquery_type(column))
        elif (column.type, here.type) == ("STRUCT", "STRUCT") and column.repeated == here.repeated:
            yield from differences(column.columns, here.columns, f"{name}.")
        elif stored_as(column) != stored_as(here):
            yield Change(ChangeKind.RETYPED, name, bigquery_type(column), bigquery_type(here))
    for key, column in now.items():
        if key not in was:
            yield Change(ChangeKind.ADDED, f"{inside}{column.name}", after=bigquery_type(column))


def in_words(changes: Iterable[Change]) -> str:
    return "; ".join(map(str, changes))


def told(fence: Fence, request: TransferRequest, plan: ReadPlan) -> tuple[dict[str, str], ...]:
    """The changes that publishing the plan takes, for its receipt."""
    return tuple(change.to_json() for change in changes_of(fence, request, plan))


_BECOMES = {
    ChangeKind.ADDED: "is new",
    ChangeKind.IGNORED: "is new",
    ChangeKind.GONE: "is gone: where the target keeps it, new rows have NULL",
    ChangeKind.RETYPED: "has another type",
}


def tell(fence: Fence, request: TransferRequest, plan: ReadPlan, reporter: Reporter) -> None:
    """Say each change of the source's columns in the log."""
    names = names_by_source(plan.columns)
    types = {column.name: postgres_type(column) for column in plan.columns}
    for change in changes_of(fence, request, plan):
        becomes = _BECOMES[change.kind]
        if change.column in names:
            becomes += f"; in {request.target} it is {names[change.column]} ({types[change.column]})"
        reporter.log("warning", f"The source's columns changed: {change}. It {becomes}.")


# The policy --------------------------------------------------------------------------------------


def followed(fence: Fence, request: TransferRequest, found: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns to load, by the rules and under their names; raises ConnectorError for a change that may not be.

    A rule for a column that the source dropped is of no use, and no harm.
    """
    refuse_frozen(fence, request, found)
    hidden = [name.partition(".")[0] for name, rule in request.rules.items() if rule.mask]
    masks.refuse_lost(hidden, accepted(fence, request), found)
    memory = Memory.from_json(fence.columns)
    once = [*accepted(fence, request), *(known.column for known in memory.columns if memory.is_of(request.read))]
    gone = {column.name.lower() for column in once} - {column.name.lower() for column in found}
    rules = {name: rule for name, rule in request.rules.items() if name.partition(".")[0].lower() not in gone}
    is_anew = write_mode(request).disposition is WriteDisposition.REPLACE
    columns = named(column_rules.apply(found, rules), memory, is_anew=is_anew)
    refuse_incompatible(fence, request, columns)
    return columns


def reading_only(fence: Fence, request: TransferRequest) -> tuple[str, ...]:
    """The columns that are read, others not, where new ones are ignored; none if all are."""
    if request.schema_policy is not SchemaPolicy.IGNORE_NEW:
        return ()
    memory = Memory.from_json(fence.columns)
    if memory.is_of(request.read):
        return tuple(known.column.name for known in memory.columns)
    return tuple(column.name for column in request.expected)


def refuse_frozen(fence: Fence, request: TransferRequest, found: Sequence[Column]) -> None:
    """Raise ConnectorError where the columns changed and nobody has saved the pipeline with them as they are."""
    if request.schema_policy is not SchemaPolicy.FREEZE:
        return
    skip = skipped(request.rules)
    before, saved = accepted(fence, request), without(request.expected, skip)
    changes = list(differences(before, found)) if before else []
    if not changes or (saved and not any(differences(saved, found))):
        return
    raise ConnectorError(
        f"The source's columns changed, and this pipeline does not follow: {in_words(changes)}.",
        hint="Save the pipeline again to accept the columns as they are now, or let it evolve.",
        code="schema_frozen",
        field="schema_policy",
    )


def refuse_incompatible(fence: Fence, request: TransferRequest, columns: Sequence[Column]) -> None:
    """Raise ConnectorError where a column became what its former values are not; a full refresh takes it as it is.

    So does a replace, where that may be without being asked for.
    """
    is_replace = request.mode.disposition is WriteDisposition.REPLACE
    if request.refresh is Refresh.FULL or (is_replace and request.schema_policy is SchemaPolicy.REFRESH):
        return
    before = {column.name.lower(): column for column in accepted(fence, request)}
    memory = Memory.from_json(fence.columns)
    types = {k.column.name.lower(): k.type for k in memory.columns} if memory.is_of(request.read) else {}
    found = []
    for column in columns:
        was = before.get(column.name.lower())
        if was is None or stored_as(was) == stored_as(as_declared(column)):
            continue
        if postgres_type(column) != types.get(column.name.lower(), usual_type(was)) and not widens(was, column):
            found += list(differences([was], [as_declared(column)]))
    if found:
        raise incompatible(request, in_words(found))


def incompatible(request: TransferRequest, what: str) -> ConnectorError:
    return ConnectorError(
        f"The source's columns changed in a way that {request.target} cannot follow: {what}.",
        hint="Start a full refresh to write the table anew, or cast the column by a rule or in a query.",
        code="schema_incompatible",
        field="table",
    )


_WIDER = {
    "INT64": ("NUMERIC", "BIGNUMERIC", "FLOAT64"),
    "NUMERIC": ("BIGNUMERIC", "FLOAT64"),
}


def widens(before: Column, after: Column) -> bool:
    """Whether every value of the one type is a value of the other: what BigQuery itself lets a column become."""
    if before.repeated != after.repeated:
        return False
    if before.type != after.type:
        return after.type in _WIDER.get(before.type, ()) and after.precision is None
    if before.type not in ("NUMERIC", "BIGNUMERIC"):
        return False
    if after.precision is None:
        return True
    if before.precision is None:
        return False
    old, new = before.scale or 0, after.scale or 0
    return new >= old and after.precision - new >= before.precision - old


def remembered(
    fence: Fence,
    request: TransferRequest,
    columns: Sequence[Column],
    dropped: Sequence[Known],
    kept: Sequence[str],
    ignored: Sequence[str],
) -> Memory:
    """What the head is to know once `columns` are published; `kept` are names of those of the `dropped` that stay."""
    before, names = Memory.from_json(fence.columns), column_names(columns)
    ruled = {name.lower() for name, rule in request.rules.items() if rule.name}
    ruled |= {known.column.name.lower() for known in before.columns if known.is_ruled and known.name in names}
    loaded = tuple(
        Known(as_declared(column), name, postgres_type(column), is_ruled=column.name.lower() in ruled)
        for column, name in zip(columns, names, strict=True)
    )
    stay = set(kept)
    gone = tuple(replace(known, is_gone=True) for known in dropped if known.name in stay)
    told = (*(before.ignored if before.is_of(request.read) else ()), *ignored)
    here = {column.name.lower() for column in columns}
    return Memory(
        source_key(request.read),
        (*loaded, *gone),
        tuple(name for name in dict.fromkeys(told) if name.lower() not in here),
    )


def dropped(memory: Memory, request: TransferRequest, columns: Sequence[Column]) -> tuple[Known, ...]:
    """The target's columns that the source had once and has no longer; what a rule skips is not among them."""
    if not memory.is_of(request.read):
        return ()
    here = {column.name.lower() for column in columns} | {name.lower() for name in skipped(request.rules)}
    names = {name.lower() for name in column_names(columns)}
    return tuple(k for k in memory.columns if k.column.name.lower() not in here and k.name.lower() not in names)
