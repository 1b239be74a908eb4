"""The one table BigQuery type → Arrow → PostgreSQL, with the canonical text of each type.

Binary COPY carries no types, so the tables we create, the catalog we compare with and the bytes we
write must all come from here. Canonical texts are what both sides sum to prove that they agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from connectors.base import Column
from connectors.errors import ConnectorError

_RANGES = {"DATE": "daterange", "DATETIME": "tsrange", "TIMESTAMP": "tstzrange"}


@dataclass(frozen=True)
class Form:
    """A type in PostgreSQL, as `format_type` prints it, and its canonical text in both dialects.

    The texts are SQL with `{x}` for a non-null value; empty means the type is counted only.
    """

    postgres: str
    bigquery_text: str = ""
    postgres_text: str = ""


# Trailing zeros go, and the point with them: BigQuery drops them by itself, others keep the scale.
_BIGQUERY_DECIMAL = (
    "IF(STRPOS(CAST({x} AS STRING), '.') > 0, RTRIM(RTRIM(CAST({x} AS STRING), '0'), '.'), CAST({x} AS STRING))"
)
# 17 significant digits name a double exactly, and both printf the same; zeros lose their sign.
_BIGQUERY_FLOAT = (
    "CASE WHEN IS_NAN({x}) THEN 'nan' WHEN IS_INF({x}) THEN IF({x} > 0, 'inf', '-inf')"
    " WHEN {x} = 0 THEN '0' ELSE FORMAT('%.16e', {x}) END"
)
_POSTGRES_FLOAT = (
    "CASE WHEN {x} = 'NaN' THEN 'nan' WHEN {x} = 'Infinity' THEN 'inf' WHEN {x} = '-Infinity' THEN '-inf'"
    " WHEN {x} = 0 THEN '0' ELSE btrim(to_char({x}, '9.9999999999999999EEEE')) END"
)

FORMS = {
    "BOOL": Form("boolean", "CAST({x} AS STRING)", "{x}::text"),
    "INT64": Form("bigint", "CAST({x} AS STRING)", "{x}::text"),
    "FLOAT64": Form("double precision", _BIGQUERY_FLOAT, _POSTGRES_FLOAT),
    "NUMERIC": Form("numeric(38,9)", _BIGQUERY_DECIMAL, "trim_scale({x})::text"),
    "BIGNUMERIC": Form("numeric", _BIGQUERY_DECIMAL, "trim_scale({x})::text"),
    "STRING": Form("text", "{x}", "{x}"),
    "BYTES": Form("bytea", "TO_HEX({x})", "encode({x}, 'hex')"),
    "DATE": Form("date", "CAST(UNIX_DATE({x}) AS STRING)", "({x} - DATE '1970-01-01')::text"),
    "TIME": Form(
        "time without time zone",
        "CAST(TIME_DIFF({x}, TIME '00:00:00', MICROSECOND) AS STRING)",
        "(extract(epoch FROM {x}) * 1000000)::bigint::text",
    ),
    "DATETIME": Form(
        "timestamp without time zone",
        "CAST(DATETIME_DIFF({x}, DATETIME '1970-01-01 00:00:00', MICROSECOND) AS STRING)",
        "(extract(epoch FROM {x}) * 1000000)::bigint::text",
    ),
    "TIMESTAMP": Form(
        "timestamp with time zone",
        "CAST(UNIX_MICROS({x}) AS STRING)",
        "(extract(epoch FROM {x}) * 1000000)::bigint::text",
    ),
    "JSON": Form("jsonb"),
    "GEOGRAPHY": Form("text"),
    # months/days/microseconds; MOD, for some count whole seconds among an interval's microseconds.
    "INTERVAL": Form(
        "interval",
        "CONCAT(CAST(EXTRACT(YEAR FROM {x}) * 12 + EXTRACT(MONTH FROM {x}) AS STRING), '/',"
        " CAST(EXTRACT(DAY FROM {x}) AS STRING), '/',"
        " CAST(((EXTRACT(HOUR FROM {x}) * 60 + EXTRACT(MINUTE FROM {x})) * 60 + EXTRACT(SECOND FROM {x})) * 1000000"
        " + MOD(EXTRACT(MICROSECOND FROM {x}), 1000000) AS STRING))",
        "(extract(year FROM {x}) * 12 + extract(month FROM {x}))::bigint || '/' || extract(day FROM {x})::bigint || '/'"
        " || ((extract(hour FROM {x}) * 60 + extract(minute FROM {x})) * 60000000"
        " + extract(microseconds FROM {x}))::bigint",
    ),
    "STRUCT": Form("jsonb"),
}


def postgres_type(column: Column) -> str:
    """The column's type in PostgreSQL, spelled as `format_type` spells it: fit for DDL and for comparing."""
    scalar = _form(column).postgres
    # An array of STRUCT is one JSON array: PostgreSQL's jsonb[] would be harder to query, not easier.
    return f"{scalar}[]" if column.repeated and column.type != "STRUCT" else scalar


def bigquery_text(column: Column, expression: str) -> str | None:
    """GoogleSQL for the canonical text of a non-null value; None if the type is counted only."""
    if column.repeated:
        text = bigquery_text(replace(column, repeated=False), "e")
        if text and column.type == "STRING":
            text = "CONCAT(CAST(CHAR_LENGTH(e) AS STRING), ':', e)"
        return text and (
            f"ARRAY_TO_STRING(ARRAY(SELECT IFNULL({text}, 'null')"
            f" FROM UNNEST({expression}) AS e WITH OFFSET AS o ORDER BY o), ',')"
        )
    if column.type == "RANGE":
        bound = Column(column.name, column.element)
        start, end = (
            bigquery_text(bound, f"RANGE_START({expression})"),
            bigquery_text(bound, f"RANGE_END({expression})"),
        )
        return f"CONCAT(IFNULL({start}, ''), '/', IFNULL({end}, ''))"
    return _form(column).bigquery_text.format(x=expression) or None


def postgres_text(column: Column, expression: str) -> str | None:
    """PostgreSQL's SQL for the same text, byte for byte; None if the type is counted only."""
    if column.repeated:
        text = postgres_text(replace(column, repeated=False), "e")
        if text and column.type == "STRING":
            # The length in front, or ["a,b"] and ["a", "b"] would look the same.
            text = "char_length(e) || ':' || e"
        return text and (
            f"array_to_string(ARRAY(SELECT coalesce({text}, 'null')"
            f" FROM unnest({expression}) WITH ORDINALITY AS u (e, o) ORDER BY o), ',')"
        )
    if column.type == "RANGE":
        bound = Column(column.name, column.element)
        start, end = postgres_text(bound, f"lower({expression})"), postgres_text(bound, f"upper({expression})")
        return f"coalesce({start}, '') || '/' || coalesce({end}, '')"
    return _form(column).postgres_text.format(x=expression) or None


def _form(column: Column) -> Form:
    form = Form(_RANGES.get(column.element, "")) if column.type == "RANGE" else FORMS.get(column.type)
    if form is None or not form.postgres:
        raise ConnectorError(
            f"Column {column.name} has the type {column.type}, which cannot be loaded.",
            hint="Leave the column out with a query, or cast it there to a type such as STRING.",
            code="unknown_type",
            field=column.name,
        )
    if column.type in ("NUMERIC", "BIGNUMERIC") and column.precision is not None:
        return replace(form, postgres=f"numeric({column.precision},{column.scale or 0})")
    return form
