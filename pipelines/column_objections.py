"""What stands against a pipeline's rules for columns, and against its row filter, before anything is tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from connectors import column_rules, masks, row_filter
from connectors.column import KEYED_MASKS
from connectors.column_rules import ColumnRule
from connectors.errors import ConnectorError
from pipelines.models import Pipeline

RULES = "column_rules"


def against(pipeline: Pipeline) -> Iterator[ConnectorError]:
    """Each error names the pipeline's field at fault."""
    rules, errors = column_rules.from_json(pipeline.column_rules)
    for error in errors:
        yield ConnectorError(error.message, hint=error.hint, code=error.code, field=RULES)
    by_name = {name.lower(): rule for name, rule in rules.items()}
    yield from _keys(pipeline, by_name)
    yield from _single_columns(pipeline, by_name)
    if column_rules.is_keyed(rules) and not _has_key(pipeline):
        missing = masks.key_missing()
        yield ConnectorError(missing.message, hint=missing.hint, code=missing.code, field=RULES)
    yield from _filter(pipeline)


def _keys(pipeline: Pipeline, rules: Mapping[str, ColumnRule]) -> Iterator[ConnectorError]:
    """What tells rows apart must still do so."""
    unique = [name for index in pipeline.target_options.indexes if index.unique for name in index.columns]
    for what, names in (
        ("the key", pipeline.merge_key),
        ("the primary key", pipeline.primary_key),
        ("a unique index", unique),
    ):
        for name in names:
            rule = rules.get(name.lower(), ColumnRule())
            if rule.skip:
                yield _wrong(f"Column {name} is skipped, and stands in {what}.", "Read it, or leave it out there.")
            elif rule.mask and rule.mask not in KEYED_MASKS:
                hint = "Mask it by hmac: equal values get equal masks, others do not."
                yield _wrong(f"Column {name} stands in {what}, and its mask makes rows look the same.", hint)


def _single_columns(pipeline: Pipeline, rules: Mapping[str, ColumnRule]) -> Iterator[ConnectorError]:
    """The cursor and the column of partitions keep their values."""
    rule = rules.get(pipeline.cursor_column.lower(), ColumnRule()) if pipeline.cursor_column else ColumnRule()
    if rule != ColumnRule(name=rule.name):
        message = f"Column {pipeline.cursor_column} is the cursor: it is read as it is, and keeps its type."
        yield _wrong(message, "Remove its rule, or let it only give a name.")
    by = pipeline.partition_column
    rule = rules.get(by.lower(), ColumnRule()) if by else ColumnRule()
    if rule.mask or rule.skip:
        message = f"The table is to be partitioned by {by}, which is {'masked' if rule.mask else 'skipped'}."
        yield _wrong(message, "Partition it by another column, or remove the rule.")


def _has_key(pipeline: Pipeline) -> bool:
    """Whether there is a key for masks; what cannot be read is for the connection's own form to tell."""
    stored = pipeline.destination
    return stored.has_lost_secrets or bool((stored.secrets or {}).get(masks.KEY_FIELD))


def _filter(pipeline: Pipeline) -> Iterator[ConnectorError]:
    try:
        if pipeline.source_query:
            row_filter.refuse_query(pipeline.row_filter)
        row_filter.condition(pipeline.row_filter)
    except ConnectorError as error:
        yield error


def _wrong(message: str, hint: str) -> ConnectorError:
    return ConnectorError(message, hint=hint, code="column_rule", field=RULES)
