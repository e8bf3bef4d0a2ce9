"""Queries in an order, in groups and over elements of struct arrays, through a server: the request form of pymilvus 3.

The installed pymilvus may be older and not send these parameters, so that the request is put together here.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from pymilvus import DataType, MilvusClient
from pymilvus.client.prepare import Prepare
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2, schema_pb2
from reads_twin import Rows

pytestmark = pytest.mark.slow


class Answer:
    """Columns by name, and of each row the places of its elements."""

    def __init__(self, reply: Any) -> None:
        if reply.status.code:
            raise MilvusException(reply.status.code, reply.status.reason)
        self.names = [field.field_name for field in reply.fields_data]
        self.columns = {field.field_name: _cells(field) for field in reply.fields_data}
        self.elements = [
            list(schema_pb2.IDs.FromString(field.data).int_id.data)
            for field in UnknownFieldSet(reply)
            if field.field_number == 7
        ] or [list(one.indices.data) for one in getattr(reply, "element_indices", ())]

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return list(zip(*self.columns.values(), strict=True))


def _cells(field: Any) -> list[Any]:
    if field.WhichOneof("field") != "scalars":
        return [None]
    data = getattr(field.scalars, field.scalars.WhichOneof("data") or "long_data").data
    return [cell if not field.valid_data or field.valid_data[place] else None for place, cell in enumerate(data)]


def ask(client: MilvusClient, collection: str, filter_: str, outputs: list[str], **params: Any) -> Answer:
    """A query with these `query_params`."""
    request = Prepare.query_request(collection, filter_, outputs, [], use_default_consistency=True)
    for key, value in params.items():
        request.query_params.append(common_pb2.KeyValuePair(key=key, value=str(value)))
    return Answer(client._get_connection()._stub.Query(request))


# --- order ----------------------------------------------------------------------------------------------------------
def test_ordered_pages_are_those_of_one_sort(client: MilvusClient, rows: Rows) -> None:
    expected = [
        row.key
        for row in sorted(rows, key=lambda row: (row.group is not None, -(row.group or 0), row.name, row.key))
        if row.number >= 0
    ]
    found: list[int] = []
    for offset in range(0, len(expected) + 40, 40):
        page = ask(client, "c", "number >= 0", ["name"], limit=40, offset=offset, order_by_fields="group:desc,name")
        assert page.names == ["name", "id"]
        found += page.columns["id"]
    assert found == expected


def test_nulls_go_where_they_are_asked_to(client: MilvusClient, rows: Rows) -> None:
    def first(order: str) -> Any:
        return ask(client, "c", "", ["group"], limit=1, order_by_fields=order).columns["group"][0]

    assert first("group") == 0
    assert first("group:asc:nulls_first") is None
    assert first("group:desc") is None
    assert first("group:desc:nulls_last") == 6


@pytest.mark.parametrize(
    ("outputs", "params", "text"),
    [
        (["name"], {"order_by_fields": "name"}, "ORDER BY requires explicit limit"),
        (
            ["name"],
            {"order_by_fields": "name", "limit": 1, "iterator": True},
            "ORDER BY with iterator is not supported",
        ),
        (["name"], {"order_by_fields": "x", "limit": 1}, "order_by field 'x' does not exist in collection schema"),
        (
            ["name"],
            {"order_by_fields": "json", "limit": 1},
            "field 'json' has type JSON which is not sortable",
        ),
        (["name"], {"order_by_fields": "l2", "limit": 1}, "has type FloatVector which is not sortable"),
        (["name"], {"order_by_fields": "name:up", "limit": 1}, "invalid order_by field 'name:up'"),
        (
            ["group", "sum(number)"],
            {"order_by_fields": "sum(number)", "group_by_fields": "group"},
            "ORDER BY on aggregate expression 'sum(number)' is not yet supported",
        ),
        (["group"], {"order_by_fields": "name", "group_by_fields": "group"}, "must be one of the group by fields"),
        (["name"], {"group_by_fields": "group"}, "output field 'name' must be a group by field or an aggregate"),
        (["json"], {"group_by_fields": "json"}, "group by field 'json' has unsupported data type JSON"),
        (["sum(name)"], {}, "aggregate sum is not supported on field 'name' of type VarChar"),
        (["sum(*)"], {}, "aggregate sum(*) is not supported"),
        (["sum(nothing)"], {}, "aggregate field 'nothing' does not exist in collection schema"),
        (["count(*)", "name"], {}, "count(*) must be the only output field"),
        (["count(*)"], {"limit": 3}, "count entities with pagination is not allowed"),
    ],
)
def test_refused(client: MilvusClient, rows: Rows, outputs: list[str], params: dict[str, Any], text: str) -> None:
    with pytest.raises(MilvusException, match=text.replace("(", r"\(").replace(")", r"\)").replace("*", r"\*")):
        ask(client, "c", "", outputs, **params)


# --- groups ---------------------------------------------------------------------------------------------------------
def test_groups_and_their_aggregates(client: MilvusClient, rows: Rows) -> None:
    outputs = ["group", "count(*)", "sum(number)", "AVG(number)", "min(name)", "max(number)", "count(group)"]
    answer = ask(client, "c", "number > -40", outputs, group_by_fields="group,name")
    assert answer.names == outputs
    groups: dict[tuple[int | None, str], list[Any]] = {}
    for row in rows:
        if row.number > -40:
            groups.setdefault((row.group, row.name), []).append(row)
    expected = [
        (
            group,
            len(own),
            sum(row.number for row in own),
            pytest.approx(sum(row.number for row in own) / len(own)),
            name,
            max(row.number for row in own),
            0 if group is None else len(own),
        )
        for (group, name), own in sorted(groups.items(), key=lambda item: (item[0][0] is None, item[0]))
    ]
    assert answer.rows == expected
    page = ask(client, "c", "number > -40", outputs, group_by_fields="group,name", limit=5, offset=3)
    assert page.rows == expected[3:8]
    turned = ask(
        client,
        "c",
        "number > -40",
        outputs,
        group_by_fields="group,name",
        order_by_fields="group:desc:nulls_last,name:desc",
    )
    assert turned.rows[: len(expected) - 5] == [row for row in expected if row[0] is not None][::-1]


def test_aggregates_of_all_rows(client: MilvusClient, rows: Rows) -> None:
    answer = ask(client, "c", "", ["count(*)", "sum(group)", "count(group)", "min(id)"])
    groups = [row.group for row in rows if row.group is not None]
    assert answer.rows == [(len(rows), sum(groups), len(groups), min(row.key for row in rows))]
    nothing = ask(client, "c", "number > 1000", ["count(*)", "sum(number)"])
    assert nothing.rows == [(0, None)]
    assert ask(client, "c", "number > 1000", ["group"], group_by_fields="group").rows == []


# --- elements of struct arrays --------------------------------------------------------------------------------------
ELEMENT_ROWS = 40


def elements_of(key: int) -> list[dict[str, Any]]:
    return [{"a": (key * 3 + place) % 7, "b": f"w{place % 2}", "v": [float(place), 1.0]} for place in range(key % 5)]


@pytest.fixture(scope="module")
def structs(client: MilvusClient) -> str:
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("x", DataType.FLOAT_VECTOR, dim=2)
    part = client.create_struct_field_schema()
    part.add_field("a", DataType.INT64)
    part.add_field("b", DataType.VARCHAR, max_length=10)
    part.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("st", DataType.ARRAY, element_type=DataType.STRUCT, struct_schema=part, max_capacity=10)
    index = client.prepare_index_params()
    index.add_index("x", index_type="FLAT", metric_type="L2")
    index.add_index("st[v]", index_type="HNSW", metric_type="MAX_SIM_COSINE")
    client.create_collection("structs", schema=schema, index_params=index, num_shards=2, consistency_level="Strong")
    sent = [{"id": key, "x": [0.0, float(key)], "st": elements_of(key)} for key in range(ELEMENT_ROWS)]
    client.insert("structs", sent[: ELEMENT_ROWS // 2])
    client.flush("structs")
    client.insert("structs", sent[ELEMENT_ROWS // 2 :])
    return "structs"


def plain_elements(low: int) -> list[tuple[int, int]]:
    """Key and place of the elements with `a` above and `b` w1."""
    return [
        (key, place)
        for key in range(ELEMENT_ROWS)
        for place, element in enumerate(elements_of(key))
        if element["a"] > low and element["b"] == "w1"
    ]


def pairs(answer: Answer) -> list[tuple[int, int]]:
    assert len(answer.elements) == len(answer.columns["id"])
    return [(key, place) for key, own in zip(answer.columns["id"], answer.elements, strict=True) for place in own]


def test_elements_are_found_counted_and_paged(client: MilvusClient, structs: str) -> None:
    text = "id >= 0 and element_filter(st, $[a] > 2 and $[b] == 'w1')"
    expected = plain_elements(2)
    assert pairs(ask(client, structs, text, ["id"])) == expected
    assert ask(client, structs, text, ["count(*)"]).rows == [(len(expected),)]
    for offset in range(0, len(expected) + 3, 3):
        assert pairs(ask(client, structs, text, ["id"], limit=3, offset=offset)) == expected[offset : offset + 3]


def test_an_iterator_goes_on_within_a_row(client: MilvusClient, structs: str) -> None:
    text = "element_filter(st, $[a] > 0)"
    expected = [
        (key, place) for key in range(ELEMENT_ROWS) for place, one in enumerate(elements_of(key)) if one["a"] > 0
    ]
    found: list[tuple[int, int]] = []
    while True:
        cursor = {}
        filter_ = text
        if found:
            cursor = {"query_iter_last_pk": found[-1][0], "query_iter_last_element_offset": found[-1][1]}
            filter_ = f"id >= {found[-1][0]} and ({text})"
        page = ask(client, structs, filter_, ["id"], limit=3, iterator=True, **cursor)
        if not page.columns["id"]:
            break
        found += pairs(page)
    assert found == expected


def test_rows_are_matched_by_their_elements(client: MilvusClient, structs: str) -> None:
    def keys(text: str) -> list[int]:
        return [row["id"] for row in client.query(structs, text, output_fields=["id"])]

    def counts(low: int) -> list[int]:
        return [sum(one["a"] > low for one in elements_of(key)) for key in range(ELEMENT_ROWS)]

    assert keys("match_any(st, $[a] > 4)") == [key for key, count in enumerate(counts(4)) if count]
    assert keys("match_all(st, $[a] > 1)") == [k for k, count in enumerate(counts(1)) if count == len(elements_of(k))]
    assert keys("match_least(st, $[a] > 1, threshold=2)") == [k for k, count in enumerate(counts(1)) if count >= 2]
    assert keys("match_most(st, $[a] > 1, threshold=1)") == [k for k, count in enumerate(counts(1)) if count <= 1]
    assert keys("MATCH_EXACT(st, $[a] > 1, threshold=2)") == [k for k, count in enumerate(counts(1)) if count == 2]
    assert keys("array_length(st) == 3") == [key for key in range(ELEMENT_ROWS) if key % 5 == 3]


def test_elements_do_not_go_with_everything(client: MilvusClient, structs: str) -> None:
    with pytest.raises(MilvusException, match="needs a search of one of its vectors element by element, got: x by L2"):
        client.search(structs, [[0.0, 1.0]], "element_filter(st, $[a] > 2)", limit=3, anns_field="x")
    text = "element_filter(st, $[a] > 2)"
    with pytest.raises(MilvusException, match="order_by_fields with element_filter"):
        ask(client, structs, text, ["id"], order_by_fields="id", limit=3)
    with pytest.raises(MilvusException, match="aggregates with element_filter"):
        ask(client, structs, text, ["max(id)"])
