"""Times and shapes through pymilvus: what is sent, stored, filtered and shown."""

from __future__ import annotations

import pytest
from pymilvus import DataType, MilvusClient, MilvusException

pytestmark = pytest.mark.slow

SQUARE = "POLYGON ((0 0, 10 0, 10 10, 0 10, 0 0))"
SHAPES = {
    1: "POINT (5 5)",
    2: "POINT (50 50)",
    3: "LINESTRING (5 5, 20 20)",
    4: SQUARE,
    5: None,
    6: "POLYGON ((10 0, 20 0, 20 10, 10 10, 10 0))",
}
TIMES = {
    1: "2024-12-31 22:00:00",
    2: "2024-12-31T22:00:00+08:00",
    3: "2025-06-01T00:00:00.25Z",
    4: "9999-12-31T23:46:05",
    5: None,
}


def create(client: MilvusClient, name: str, **more: object) -> None:
    """A loaded collection `name` with a GEOMETRY `g` and a TIMESTAMPTZ `t`, both nullable."""
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("g", DataType.GEOMETRY, nullable=True)
    schema.add_field("t", DataType.TIMESTAMPTZ, nullable=True)
    schema.add_field("d", DataType.TIMESTAMPTZ, default_value="2025-01-01T00:00:00")
    index = client.prepare_index_params()
    index.add_index("v", index_type="FLAT", metric_type="L2")
    index.add_index("g", index_type="RTREE")
    index.add_index("t", index_type="STL_SORT")
    client.drop_collection(name)
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong", **more)


def ids(client: MilvusClient, name: str, filter: str, **more: object) -> list[int]:
    """Keys that pass the filter."""
    return sorted(row["id"] for row in client.query(name, filter=filter, output_fields=["id"], **more))


def test_shapes(client: MilvusClient) -> None:
    create(client, "shapes")
    client.insert("shapes", [{"id": key, "v": [key, 0], "g": shape} for key, shape in SHAPES.items()])
    for _ in range(2):
        rows = {row["id"]: row["g"] for row in client.query("shapes", filter="id > 0", output_fields=["g"])}
        assert rows == SHAPES
        assert ids(client, "shapes", f"ST_WITHIN(g, '{SQUARE}')") == [1, 4]
        assert ids(client, "shapes", f"st_intersects(g, '{SQUARE}')") == [1, 3, 4, 6]
        assert ids(client, "shapes", f"st_touches(g, '{SQUARE}')") == [6]
        assert ids(client, "shapes", f"st_crosses(g, '{SQUARE}')") == [3]
        assert ids(client, "shapes", f"st_equals(g, '{SQUARE}')") == [4]
        assert ids(client, "shapes", "st_contains(g, {p})", filter_params={"p": "POINT (5 5)"}) == [1, 4]
        assert ids(client, "shapes", "st_overlaps(g, 'POLYGON ((5 5, 15 5, 15 15, 5 15, 5 5))')") == [4, 6]
        assert ids(client, "shapes", "st_dwithin(g, 'POINT (5 5.001)', 200)") == [1, 3, 4]
        assert ids(client, "shapes", f"not st_intersects(g, '{SQUARE}')") == [2]
        assert ids(client, "shapes", "g is null") == [5]
        found = client.search("shapes", [[0, 0]], filter=f"st_within(g, '{SQUARE}')", limit=9, output_fields=["g"])
        assert [(hit["id"], hit["entity"]["g"]) for hit in found[0]] == [(1, SHAPES[1]), (4, SHAPES[4])]
        client.flush("shapes")


@pytest.mark.parametrize("text", ["", "POINT ()", "POLYGON ((0 0, 1 1))", "LINESTRING (0 0)", "nonsense"])
def test_what_is_no_shape_is_refused(client: MilvusClient, text: str) -> None:
    create(client, "no_shapes")
    with pytest.raises(MilvusException, match="syntax error"):
        client.insert("no_shapes", [{"id": 1, "v": [0, 0], "g": text}])
    for wrong in (
        f"st_within(g, '{text}')",
        f"st_within(id, '{SQUARE}')",
        "st_within(g)",
        f"st_dwithin(g, '{SQUARE}', 1)",
        "st_dwithin(g, 'POINT (1 1)', -1)",
    ):
        with pytest.raises(MilvusException, match="failed to create query plan: cannot parse expression"):
            client.query("no_shapes", filter=wrong)


def test_times(client: MilvusClient) -> None:
    create(client, "times", properties={"timezone": "Asia/Shanghai"})
    client.insert("times", [{"id": key, "v": [key, 0], "t": time} for key, time in TIMES.items()])
    for _ in range(2):
        rows = {row["id"]: row["t"] for row in client.query("times", filter="id > 0", output_fields=["t"])}
        assert rows == {
            1: "2024-12-31T22:00:00+08:00",
            2: "2024-12-31T22:00:00+08:00",
            3: "2025-06-01T08:00:00.25+08:00",
            4: "9999-12-31T23:46:05+08:00",
            5: None,
        }
        other = client.query("times", filter="id == 3", output_fields=["t", "d"], timezone="America/New_York")[0]
        assert (other["t"], other["d"]) == ("2025-05-31T20:00:00.25-04:00", "2024-12-31T11:00:00-05:00")
        parts = client.query("times", filter="id == 3", output_fields=["t"], time_fields="year, month day,microsecond")
        assert list(parts[0]["t"]) == [2025, 6, 1, 250000]
        assert ids(client, "times", "t == ISO '2024-12-31 22:00:00'") == [1, 2]
        assert ids(client, "times", "t == ISO '2024-12-31 14:00:00'", timezone="UTC") == [1, 2]
        assert ids(client, "times", "t > ISO '2024-12-31T14:00:00Z'") == [3, 4]
        assert ids(client, "times", "t - INTERVAL 'P1D' < ISO '2024-12-31T14:00:00Z' and t is not null") == [1, 2]
        hits = client.search("times", [[3, 0]], limit=1, output_fields=["t"], timezone="UTC")[0]
        assert hits[0]["entity"]["t"] == "2025-06-01T00:00:00.25Z"
        client.flush("times")
    client.upsert("times", [{"id": 1, "t": "2000-01-01 00:00:00"}], partial_update=True)
    assert client.get("times", ids=[1], output_fields=["t"])[0]["t"] == "2000-01-01T00:00:00+08:00"
    client.alter_collection_properties("times", properties={"timezone": "UTC"})
    assert client.get("times", ids=[1], output_fields=["t"])[0]["t"] == "1999-12-31T16:00:00Z"
    client.delete("times", filter="t < ISO '2000-01-01 00:00:00'")
    assert ids(client, "times", "id > 0") == [2, 3, 4, 5]


def test_wrong_times_are_refused(client: MilvusClient) -> None:
    create(client, "wrong_times")
    for text in ("never", "2025-04-31 00:00:00", "2025-02-29 00:00:00", "2025-01-01T00:00:00+24:00"):
        with pytest.raises(MilvusException) as caught:
            client.insert("wrong_times", [{"id": 1, "v": [0, 0], "t": text}])
        assert f"got invalid timestamptz string '{text}'" in caught.value.message
    with pytest.raises(MilvusException, match="unknown or invalid IANA Time Zone ID: Mars"):
        client.alter_collection_properties("wrong_times", properties={"timezone": "Mars"})
    with pytest.raises(MilvusException, match="unknown or invalid IANA Time Zone ID: Mars"):
        client.query("wrong_times", filter="id > 0", timezone="Mars")
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("t", DataType.TIMESTAMPTZ, nullable=True, default_value="soon")
    with pytest.raises(MilvusException, match=r"invalid timestamp string: 'soon'\. Does not match any known format"):
        client.create_collection("soon", schema=schema)
    with pytest.raises(MilvusException, match=r"invalid default value of field, name: s, err: .*'soon'"):
        client.add_collection_field("wrong_times", "s", DataType.TIMESTAMPTZ, nullable=True, default_value="soon")


def test_zones_come_from_databases(client: MilvusClient) -> None:
    client.create_database("zones", properties={"timezone": "Asia/Tokyo"})
    client.use_database("zones")
    create(client, "here")
    client.alter_database_properties("zones", properties={"timezone": "Europe/Berlin"})
    assert client.describe_collection("here")["properties"]["timezone"] == "Asia/Tokyo"
    fields = {field["name"]: field for field in client.describe_collection("here")["fields"]}
    assert fields["d"]["default_value"].string_data == "2025-01-01T00:00:00+09:00"
    client.add_collection_field(
        "here", "later", DataType.TIMESTAMPTZ, nullable=True, default_value="2025-01-01T00:00:00"
    )
    client.add_collection_field("here", "place", DataType.GEOMETRY, nullable=True)
    client.insert("here", [{"id": 1, "v": [0, 0]}])
    row = client.query("here", filter="id == 1", output_fields=["later", "place"])[0]
    assert (row["later"], row["place"]) == ("2025-01-01T00:00:00+09:00", None)
    client.drop_collection("here")
    client.use_database("default")
    client.drop_database("zones")
