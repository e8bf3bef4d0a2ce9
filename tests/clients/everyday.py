"""What an everyday application does with pymilvus, asserted: `python everyday.py URI`.

A script of its own, so that any interpreter with any pymilvus can run it against one server: the ORM, the synchronous
client and the asynchronous one.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import Any

import numpy as np
from pymilvus import (
    AsyncMilvusClient,
    Collection,
    CollectionSchema,
    DataType,
    FieldSchema,
    MilvusClient,
    connections,
    utility,
)

ROWS = 200
VECTORS = np.random.default_rng(0).random((ROWS, 8)).astype(np.float32)


def use_orm(uri: str) -> None:
    """The Collection API, two shards, string keys, arrays and JSON."""
    connections.connect(uri=uri)
    fields = [
        FieldSchema("pk", DataType.VARCHAR, is_primary=True, max_length=64),
        FieldSchema("n", DataType.INT32),
        FieldSchema("a", DataType.ARRAY, element_type=DataType.INT64, max_capacity=8),
        FieldSchema("j", DataType.JSON),
        FieldSchema("v", DataType.FLOAT_VECTOR, dim=8),
    ]
    schema = CollectionSchema(fields, enable_dynamic_field=True)
    collection = Collection("orm", schema, consistency_level="Strong", num_shards=2)
    keys = [f"k{number:03}" for number in range(ROWS)]
    numbers = list(range(ROWS))
    arrays = [[number, number + 1] for number in numbers]
    collection.insert([keys, numbers, arrays, [{"x": number} for number in numbers], VECTORS])
    collection.create_index("v", {"index_type": "IVF_FLAT", "metric_type": "L2", "params": {"nlist": 8}})
    utility.wait_for_index_building_complete("orm")
    collection.load()
    assert str(utility.load_state("orm")) == "Loaded"
    assert utility.loading_progress("orm")["loading_progress"] == "100%"
    _read_orm(collection)
    _change_orm(collection)
    utility.create_alias("orm", "other")
    assert utility.list_aliases("orm") == ["other"]
    utility.drop_alias("other")
    assert utility.list_collections() == ["orm"]
    utility.drop_collection("orm")
    assert not utility.has_collection("orm")


def _read_orm(collection: Collection) -> None:
    parameters = {"metric_type": "L2", "params": {"nprobe": 8}}
    queries = VECTORS[:2].tolist()
    hits = collection.search(queries, "v", parameters, limit=3, expr="array_contains(a, 1)", output_fields=["n", "j"])
    assert hits[0].ids == ["k000", "k001"] and hits[1].ids == ["k001", "k000"]
    assert hits[1][0].entity.get("j") == {"x": 1}
    assert [row["pk"] for row in collection.query("j['x'] > 197", output_fields=["a"])] == ["k198", "k199"]
    assert np.allclose(collection.query("pk in ['k001']", output_fields=["v"])[0]["v"], VECTORS[1])
    assert _drain(collection.query_iterator(batch_size=50, expr="n >= 0")) == ROWS
    iterator = collection.search_iterator(queries[:1], "v", parameters, batch_size=40, limit=150)
    assert _drain(iterator) == 150


def _drain(iterator: Any) -> int:
    seen = 0
    while page := iterator.next():
        seen += len(page)
    iterator.close()
    return seen


def _change_orm(collection: Collection) -> None:
    assert collection.delete("pk in ['k001', 'k002']").delete_count == 2
    assert collection.upsert([["k003"], [7], [[1]], [{"x": 0}], VECTORS[:1]]).upsert_count == 1
    collection.flush()
    assert collection.query("", output_fields=["count(*)"])[0]["count(*)"] == ROWS - 2
    assert collection.query("pk == 'k003'", output_fields=["n"])[0]["n"] == 7
    partition = collection.create_partition("p1")
    partition.insert([["z"], [1], [[1]], [{}], VECTORS[:1]])
    assert [row["pk"] for row in collection.query("pk == 'z'", partition_names=["p1"])] == ["z"]
    assert collection.query("pk == 'z'", partition_names=["_default"]) == []
    collection.compact()
    collection.wait_for_compaction_completed()
    assert collection.query("", output_fields=["count(*)"])[0]["count(*)"] == ROWS - 1


def use_client(uri: str) -> None:
    """MilvusClient: quick set-up, several vector fields, partitions, every read, change and list."""
    client = MilvusClient(uri=uri)
    client.create_collection("quick", dimension=8, consistency_level="Strong")
    rows = [{"id": number, "vector": VECTORS[number].tolist(), "even": number % 2 == 0} for number in range(ROWS)]
    assert client.insert("quick", rows)["insert_count"] == ROWS
    hits = client.search("quick", [rows[4]["vector"]], limit=5, filter="even == true", output_fields=["even"])[0]
    assert hits[0]["id"] == 4 and all(hit["entity"]["even"] for hit in hits)
    assert [row["id"] for row in client.get("quick", ids=[3, 1])] == [1, 3]
    assert [row["id"] for row in client.query("quick", filter="id >= 0", limit=2, offset=5)] == [5, 6]
    assert client.delete("quick", filter="even == true")["delete_count"] == ROWS // 2
    client.flush("quick")
    assert client.query("quick", output_fields=["count(*)"])[0]["count(*)"] == ROWS // 2
    assert client.describe_index("quick", "vector")["state"] == "Finished"
    assert client.get_collection_stats("quick")["row_count"] == ROWS
    client.release_collection("quick")
    assert str(client.get_load_state("quick")["state"]) == "NotLoad"
    client.rename_collection("quick", "slow")
    assert client.list_collections() == ["slow"]
    client.drop_collection("slow")
    client.close()


async def use_async_client(uri: str) -> None:
    """AsyncMilvusClient: many calls at once."""
    client = AsyncMilvusClient(uri=uri)
    await client.create_collection("later", dimension=4, consistency_level="Strong")
    await client.insert("later", [{"id": number, "vector": [number, 1, 2, 3]} for number in range(100)])
    searches = (client.search("later", [[number, 1, 2, 3]], limit=1, search_params={}) for number in range(1, 21))
    assert all(len(found[0]) == 1 for found in await asyncio.gather(*searches))
    assert [row["id"] for row in await client.get("later", ids=[5])] == [5]
    await client.delete("later", ids=[1])
    assert (await client.query("later", "", output_fields=["count(*)"]))[0]["count(*)"] == 99
    await client.drop_collection("later")
    await client.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    use_orm(sys.argv[1])
    use_client(sys.argv[1])
    asyncio.run(use_async_client(sys.argv[1]))
    sys.stdout.write("done\n")
