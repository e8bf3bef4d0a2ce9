"""From figures to goals, a table and JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.environment import PYMILVUS_VERSION, installed
from bench.measure import CALL_QUERIES, RECALL_MIN, Measures
from bench.systems import elanus_version
from bench.workload import HELD_OUT, Dataset

TIMED_QUERIES_MIN = 1800
START_S_MAX = 0.8


METHOD = (
    f"HNSW M=16 efConstruction=200 COSINE; ef: the smallest of a ladder with recall@10 >= {RECALL_MIN}, ties counted",
    "(elanus and lite: and not below Milvus's own recall in this run)",
    "clients: pymilvus in processes of their own, one thread each, Bounded consistency; servers: their default threads",
    "faiss: 1 thread for single searches and kernel CPU, n threads for n clients, all cores for build and large calls",
)


class Heading(msgspec.Struct, frozen=True):
    """What was run on what, and what a reader must know to judge the figures."""

    at: str
    versions: dict[str, str]
    machine: str
    data: str
    method: tuple[str, ...]
    notes: tuple[str, ...]


class Goal(msgspec.Struct, frozen=True):
    """One goal: what was seen, the bound, and whether it holds; `seen` None when a side was not measured."""

    name: str
    seen: float | None
    relation: str
    bound: float
    holds: bool | None


class Report(msgspec.Struct, frozen=True):
    """Everything a run says."""

    heading: Heading
    systems: tuple[Measures, ...]
    goals: tuple[Goal, ...]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def heading(data: Dataset, measured: Sequence[Measures], notes: Sequence[str]) -> Heading:
    """Versions of everything in the run, the machine, the data and the method."""
    versions = {"elanus": elanus_version()} | {each.name: each.version for each in measured}
    libraries = {"pymilvus": "pymilvus", "faiss": "faiss-cpu", "grpcio": "grpcio"}
    versions |= {name: installed(package) or "not installed" for name, package in libraries.items()}
    versions["Python"] = platform.python_version()
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    rows, dim = data.vectors.shape
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = list(notes)
    if versions["pymilvus"] != PYMILVUS_VERSION:
        found.append(f"the goals are stated for pymilvus {PYMILVUS_VERSION} as client")
    if data.is_sample:
        found.append("A SMALL SAMPLE, not the full Debian data: figures are for orientation only")
    timed = data.timed.stop - data.timed.start
    if timed < TIMED_QUERIES_MIN:
        found.append(f"p99 from {timed} queries only; a full run times {HELD_OUT * 2 // 3}")
    shown = f"{data.expression} passes {data.mask.mean():.0%}"
    linux = f"Linux {platform.release()}, load {load:.1f} at the end"
    return Heading(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions,
        machine=f"{_cpu_model()}, {cores} cores, {memory_gib:.0f} GiB, {linux}",
        data=f"{data.source}: {rows} rows of {dim} float32, {len(data.queries)} held out as queries; {shown}",
        method=METHOD,
        notes=tuple(found),
    )


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None or theirs == 0 else ours / theirs


def _goal(name: str, seen: float | None, relation: str, bound: float) -> Goal:
    holds = None if seen is None else (seen <= bound if relation == "<=" else seen >= bound)
    return Goal(name, seen, relation, bound, holds)


def goals(ours: Measures, milvus: Measures | None) -> tuple[Goal, ...]:
    """The issue's goals for Elanus; ratios are to Milvus in the same run."""
    base = milvus or Measures(name="milvus", version="not run")
    to = _ratio
    return (
        _goal("p50 / Milvus", to(ours.p50_ms, base.p50_ms), "<=", 0.8),
        _goal("filtered p50 / Milvus", to(ours.filtered_p50_ms, base.filtered_p50_ms), "<=", 0.8),
        _goal("queries/s, 2 clients / Milvus", to(ours.rate_2, base.rate_2), ">=", 1.4),
        _goal("queries/s, calls of 1000 / Milvus", to(ours.batch_rate, base.batch_rate), ">=", 1.05),
        _goal("server CPU, calls of 1000 / bare kernel", ours.batch_cpu_to_kernel, "<=", 1.4),
        _goal("rows/s / Milvus", to(ours.rows_per_s, base.rows_per_s), ">=", 1.0),
        _goal("ready time / Milvus", to(ours.ready_s, base.ready_s), "<=", 0.8),
        _goal("memory after 1,000 queries / Milvus", to(ours.loaded_mib, base.loaded_mib), "<=", 0.7),
        _goal("start on an empty store, s", ours.start_s, "<=", START_S_MAX),
        _goal("recall@10", ours.recall, ">=", RECALL_MIN),
        _goal("recall@10 / Milvus", to(ours.recall, base.recall), ">=", 1.0),
        _goal("filtered recall@10", ours.filtered_recall, ">=", 0.95),
        _goal("queries behind p99", ours.timed, ">=", TIMED_QUERIES_MIN),
    )


def _seconds(value: float) -> str:
    return f"{value:.2f}"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


LINES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("start on an empty store, s", "start_s", _seconds),
    ("memory at rest, MiB PSS", "rest_mib", _whole),
    ("rows/s inserted, calls of 1000", "rows_per_s", _whole),
    ("  server CPU, ms per 1000 rows", "insert_cpu_ms_per_1000", lambda value: f"{value:.1f}"),
    ("last insert to indexed and loaded, s", "ready_s", _seconds),
    ("memory after 1,000 queries, MiB PSS", "loaded_mib", _whole),
    ("ef chosen", "ef", _whole),
    ("recall@10", "recall", lambda value: f"{value:.4f}"),
    ("single search p50, ms", "p50_ms", _milliseconds),
    ("single search p99, ms", "p99_ms", _milliseconds),
    ("  server CPU, ms per search", "cpu_ms", _milliseconds),
    ("filtered search p50, ms", "filtered_p50_ms", _milliseconds),
    ("filtered recall@10", "filtered_recall", lambda value: f"{value:.4f}"),
    ("queries/s, 1 client", "rate_1", _whole),
    ("queries/s, 2 clients", "rate_2", _whole),
    ("queries/s, 8 clients", "rate_8", _whole),
    (f"queries/s, calls of {CALL_QUERIES}", "batch_rate", _whole),
    ("  server CPU, ms per query", "batch_cpu_ms", _milliseconds),
    ("  bare kernel CPU at that ef, ms", "kernel_cpu_ms", _milliseconds),
    ("  server CPU / bare kernel", "batch_cpu_to_kernel", _seconds),
)


def _table(systems: Sequence[Measures]) -> list[str]:
    rows = [["", *(each.name for each in systems)]]
    for label, field, show in LINES:
        values = [getattr(each, field) for each in systems]
        rows.append([label, *("-" if value is None else show(value) for value in values)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join([row[0].ljust(widths[0]), *cells[1:]]) for row, cells in zip(rows, padded, strict=True)]


def _goal_line(goal: Goal) -> str:
    seen = "-" if goal.seen is None else f"{goal.seen:,.3f}".rstrip("0").rstrip(".")
    verdict = {True: "pass", False: "FAIL", None: "not measured"}[goal.holds]
    return f"{goal.name:<42}{seen:>10}  {goal.relation} {goal.bound:<6g} {verdict}"


def text(report: Report) -> str:
    """The report as a page of plain text."""
    head = report.heading
    lines = [f"Benchmark of {head.at}"]
    lines.append(", ".join(f"{name} {number}" for name, number in head.versions.items()))
    lines += [head.machine, head.data, *head.method, *(f"NOTE: {note}" for note in head.notes), ""]
    lines += _table(report.systems)
    lines += [f"{each.name} FAILED: {each.fault}" for each in report.systems if each.fault]
    if report.goals:
        lines += ["", "Goals for elanus", *(_goal_line(each) for each in report.goals)]
    return "\n".join(lines) + "\n"


def write_json(report: Report, path: Path) -> None:
    """The report as JSON, one object with `heading`, `systems` and `goals`."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
