"""One client process of the probing drill: reads at Strong without pause and says what was wrong, as JSON.

    python probe_client.py URI SECONDS SEED

The collection holds still rows (never written), moving rows (upserted all the time, with the same vectors and rising
versions) and passing rows (inserted and deleted in storms). Whatever goes on, each still and each moving row is there
once, and a moving row's version never falls.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from pymilvus import MilvusClient

COLLECTION = "probed"
DIM = 16
STILL, MOVING, PASSING = 0, 1, 2
STILL_COUNT = 3000
MOVING_COUNT = 600
FIRST_MOVING = 100_000
FIRST_PASSING = 1_000_000
TOP_K = 10
FAULTS_MAX = 20
CALL_S_MAX = 30.0


def vectors(keys: np.ndarray) -> np.ndarray:
    """The vector of each key, float32 of shape (n, DIM); the same for every version of a row."""
    generator = [np.random.default_rng(int(key)).standard_normal(DIM) for key in keys]
    return np.array(generator, np.float32).reshape(len(keys), DIM)


class Prober:
    """Reads and judges."""

    def __init__(self, uri: str, seed: int) -> None:
        self.client = MilvusClient(uri, timeout=CALL_S_MAX)
        self.dice = random.Random(seed)
        self.still = np.arange(STILL_COUNT)
        self.moving = np.arange(FIRST_MOVING, FIRST_MOVING + MOVING_COUNT)
        self.stored = vectors(self.still)
        self.newest: dict[int, int] = {}
        self.faults: list[str] = []
        self.probes: Counter[str] = Counter()
        self.longest_s = 0.0

    def run(self, seconds: float) -> None:
        """Probe so long, or until there is enough to tell."""
        kinds = (self.count, self.keys, self.everything, self.exact, self.graph)
        until = time.monotonic() + seconds
        while time.monotonic() < until and len(self.faults) < FAULTS_MAX:
            probe = self.dice.choice(kinds)
            began = time.monotonic()
            try:
                probe()
            except Exception as error:
                self.fault(f"{probe.__name__} failed: {str(error)[:300]}")
            self.probes[probe.__name__] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def fault(self, text: str) -> None:
        self.faults.append(f"{time.time():.3f} {text}")

    def ask(self, **named: Any) -> list[dict[str, Any]]:
        return list(self.client.query(COLLECTION, consistency_level="Strong", timeout=CALL_S_MAX, **named))

    def count(self) -> None:
        kind, expected = self.dice.choice(((STILL, STILL_COUNT), (MOVING, MOVING_COUNT)))
        found = self.ask(filter=f"kind == {kind}", output_fields=["count(*)"])[0]["count(*)"]
        if found != expected:
            self.fault(f"count of kind {kind}: {found}, not {expected}")

    def keys(self) -> None:
        asked = self.dice.sample(range(STILL_COUNT), 40) + self.dice.sample(self.moving.tolist(), 20)
        found = self.ask(ids=asked, output_fields=["version"])
        self.judge("keys", [row["pk"] for row in found], asked)
        self.judge_versions(found)

    def everything(self) -> None:
        found = self.ask(filter=f"kind < {PASSING}", output_fields=["version"], limit=16384)
        self.judge("everything", [row["pk"] for row in found], [*self.still.tolist(), *self.moving.tolist()])
        self.judge_versions(found)

    def judge(self, what: str, found: list[int], expected: list[int]) -> None:
        twice = [key for key, times in Counter(found).items() if times > 1]
        if twice:
            self.fault(f"{what}: twice {twice[:5]} ({len(twice)})")
        missed, more = set(expected) - set(found), set(found) - set(expected)
        if missed or more:
            self.fault(f"{what}: missed {sorted(missed)[:5]} ({len(missed)}), more {sorted(more)[:5]} ({len(more)})")

    def judge_versions(self, found: list[dict[str, Any]]) -> None:
        for row in found:
            if row["version"] < self.newest.get(row["pk"], -1):
                self.fault(f"key {row['pk']}: version {row['version']} after {self.newest[row['pk']]}")
            self.newest[row["pk"]] = row["version"]

    def exact(self) -> None:
        asked = np.array(self.dice.sample(range(STILL_COUNT), 4))
        data = self.stored[asked]
        answers = self.search("flat", data, filter=f"kind == {STILL}")
        for row, hits in enumerate(answers):
            distances = ((self.stored - data[row]) ** 2).sum(axis=1)
            expected = np.sort(distances)[:TOP_K]
            ids = [hit["pk"] for hit in hits]
            if len(set(ids)) != TOP_K or not np.allclose(np.sort(distances[ids]), expected, rtol=1e-4, atol=1e-4):
                self.fault(f"exact search of {asked[row]}: {ids}, right are {np.argsort(distances)[:TOP_K].tolist()}")

    def graph(self) -> None:
        asked = np.array(self.dice.sample(range(STILL_COUNT), 4) + self.dice.sample(self.moving.tolist(), 2))
        answers = self.search("graph", vectors(asked), search_params={"params": {"ef": 300}})
        for key, hits in zip(asked.tolist(), answers, strict=True):
            ids = [hit["pk"] for hit in hits]
            if len(set(ids)) != len(ids):
                self.fault(f"graph search of {key}: a row twice: {ids}")
            if not ids or ids[0] != key:
                self.fault(f"graph search of {key}: {[(hit['pk'], hit['distance']) for hit in hits][:3]}")

    def search(self, field: str, data: np.ndarray, **named: Any) -> list[list[dict[str, Any]]]:
        return list(
            self.client.search(
                COLLECTION,
                list(data),
                limit=TOP_K,
                anns_field=field,
                consistency_level="Strong",
                timeout=CALL_S_MAX,
                **named,
            )
        )


def main() -> None:
    """See the module's head."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
    prober = Prober(sys.argv[1], int(sys.argv[3]))
    prober.run(float(sys.argv[2]))
    told = {"faults": prober.faults, "probes": dict(prober.probes), "longest_s": round(prober.longest_s, 3)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
