"""One server, and one collection of two shards whose rows are partly in files and partly not, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient
from reads_twin import ROW_COUNT, Rows, made_rows

from servers import DrillServer


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    folder: Path = tmp_path_factory.mktemp("reads")
    server = DrillServer(folder / "data").wait_ready()
    client = MilvusClient(server.uri)
    yield client
    client.close()
    server.kill()


@pytest.fixture(scope="module")
def rows(client: MilvusClient) -> Rows:
    schema = client.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    for name in ("cosine", "l2", "ip"):
        schema.add_field(name, DataType.FLOAT_VECTOR, dim=4, nullable=name == "ip")
    schema.add_field("number", DataType.INT32)
    schema.add_field("group", DataType.INT64, nullable=True)
    schema.add_field("name", DataType.VARCHAR, max_length=20)
    schema.add_field("json", DataType.JSON)
    index = client.prepare_index_params()
    for name in ("cosine", "l2", "ip"):
        index.add_index(name, index_type="FLAT", metric_type=name.upper())
    client.create_collection("c", schema=schema, index_params=index, num_shards=2, consistency_level="Strong")
    made = made_rows(np.random.default_rng(11))
    sent: list[dict[str, Any]] = [row.as_sent() for row in made]
    client.insert("c", sent[: ROW_COUNT // 2])
    client.flush("c")
    client.insert("c", sent[ROW_COUNT // 2 :])
    client.delete("c", ids=[row.key for row in made if row.key % 50 == 0])
    return [row for row in made if row.key % 50 != 0]
