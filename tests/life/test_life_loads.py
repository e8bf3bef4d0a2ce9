"""Loads with fields, partitions, refresh and replicas; limits of databases; fields added to loaded collections."""

from __future__ import annotations

import pytest
from pymilvus import DataType, MilvusClient, MilvusException

pytestmark = pytest.mark.slow


def create(client: MilvusClient, name: str) -> None:
    """A collection with two vectors, one of them without an index; not loaded."""
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("w", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("n", DataType.INT64)
    client.drop_collection(name)
    client.create_collection(name, schema=schema, consistency_level="Strong")
    index = client.prepare_index_params()
    index.add_index("v", index_type="FLAT", metric_type="L2")
    client.create_index(name, index)
    client.insert(name, [{"id": key, "v": [key, 0], "w": [0, key], "n": key % 3} for key in range(9)])


def test_some_fields_are_loaded(client: MilvusClient) -> None:
    create(client, "fields")
    with pytest.raises(MilvusException, match="there is no vector index on field"):
        client.load_collection("fields")
    for wanted, text in (
        (["v", "n"], "does not contain primary key field id"),
        (["id", "n"], "does not contain vector field"),
        (["id", "v", "nothing"], "nothing"),
    ):
        with pytest.raises(MilvusException, match=text):
            client.load_collection("fields", load_fields=wanted)
    with pytest.raises(MilvusException, match="collection not loaded"):
        client.refresh_load("fields")
    client.load_collection("fields", load_fields=["id", "v", "n"], skip_load_dynamic_field=True)
    client.refresh_load("fields")
    assert [hit["id"] for hit in client.search("fields", [[4, 0]], limit=1, filter="n == 1", anns_field="v")[0]] == [4]
    with pytest.raises(MilvusException, match="field w is not loaded"):
        client.search("fields", [[4, 0]], limit=1, anns_field="w")


def test_partitions_are_loaded_one_by_one(client: MilvusClient) -> None:
    create(client, "parts")
    client.create_partition("parts", "p")
    client.insert("parts", [{"id": 100, "v": [0, 0], "w": [0, 0], "n": 0}], partition_name="p")
    fields = {"load_fields": ["id", "v", "n"]}
    client.load_partitions("parts", ["p"], **fields)
    assert [row["id"] for row in client.query("parts", filter="id >= 0")] == [100]
    with pytest.raises(MilvusException, match="not loaded"):
        client.query("parts", filter="id >= 0", partition_names=["_default"])
    with pytest.raises(
        MilvusException, match=r"can't change the replica number for loaded partitions.*expected=1.*actual=2"
    ):
        client.load_partitions("parts", ["_default"], replica_number=2, **fields)
    with pytest.raises(MilvusException, match="service resource insufficient"):
        client.load_collection("parts", replica_number=3, **fields)
    client.load_partitions("parts", ["_default"], **fields)
    assert len(client.query("parts", filter="id >= 0")) == 10
    client.release_partitions("parts", ["_default"])
    assert [row["id"] for row in client.query("parts", filter="id >= 0")] == [100]
    client.truncate_collection("parts")
    assert client.query("parts", filter="id >= 0") == []
    client.insert("parts", [{"id": 7, "v": [0, 0], "w": [0, 0], "n": 0}], partition_name="p")
    assert [row["id"] for row in client.query("parts", filter="id >= 0")] == [7]
    client.release_partitions("parts", ["p"])
    assert str(client.get_load_state("parts")["state"]) == "NotLoad"


def test_databases_limit_their_collections(client: MilvusClient) -> None:
    client.create_database("small", properties={"database.max.collections": "1"})
    client.use_database("small")
    client.create_collection("one", dimension=2)
    with pytest.raises(MilvusException, match="exceeded the limit number of collections"):
        client.create_collection("two", dimension=2)
    client.alter_database_properties("small", properties={"database.max.collections": "2"})
    client.create_collection("two", dimension=2)
    for name in ("one", "two"):
        client.drop_collection(name)
    client.use_database("default")
    client.drop_database("small")


def test_databases_deny_reading_and_writing(client: MilvusClient) -> None:
    client.create_database("closed")
    client.using_database("closed")
    client.create_collection("c", dimension=2, consistency_level="Strong")
    row = {"id": 1, "vector": [0, 1]}
    text = "access has been disabled by the administrator"
    client.insert("c", [row])
    client.alter_database_properties("closed", {"database.force.deny.writing": "true"})
    for write in (client.insert, client.upsert):
        with pytest.raises(MilvusException, match=text):
            write("c", [row])
    with pytest.raises(MilvusException, match=text):
        client.delete("c", ids=[1])
    assert client.query("c", ids=[1], output_fields=["id"]) == [{"id": 1}]
    client.alter_database_properties("closed", {"database.force.deny.reading": "true"})
    for read in (lambda: client.query("c", ids=[1]), lambda: client.search("c", [[0, 1]], limit=1)):
        with pytest.raises(MilvusException, match=text):
            read()
    with pytest.raises(MilvusException, match=r"database property database\.force\.deny\.ddl"):
        client.alter_database_properties("closed", {"database.force.deny.ddl": "true"})
    client.drop_database_properties("closed", ["database.force.deny.writing", "database.force.deny.reading"])
    client.delete("c", ids=[1])
    assert client.query("c", ids=[1]) == []
    client.drop_collection("c")
    client.using_database("default")
    client.drop_database("closed")


def test_fields_join_a_loaded_collection(client: MilvusClient) -> None:
    client.create_collection("grows", dimension=2, consistency_level="Strong")
    client.insert("grows", [{"id": key, "vector": [key, 0]} for key in range(5)])
    client.flush("grows")
    client.add_collection_field("grows", "n", DataType.INT64, nullable=True, default_value=4)
    client.add_collection_field("grows", "s", DataType.VARCHAR, max_length=8, nullable=True)
    client.insert("grows", [{"id": 9, "vector": [9, 0], "n": 1, "s": "x"}])
    rows = {
        row["id"]: (row["n"], row["s"]) for row in client.query("grows", filter="id >= 0", output_fields=["n", "s"])
    }
    assert rows == {**dict.fromkeys(range(5), (4, None)), 9: (1, "x")}
    assert {hit["id"] for hit in client.search("grows", [[9, 0]], limit=9, filter="n == 4")[0]} == set(range(5))
    with pytest.raises(MilvusException, match="duplicate field name: n"):
        client.add_collection_field("grows", "n", DataType.INT64, nullable=True)
    with pytest.raises(MilvusException, match="added field must be nullable"):
        client.add_collection_field("grows", "m", DataType.INT64)
    client.alter_collection_field("grows", "s", field_params={"max_length": 2})
    with pytest.raises(MilvusException, match="exceeds max length"):
        client.insert("grows", [{"id": 10, "vector": [9, 0], "s": "long"}])


def test_arrays_of_structs_are_altered(client: MilvusClient) -> None:
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    parts = client.create_struct_field_schema()
    parts.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    parts.add_field("n", DataType.INT64)
    schema.add_field("s", DataType.ARRAY, element_type=DataType.STRUCT, struct_schema=parts, max_capacity=3)
    schema.add_field("w", DataType.FLOAT_VECTOR, dim=2)
    client.drop_collection("structs")
    client.create_collection("structs", schema=schema)
    index = client.prepare_index_params()
    index.add_index("s[v]", index_type="HNSW", metric_type="MAX_SIM_COSINE", params={"M": 8, "efConstruction": 64})
    client.create_index("structs", index)
    assert client.list_indexes("structs") == ["s[v]"]
    client.alter_index_properties("structs", "s[v]", {"mmap.enabled": True})
    assert client.describe_index("structs", "s[v]")["mmap.enabled"] == "True"
    four = {"id": 1, "w": [0, 1], "s": [{"v": [0, 1], "n": n} for n in range(4)]}
    with pytest.raises(MilvusException, match="exceeds max capacity"):
        client.insert("structs", [four])
    client.alter_collection_field("structs", "s", {"mmap_enabled": True, "max_capacity": 4})
    client.alter_collection_field("structs", "s[v]", {"mmap.enabled": True})
    client.insert("structs", [four])
    with pytest.raises(MilvusException, match="does not allow update"):
        client.alter_collection_field("structs", "s", {"dim": 3})
    with pytest.raises(MilvusException, match="does not exist"):
        client.alter_collection_field("structs", "t", {"max_capacity": 4})


def test_fields_that_are_not_loaded_cannot_be_used(client: MilvusClient) -> None:
    schema = client.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("n", DataType.INT64)
    schema.add_field("m", DataType.INT64)
    index = client.prepare_index_params()
    index.add_index("v", index_type="FLAT", metric_type="L2")
    client.drop_collection("some")
    client.create_collection("some", schema=schema, consistency_level="Strong")
    client.create_index("some", index)
    client.insert("some", [{"id": key, "v": [key, 0], "n": key, "m": key, "extra": key} for key in range(5)])
    client.load_collection("some", load_fields=["id", "v", "n"], skip_load_dynamic_field=True)
    for _ in range(2):
        (row,) = client.query("some", "n == 3", output_fields=["*"])
        assert row == {"id": 3, "v": [3, 0], "n": 3}
        (hits,) = client.search("some", [[3, 0]], limit=1, output_fields=["*"])
        assert set(hits[0]["entity"]) == {"id", "v", "n"}
        for ask, text in (
            ({"filter": "m == 3"}, "field m is not loaded"),
            ({"filter": "extra == 3"}, "dynamic field is not loaded"),
            ({"filter": "id == 3", "output_fields": ["m"]}, "field m is not loaded"),
            ({"filter": "id == 3", "output_fields": ["extra"]}, "dynamic field not loaded"),
            ({"filter": "id == 3", "output_fields": ["max(m)"]}, "field m is not loaded"),
        ):
            with pytest.raises(MilvusException, match=text):
                client.query("some", **ask)
        with pytest.raises(MilvusException, match="field m is not loaded"):
            client.search("some", [[3, 0]], limit=1, group_by_field="m")
        client.refresh_load("some")
    client.release_collection("some")
    client.load_collection("some", load_fields=["id", "v", "m"])
    (row,) = client.query("some", "m == 3 and extra == 3", output_fields=["*", "extra"])
    assert row == {"id": 3, "v": [3, 0], "m": 3, "extra": 3}
    client.release_collection("some")
    client.load_collection("some", skip_load_dynamic_field=True)
    (row,) = client.query("some", "m == 3", output_fields=["*"])
    assert row == {"id": 3, "v": [3, 0], "n": 3, "m": 3}
    client.release_collection("some")
    client.load_collection("some")
    assert client.query("some", "extra == 3", output_fields=["extra"])[0]["extra"] == 3
