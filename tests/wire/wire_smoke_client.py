"""What an ordinary pymilvus user does, against the server at the given address; prints OK at its end.

Run by the tests in this process's pymilvus and, as a script, by other versions of it.
"""

from __future__ import annotations

import sys

import numpy as np
import pymilvus
from pymilvus import DataType, MilvusClient


def main(uri: str) -> None:
    client = MilvusClient(uri=uri)
    assert client.get_server_version().lstrip("v").startswith("2.6"), client.get_server_version()
    assert client.has_collection("smoke") is False
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True, description="a test")
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=8)
    schema.add_field("name", DataType.VARCHAR, max_length=100, nullable=True)
    schema.add_field("age", DataType.INT16, default_value=np.int16(7))
    schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=5, max_length=10)
    schema.add_field("doc", DataType.JSON, nullable=True)
    params = client.prepare_index_params()
    params.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": 8, "efConstruction": 64})
    client.create_collection("smoke", schema=schema, index_params=params, consistency_level="Strong")
    assert client.has_collection("smoke") is True
    assert client.list_collections() == ["smoke"]

    told = client.describe_collection("smoke")
    assert [field["name"] for field in told["fields"]] == ["id", "vector", "name", "age", "tags", "doc"], told
    assert told["enable_dynamic_field"] is True
    assert told["fields"][1]["params"] == {"dim": 8}
    assert told["consistency_level"] in (0, "Strong")
    index = client.describe_index("smoke", "vector")
    assert (index["index_type"], index["metric_type"], index["state"]) == ("HNSW", "IP", "Finished"), index
    assert index["M"] == "8", index
    assert str(client.get_load_state("smoke")["state"]) == "Loaded"

    vectors = np.eye(8, dtype=np.float32)
    rows = [
        {
            "id": 10 + n,
            "vector": vectors[n].tolist(),
            "name": None if n % 2 else f"name-{n}",
            "age": n,
            "tags": [str(n)] * (n % 3),
            "doc": {"n": n},
            "extra": n * 2,
        }
        for n in range(8)
    ]
    inserted = client.insert("smoke", rows)
    assert inserted["insert_count"] == 8
    assert list(inserted["ids"]) == list(range(10, 18))
    upserted = client.upsert("smoke", [{**rows[0], "id": 99}])
    assert upserted["upsert_count"] == 1

    hits = client.search("smoke", [vectors[3].tolist()], limit=2, output_fields=["*"])
    assert len(hits) == 1
    assert len(hits[0]) == 2
    best = hits[0][0]
    assert best["id"] == 13
    assert abs(best["distance"] - 1.0) < 1e-6
    entity = best["entity"]
    assert entity["name"] is None
    assert entity["age"] == 3
    assert list(entity["tags"]) == []
    assert entity["doc"] == {"n": 3}
    assert entity["extra"] == 6
    assert np.allclose(entity["vector"], vectors[3])
    many = client.search("smoke", vectors.tolist(), limit=1)
    assert [one[0]["id"] for one in many] == [
        99 if n == 0 and one[0]["id"] == 99 else 10 + n for n, one in enumerate(many)
    ]

    found = client.query("smoke", filter="id >= 0", output_fields=["*"])
    assert len(found) == 9
    assert found[2]["name"] == "name-2"
    assert found[1]["name"] is None
    assert found[2]["tags"] == ["2", "2"]
    assert found[4]["extra"] == 8
    assert np.allclose(found[5]["vector"], vectors[5])
    assert client.query("smoke", output_fields=["count(*)"])[0]["count(*)"] == 9
    assert client.delete("smoke", ids=[10, 11])["delete_count"] == 2
    assert client.get_collection_stats("smoke")["row_count"] == 9

    client.create_partition("smoke", "part")
    assert client.has_partition("smoke", "part")
    assert client.list_partitions("smoke") == ["_default", "part"]
    client.release_partitions("smoke", ["part"])
    client.load_partitions("smoke", ["part"])
    assert client.get_partition_stats("smoke", "part")["row_count"] == 9
    client.drop_partition("smoke", "part")
    client.create_alias("smoke", "other")
    assert client.describe_alias("other")["collection_name"] == "smoke"
    assert client.list_aliases("smoke")["aliases"] == ["other"]
    client.alter_alias("smoke", "other")
    client.drop_alias("other")
    client.create_database("second")
    assert client.list_databases() == ["default", "second"]
    assert client.describe_database("second")["name"] == "second"
    client.alter_database_properties("second", {"database.max.collections": 3})
    client.use_database("second")
    assert client.list_collections() == []
    client.use_database("default")
    client.drop_database("second")
    client.alter_collection_properties("smoke", {"collection.ttl.seconds": 60})
    assert client.describe_collection("smoke")["properties"]["collection.ttl.seconds"] == "60"
    client.flush("smoke")
    client.flush_all()
    assert client.get_flush_all_state(flush_all_ts=1) is True
    job = client.compact("smoke")
    assert job == 77
    assert client.get_compaction_state(job) == "Completed"
    assert len(client.list_persistent_segments("smoke")) == 1
    assert len(client.list_loaded_segments("smoke")) == 2
    assert list(client.describe_replica("smoke")[0].group_nodes) == [1]
    client.rename_collection("smoke", "smoked")
    client.release_collection("smoked")
    try:
        client.search("smoked", [vectors[0].tolist()], limit=1)
        raise AssertionError("a released collection was searched")
    except pymilvus.MilvusException as error:
        assert error.code == 101, error
        assert "collection not loaded" in error.message
    client.drop_index("smoked", "vector")
    client.drop_collection("smoked")
    try:
        client.list_users()
        raise AssertionError("an unserved call succeeded")
    except pymilvus.MilvusException as error:
        assert error.code == 10, error
    every_type(client)
    client.close()
    print("OK", pymilvus.__version__)


def every_type(client: MilvusClient) -> None:
    """A row with a value of each type comes back as it was sent."""
    schema = MilvusClient.create_schema()
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=20)
    for kind in ("BOOL", "INT8", "INT16", "INT32", "INT64", "FLOAT", "DOUBLE", "JSON"):
        schema.add_field(kind.lower(), DataType[kind], nullable=True)
    for kind in ("BOOL", "INT8", "INT64", "FLOAT", "DOUBLE"):
        schema.add_field(f"list_{kind.lower()}", DataType.ARRAY, element_type=DataType[kind], max_capacity=4)
    for kind in ("BINARY", "FLOAT16", "BFLOAT16", "INT8"):
        schema.add_field(f"{kind.lower()}_vector", DataType[f"{kind}_VECTOR"], dim=16)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    client.create_collection("types", schema=schema)
    row = {
        "key": "ü",
        "bool": True,
        "int8": -128,
        "int16": -5,
        "int32": 2**31 - 1,
        "int64": -(2**63),
        "float": 0.5,
        "double": 1e300,
        "json": {"a": [1, None]},
        "list_bool": [True, False],
        "list_int8": [-1],
        "list_int64": [],
        "list_float": [0.5],
        "list_double": [2.5],
        "binary_vector": b"\x01\x02",
        "float16_vector": np.arange(16, dtype=np.float16),
        "bfloat16_vector": bytes(range(32)),
        "int8_vector": np.arange(-8, 8, dtype=np.int8),
        "sparse": {1: 0.5, 70000: 2.0},
    }
    nulls = dict.fromkeys(("bool", "int8", "int16", "int32", "int64", "float", "double", "json"))
    client.insert("types", [row, {**row, **nulls, "key": "b"}])
    first, second = client.query("types", filter="key != ''", output_fields=["*"])
    for name in ("key", "bool", "int8", "int16", "int32", "int64", "float", "double", "json", "sparse"):
        assert first[name] == row[name], (name, first[name])
    for name in (name for name in row if str(name).startswith("list_")):
        assert list(first[name]) == row[name], (name, first[name])
    assert all(second[name] is None for name in nulls), second
    for name in ("binary_vector", "bfloat16_vector"):
        assert b"".join(first[name]) == row[name], first[name]
    for name in ("float16_vector", "int8_vector"):
        assert b"".join(first[name]) == row[name].tobytes(), first[name]  # type: ignore[attr-defined]
    client.drop_collection("types")


if __name__ == "__main__":
    main(sys.argv[1])
