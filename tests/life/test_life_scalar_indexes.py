"""Scalar indexes through pymilvus: the same rows before, with and without one, and counters that tell which it was."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from pymilvus import DataType, MilvusClient

from servers import BUSY, DrillServer

pytestmark = pytest.mark.slow

ROWS = 4000
WAIT_S_MAX = 60.0
INDEXES: dict[str, tuple[dict[str, object], str]] = {
    "number": ({"index_type": "STL_SORT"}, "number < 20"),
    "word": ({"index_type": "Trie"}, "word like 'w1%'"),
    "title": ({"index_type": "NGRAM", "params": {"min_gram": 2, "max_gram": 3}}, "title like '%number 77%'"),
    "place": ({"index_type": "RTREE"}, "st_within(place, 'POLYGON ((-1 -1, 20 -1, 20 2, -1 2, -1 -1))')"),
    "kind": ({"index_type": "BITMAP"}, "kind == 'k1'"),
    "tags": ({"index_type": "INVERTED"}, "array_contains(tags, 3)"),
    "doc": (
        {"index_type": "INVERTED", "params": {"json_cast_type": "double", "json_path": 'doc["n"]'}},
        'doc["n"] > 390',
    ),
}
"""By field: an index and a filter that it answers."""
_blanks = count(1)


def fresh(filter: str) -> str:
    """The same filter in a text that nobody has asked with, so that no kept answer serves it."""
    return filter + " " * next(_blanks)


def row(number: int) -> dict[str, object]:
    """A row; every seventh has no word and no tags."""
    return {
        "id": number,
        "v": [float(number), 1.0],
        "number": number % 500,
        "word": None if number % 7 == 0 else f"w{number % 100}",
        "title": f"this is number {number}",
        "place": f"POINT ({number % 100} 1)",
        "kind": f"k{number % 4}",
        "tags": None if number % 7 == 0 else [number % 5, number % 3],
        "doc": {"n": number % 400, "s": "x", "price": f"{number % 400}.5", "of": {"group": f"g{number % 50}"}},
    }


def fill(client: MilvusClient, name: str) -> None:
    """A loaded collection of sealed rows without scalar indexes."""
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("number", DataType.INT64)
    schema.add_field("word", DataType.VARCHAR, max_length=16, nullable=True)
    schema.add_field("title", DataType.VARCHAR, max_length=64)
    schema.add_field("place", DataType.GEOMETRY)
    schema.add_field("kind", DataType.VARCHAR, max_length=16)
    schema.add_field("tags", DataType.ARRAY, element_type=DataType.INT64, max_capacity=4, nullable=True)
    schema.add_field("doc", DataType.JSON)
    index = client.prepare_index_params()
    index.add_index("v", index_type="FLAT", metric_type="L2")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
    client.insert(name, [row(number) for number in range(ROWS)])
    client.flush(name)


def create_index(client: MilvusClient, name: str, field: str) -> None:
    """The field's index of `INDEXES`, by its own name."""
    index = client.prepare_index_params()
    index.add_index(field, index_name=f"of_{field}", **INDEXES[field][0])
    client.create_index(name, index, sync=False)


def create_json_index(client: MilvusClient, name: str, index_name: str, **params: str) -> None:
    """An index of documents."""
    index = client.prepare_index_params()
    index.add_index("doc", index_name=index_name, index_type="AUTOINDEX", params=params)
    client.create_index(name, index, sync=False)


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    """Until it holds."""
    until = time.monotonic() + WAIT_S_MAX
    while not holds():
        assert time.monotonic() < until, f"waited {WAIT_S_MAX} s for {what}"
        time.sleep(0.1)


def is_finished(client: MilvusClient, name: str, field: str) -> bool:
    """Whether all sealed rows are indexed."""
    state = client.describe_index(name, f"of_{field}")
    assert state["total_rows"] == state["indexed_rows"] + state["pending_index_rows"]
    return bool(state["state"] == "Finished" and state["indexed_rows"] == ROWS)


def ids(client: MilvusClient, name: str, filter: str) -> list[int]:
    """Keys that pass."""
    return sorted(one["id"] for one in client.query(name, filter=filter, output_fields=["id"]))


class Counted:
    """A server that counts, and how often each way of answering was taken since it was last asked."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.server = DrillServer(folder, *flags, "--metrics-port", "0").wait_ready()
        port = re.search(r"metrics on port (\d+)", self.server.announcement)
        assert port is not None
        self._url = f"http://127.0.0.1:{port[1]}/metrics"

    def answered(self) -> dict[str, float]:
        """Leaves evaluated so far, by what answered."""
        text = urllib.request.urlopen(self._url, timeout=10).read().decode()
        return {by: float(value) for by, value in re.findall(r'elanus_filter_leaves_total\{by="(\w+)"\} (\S+)', text)}

    def uses_index(self, ask: Callable[[], object]) -> bool:
        """Whether what is asked is answered by indexes alone."""
        before = self.answered()
        ask()
        after = self.answered()
        return after["index"] > before["index"] and after["scan"] == before["scan"]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    running = Counted(tmp_path_factory.mktemp("scalars") / "data")
    yield running
    running.server.kill()


@pytest.fixture
def client(counted: Counted) -> Iterator[MilvusClient]:
    connected = MilvusClient(counted.server.uri)
    yield connected
    connected.close()


def test_an_index_of_a_loaded_collection_serves_at_once_and_goes(counted: Counted, client: MilvusClient) -> None:
    fill(client, "rows")
    expected = {field: ids(client, "rows", filter) for field, (_, filter) in INDEXES.items()}
    assert all(0 < len(found) < ROWS for found in expected.values())
    for field, (_, filter) in INDEXES.items():
        assert not counted.uses_index(lambda text=filter: ids(client, "rows", fresh(text)))
        create_index(client, "rows", field)
        wait_for(f"the index of {field}", lambda name=field: is_finished(client, "rows", name))
        wait_for(
            f"filters on {field} to use the index",
            lambda text=filter: counted.uses_index(lambda: ids(client, "rows", fresh(text))),
        )
        assert ids(client, "rows", fresh(filter)) == expected[field]
        opposite = ids(client, "rows", f"not ({filter})")
        null = {n for n in range(ROWS) if n % 7 == 0} if field in ("word", "tags") else set()
        assert opposite == sorted(set(range(ROWS)) - set(expected[field]) - null)
    both = fresh("number < 20 and kind == 'k1' and word like 'w1%'")
    wanted = sorted(set(expected["number"]) & set(expected["kind"]) & set(expected["word"]))
    before = counted.answered()["index"]
    assert ids(client, "rows", both) == wanted
    assert counted.answered()["index"] > before
    found = client.search("rows", [[7.0, 1.0]], limit=50, filter=fresh("kind == 'k1'"))[0]
    assert [hit["id"] for hit in found] == sorted(expected["kind"], key=lambda n: (abs(n - 7), n))[:50]
    # Rows that are not sealed yet are scanned, and found beside the others.
    client.insert("rows", [row(number) for number in range(ROWS, ROWS + 500)])
    assert ids(client, "rows", "number < 20") == [n for n in range(ROWS + 500) if n % 500 < 20]
    client.delete("rows", ids=list(range(ROWS, ROWS + 500)))
    client.drop_index("rows", "of_number")
    wait_for(
        "filters to do without the dropped index",
        lambda: not counted.uses_index(lambda: ids(client, "rows", fresh("number < 20"))),
    )
    assert ids(client, "rows", fresh("number < 20")) == expected["number"]


def test_whole_documents_are_indexed(counted: Counted, client: MilvusClient) -> None:
    fill(client, "whole")
    filters = ('doc["of"]["group"] == "g7"', 'doc["n"] in [3, 5]', 'exists doc["of"]["none"]', 'doc["none"] > 1')
    expected = [ids(client, "whole", filter) for filter in filters]
    assert list(map(len, expected)) == [ROWS // 50, 2 * ROWS // 400, 0, 0]
    create_json_index(client, "whole", "of_doc", json_path="doc", json_cast_type="JSON")
    wait_for("the index", lambda: is_finished(client, "whole", "doc"))
    for filter, keys in zip(filters, expected, strict=True):
        wait_for(filter, lambda text=filter: counted.uses_index(lambda: ids(client, "whole", fresh(text))))
        assert ids(client, "whole", fresh(filter)) == keys


def test_strings_are_cast_to_numbers_where_an_index_says_so(counted: Counted, client: MilvusClient) -> None:
    """As with Milvus the definition changes what is found; here it does so at once, indexed yet or not."""
    fill(client, "cast")
    filter = 'doc["price"] > 398.5'
    dear = [number for number in range(ROWS) if number % 400 == 399]
    assert ids(client, "cast", filter) == []
    create_json_index(
        client, "cast", "of_doc",
        json_path="doc['price']", json_cast_type="DOUBLE", json_cast_function="STRING_TO_DOUBLE",
    )  # fmt: skip
    assert ids(client, "cast", filter) == dear
    wait_for("the index", lambda: is_finished(client, "cast", "doc"))
    wait_for("its use", lambda: counted.uses_index(lambda: ids(client, "cast", fresh(filter))))
    assert ids(client, "cast", fresh(filter)) == dear
    assert ids(client, "cast", 'doc["price"] == "399.5"') == dear
    client.insert("cast", [row(ROWS + 399)])
    assert ids(client, "cast", filter) == [*dear, ROWS + 399]
    assert client.delete("cast", filter=f"{filter} and id >= {ROWS}")["delete_count"] == 1
    assert ids(client, "cast", fresh(filter)) == dear
    client.drop_index("cast", "of_doc")
    assert ids(client, "cast", fresh(filter)) == []


def test_a_kill_during_builds_loses_nothing(tmp_path: Path) -> None:
    server = DrillServer(tmp_path / "data", *BUSY).wait_ready()
    client = MilvusClient(server.uri)
    fill(client, "rows")
    expected = {field: ids(client, "rows", filter) for field, (_, filter) in INDEXES.items()}
    for turn, field in enumerate(INDEXES):
        create_index(client, "rows", field)
        if turn % 3:
            continue
        time.sleep(0.02 * turn)
        client.close()
        server.kill()
        server = DrillServer(tmp_path / "data", *BUSY).wait_ready()
        client = MilvusClient(server.uri)
    for field in INDEXES:
        wait_for(f"the index of {field}", lambda name=field: is_finished(client, "rows", name))
    for field, (_, filter) in INDEXES.items():
        keys = expected[field]
        wait_for("the rows", lambda text=filter, keys=keys: ids(client, "rows", text) == keys)
    client.close()
    server.stop()
