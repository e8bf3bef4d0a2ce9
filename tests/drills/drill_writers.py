"""The clients of the crash drill: collections of two kinds of key, writers with keys of their own, the full check."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from drill_ledger import DIM, SHELVES, Ledger, Outcome, text_of, vectors
from pymilvus import DataType, MilvusClient, MilvusException

# The SDK prints a page for every call that meets a dead server.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)

KEYS_PER_WRITER = 1_000_000
ROWS_LIVING_MAX = 6_000
CALL_S_MAX = 20.0
# Milvus's codes of replies that say that nothing was done and the request may be sent again.
REFUSALS = frozenset({1, 2, 7, 8, 503, 904, 2200})
# Of replies that say that nobody knows.
UNKNOWN = frozenset({5})
STRONG = {"consistency_level": "Strong", "timeout": CALL_S_MAX, "retry_times": 1}
# For writes. The SDK sends what met a broken connection again, and an insert that was done the first time is then there
# twice. With a time-out it does so until that has passed whatever `retry_times` says, so a write has none: a dead
# server ends it by its socket, a silent one through nginx.
SENT_ONCE = {"retry_times": 0}


@dataclass(frozen=True)
class Kind:
    """A collection under test."""

    name: str
    text_keys: bool
    index: str
    metric: str
    shards: int

    def key(self, key: int) -> int | str:
        """A number as this collection's key."""
        return f"k{key:09d}" if self.text_keys else key

    def number(self, key: int | str) -> int:
        """And back."""
        return int(str(key)[1:]) if self.text_keys else int(key)


KINDS = (
    Kind("numbers", False, "HNSW", "L2", 2),
    Kind("words", True, "IVF_FLAT", "L2", 1),
)
INDEX_PARAMS = {"HNSW": {"M": 8, "efConstruction": 80}, "IVF_FLAT": {"nlist": 8}}
SEARCH_PARAMS = {"HNSW": {"ef": 200}, "IVF_FLAT": {"nprobe": 8}}


def create(client: MilvusClient, kind: Kind) -> None:
    """Make, index and load the collection."""
    schema = client.create_schema(auto_id=False, enable_dynamic_field=kind.text_keys)
    if kind.text_keys:
        schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=32)
    else:
        schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("writer", DataType.INT64)
    schema.add_field("shelf", DataType.INT64)
    schema.add_field("version", DataType.INT64)
    schema.add_field("text", DataType.VARCHAR, max_length=128)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    params = client.prepare_index_params()
    params.add_index("vector", index_type=kind.index, metric_type=kind.metric, params=INDEX_PARAMS[kind.index])
    client.create_collection(kind.name, schema=schema, index_params=params, num_shards=kind.shards)


def rows(kind: Kind, writer: int, outcomes: dict[int, int]) -> list[dict[str, Any]]:
    """The rows of (key, version) pairs."""
    made = vectors(np.array(list(outcomes)), np.array(list(outcomes.values())))
    return [
        {
            "pk": kind.key(key),
            "writer": writer,
            "shelf": key % SHELVES,
            "version": version,
            "text": text_of(key, version),
            "vector": made[index],
            **({"extra": version} if kind.text_keys else {}),
        }
        for index, (key, version) in enumerate(outcomes.items())
    ]


def wrong_cells(kind: Kind, found: list[dict[str, Any]]) -> list[str]:
    """Rows whose cells are not those of their key and version."""
    if not found:
        return []
    keys = [kind.number(row["pk"]) for row in found]
    made = vectors(np.array(keys), np.array([row["version"] for row in found]))
    bad = ~np.all(np.array([row["vector"] for row in found], np.float32) == made, axis=1)
    return [
        f"row {row['pk']} version {row['version']} holds other cells"
        for row, key, wrong in zip(found, keys, bad, strict=True)
        if wrong or row["text"] != text_of(key, row["version"]) or row["shelf"] != key % SHELVES
    ]


def take_steps(uri: str, stop: threading.Event, step: Callable[[MilvusClient], bool], apart_s: float = 0.0) -> None:
    """One client's steps, until told to stop or the server is gone (a step says so)."""
    try:
        client = MilvusClient(uri, timeout=CALL_S_MAX, dedicated=True)
    except Exception:  # the server may be gone by now
        return
    try:
        while not stop.wait(apart_s) and step(client):
            pass
    finally:
        client.close()


@dataclass
class Writer:
    """One thread's worth of writes and reads, on keys nobody else writes."""

    number: int
    kind: Kind
    dice: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    version: int = 0
    next_key: int = 0
    unknown: frozenset[int] = UNKNOWN
    faults: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.next_key = self.number * KEYS_PER_WRITER

    def run(self, uri: str, stop: threading.Event) -> None:
        """Until told to stop or the server is gone."""
        take_steps(uri, stop, self.step)

    def step(self, client: MilvusClient) -> bool:
        """One operation; False when the server does not answer any more."""
        choice = self.dice.random()
        living = self.ledger.living()
        if choice < 0.35 and len(living) < ROWS_LIVING_MAX:
            return self.write(client, "insert", self.fresh(self.dice.randint(1, 300)))
        if choice < 0.6:
            old = self.dice.sample(living, min(len(living), self.dice.randint(1, 60)))
            return self.write(client, "upsert", old + self.fresh(self.dice.randint(0, 10)))
        if choice < 0.75 and living:
            return self.delete_ids(client, self.dice.sample(living, min(len(living), self.dice.randint(1, 80))))
        if choice < 0.80 or len(living) >= ROWS_LIVING_MAX:
            return self.delete_filter(client, self.dice.randrange(SHELVES))
        return self.read(client, self.dice.sample(living, min(len(living), 30)))

    def fresh(self, count: int) -> list[int]:
        self.next_key += count
        return list(range(self.next_key - count, self.next_key))

    def write(self, client: MilvusClient, verb: str, keys: list[int]) -> bool:
        if not keys:
            return True
        self.version += 1
        outcomes = dict.fromkeys(keys, self.version)
        data = rows(self.kind, self.number, outcomes)
        call = client.insert if verb == "insert" else client.upsert
        return self.attempt(outcomes, lambda: call(self.kind.name, data, **SENT_ONCE))

    def delete_ids(self, client: MilvusClient, keys: list[int]) -> bool:
        ids = [self.kind.key(key) for key in keys]
        return self.attempt(
            dict.fromkeys(keys),
            lambda: client.delete(self.kind.name, ids=ids, **SENT_ONCE),
        )

    def delete_filter(self, client: MilvusClient, shelf: int) -> bool:
        keys = [key for key in self.ledger.living() if key % SHELVES == shelf]
        text = f"writer == {self.number} and shelf == {shelf}"
        return self.attempt(
            dict.fromkeys(keys),
            lambda: client.delete(self.kind.name, filter=text, **SENT_ONCE),
            by_filter=True,
        )

    def attempt(self, outcomes: dict[int, Any], call: Any, *, by_filter: bool = False) -> bool:
        before = self.ledger.begin(outcomes)
        try:
            call()
        except MilvusException as error:
            return self.failed(error, before)
        except Exception as error:  # grpc's own errors, closed channels: the fate is unknown
            self.codes[type(error).__name__] += 1
            self.ledger.counts.unknown += 1
            return False
        if by_filter:
            self.ledger.acknowledge_filter(before)
        else:
            self.ledger.acknowledge(outcomes)
        return True

    def failed(self, error: MilvusException, before: dict[int, frozenset[Outcome]]) -> bool:
        self.codes[str(error.code)] += 1
        self.texts[str(error.code)] = error.message
        lost = not isinstance(error.code, int) or "Fail connecting" in error.message
        if not lost and error.code in REFUSALS:
            self.ledger.take_back(before)
            return True
        self.ledger.counts.unknown += 1
        if not lost and error.code not in self.unknown:
            self.faults.append(f"{self.kind.name}: write answered {error.code} {error.message[:200]}")
        return False

    def read(self, client: MilvusClient, keys: list[int]) -> bool:
        if not keys:
            return True
        try:
            found = client.query(
                self.kind.name, ids=[self.kind.key(key) for key in keys], output_fields=["*"], **STRONG
            )
        except Exception as error:
            self.codes[f"read {getattr(error, 'code', type(error).__name__)}"] += 1
            return False
        self.ledger.counts.reads += 1
        self.judge(found, keys, "while writing")
        return True

    def judge(self, found: list[dict[str, Any]], asked: list[int], when: str) -> dict[int, int]:
        """Compare what was found under `asked` with what is possible; returns it."""
        numbers = [self.kind.number(row["pk"]) for row in found]
        twice = [key for key, times in Counter(numbers).items() if times > 1]
        self.faults += [f"{self.kind.name} {when}: key {key} twice" for key in twice]
        self.faults += [f"{self.kind.name} {when}: {text}" for text in wrong_cells(self.kind, found)]
        seen = {key: int(row["version"]) for key, row in zip(numbers, found, strict=True)}
        self.faults += [f"{self.kind.name} {when}: {text}" for text in self.ledger.differences(seen, asked)]
        return seen

    def check(self, client: MilvusClient) -> int:
        """Everything this writer knows, at rest: keys, cells, count, searches; the number of rows."""
        found = client.query(self.kind.name, f"writer == {self.number}", output_fields=["*"], limit=16384, **STRONG)
        seen = self.judge(found, list(self.ledger.possible), "after a start")
        self.check_keys(client, seen)
        self.check_searches(client, seen)
        self.ledger.settle(seen)
        return len(seen)

    def check_keys(self, client: MilvusClient, seen: dict[int, int]) -> None:
        asked = self.dice.sample(sorted(self.ledger.possible), min(200, len(self.ledger.possible)))
        ids = [self.kind.key(key) for key in asked]
        found = client.query(self.kind.name, ids=ids, output_fields=["version"], **STRONG) if ids else []
        told = {self.kind.number(row["pk"]): int(row["version"]) for row in found}
        if told != {key: seen[key] for key in asked if key in seen}:
            self.faults.append(f"{self.kind.name}: a query by keys and a query by filter disagree")

    def check_searches(self, client: MilvusClient, seen: dict[int, int]) -> None:
        chosen = self.dice.sample(sorted(seen), min(20, len(seen)))
        if not chosen:
            return
        data = vectors(np.array(chosen), np.array([seen[key] for key in chosen]))
        params = {"params": SEARCH_PARAMS[self.kind.index]}
        answers = client.search(
            self.kind.name, list(data), limit=5, search_params=params, output_fields=["version"], **STRONG
        )
        for key, hits in zip(chosen, answers, strict=True):
            ids = [self.kind.number(hit["pk"]) for hit in hits]
            if len(set(ids)) != len(ids):
                self.faults.append(f"{self.kind.name}: a search returned a row twice: {ids}")
            if key not in ids or ids.index(key) != 0 or hits[0]["distance"] > 1e-3:
                self.faults.append(f"{self.kind.name}: a search of row {key}'s vector found {hits[:2]}")


def total(client: MilvusClient, kind: Kind) -> int:
    """count(*) at Strong."""
    return int(client.query(kind.name, "", output_fields=["count(*)"], **STRONG)[0]["count(*)"])
