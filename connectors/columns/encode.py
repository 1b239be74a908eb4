"""Arrow record batches → PostgreSQL's binary COPY format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pgpq
import pyarrow as pa
from pgpq import encoders

from connectors.base import Column
from connectors.errors import ConnectorError

# Large enough that a call costs nothing, small enough to stay in the processor's cache.
SLICE_BYTES = 1 << 20


@dataclass(frozen=True)
class _Encoding:
    """How a column travels: the Arrow type it must arrive in, what becomes of it, and how pgpq writes that."""

    arrow: pa.DataType
    builder: Callable[[pa.Field], Any]
    prepare: Callable[[pa.Array], pa.Array] | None = None


_PLAIN = {
    "BOOL": (pa.bool_(), encoders.BooleanEncoderBuilder),
    "INT64": (pa.int64(), encoders.Int64EncoderBuilder),
    "FLOAT64": (pa.float64(), encoders.Float64EncoderBuilder),
    "NUMERIC": (pa.decimal128(38, 9), encoders.Decimal128EncoderBuilder),
    "STRING": (pa.string(), encoders.StringEncoderBuilder),
    "BYTES": (pa.binary(), encoders.BinaryEncoderBuilder),
    "DATE": (pa.date32(), encoders.Date32EncoderBuilder),
    "TIME": (pa.time64("us"), encoders.Time64MicrosecondEncoderBuilder),
    "DATETIME": (pa.timestamp("us"), encoders.TimestampMicrosecondEncoderBuilder),
    "TIMESTAMP": (pa.timestamp("us", "UTC"), encoders.TimestampMicrosecondEncoderBuilder),
}


class BatchEncoder:
    """Encodes batches whose columns come in any order into rows in the order of `columns`.

    `header()`, then `encode()` for each batch, then `finish()`: the buffers in this order are one
    COPY. Raises ConnectorError with code column_type_changed if a batch is not what `columns` says.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._encodings = tuple(_encoding(column) for column in self._columns)
        fields = [pa.field(str(i), e.arrow) for i, e in enumerate(self._encodings)]
        self._schema = pa.schema(fields)
        self._encoder = pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(
            self._schema, {f.name: e.builder(f) for f, e in zip(fields, self._encodings, strict=True)}
        )

    def header(self) -> bytes:
        return self._encoder.write_header()

    def encode(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Yield buffers of about a megabyte; rows may wait inside until the next call or `finish`."""
        arrays = []
        for column, encoding in zip(self._columns, self._encodings, strict=True):
            position = batch.schema.get_field_index(column.name)
            if position < 0 or batch.schema.field(position).type != encoding.arrow:
                raise ConnectorError(
                    f"Column {column.name} changed its type.", code="column_type_changed", field=column.name
                )
            arrays.append(batch.column(position))
        ready = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        step = max(1, ready.num_rows * SLICE_BYTES // max(1, ready.nbytes))
        for start in range(0, ready.num_rows, step):
            data = self._encoder.write_batch(ready.slice(start, step))
            if data:
                yield data

    def finish(self) -> bytes:
        return self._encoder.finish()


def _encoding(column: Column) -> _Encoding:
    return _Encoding(*_PLAIN[column.type])
