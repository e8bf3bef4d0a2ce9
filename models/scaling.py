"""What a cluster of many nodes can do, on paper: from a few costs to 100 nodes and a billion vectors.

    python models/scaling.py

Every role process answers calls on one event loop, so that a process has one core for calls, whatever its machine has;
index kernels run beside it on as many threads as there are cores. A resource's limit is the rate at which its busiest
unit is full. Costs marked *measured* are from `python -m bench.scaling` and `python -m bench.internal_calls`, on a slow
machine of two cores; the others are estimates. docs/scaling.md reads the results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# --- costs, seconds of one core -------------------------------------------------------------------------------------
CALL_S = 0.1e-3
"""Measured: one small call between roles, at the caller; taken for the callee too. 0.065 ms with 32 under way."""
CLIENT_CALL_S = 2.0e-3
"""Measured: a client's search at the proxy (decode, check, route, reduce, encode), without the calls it makes."""
DELEGATE_S = 0.5e-3
"""Measured: a read of one shard at its delegator (evidence, pin, growing search, reduce), without calls."""
ANSWER_S = 0.3e-3
"""A read of one shard's segments at a query node, without the kernels: what is left of the measured 1.9 ms for a scan
of 15,000 rows x 256, call included, when the scan (about 1.5 ms) is taken off."""
KERNEL_S = 0.4e-3
"""One query over one HNSW segment of 350,000 rows x 768 (0.19 ms at 60,000 x 384, twice the dimension)."""
KERNEL_GROWTH = 1.08
"""Per doubling of a segment's rows."""
ROW_PROXY_S = 9e-6
ROW_STREAMING_S = 9e-6
"""Measured: one row of 256 floats, in batches of 1000, through the proxy and through the owner, log included."""
BUILD_ROW_S = 1.2e-3
"""One row into an HNSW graph."""
STORE_PUTS_S = 3500.0
"""Conditional puts a second that an object store takes below one prefix (S3's published figure)."""
ETCD_READS_S = 15_000.0
"""Linearizable reads a second of three etcd members."""

ROW_BYTES = 768 * 4 + 100
INDEX_ROW_BYTES = 768 + 160
"""HNSW over 8-bit codes."""


@dataclass(frozen=True)
class Shape:
    """A cluster. Machines have `cores` and `memory_bytes`; a role process has one of them to itself."""

    name: str
    rows: float
    proxies: int
    streaming: int
    query: int
    data: int
    shards: int = 16
    segment_bytes: float = float(1 << 30)
    cores: int = 16
    memory_bytes: float = 64e9
    affine: bool = False
    """Whether a shard's segments lie on few query nodes instead of on all of a replica."""
    replicas: int = 1
    """Each has every segment once, on query nodes of its own, and a delegator for each shard."""

    @property
    def segments(self) -> float:
        return max(self.shards, self.rows * ROW_BYTES / self.segment_bytes)

    @property
    def nodes_per_shard(self) -> float:
        nodes = self.query / self.replicas
        spread = nodes / self.shards if self.affine else nodes
        return max(1.0, min(spread, self.segments / self.shards, nodes))


def kernel_s(shape: Shape) -> float:
    """Of one query over one segment."""
    return KERNEL_S * KERNEL_GROWTH ** math.log2(shape.segment_bytes / (1 << 30))


def query_limits(shape: Shape) -> dict[str, float]:
    """Queries a second at which each resource is full."""
    calls_per_node = shape.shards * shape.nodes_per_shard / shape.query
    delegators = min(shape.streaming, shape.shards * shape.replicas)
    reads = shape.shards / delegators * (DELEGATE_S + CALL_S + shape.nodes_per_shard * CALL_S)
    return {
        "proxy loops": shape.proxies / (CLIENT_CALL_S + shape.shards * CALL_S),
        "delegator loops": 1 / reads,
        "query loops": 1 / (calls_per_node * (ANSWER_S + CALL_S)),
        "query kernels": shape.query * shape.cores / (shape.segments * kernel_s(shape)),
    }


def row_limits(shape: Shape) -> dict[str, float]:
    """Rows a second at which each resource is full; batches of 1000 rows of 768 floats, a flush a segment."""
    width = 768 / 256
    return {
        "proxy loops": shape.proxies / (ROW_PROXY_S * width),
        "owner loops": min(shape.streaming, shape.shards) / (ROW_STREAMING_S * width),
        "index builds": shape.data * shape.cores / BUILD_ROW_S,
        "log puts": STORE_PUTS_S * 1000,
    }


def memory_share(shape: Shape) -> float:
    """Of the query nodes' memory that the indexes take."""
    return shape.rows * INDEX_ROW_BYTES * shape.replicas / (shape.query * shape.memory_bytes)


SMALL = Shape("1 M vectors, 5 nodes", 1e6, 1, 1, 1, 1, shards=1)
MIDDLE = Shape("50 M vectors, 16 nodes", 5e7, 2, 4, 6, 3, shards=4)
LARGE = Shape("1 G vectors, 100 nodes", 1e9, 8, 16, 60, 16)
SHAPES = (
    SMALL,
    MIDDLE,
    LARGE,
    replace(LARGE, name="the same, shards kept together", affine=True),
    replace(LARGE, name="the same, segments of 4 GiB", affine=True, segment_bytes=float(4 << 30)),
    replace(LARGE, name="and 16 proxies", affine=True, segment_bytes=float(4 << 30), proxies=16),
    replace(
        LARGE,
        name="and 2 replicas, 32 streaming",
        affine=True,
        segment_bytes=float(4 << 30),
        proxies=16,
        streaming=32,
        replicas=2,
    ),
)
SCALED_BY = {
    "proxy loops": "more proxies",
    "delegator loops": "a shard's segments on fewer query nodes, more streaming nodes with more shards or replicas",
    "query loops": "a shard's segments on fewer query nodes, then more query nodes",
    "query kernels": "larger segments, then more query nodes or cores",
    "owner loops": "more shards on more streaming nodes",
    "index builds": "more data nodes or cores",
    "log puts": "more prefixes",
}


def main() -> None:
    """A table of limits; the lowest of each line is what saturates first."""
    for title, limits in (("queries/s", query_limits), ("rows/s", row_limits)):
        print(f"{title} at which each resource is full\n")
        names = list(limits(SMALL))
        print(f"{'':34}" + "".join(f"{name:>18}" for name in names) + f"{'first':>18}")
        for shape in SHAPES:
            found = limits(shape)
            first = min(found, key=lambda name: found[name])
            print(f"{shape.name:34}" + "".join(f"{found[name]:18,.0f}" for name in names) + f"{first:>18}")
        print()
    for name, means in SCALED_BY.items():
        print(f"{name} are scaled by {means}")
    print()
    for shape in SHAPES:
        print(f"{shape.name:34}{shape.segments:9,.0f} segments, indexes fill {memory_share(shape):5.0%} of memory")


if __name__ == "__main__":
    main()
