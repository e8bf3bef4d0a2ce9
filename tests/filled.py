"""Collections made and filled through the SDK, for tests that are about something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

INSERT_ROWS = 5000


def normal_vectors(count: int, dim: int) -> np.ndarray:
    """The same ones every time: float32 of shape (count, dim)."""
    return np.random.default_rng(3).normal(size=(count, dim)).astype(np.float32)


def create(
    client: MilvusClient,
    name: str,
    dim: int,
    index: Mapping[str, Any] | None = None,
    *,
    vector: str = "v",
    text: str | None = None,
    **more: Any,
) -> None:
    """A collection, Strong, of a key `id`, a vector, and a short text where it is named; loaded where an index is
    given."""
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field(vector, DataType.FLOAT_VECTOR, dim=dim)
    if text is not None:
        schema.add_field(text, DataType.VARCHAR, max_length=20)
    if index is not None:
        more["index_params"] = client.prepare_index_params()
        more["index_params"].add_index(vector, **index)
    client.create_collection(name, schema=schema, consistency_level="Strong", **more)


def fill(client: MilvusClient, name: str, values: np.ndarray) -> None:
    """A row for each vector, with its place as `id`; flushed."""
    for start in range(0, len(values), INSERT_ROWS):
        some = values[start : start + INSERT_ROWS]
        client.insert(name, [{"id": start + place, "v": vector} for place, vector in enumerate(some)])
    client.flush(name)


def create_index(client: MilvusClient, name: str, index: Mapping[str, Any], **more: Any) -> None:
    """An index over the vector `v`."""
    indexes = client.prepare_index_params()
    indexes.add_index("v", **index)
    client.create_index(name, indexes, **more)


# --- rows with words ------------------------------------------------------------------------------------------------
def worded_rows(start: int, end: int, dim: int) -> list[dict[str, Any]]:
    """Rows of `id`, `vector` and `word`: those of an `id` are the same every time."""
    vectors = np.random.default_rng(3).random((end, dim), np.float32)
    return [{"id": number, "vector": vectors[number], "word": f"w{number}"} for number in range(start, end)]


def stored_words(client: MilvusClient, name: str, **more: Any) -> dict[int, str]:
    """The word of each `id`."""
    found = client.query(name, "id >= 0", output_fields=["word"], consistency_level="Strong", limit=10_000, **more)
    return {row["id"]: row["word"] for row in found}
