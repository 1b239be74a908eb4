"""Arrow record batches → PostgreSQL's binary COPY format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pgpq
import pyarrow as pa
from pgpq import encoders
from pgpq.schema import Jsonb

from connectors.column import Column
from connectors.columns import binary, casts, strict
from connectors.columns.arrow import fits
from connectors.columns.characters import Characters
from connectors.columns.divert import OF_A_VALUE, Diverter
from connectors.columns.json_text import json_text
from connectors.columns.proving import Prover
from connectors.errors import ConnectorError

# Large enough that a call costs little, small enough that a slice stays in the processor's cache.
SLICE_BYTES = 1 << 20


@dataclass(frozen=True)
class Encoding:
    """How a column travels: what is made of its array, the Arrow type that gives, and how pgpq writes that."""

    arrow: pa.DataType
    builder: Callable[[pa.Field], Any]
    prepare: Callable[[pa.Array], pa.Array] | None = None


class BatchEncoder:
    """Encodes batches whose columns come in any order into rows in the order of `columns`.

    `header()`, then `encode()` for each batch, then `finish()`: the buffers in this order are one COPY.
    `text_policy` says what becomes of characters that PostgreSQL refuses: fail, strip, or replace by U+FFFD. A
    `diverter` takes the rows that would be refused, and the others go on. A `prover` is shown the rows that are sent.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        text_policy: str = "fail",
        *,
        diverter: Diverter | None = None,
        prover: Prover | None = None,
    ) -> None:
        self._columns = tuple(columns)
        self._diverter = diverter
        self._prover = prover
        self._characters = Characters(text_policy)
        self._encodings = tuple(_encoding(column, self._characters) for column in self._columns)
        # Numbered, for pgpq finds its encoders by name.
        fields = [pa.field(str(i), encoding.arrow) for i, encoding in enumerate(self._encodings)]
        self._schema = pa.schema(fields)
        builders = {f.name: encoding.builder(f) for f, encoding in zip(fields, self._encodings, strict=True)}
        self._encoder = pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(self._schema, builders)
        self._checked: pa.Schema | None = None
        self._positions: list[int] = []

    @property
    def repaired(self) -> Mapping[str, int]:
        """How many values were changed, by column; `s.a` is the field a of the STRUCT column s."""
        return self._characters.repaired

    def header(self) -> bytes:
        return bytes(self._encoder.write_header())

    def encode(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Yield buffers of one to a few megabytes; the last rows may wait for the next call or `finish`.

        Raises ConnectorError: column_type_changed if the batch is not what `columns` says,
        nul_character, bad_text or value_out_of_range if PostgreSQL cannot hold a value.
        """
        self._check(batch.schema)
        arrays = [batch.column(position) for position in self._positions]
        taken = pa.RecordBatch.from_arrays(arrays, names=self._schema.names)
        # As equal as can be: a batch a little larger than a slice is one, not one and a rest.
        step = max(1, -(-taken.num_rows // max(1, round(taken.nbytes / SLICE_BYTES))))
        for start in range(0, taken.num_rows, step):
            prepared = self._prepare_all(taken.slice(start, step))
            if self._prover is not None:
                self._prover.look(prepared)
            data = self._encoder.write_batch(prepared)
            if data:
                yield data

    def finish(self) -> bytes:
        return bytes(self._encoder.finish())

    def _check(self, schema: pa.Schema) -> None:
        if self._checked is not None and schema.equals(self._checked):
            return
        self._positions = [_position(column, schema) for column in self._columns]
        self._checked = schema

    def _prepare_all(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows as they are sent, but for those that the diverter takes."""
        if self._diverter is None:
            return self._prepare(rows)
        repaired = dict(self._characters.repaired)
        if self._diverter.is_clean(rows):
            try:
                return self._prepare(rows)
            except ConnectorError as error:
                if error.code not in OF_A_VALUE:
                    raise
        # What was tried above and below counts nothing: the rows that stay are prepared once more.
        ways = [
            self._strict(place) if self._diverter.is_strict else self._way(place) for place in range(rows.num_columns)
        ]
        good = self._diverter.sift(rows, ways)
        self._characters.repaired = repaired
        return self._prepare(good)

    def _prepare(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        arrays = [self._prepared(place, array) for place, array in enumerate(rows.columns)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _prepared(self, place: int, array: pa.Array) -> pa.Array:
        column, encoding = self._columns[place], self._encodings[place]
        try:
            prepared = encoding.prepare(array) if encoding.prepare else array
            return prepared if prepared.type == encoding.arrow else prepared.cast(encoding.arrow)
        except pa.ArrowInvalid as error:
            raise _out_of_range(column, error) from error

    def _way(self, place: int) -> Callable[[pa.Array], pa.Array]:
        return lambda array: self._prepared(place, array)

    def _strict(self, place: int) -> Callable[[pa.Array], pa.Array]:
        """As `_way`, and what only PostgreSQL would find is refused as well."""
        column = self._columns[place]

        def prepare(array: pa.Array) -> pa.Array:
            try:
                strict.refuse_value(array, column)
            except pa.ArrowInvalid as error:
                raise _out_of_range(column, error) from error
            prepared = self._prepared(place, array)
            strict.refuse_document(prepared, column)
            return prepared

        return prepare


def _out_of_range(column: Column, error: pa.ArrowInvalid) -> ConnectorError:
    type_ = column.target_type or column.type
    return ConnectorError(
        f"Column {column.name} holds a value that {type_} cannot have: {error}",
        hint="Choose another type for the column, or cast it in a query to one that holds its values.",
        code="value_out_of_range",
        field=column.name,
    )


def _position(column: Column, schema: pa.Schema) -> int:
    """Where `column` is in the batches; raises ConnectorError if it is not there as announced."""
    found = schema.get_all_field_indices(column.name)
    if len(found) == 1 and fits(column, schema.field(found[0]).type):
        return int(found[0])
    announced = f"ARRAY<{column.type}>" if column.repeated else column.type
    arrived = f"arrives as {schema.field(found[0]).type}" if found else "does not arrive"
    raise ConnectorError(
        f"Column {column.name} was announced as {announced}, but {arrived}.",
        hint="The source changed while it was read, or is not what it was when the pipeline was saved: run it again.",
        code="column_type_changed",
        field=column.name,
    )


def _encoding(column: Column, characters: Characters) -> Encoding:
    if column.target_type:
        return _cast(column, characters)
    if column.type == "STRUCT":
        return replace(_JSONB, prepare=lambda array: json_text(array, column, characters))
    scalar = _scalar(replace(column, repeated=False), characters)
    if not column.repeated:
        return scalar
    oid = binary.array_oid(column)
    if oid:
        send = scalar.prepare or binary.timestamp
        return _sent(lambda array: binary.array_of(array, send(array.flatten()), oid))
    return Encoding(pa.list_(scalar.arrow), _list_of(scalar.builder), _each(scalar.prepare or _same))


def _cast(column: Column, characters: Characters) -> Encoding:
    """A column that a rule gives another type, as the column that it is made into."""
    cast = casts.cast_of(column, characters)
    scalar = _scalar(cast.column, characters)
    send = scalar.prepare or _same
    if not (column.repeated and column.target_type.endswith("[]")):
        return replace(scalar, prepare=lambda array: send(cast.change(array)))
    oid = cast.oid or binary.array_oid(cast.column)
    if oid:
        send = scalar.prepare or (binary.timestamp if cast.column.type == "TIMESTAMP" else _same)
        return _sent(
            lambda array: binary.array_of(array, send(cast.change(array.flatten())).cast(pa.binary()), oid),
        )
    return Encoding(pa.list_(scalar.arrow), _list_of(scalar.builder), _each(lambda values: send(cast.change(values))))


def _scalar(column: Column, characters: Characters) -> Encoding:
    def mend(array: pa.Array) -> pa.Array:
        return characters.mend(array, column.type, column.name)

    match column.type:
        case "STRING":
            return Encoding(pa.string(), encoders.StringEncoderBuilder, mend)
        case "JSON":
            return replace(_JSONB, prepare=mend)
        case "GEOGRAPHY":
            return Encoding(pa.string(), encoders.StringEncoderBuilder, lambda array: mend(_well_known(array)))
        case "BIGNUMERIC":
            return _sent(binary.numeric)
        case "INTERVAL":
            return _sent(binary.interval)
        case "RANGE":
            return _sent(binary.range_)
    return _PLAIN[column.type]


_PLAIN = {
    "BOOL": Encoding(pa.bool_(), encoders.BooleanEncoderBuilder),
    "INT64": Encoding(pa.int64(), encoders.Int64EncoderBuilder),
    "FLOAT64": Encoding(pa.float64(), encoders.Float64EncoderBuilder),
    "NUMERIC": Encoding(pa.decimal128(38, 9), encoders.Decimal128EncoderBuilder),
    "BYTES": Encoding(pa.binary(), encoders.BinaryEncoderBuilder),
    "DATE": Encoding(pa.date32(), encoders.Date32EncoderBuilder),
    "TIME": Encoding(pa.time64("us"), encoders.Time64MicrosecondEncoderBuilder),
    "DATETIME": Encoding(pa.timestamp("us"), encoders.TimestampMicrosecondEncoderBuilder),
    "TIMESTAMP": Encoding(pa.timestamp("us", "UTC"), encoders.TimestampMicrosecondEncoderBuilder),
}
_JSONB = Encoding(pa.string(), lambda field: encoders.StringEncoderBuilder.new_with_output(field, Jsonb()))


def _sent(prepare: Callable[[pa.Array], pa.Array]) -> Encoding:
    """A column that is turned into PostgreSQL's send format here; pgpq writes it as it is."""
    return Encoding(pa.binary(), encoders.BinaryEncoderBuilder, prepare)


def _well_known(array: pa.Array) -> pa.Array:
    """WKT as it is; WKB as hex, which PostGIS reads as well."""
    return binary.hex_text(array) if pa.types.is_binary(array.type) else array


def _list_of(inner: Callable[[pa.Field], Any]) -> Callable[[pa.Field], Any]:
    return lambda field: encoders.ListEncoderBuilder.new_with_inner(field, inner(field.type.value_field))


def _each(prepare: Callable[[pa.Array], pa.Array]) -> Callable[[pa.Array], pa.Array]:
    """`prepare` on the values of lists; a NULL list becomes an empty one, for BigQuery knows no NULL array."""

    def prepare_lists(array: pa.Array) -> pa.Array:
        values = array.flatten()
        prepared = prepare(values)
        return array if prepared is values and not array.null_count else binary.relist(array, prepared)

    return prepare_lists


def _same(array: pa.Array) -> pa.Array:
    return array
