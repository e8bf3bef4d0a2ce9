"""The client that keeps house beside the writers of the crash drill: flushes, compactions, and small collections that
come, get rows and partitions, lose them and go. Each step is atomic: a crash leaves what was before or after it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from drill_writers import CALL_S_MAX, KINDS, REFUSALS, SENT_ONCE, STRONG, take_steps
from pymilvus import MilvusClient, MilvusException

GUESTS_MAX = 4
ROWS, PARTITION_ROWS = 10, 5
PARTITION = "room"
ONCE = {"timeout": CALL_S_MAX, "retry_times": 1}

# A guest: rows in the default partition, rows in PARTITION (None: there is no such partition). None: no collection.
Guest = tuple[int, int | None] | None
Guests = frozenset[Guest]


@dataclass
class Housekeeper:
    """One thread; `guests` holds, per name, the states still possible."""

    dice: random.Random
    guests: dict[str, Guests] = field(default_factory=dict)
    made: int = 0
    next_key: int = 0
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def run(self, uri: str, stop: threading.Event) -> None:
        """Until told to stop or the server is gone."""
        take_steps(uri, stop, self.step, apart_s=0.02)

    def step(self, client: MilvusClient) -> bool:
        """One piece of work; False when the server does not answer any more."""
        kind = self.dice.choice(KINDS)
        choice = self.dice.random()
        if choice < 0.3:
            return self.attempt("flush", lambda: client.flush(kind.name, **ONCE))
        if choice < 0.4:
            return self.attempt("compact", lambda: client.compact(kind.name, **ONCE))
        if len(self.guests) < GUESTS_MAX and choice < 0.55:
            self.made += 1
            name = f"guest_{self.made}"
            return self.change(
                "create", name, lambda _: (0, None), lambda: client.create_collection(name, dimension=4, **ONCE)
            )
        return not self.guests or self.serve_guest(client, self.dice.choice(sorted(self.guests)))

    def serve_guest(self, client: MilvusClient, name: str) -> bool:
        (state,) = self.guests[name]
        if state is None or self.dice.random() < 0.2:
            return self.change("drop", name, lambda _: None, lambda: client.drop_collection(name, **ONCE))
        if state[1] is None:
            if self.dice.random() < 0.5:
                return self.fill(client, name, "")
            return self.change(
                "create partition",
                name,
                lambda guest: guest and (guest[0], 0),
                lambda: client.create_partition(name, PARTITION, **ONCE),
            )
        if state[1] == 0 or self.dice.random() < 0.4:
            return self.fill(client, name, PARTITION)
        return self.attempt("release", lambda: client.release_partitions(name, [PARTITION], **ONCE)) and self.change(
            "drop partition",
            name,
            lambda guest: guest and (guest[0], None),
            lambda: client.drop_partition(name, PARTITION, **ONCE),
        )

    def fill(self, client: MilvusClient, name: str, partition: str) -> bool:
        count = PARTITION_ROWS if partition else ROWS
        first, self.next_key = self.next_key, self.next_key + count
        rows = [{"id": key, "vector": [1.0 * key, 1.0, 2.0, 3.0]} for key in range(first, first + count)]

        def after(guest: Guest) -> Guest:
            if guest is None or (partition and guest[1] is None):
                return guest
            return (guest[0], (guest[1] or 0) + count) if partition else (guest[0] + count, guest[1])

        return self.change(
            f"fill {partition}", name, after, lambda: client.insert(name, rows, partition_name=partition, **SENT_ONCE)
        )

    def change(self, verb: str, name: str, after: Callable[[Guest], Guest], call: Callable[[], object]) -> bool:
        before = self.guests.get(name, frozenset((None,)))
        changed = frozenset(map(after, before))
        self.guests[name] = before | changed
        answered = self.attempt(verb, call)
        if answered:
            self.guests[name] = changed
            if changed == {None}:
                del self.guests[name]
        return answered

    def attempt(self, verb: str, call: Callable[[], object]) -> bool:
        try:
            call()
        except MilvusException as error:
            lost = not isinstance(error.code, int) or "Fail connecting" in error.message
            if not lost and error.code not in REFUSALS:
                self.faults.append(f"{verb}: {error.code} {error.message[:300]}")
            return False
        except Exception:  # grpc's own errors: the server is gone
            return False
        self.done[verb] += 1
        return True

    def check(self, client: MilvusClient) -> None:
        """After a start: each guest is in a possible state, and nobody is there who never came."""
        there = set(client.list_collections()) - {kind.name for kind in KINDS}
        for name in there - set(self.guests):
            self.faults.append(f"collection {name} came from nowhere")
        for name, possible in sorted(self.guests.items()):
            seen = self.look(client, name) if name in there else None
            if seen not in possible:
                self.faults.append(f"collection {name}: is {seen}, possible {sorted(map(str, possible))}")
            self.guests[name] = frozenset((seen,))
        self.guests = {name: states for name, states in self.guests.items() if states != {None}}

    @staticmethod
    def look(client: MilvusClient, name: str) -> Guest:
        if not client.list_indexes(name):  # cut between the creation and its index
            params = client.prepare_index_params()
            params.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
            client.create_index(name, params)
        client.load_collection(name)

        def count(partition: str) -> int:
            found = client.query(name, "", output_fields=["count(*)"], partition_names=[partition], **STRONG)
            return int(found[0]["count(*)"])

        return count("_default"), count(PARTITION) if PARTITION in client.list_partitions(name) else None
