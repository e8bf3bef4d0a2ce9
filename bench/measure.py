"""What is measured of one system, in which order, and on which queries.

Order: starts on empty folders, memory at rest, inserts, ready time, 1,000 untimed queries, memory loaded, choice of
ef, single queries, filtered queries, clients at a barrier, calls of 1000. The choice of ef asks the very queries that
are timed afterwards, in large calls and untimed; each query vector is then timed exactly once, plain or filtered.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bench import client
from bench.kernel import BareIndex, Kernel
from bench.procs import Server, own_pss_mib
from bench.runner import ClientProcess, group_rate
from bench.systems import System
from bench.workload import Dataset, Floats, Ints

RECALL_MIN = 0.95
EF_LADDER = (10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 32, 36, 40, 44, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 256)
EF_WARM = 64
SCREEN_QUERIES = 500
SCREEN_SLACK = 0.03
CALL_QUERIES = 1000
WARM_QUERIES = 1000
START_S_MAX = 120.0
REST_S = 3.0


@dataclass(frozen=True)
class Plan:
    """How thorough a run is: `starts` per system, `span_s` of each client group and of the large calls."""

    work: Path
    queries_file: Path
    starts: int = 3
    span_s: float = 4.0
    clients: tuple[int, ...] = (1, 2, 8)


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one system; None where a measure does not apply. Units are in the names."""

    name: str
    version: str
    start_s: float | None = None
    rest_mib: float | None = None
    rows_per_s: float | None = None
    insert_cpu_ms_per_1000: float | None = None
    ready_s: float | None = None
    loaded_mib: float | None = None
    ef: int | None = None
    recall: float | None = None
    timed: int | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_ms: float | None = None
    filtered_p50_ms: float | None = None
    filtered_recall: float | None = None
    rate_1: float | None = None
    rate_2: float | None = None
    rate_8: float | None = None
    batch_rate: float | None = None
    batch_cpu_ms: float | None = None
    kernel_cpu_ms: float | None = None
    batch_cpu_to_kernel: float | None = None
    fault: str | None = None


class RecallOutOfReach(RuntimeError):
    """No ef of the ladder reached the recall asked for."""


Figures = dict[str, float | int | None]


def milliseconds(timed: client.Timed, percentile: float) -> float:
    """A percentile of the calls, in ms."""
    return float(np.percentile(timed.seconds, percentile)) * 1000


@dataclass(frozen=True)
class Session:
    """A running server, its port, the client process that asks it, and the data."""

    server: Server
    port: int
    asker: ClientProcess
    data: Dataset
    plan: Plan

    def ask(self, ef: int, expression: str = "") -> client.Ask:
        """A way of asking this server."""
        return client.Ask(self.port, ef, expression)


@contextmanager
def _started(system: System, plan: Plan, asker: ClientProcess) -> Iterator[tuple[Server, int, float]]:
    """Start the system on a fresh folder: the server, its port and the seconds to its first answer."""
    folder = plan.work / system.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    launch = system.launch(folder)
    asker.begin(client.first_answer, launch.port, START_S_MAX)
    with launch.start() as server:
        answered_at_s = asker.result(server)
        yield server, launch.port, answered_at_s - server.started_at_s
    shutil.rmtree(folder, ignore_errors=True)


def measure(system: System, data: Dataset, plan: Plan, recall_min: float) -> Measures:
    """Everything about one pymilvus-driven system; `recall_min` is what ef is chosen for."""
    system.setup()
    starts = []
    with ClientProcess() as asker:
        for _ in range(plan.starts - 1):
            with _started(system, plan, asker) as (_, _, start_s):
                starts.append(start_s)
        with _started(system, plan, asker) as (server, port, start_s):
            starts.append(start_s)
            session = Session(server, port, asker, data, plan)
            figures: Figures = {"start_s": statistics.median(starts)}
            figures |= _fill(session)
            if system.name == "canned":
                figures |= _search(session, EF_WARM, judge=False)
            else:
                figures |= _become_ready(session)
                figures |= _search(session, choose_ef(session, recall_min), judge=True)
    return msgspec.convert({"name": system.name, "version": system.version(), **figures}, Measures)


def _fill(session: Session) -> Figures:
    data, server = session.data, session.server
    time.sleep(REST_S)
    rest_mib = server.pss_mib()
    session.asker.run(server, client.create, session.port, data.vectors.shape[1])
    before_s = server.cpu_s()
    spent_s = session.asker.run(server, client.insert, session.port, data)
    rows = len(data.vectors)
    return {
        "rest_mib": rest_mib,
        "rows_per_s": rows / spent_s,
        "insert_cpu_ms_per_1000": (server.cpu_s() - before_s) * 1e6 / rows,
    }


def _become_ready(session: Session) -> Figures:
    data, server = session.data, session.server
    ready_s = session.asker.run(server, client.make_ready, session.port)
    counted = session.asker.run(server, client.count, session.port)
    if counted != len(data.vectors):
        raise RuntimeError(f"{counted} rows counted after {len(data.vectors)} were inserted")
    warm = data.queries[-WARM_QUERIES:]
    session.asker.run(server, client.search_singly, session.ask(EF_WARM), warm)
    return {"ready_s": ready_s, "loaded_mib": server.pss_mib()}


def choose_ef(session: Session, recall_min: float) -> int:
    """The smallest ef of the ladder that reaches `recall_min` on the queries that will be timed.

    A first part of them tells cheaply which ef are far too small.
    """
    queries = session.data.queries[session.data.timed]
    screen = queries[:SCREEN_QUERIES]
    for ef in EF_LADDER:
        rough = session.data.recall(_answers(session, ef, screen))
        if rough >= recall_min - SCREEN_SLACK and session.data.recall(_answers(session, ef, queries)) >= recall_min:
            return ef
    raise RecallOutOfReach(f"recall {recall_min} not reached with ef {EF_LADDER[-1]}")


def _answers(session: Session, ef: int, queries: Floats) -> Ints:
    per_call = min(CALL_QUERIES, len(queries))
    calls = len(queries) // per_call
    run = session.asker.run
    timed = run(session.server, client.search_in_calls, session.ask(ef), queries, per_call, calls)
    return timed.answers


def _search(session: Session, ef: int, judge: bool) -> Figures:
    """Latency, rate and CPU of searches with `ef`; the answers are compared with the exact ones when `judge`."""
    plan = session.plan
    figures: Figures = {"ef": ef if judge else None}
    figures |= _search_singly(session, ef, judge)
    figures |= _search_filtered(session, ef, judge)
    for clients in session.plan.clients:
        figures[f"rate_{clients}"] = group_rate(session.ask(ef), plan.queries_file, clients, plan.span_s)
    figures |= _search_in_calls(session, ef)
    return figures


def _search_singly(session: Session, ef: int, judge: bool) -> Figures:
    data, server = session.data, session.server
    queries = data.queries[data.timed]
    before_s = server.cpu_s()
    timed = session.asker.run(server, client.search_singly, session.ask(ef), queries)
    return {
        "timed": len(queries),
        "p50_ms": milliseconds(timed, 50),
        "p99_ms": milliseconds(timed, 99),
        "cpu_ms": (server.cpu_s() - before_s) * 1000 / len(queries),
        "recall": data.recall(timed.answers) if judge else None,
    }


def _search_filtered(session: Session, ef: int, judge: bool) -> Figures:
    data, server = session.data, session.server
    ask = session.ask(ef, data.expression)
    timed = session.asker.run(server, client.search_singly, ask, data.queries[data.filtered])
    recall = data.filtered_recall(timed.answers, data.filtered.start) if judge else None
    return {"filtered_p50_ms": milliseconds(timed, 50), "filtered_recall": recall}


def _search_in_calls(session: Session, ef: int) -> Figures:
    """Calls of 1000 queries for about as long as a client group asks; one call more comes first, untimed."""
    server, ask, queries = session.server, session.ask(ef), session.data.queries
    if len(queries) < CALL_QUERIES:
        queries = np.resize(queries, (CALL_QUERIES, queries.shape[1]))
    run = session.asker.run
    first = run(server, client.search_in_calls, ask, queries, CALL_QUERIES, 1)
    calls = max(3, round(session.plan.span_s / float(first.seconds[0])))
    before_s = server.cpu_s()
    timed = run(server, client.search_in_calls, ask, queries, CALL_QUERIES, calls)
    asked = calls * CALL_QUERIES
    return {
        "batch_rate": asked / float(timed.seconds.sum()),
        "batch_cpu_ms": (server.cpu_s() - before_s) * 1000 / asked,
    }


def measure_faiss(data: Dataset, plan: Plan) -> tuple[Measures, Kernel]:
    """The bare index, in a process of its own."""
    with ClientProcess() as process:
        return process.run(None, _faiss, data, plan)


def _faiss(data: Dataset, plan: Plan) -> tuple[Measures, Kernel]:
    index = BareIndex(data)
    kernel = index.ladder(EF_LADDER)
    enough = [ef for ef, recall in kernel.recall.items() if recall >= RECALL_MIN]
    if not enough:
        raise RecallOutOfReach(f"recall {RECALL_MIN} not reached with ef {EF_LADDER[-1]}")
    ef = enough[0]
    timed = index.search_singly(data.queries[data.timed], ef)
    loaded_mib = own_pss_mib()
    filtered = index.search_singly(data.queries[data.filtered], ef, data.mask)
    rates = {f"rate_{clients}": index.rate(ef, clients, plan.span_s) for clients in plan.clients}
    figures = {
        "ready_s": index.build_s,
        "loaded_mib": loaded_mib,
        "ef": ef,
        "recall": data.recall(timed.answers),
        "timed": len(timed.seconds),
        "p50_ms": milliseconds(timed, 50),
        "p99_ms": milliseconds(timed, 99),
        "filtered_p50_ms": milliseconds(filtered, 50),
        "filtered_recall": data.filtered_recall(filtered.answers, data.filtered.start),
        **rates,
        "batch_rate": index.batch_rate(data.queries, ef, plan.span_s),
        "batch_cpu_ms": kernel.cpu_ms[ef],
        "kernel_cpu_ms": kernel.cpu_ms[ef],
        "batch_cpu_to_kernel": 1.0,
    }
    return msgspec.convert({"name": "faiss", "version": index.version, **figures}, Measures), kernel
