"""Filters over one million rows beside DuckDB and pyarrow on the same columns: `python -m bench.filters`.

Each filter is timed in one thread three ways: the first evaluation over a sealed segment by the product's own path (row
mask and cache, files mapped), the second one with nothing changed, and the fastest of what DuckDB (a table of its own,
rows out) and pyarrow (its compute functions) need. These are CPU times of this process: what else the machine does
does not count. With `--server` also `count(*)` through a server, first and second, by the clock.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.procs import Server
from bench.systems import SERVERS
from elanus.expr import parse_filter
from elanus.model.channel import ORIGIN
from elanus.model.columns import Batch, Column
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import FileRef, SegmentEntry
from elanus.model.types import DataType
from elanus.search.masks import MaskCache, Masking, row_mask
from elanus.segment.files import ScalarFile, SegmentData, encode_segment
from elanus.segment.reader import Visibility
from elanus.segment.sealed import SealedSegment

ROWS = 1_000_000
ROUNDS = 5
BATCH_ROWS = 20_000
RATIO_MAX = 2.0
AGAIN_MAX = 0.2
SCHEMA = CollectionSchema(
    "bench",
    (
        FieldSchema(100, "id", DataType.INT64, is_primary=True),
        FieldSchema(101, "a", DataType.INT64),
        FieldSchema(102, "s", DataType.VARCHAR, type_params={"max_length": "64"}),
        FieldSchema(103, "j", DataType.JSON),
        FieldSchema(104, "t", DataType.ARRAY, element_type=DataType.INT64, type_params={"max_capacity": "8"}),
    ),
)


class Case(NamedTuple):
    """A filter, the same as SQL, and (where it has one) as a function of pyarrow."""

    name: str
    text: str
    sql: str
    arrow: Callable[[pa.Table], Any] | None


class Figures(NamedTuple):
    """Milliseconds."""

    first: float
    again: float
    duckdb: float
    arrow: float | None
    hits: int

    @property
    def other(self) -> float:
        """The faster of the two."""
        return self.duckdb if self.arrow is None else min(self.duckdb, self.arrow)

    @property
    def is_slow(self) -> bool:
        """Whether a goal is missed."""
        return self.first > RATIO_MAX * self.other or self.again > AGAIN_MAX * self.first


class Chance:
    """Nothing here samples."""

    def token(self) -> str:
        return ""

    def uniform(self) -> float:
        return 0.0

    def below(self, bound: int) -> int:
        return 0


def made_columns(row_count: int) -> dict[str, Any]:
    """The same columns on every run."""
    chance = np.random.default_rng(7)
    words = pa.array([f"{chr(97 + number % 26)}{number:06d}-package" for number in range(50_000)], pa.large_string())
    numbers = chance.integers(0, 1000, row_count).tolist()
    documents = [
        b'{"k":{"n":%d,"m":"abc"},"color":"c%d","price":%d.5,"tags":["a","b"]}' % (number, number % 10, number * 3)
        for number in numbers
    ]
    lengths = chance.integers(0, 8, row_count)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return {
        "id": np.arange(row_count),
        "a": chance.integers(0, 1_000_000, row_count),
        "s": words.take(pa.array(chance.integers(0, len(words), row_count))),
        "j": pa.array(documents, pa.large_binary()),
        "t": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(chance.integers(0, 100, int(offsets[-1])))),
    }


def made_cases() -> list[Case]:
    """The five filters."""
    wanted = sorted(random.Random(3).sample(range(1_000_000), 100))
    listed = ", ".join(map(str, wanted))
    return [
        Case("comparison", "a < 500000", "a < 500000", lambda table: pc.less(table["a"], 500_000)),
        Case("in 100", f"a in [{listed}]", f"a in ({listed})", lambda table: pc.is_in(table["a"], pa.array(wanted))),
        Case("like 'x%'", "s like 'x%'", "s like 'x%'", lambda table: pc.starts_with(table["s"], "x")),
        Case("json path", 'j["k"]["n"] > 500', "(j->'k'->>'n')::BIGINT > 500", None),
        Case("array_contains", "array_contains(t, 7)", "list_contains(t, 7)", None),
    ]


def sealed_file(columns: dict[str, Any], schema: CollectionSchema = SCHEMA) -> memoryview:
    """The rows as the file of a sealed segment."""
    count = len(columns["id"])
    batch = Batch(count, {field.field_id: Column(columns[field.name]) for field in schema.fields})
    return memoryview(encode_segment(SegmentData(batch, np.full(count, 10, np.uint64), None), schema).scalars)


def opened(file: memoryview, row_count: int, schema: CollectionSchema = SCHEMA) -> SealedSegment:
    """The segment as it was just loaded."""
    entry = SegmentEntry(1, 1, row_count, 0, ORIGIN, 10, 10, FileRef("scalars", len(file), 0))
    return SealedSegment(entry, schema, ScalarFile(file, "scalars"), {})


def milliseconds(call: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """One call."""
    started = clock()
    call()
    return (clock() - started) * 1000


def best(call: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """The fastest of several calls."""
    return min(milliseconds(call, clock) for _ in range(ROUNDS))


def measured(columns: dict[str, Any], cases: list[Case]) -> dict[str, Figures]:
    """Every way's time of every filter, and that all agree on the number of rows."""
    import duckdb

    pa.set_cpu_count(1)
    table = pa.table({**columns, "j": columns["j"].cast(pa.large_string())})
    database = duckdb.connect()
    database.register("rows_in", table)
    database.execute("set threads = 1")
    database.execute("create table rows as select id, a, s, j::json as j, t from rows_in")
    file = sealed_file(columns)
    found = {}
    for case in cases:
        filter_ = parse_filter(case.text, SCHEMA)
        firsts, agains, hits = [], [], 0
        for _ in range(ROUNDS):
            # A segment of its own each time: the column is read, nothing else is known of it.
            segment = opened(file, len(columns["id"]))
            for field_id in filter_.field_ids:
                segment.column(field_id)
            masking = Masking(MaskCache(), Chance())

            asked = partial(row_mask, segment, filter_, Visibility(20), masking)

            firsts.append(milliseconds(asked))
            agains.append(best(asked))
            hits = asked().count
        query = f"select id from rows where {case.sql}"
        counted = database.execute(f"select count(*) from rows where {case.sql}").fetchone()
        assert counted is not None and counted[0] == hits, f"{case.name}: {hits} rows, DuckDB says {counted}"
        arrow = case.arrow
        found[case.name] = Figures(
            min(firsts),
            min(agains),
            best(lambda query=query: database.execute(query).fetchnumpy()),
            None if arrow is None else best(lambda arrow=arrow: arrow(table)),
            hits,
        )
    return found


def through_server(columns: dict[str, Any], cases: list[Case]) -> dict[str, tuple[float, float]]:
    """`count(*)` by pymilvus over a flushed collection: the first time and the best of the next ones."""
    with tempfile.TemporaryDirectory() as folder:
        launch = SERVERS["elanus"].launch(Path(folder))
        with launch.start() as server:
            client = connected(server, launch.port)
            fill(client, columns)
            found = {}
            for case in cases:

                def asked(text: str = case.text) -> Any:
                    return client.query("bench", text, output_fields=["count(*)"])

                found[case.name] = (milliseconds(asked, time.perf_counter), best(asked, time.perf_counter))
            client.close()
            return found


def connected(server: Server, port: int) -> Any:
    """A client, once the server answers."""
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    while True:
        server.check_alive()
        try:
            return MilvusClient(f"http://127.0.0.1:{port}", timeout=2)
        except MilvusException:
            time.sleep(0.1)


def fill(client: Any, columns: dict[str, Any]) -> None:
    """All rows sent and flushed."""
    from pymilvus import DataType as Types

    schema = client.create_schema()
    schema.add_field("id", Types.INT64, is_primary=True)
    schema.add_field("a", Types.INT64)
    schema.add_field("s", Types.VARCHAR, max_length=64)
    schema.add_field("j", Types.JSON)
    schema.add_field("t", Types.ARRAY, element_type=Types.INT64, max_capacity=8)
    schema.add_field("v", Types.FLOAT_VECTOR, dim=2)
    index = client.prepare_index_params()
    index.add_index("v", index_type="FLAT", metric_type="L2")
    client.create_collection("bench", schema=schema, index_params=index)
    table = pa.table(columns)
    for start in range(0, table.num_rows, BATCH_ROWS):
        rows = table.slice(start, BATCH_ROWS).to_pylist()
        client.insert("bench", [{**row, "j": json.loads(row["j"]), "v": [0.0, 1.0]} for row in rows])
    client.flush("bench")


def report(found: dict[str, Figures], served: dict[str, tuple[float, float]]) -> str:
    """One line a filter; ratios are to the faster of DuckDB and pyarrow, and of the second time to the first."""
    lines = ["filter           first ms  again ms   duckdb    arrow   ratio   again     rows"]
    for name, one in found.items():
        arrow = "-" if one.arrow is None else f"{one.arrow:.2f}"
        lines.append(
            f"{name:15}{one.first:10.2f}{one.again:10.3f}{one.duckdb:9.2f}{arrow:>9}"
            f"{one.first / one.other:8.2f}{one.again / one.first:8.3f}{one.hits:9d}"
        )
    for name, (first, again) in served.items():
        lines.append(f"{name:15}count(*) through a server: first {first:.2f} ms, again {again:.2f} ms")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; exit 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.filters", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--server", action="store_true", help="also count(*) through a server (minutes: rows are sent)")
    options = parser.parse_args()
    columns, cases = made_columns(options.rows), made_cases()
    found = measured(columns, cases)
    served = through_server(columns, cases) if options.server else {}
    print(report(found, served))
    missed = [name for name, one in found.items() if one.is_slow]
    if missed:
        sys.exit(f"goals (first <= {RATIO_MAX:g} x other, again <= {AGAIN_MAX:g} x first) missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
