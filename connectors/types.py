"""The one table BigQuery type → Arrow → PostgreSQL, with the canonical text of each type.

Binary COPY carries no types, so the tables we create, the catalog we compare with and the bytes we
write must all come from here. Canonical texts are what both sides sum to prove that they agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from connectors.column import Column
from connectors.errors import ConnectorError

_RANGES = {"DATE": "daterange", "DATETIME": "tsrange", "TIMESTAMP": "tstzrange"}


@dataclass(frozen=True)
class Form:
    """A type in PostgreSQL, as `format_type` prints it, and its canonical text in both dialects.

    The texts are SQL with `{x}` for a non-null value and `{zone}` for a rule's zone; empty means the
    type is counted only. `mind` says what a person should know.
    """

    postgres: str
    bigquery_text: str = ""
    postgres_text: str = ""
    mind: str = ""


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
_POSTGRES_MICROS = "(extract(epoch FROM {x}) * 1000000)::bigint::text"

FORMS = {
    "BOOL": Form("boolean", "CAST({x} AS STRING)", "{x}::text"),
    "INT64": Form("bigint", "CAST({x} AS STRING)", "{x}::text"),
    "FLOAT64": Form("double precision", _BIGQUERY_FLOAT, _POSTGRES_FLOAT, mind="NaN and infinities are values"),
    "NUMERIC": Form("numeric(38,9)", _BIGQUERY_DECIMAL, "trim_scale({x})::text"),
    "BIGNUMERIC": Form("numeric", _BIGQUERY_DECIMAL, "trim_scale({x})::text"),
    "STRING": Form("text", "{x}", "{x}"),
    "BYTES": Form("bytea", "TO_HEX({x})", "encode({x}, 'hex')"),
    "DATE": Form("date", "CAST(UNIX_DATE({x}) AS STRING)", "({x} - DATE '1970-01-01')::text"),
    "TIME": Form(
        "time without time zone",
        "CAST(TIME_DIFF({x}, TIME '00:00:00', MICROSECOND) AS STRING)",
        _POSTGRES_MICROS,
    ),
    "DATETIME": Form(
        "timestamp without time zone",
        "CAST(DATETIME_DIFF({x}, DATETIME '1970-01-01 00:00:00', MICROSECOND) AS STRING)",
        _POSTGRES_MICROS,
        mind="has no zone and is given none",
    ),
    "TIMESTAMP": Form("timestamp with time zone", "CAST(UNIX_MICROS({x}) AS STRING)", _POSTGRES_MICROS),
    "JSON": Form("jsonb", mind="keys that become the same are one then, the last"),
    "GEOGRAPHY": Form("text", mind="WKT, as BigQuery sends it"),
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
        mind="a part of a microsecond ends the run",
    ),
    "STRUCT": Form("jsonb", mind="one JSON object, its keys called as the fields are"),
}

_DIGITS = ("CAST({x} AS STRING)", "{x}::text")
_DECIMAL = (_BIGQUERY_DECIMAL, "trim_scale({x})::text")
_FITS = "a value that does not fit ends the run"
_WHOLE = "a value that is not whole, or does not fit, ends the run"
# FORMAT_DATE's %Y does not say how wide it is.
_YEAR = "LPAD(CAST(EXTRACT(YEAR FROM {x}) AS STRING), 4, '0')"
_ISO = "ISO 8601 with six digits of a second, so that texts sort as times do"
_SHAPE = "needs PostGIS in the target's database; a text that is not WKT ends the run"
_OUR_JSON = Form("json", mind="kept as the text it is")

# What a rule may make of a type instead, by PostgreSQL's name without lengths. Decimals never become
# floats, and a time changes its kind only with a zone that was told.
CASTS = {
    "BOOL": (Form("text", "CAST({x} AS STRING)", "{x}", "true or false"),),
    "INT64": (
        Form("smallint", *_DIGITS, _FITS),
        Form("integer", *_DIGITS, _FITS),
        Form("numeric", _DIGITS[0], _DECIMAL[1], _FITS),
        Form("text", _DIGITS[0], "{x}"),
    ),
    "FLOAT64": (
        Form("real", mind=f"rounded to about 7 digits; {_FITS}"),
        Form("text", mind="the shortest digits that name the value"),
    ),
    "NUMERIC": (
        Form("numeric", *_DECIMAL, f"never rounded: {_FITS}"),
        Form("bigint", _BIGQUERY_DECIMAL, "{x}::text", _WHOLE),
        Form("integer", _BIGQUERY_DECIMAL, "{x}::text", _WHOLE),
        Form("smallint", _BIGQUERY_DECIMAL, "{x}::text", _WHOLE),
        Form("text", _BIGQUERY_DECIMAL, "{x}", "its digits, without trailing zeros"),
    ),
    "STRING": (
        Form("character varying", "{x}", "{x}", "a longer text ends the run"),
        Form("uuid", "LOWER({x})", "{x}::text", "a text that is not a UUID ends the run"),
        Form("jsonb", mind="a text that is not JSON ends the run"),
        Form("json", mind="a text that is not JSON ends the run"),
    ),
    "BYTES": (Form("text", "TO_HEX({x})", "{x}", "hexadecimal digits"),),
    "DATE": (
        Form(
            "timestamp without time zone",
            "CAST(UNIX_DATE({x}) * 86400000000 AS STRING)",
            _POSTGRES_MICROS,
            "midnight, without a zone",
        ),
        Form("text", f"CONCAT({_YEAR}, FORMAT_DATE('-%m-%d', {{x}}))", "{x}", "ISO 8601"),
    ),
    "TIME": (Form("text", "FORMAT_TIME('%H:%M:%E6S', {x})", "{x}", _ISO),),
    "DATETIME": (
        Form(
            "timestamp with time zone",
            "CAST(UNIX_MICROS(TIMESTAMP({x}, '{zone}')) AS STRING)",
            _POSTGRES_MICROS,
            "a time that the zone's clocks skip or show twice ends the run",
        ),
        Form("text", f"CONCAT({_YEAR}, FORMAT_DATETIME('-%m-%dT%H:%M:%E6S', {{x}}))", "{x}", _ISO),
    ),
    "TIMESTAMP": (
        Form(
            "timestamp without time zone",
            "CAST(DATETIME_DIFF(DATETIME({x}, '{zone}'), DATETIME '1970-01-01 00:00:00', MICROSECOND) AS STRING)",
            _POSTGRES_MICROS,
            "what the zone's clocks show: an hour that they show twice is twice there",
        ),
        Form(
            "text", f"CONCAT({_YEAR}, FORMAT_TIMESTAMP('-%m-%dT%H:%M:%E6SZ', {{x}}, 'UTC'))", "{x}", f"{_ISO}, in UTC"
        ),
    ),
    "JSON": (_OUR_JSON, Form("text", mind=_OUR_JSON.mind)),
    "GEOGRAPHY": (
        Form("geography", mind=_SHAPE),
        Form("geometry", mind=f"{_SHAPE}; its SRID is 4326"),
    ),
    "INTERVAL": (Form("text", mind="as BigQuery writes it: years-months days hours:minutes:seconds"),),
    "RANGE": (Form("text", mind="[start, end), a missing bound as UNBOUNDED"),),
    "STRUCT": (Form("json", mind=FORMS["STRUCT"].mind), Form("text", mind="JSON text")),
}
CASTS["BIGNUMERIC"] = CASTS["NUMERIC"]
# An array as one value, whatever it holds.
ARRAY_CASTS = (
    Form("jsonb", mind="one JSON array"),
    Form("json", mind="one JSON array"),
    Form("text", mind="one JSON array, as text"),
)
NEED_ZONE = frozenset({("DATETIME", "timestamp with time zone"), ("TIMESTAMP", "timestamp without time zone")})
# Elements that an array may be made of by a rule; the other casts are for single values.
_NOT_IN_ARRAYS = frozenset({"json", "jsonb", "geography", "geometry"})


def bigquery_type(column: Column) -> str:
    """The column's type as BigQuery writes it, as in ARRAY<STRUCT<id INT64, price NUMERIC(10, 2)>>."""
    text = column.type
    if column.columns:
        inner = ", ".join(f"{field.name} {bigquery_type(field)}" for field in column.columns)
        text = f"{text}<{inner}>"
    elif column.element:
        text = f"{text}<{column.element}>"
    elif column.precision is not None:
        text = f"{text}({column.precision}{f', {column.scale}' if column.scale else ''})"
    elif column.max_length is not None:
        text = f"{text}({column.max_length})"
    return f"ARRAY<{text}>" if column.repeated else text


def postgres_type(column: Column) -> str:
    """The column's type in PostgreSQL, spelled as `format_type` spells it: fit for DDL and for comparing."""
    if column.target_type:
        return column.target_type
    scalar = form_of(column).postgres
    # An array of STRUCT is one JSON array: PostgreSQL's jsonb[] would be harder to query, not easier.
    return f"{scalar}[]" if column.repeated and column.type != "STRUCT" else scalar


def usual_type(column: Column) -> str:
    """What the column becomes without a rule."""
    return postgres_type(replace(column, target_type="", zone=""))


def casts_of(column: Column) -> tuple[Form, ...]:
    """The types that a rule may choose for the column, other than the usual one."""
    casts = CASTS.get(column.type, ())
    if not column.repeated or column.type == "STRUCT":
        return casts
    arrays = (replace(form, postgres=f"{form.postgres}[]") for form in casts if form.postgres not in _NOT_IN_ARRAYS)
    return (*arrays, *ARRAY_CASTS)


def base_type(type_: str) -> str:
    """`type_` without its lengths: numeric[] for numeric(10,2)[]."""
    return re.sub(r"\(.*\)", "", type_)


def form_of(column: Column) -> Form:
    """The form that the column has in PostgreSQL, by a rule or as usual; of an array's elements where it stays one.

    Raises ConnectorError, code unknown_type, for what cannot be loaded.
    """
    if column.target_type:
        base = base_type(column.target_type)
        return next(form for form in casts_of(column) if form.postgres == base)
    form = Form(_RANGES.get(column.element, "")) if column.type == "RANGE" else FORMS.get(column.type)
    if form is None or not form.postgres:
        raise ConnectorError(
            f"Column {column.name} has the type {column.type}, which cannot be loaded.",
            hint="Skip the column, or cast it in a query to a type such as STRING.",
            code="unknown_type",
            field=column.name,
        )
    if column.type in ("NUMERIC", "BIGNUMERIC") and column.precision is not None:
        return replace(form, postgres=f"numeric({column.precision},{column.scale or 0})")
    return form


def element_of(column: Column) -> Column:
    """A single element of an array column."""
    return replace(column, repeated=False, target_type=column.target_type.removesuffix("[]"))


def bigquery_text(column: Column, expression: str) -> str | None:
    """GoogleSQL for the canonical text of a non-null value; None if the type is counted only, as what is masked is."""
    if column.mask is not None:
        return None
    if column.repeated:
        if _is_one_value(column):
            return None
        text = bigquery_text(element_of(column), "e")
        if text == "e":
            text = "CONCAT(CAST(CHAR_LENGTH(e) AS STRING), ':', e)"
        return text and (
            f"ARRAY_TO_STRING(ARRAY(SELECT IFNULL({text}, 'null')"
            f" FROM UNNEST({expression}) AS e WITH OFFSET AS o ORDER BY o), ',')"
        )
    if column.type == "RANGE":
        bound = Column(column.name, column.element, target_type=column.target_type)
        start, end = (
            bigquery_text(bound, f"RANGE_START({expression})"),
            bigquery_text(bound, f"RANGE_END({expression})"),
        )
        if column.target_type:
            return f"CONCAT('[', IFNULL({start}, 'UNBOUNDED'), ', ', IFNULL({end}, 'UNBOUNDED'), ')')"
        return f"CONCAT(IFNULL({start}, ''), '/', IFNULL({end}, ''))"
    return form_of(column).bigquery_text.format(x=expression, zone=column.zone) or None


def postgres_text(column: Column, expression: str) -> str | None:
    """PostgreSQL's SQL for the same text, byte for byte; None if it is counted only."""
    if column.mask is not None:
        return None
    if column.repeated:
        if _is_one_value(column):
            return None
        text = postgres_text(element_of(column), "e")
        if column.type == "STRING" and text == "e":
            # The length in front, or ["a,b"] and ["a", "b"] would look the same.
            text = "char_length(e) || ':' || e"
        return text and (
            f"array_to_string(ARRAY(SELECT coalesce({text}, 'null')"
            f" FROM unnest({expression}) WITH ORDINALITY AS u (e, o) ORDER BY o), ',')"
        )
    if column.type == "RANGE" and column.target_type:
        return expression
    if column.type == "RANGE":
        bound = Column(column.name, column.element)
        start, end = postgres_text(bound, f"lower({expression})"), postgres_text(bound, f"upper({expression})")
        return f"coalesce({start}, '') || '/' || coalesce({end}, '')"
    return form_of(column).postgres_text.format(x=expression) or None


def _is_one_value(column: Column) -> bool:
    """Whether a rule makes an array column one JSON document."""
    return bool(column.target_type) and not column.target_type.endswith("[]")
