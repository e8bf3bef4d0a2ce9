"""The load under faults: writers that check what they read and never give up, and probes that time an outage.

A write of unknown fate may come true until the cluster is at rest again, so its keys are not written before that.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "drills"))
from drill_writers import KINDS, Kind, Writer, create, rows, total

PROBE_KEYS = 16
PROBE_WRITER = 90
PROBE_S_MAX = 8.0
LIVING_MAX = 1_500


@dataclass
class SteadyWriter(Writer):
    """Goes on after every failure."""

    frozen: set[int] = field(default_factory=set)

    def run(self, uri: str, stop: threading.Event) -> None:
        while not stop.is_set():
            client = None
            try:
                client = MilvusClient(uri, timeout=10, dedicated=True)
                while not stop.is_set():
                    if not self.step(client):
                        time.sleep(0.05)
            except Exception:  # no proxy answers now
                time.sleep(0.2)
            finally:
                if client is not None:
                    client.close()

    def step(self, client: MilvusClient) -> bool:
        """One operation, on keys whose fate is known."""
        living = [key for key in self.ledger.living() if key not in self.frozen]
        choice = self.dice.random()
        if choice < 0.3 and len(living) < LIVING_MAX:
            return self.write(client, "insert", self.fresh(self.dice.randint(1, 100)))
        if choice < 0.5:
            old = self.dice.sample(living, min(len(living), self.dice.randint(1, 40)))
            return self.write(client, "upsert", old + self.fresh(self.dice.randint(0, 10)))
        if choice < 0.65 and living:
            return self.delete_ids(client, self.dice.sample(living, min(len(living), self.dice.randint(1, 40))))
        if (choice < 0.7 or len(living) >= LIVING_MAX) and not self.frozen:
            return self.delete_filter(client, self.dice.randrange(16))
        return self.read(client, self.dice.sample(living, min(len(living), 30)))

    def attempt(self, outcomes: dict[int, Any], call: Any, *, by_filter: bool = False) -> bool:
        before = self.ledger.counts.unknown
        done = super().attempt(outcomes, call, by_filter=by_filter)
        if self.ledger.counts.unknown > before:
            self.frozen |= set(outcomes)
        return done

    def check(self, client: MilvusClient) -> int:
        count = super().check(client)
        self.frozen.clear()
        return count


@dataclass
class Probe:
    """Does one thing all the time and notes when it succeeded. `what` is write, read or search."""

    what: str
    kind: Kind
    uri: str
    succeeded_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    version: int = 0
    failed_twice: int = 0

    def run(self, stop: threading.Event) -> None:
        client, well = None, True
        while not stop.is_set():
            try:
                client = client or MilvusClient(self.uri, timeout=PROBE_S_MAX, dedicated=True)
                self.once(client)
                self.succeeded_s.append(time.monotonic())
                well = True
            except Exception as error:
                self.failed_twice += not well
                well = False
                self.failures[f"{getattr(error, 'code', type(error).__name__)} {str(error)[:90]}"] += 1
            time.sleep(0.03)
        if client is not None:
            client.close()

    def once(self, client: MilvusClient) -> None:
        """Over keys that hash to every shard."""
        keys = [PROBE_WRITER * 1_000_000 + number for number in range(PROBE_KEYS)]
        options = {"timeout": PROBE_S_MAX, "retry_times": 1}
        if self.what == "write":
            self.version += 1
            client.upsert(self.kind.name, rows(self.kind, PROBE_WRITER, dict.fromkeys(keys, self.version)), **options)
        elif self.what == "read":
            ids = [self.kind.key(key) for key in keys]
            client.query(self.kind.name, ids=ids, output_fields=["version"], consistency_level="Strong", **options)
        else:
            client.search(self.kind.name, [[0.1] * 8], limit=3, consistency_level="Bounded", **options)

    def outage_s(self, since_s: float) -> float:
        """The longest time without a success, from then on."""
        moments = [since_s, *(moment for moment in self.succeeded_s if moment > since_s), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))

    def well_since(self, moment: float) -> bool:
        """Whether it succeeded after that moment."""
        return bool(self.succeeded_s) and self.succeeded_s[-1] > moment


class Load:
    """Writers of both kinds of collection and three probes."""

    def __init__(self, uri: str, seed: int, writers_per_kind: int = 1) -> None:
        dice = random.Random(seed)
        self.uri = uri
        kinds = [kind for kind in KINDS for _ in range(writers_per_kind)]
        self.writers = [SteadyWriter(number, kind, random.Random(dice.random())) for number, kind in enumerate(kinds)]
        self.probes = [Probe(what, KINDS[0], uri) for what in ("write", "read", "search")]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def create(self) -> None:
        """Make the collections, and the rows of the probes."""
        client = MilvusClient(self.uri, timeout=60)
        for kind in KINDS:
            create(client, kind)
        self.probes[0].once(client)
        client.close()

    def start(self) -> None:
        """Begin."""
        self._stop.clear()
        calls = [(one.run, (self.uri, self._stop)) for one in self.writers]
        calls += [(one.run, (self._stop,)) for one in self.probes]  # type: ignore[list-item]
        self._threads = [threading.Thread(target=run, args=arguments) for run, arguments in calls]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, when the calls under way have."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_well(self, seconds: float) -> None:
        """Until every probe succeeds again."""
        now, end_s = time.monotonic(), time.monotonic() + seconds
        while not all(probe.well_since(now) for probe in self.probes):
            assert time.monotonic() < end_s, f"not well after {seconds} s: {self.troubles()}"
            time.sleep(0.05)

    def troubles(self) -> dict[str, dict[str, int]]:
        """What the probes met."""
        return {probe.what: dict(probe.failures) for probe in self.probes}

    def check(self) -> int:
        """Everything against the ledgers, at rest; the number of rows."""
        client = MilvusClient(self.uri, timeout=60, dedicated=True)
        counted = Counter({kind.name: 0 for kind in KINDS})
        for writer in self.writers:
            counted[writer.kind.name] += writer.check(client)
        counted[KINDS[0].name] += PROBE_KEYS
        faults = [fault for writer in self.writers for fault in writer.faults]
        seen = {kind.name: total(client, kind) for kind in KINDS}
        if seen != dict(counted):
            faults.append(f"count(*) says {seen}, the rows are {dict(counted)}")
        client.close()
        assert not faults, "\n".join(faults[:20])
        return sum(counted.values())

    def summary(self) -> str:
        """What was done."""
        counts = [writer.ledger.counts for writer in self.writers]
        codes = sum((writer.codes for writer in self.writers), Counter[str]())
        return (
            f"{sum(one.acknowledged for one in counts)} writes acknowledged ({sum(one.rows for one in counts)} rows), "
            f"{sum(one.refused for one in counts)} refused, {sum(one.unknown for one in counts)} unknown, "
            f"{sum(one.reads for one in counts)} Strong reads checked; errors {dict(codes)}"
        )


__all__ = ["KINDS", "Load"]
