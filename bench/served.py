"""What a server adds to each vector index: `python -m bench.served`.

One collection of one segment for each index, one query a call without output fields. Design's budget of a search is the
server's CPU time, of one core, without the index kernel itself: so the server runs on one core while two clients on the
others keep it busy, and its CPU time per query, all of its threads, stands beside the same search of the same data in
process, by our index and by the bare library (see `bench.indexes`). *Added* is the server's time less the library's.

A server of canned answers, asked in turn in the same way, tells what the calls alone cost in a gRPC server in Python.
*Own* is what is added beyond that. The budget counts 0.15 ms for the calls, which is a machine's speed and not ours, so
that 0.20 ms are left for what is our own. Recall is that of the server's answers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import numpy as np
from pymilvus import DataType, MilvusClient

from bench.client import first_answer
from bench.environment import ROOT
from bench.indexes import Entry, Figures, World, choice, earlier, entries, measure
from bench.procs import Server
from bench.runner import ClientProcess
from bench.systems import SERVERS
from bench.workload import K

BUDGET_MS: Final = 0.35
"""Design, section 6: search, k = 10, no output fields."""
BUDGET_CALL_MS: Final = 0.15
"""What of it gRPC takes, by the design."""
BUDGET_OWN_MS: Final = BUDGET_MS - BUDGET_CALL_MS
ASKERS: Final = 2
ROUNDS: Final = 5
"""How often all queries are asked, after a first time that is not counted."""
REST_S: Final = 2.0
START_S_MAX: Final = 60.0
BUILD_S_MAX: Final = 300.0
BATCH_ROWS: Final = 2000
EFFORTS: Final = {"ef": 48, "nprobe": 64, "search_list": 50}
"""Asked of indexes over whole vectors or good codes; of those over small codes four times the `ef`."""
SMALL_CODES: Final = ("HNSW_PQ", "HNSW_PRQ")


class Served(msgspec.Struct):
    """One index: CPU milliseconds a query."""

    name: str
    params: dict[str, Any]
    recall: float
    server_ms: float
    ours_ms: float
    bare_ms: float | None
    canned_ms: float
    memory_bytes_per_row: float

    @property
    def added_ms(self) -> float:
        """The server's time without the library's; without ours where the library has no such index."""
        return self.server_ms - (self.ours_ms if self.bare_ms is None else self.bare_ms)

    @property
    def own_ms(self) -> float:
        """What is added beyond the calls themselves."""
        return self.added_ms - self.canned_ms


def at_one_effort(entry: Entry) -> Entry:
    """The entry with the one effort that is asked."""

    def is_asked(effort: dict[str, Any]) -> bool:
        factor = 4 if entry.name in SMALL_CODES else 1
        return all(effort.get(name, value * factor) == value * factor for name, value in EFFORTS.items())

    return replace(entry, efforts=[effort for effort in entry.efforts if is_asked(effort)])


def fill(uri: str, name: str, values: np.ndarray, index_params: dict[str, Any]) -> None:
    """The loaded and indexed collection, in the client's process."""
    client = MilvusClient(uri)
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    is_binary = values.dtype == np.uint8
    kind = DataType.BINARY_VECTOR if is_binary else DataType.FLOAT_VECTOR
    schema.add_field("v", kind, dim=values.shape[1] * (8 if is_binary else 1))
    client.create_collection(name, schema=schema, consistency_level="Bounded")
    for first in range(0, len(values), BATCH_ROWS):
        rows = [
            {"id": first + number, "v": _sent(one)} for number, one in enumerate(values[first : first + BATCH_ROWS])
        ]
        client.insert(name, rows)
    client.flush(name)
    index = client.prepare_index_params()
    index.add_index("v", index_name="v", index_type=name, **index_params)
    client.create_index(name, index, timeout=BUILD_S_MAX)
    client.load_collection(name, timeout=BUILD_S_MAX)
    client.close()


def ask(uri: str, name: str, effort: dict[str, Any], queries: np.ndarray, rounds: int) -> np.ndarray:
    """The keys of all queries, asked one by one, in the client's process."""
    client = MilvusClient(uri)
    params = {"params": effort}
    for _ in range(rounds):
        found = [client.search(name, [_sent(one)], limit=K, search_params=params)[0] for one in queries]
    client.close()
    return np.array([[hit["id"] for hit in hits] for hits in found])


def asked_ms(
    server: Server, uri: str, name: str, effort: dict[str, Any], queries: np.ndarray, askers: Sequence[ClientProcess]
) -> tuple[np.ndarray, float]:
    """The keys, and the server's CPU milliseconds a query on one core."""
    cores = sorted(os.sched_getaffinity(0))
    server.run_on(cores[:1])
    rows = askers[0].run(server, ask, uri, name, effort, queries, 1)
    time.sleep(REST_S)
    before_s = server.cpu_s()
    for asker in askers:
        asker.begin(ask, uri, name, effort, queries, ROUNDS)
    for asker in askers:
        asker.result(server)
    used_s = server.cpu_s() - before_s
    server.run_on(cores)
    return rows, 1000 * used_s / (len(askers) * ROUNDS * len(queries))


def leave_the_first_core() -> None:
    """In a client's process: the server has it for itself, where there is another."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[1:] or cores)


def _sent(vector: np.ndarray) -> Any:
    return vector.tobytes() if vector.dtype == np.uint8 else vector.tolist()


@contextmanager
def started(name: str, asker: ClientProcess) -> Iterator[tuple[Server, str]]:
    """A server that answers, and its address."""
    with TemporaryDirectory(dir=ROOT / "bench") as folder:
        launch = SERVERS[name].launch(Path(folder))
        with launch.start() as server:
            asker.run(server, first_answer, launch.port, START_S_MAX)
            yield server, f"http://127.0.0.1:{launch.port}"


def served(
    ours: tuple[Server, str], canned: tuple[Server, str], entry: Entry, world: World, askers: Sequence[ClientProcess]
) -> Served:
    """One index, by the server and then in process."""
    index = {"metric_type": str(world.metric), "params": dict(entry.params)}
    server, uri = ours
    askers[0].run(server, fill, uri, entry.name, world.values, index)
    _, canned_ms = asked_ms(*canned, entry.name, {}, world.queries, askers)
    rows, server_ms = asked_ms(*ours, entry.name, entry.efforts[0], world.queries, askers)
    own: Figures = measure(entry, world)
    point = own.points[0]
    return Served(
        entry.name,
        point.params,
        world.recall(rows, world.worst_scores()),
        server_ms,
        1000 / point.rate,
        None if point.bare_rate is None else 1000 / point.bare_rate,
        canned_ms,
        own.memory_bytes_per_row,
    )


def table(found: list[Served], row_count: int) -> str:
    """The figures as text."""
    lines = [
        f"{row_count} rows, one query a call, k = {K}, CPU ms a query of a busy server on one core; added: server "
        f"less bare (less ours without it), budget {BUDGET_MS}; own: added less canned, budget {BUDGET_OWN_MS:.2f}",
        f"{'index':<13}{'effort':<32}{'recall':>7}{'server':>8}{'ours':>8}{'bare':>8}{'added':>8}{'canned':>8}{'own':>8}"
        f"{'mem B/row':>11}",
    ]
    for one in found:
        effort = " ".join(f"{name}={value:g}" for name, value in one.params.items())
        bare = "-" if one.bare_ms is None else f"{one.bare_ms:.3f}"
        lines.append(
            f"{one.name:<13}{effort:<32}{one.recall:>7.3f}{one.server_ms:>8.3f}{one.ours_ms:>8.3f}{bare:>8}"
            f"{one.added_ms:>8.3f}{one.canned_ms:>8.3f}{one.own_ms:>8.3f}{one.memory_bytes_per_row:>11.0f}"
            f"{'' if one.added_ms <= BUDGET_MS else '  OVER'}{'' if one.own_ms <= BUDGET_OWN_MS else '  OWN OVER'}"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what was chosen, and show it beside what earlier runs measured of the others."""
    chosen = choice("bench.served", "What a server adds to each index.")
    kept = chosen.out / f"served-{len(chosen.data.vectors)}.json"
    found = {one.name: one for one in earlier(kept, Served)}
    SERVERS["elanus"].setup()
    with ExitStack() as stack:
        askers = [stack.enter_context(ClientProcess()) for _ in range(ASKERS)]
        for asker in askers:
            asker.run(None, leave_the_first_core)
        canned, ours = (stack.enter_context(started(name, askers[0])) for name in ("canned", "elanus"))
        for entry in filter(chosen.takes, map(at_one_effort, entries())):
            sys.stderr.write(f"bench: measuring {entry.name}\n")
            found[entry.name] = served(ours, canned, entry, chosen.world(entry), askers)
            kept.write_bytes(msgspec.json.format(msgspec.json.encode(list(found.values()))))
    page = table([found[entry.name] for entry in entries() if entry.name in found], len(chosen.data.vectors))
    sys.stdout.write(page)
    (chosen.out / "served.txt").write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
