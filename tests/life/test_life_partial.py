"""Partial upserts with array operations, and collections isolated by partition key, through pymilvus."""

from __future__ import annotations

import pytest
from pymilvus import DataType, FieldOp, MilvusClient, MilvusException

pytestmark = pytest.mark.slow


def test_arrays_are_changed_in_place(client: MilvusClient) -> None:
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("tags", DataType.ARRAY, element_type=DataType.INT64, max_capacity=4, nullable=True)
    schema.add_field("small", DataType.ARRAY, element_type=DataType.INT8, max_capacity=4, nullable=True)
    schema.add_field("name", DataType.VARCHAR, max_length=8, nullable=True)
    index = client.prepare_index_params()
    index.add_index("v", index_type="FLAT", metric_type="L2")
    client.create_collection("arrays", schema=schema, index_params=index, num_shards=2, consistency_level="Strong")
    client.insert("arrays", [{"id": key, "v": [key, 0], "tags": [key, 9], "name": "n"} for key in range(8)])
    client.upsert("arrays", [{"id": 8, "v": [8, 0], "tags": None}], partial_update=True)
    client.flush("arrays")
    client.upsert(
        "arrays", [{"id": key, "tags": [1, 9]} for key in range(9)], field_ops={"tags": FieldOp.array_append()}
    )
    tags = {row["id"]: row["tags"] for row in client.query("arrays", filter="id >= 0", output_fields=["tags"])}
    assert tags == {**{key: [key, 9, 1, 9] for key in range(8)}, 8: [1, 9]}
    client.upsert("arrays", [{"id": key, "tags": [9]} for key in range(9)], field_ops={"tags": FieldOp.array_remove()})
    rows = client.query("arrays", filter="id >= 0", output_fields=["tags", "name"])
    assert {row["id"]: row["tags"] for row in rows} == {**{key: [key, 1] for key in range(8)}, 8: [1]}
    assert {row["name"] for row in rows} == {"n", None}
    client.upsert("arrays", [{"id": 1, "small": [5]}], field_ops={"small": FieldOp.array_append()})
    assert client.get("arrays", ids=[1], output_fields=["small"])[0]["small"] == [5]
    with pytest.raises(MilvusException, match="array length 5 exceeds max_capacity 4"):
        client.upsert(
            "arrays",
            [{"id": key, "tags": [1] * (key // 7 + 2)} for key in range(8)],
            field_ops={"tags": FieldOp.array_append()},
        )
    assert {row["id"]: row["tags"] for row in client.query("arrays", filter="id < 8", output_fields=["tags"])} == {
        key: [key, 1] for key in range(8)
    }
    for field, text in (
        ("name", 'op ARRAY_APPEND requires Array field, but field "name" is VarChar'),
        ("id", "is the primary key"),
    ):
        with pytest.raises(MilvusException, match=text):
            client.upsert("arrays", [{"id": 1, "name": "x"}], field_ops={field: FieldOp.array_append()})


def test_isolated_searches_pin_the_key(client: MilvusClient) -> None:
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("k", DataType.INT64, is_partition_key=True)
    client.create_collection("isolated", schema=schema, properties={"partitionkey.isolation": "true"})
    index = client.prepare_index_params()
    index.add_index("v", index_type="IVF_FLAT", metric_type="L2", nlist=4)
    with pytest.raises(MilvusException, match="only HNSW"):
        client.create_index("isolated", index)
    index = client.prepare_index_params()
    index.add_index("v", index_type="HNSW", metric_type="L2")
    client.create_index("isolated", index)
    client.load_collection("isolated")
    client.insert("isolated", [{"id": key, "v": [key, 0], "k": key % 3} for key in range(9)])
    strong = {"limit": 9, "consistency_level": "Strong"}
    for filter in ("k == 1", "id >= 0 and k == 1"):
        assert [hit["id"] for hit in client.search("isolated", [[0, 0]], filter=filter, **strong)[0]] == [1, 4, 7]
    for filter, text in (
        ("", "partition key not found in expr"),
        ("id > 1", "partition key not found in expr"),
        ("k == 1 or id == 2", "partition key isolation does not support OR"),
        ("k in [1, 2]", "partition key isolation does not support IN"),
        ("k > 1", "partition key isolation does not support >"),
    ):
        with pytest.raises(MilvusException, match=text):
            client.search("isolated", [[0, 0]], filter=filter, **strong)
    with pytest.raises(MilvusException, match="already has a vector index"):
        client.alter_collection_properties("isolated", properties={"partitionkey.isolation": "false"})
