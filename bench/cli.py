"""The command line: options, the order of systems, and what is written where."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec
import numpy as np

from bench import plot, report
from bench.environment import CACHE, INSTALL, ROOT
from bench.kernel import Kernel
from bench.measure import RECALL_MIN, Measures, Plan, measure, measure_faiss
from bench.systems import SERVERS
from bench.workload import HELD_OUT, Dataset, load

SAMPLE = ROOT / "src" / "elanus" / "app" / "sample" / "packages.parquet"
FULL_DATA = ROOT.parent / "shared" / "data" / "debian_packages.parquet"
ABOUT = "Compare Elanus with Milvus 2.3.5, milvus-lite, bare faiss and a server of canned answers, one after the other."
ORDER = ("faiss", "milvus", "elanus", "lite", "canned")
QUICK_ROWS = 10_000
QUICK_HELD_OUT = 1500


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=ABOUT)
    parser.add_argument("--systems", default=",".join(ORDER), help="comma-separated choice of %(default)s")
    parser.add_argument("--rows", type=int, help="rows to insert (default: all that are not held out)")
    parser.add_argument("--data", type=Path, help=f"Parquet file (default: {FULL_DATA}, else the bundled sample)")
    parser.add_argument("--quick", action="store_true", help="fewer rows and queries, one start, 1 s per client group")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of results (%(default)s)")
    options = parser.parse_args(arguments)
    options.systems = tuple(each for each in options.systems.split(",") if each)
    unknown = sorted(set(options.systems) - set(ORDER))
    if unknown:
        parser.error(f"unknown systems: {', '.join(unknown)}; known: {', '.join(ORDER)}")
    options.data = options.data or _default_data()
    if options.data is None or not options.data.exists():
        parser.error(f"no data: {options.data or FULL_DATA} is not there; name a Parquet file with --data FILE")
    return options


def _default_data() -> Path | None:
    """The full data where they are, else the sample in the repository, else None."""
    return next((path for path in (FULL_DATA, SAMPLE) if path.exists()), None)


def _work_folder() -> Path:
    """A fresh folder for the servers' data, on the disk of the repository; removes those of benches that are gone."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for left in CACHE.glob("run-*"):
        if not Path("/proc", left.name.removeprefix("run-")).exists():
            shutil.rmtree(left, ignore_errors=True)
    work = CACHE / f"run-{os.getpid()}"
    work.mkdir()
    return work


def _say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _measured(name: str, data: Dataset, plan: Plan, recall_min: float) -> Measures:
    """The figures of a server; a system that fails is reported as such and the run goes on."""
    try:
        return measure(SERVERS[name], data, plan, recall_min)
    except Exception as fault:
        traceback.print_exc()
        return Measures(name=name, version=SERVERS[name].version(), fault=f"{type(fault).__name__}: {fault}")


def _run(systems: Sequence[str], data: Dataset, plan: Plan) -> list[Measures]:
    """Measure one system after the other; Milvus goes before those that must reach its recall."""
    measured: list[Measures] = []
    kernel: Kernel | None = None
    recall_min = RECALL_MIN
    for name in (each for each in ORDER if each in systems):
        _say(f"measuring {name}")
        if name == "faiss":
            figures, kernel = measure_faiss(data, plan)
        else:
            figures = _measured(name, data, plan, recall_min)
        if name == "milvus" and figures.recall is not None:
            recall_min = max(recall_min, figures.recall)
        measured.append(_beside_kernel(figures, kernel))
    return measured


def _beside_kernel(figures: Measures, kernel: Kernel | None) -> Measures:
    """Add the CPU time of the bare kernel at the ef the system chose, and the ratio to it."""
    if kernel is None or figures.ef is None or figures.batch_cpu_ms is None:
        return figures
    kernel_cpu_ms = kernel.cpu_ms[figures.ef]
    ratio = figures.batch_cpu_ms / kernel_cpu_ms
    return msgspec.structs.replace(figures, kernel_cpu_ms=kernel_cpu_ms, batch_cpu_to_kernel=ratio)


def _write(found: report.Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = found.heading.at.replace(":", "").replace("+0000", "Z")
    page = report.text(found)
    for name in (stem, "latest"):
        (folder / f"{name}.txt").write_text(page)
        report.write_json(found, folder / f"{name}.json")
    if plot.draw(found, folder / f"{stem}.png"):
        shutil.copy(folder / f"{stem}.png", folder / "latest.png")
    else:
        _say(f"no plot: matplotlib is not installed: {INSTALL}")
    sys.stdout.write(page)
    _say(f"written to {folder}/{stem}.txt, .json and .png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every system chosen could be measured, 1 otherwise, whatever the goals say."""
    if sys.platform != "linux":
        _say("needs Linux: memory is read from /proc/<pid>/smaps_rollup")
        return 2
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _stop)
    data = load(options.data, _rows(options), QUICK_HELD_OUT if options.quick else HELD_OUT)
    work = _work_folder()
    try:
        queries_file = work / "queries.npy"
        np.save(queries_file, data.queries)
        plan = Plan(work, queries_file, starts=1, span_s=1.0) if options.quick else Plan(work, queries_file)
        notes = ["--quick: fewer rows and queries, for a look only"] if options.quick else []
        notes += [f"1-minute load was {os.getloadavg()[0]:.1f} before the run"] if os.getloadavg()[0] > 0.5 else []
        measured = _run(options.systems, data, plan)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    by_name = {each.name: each for each in measured}
    wanted = report.goals(by_name["elanus"], by_name.get("milvus")) if "elanus" in by_name else ()
    _write(report.Report(report.heading(data, measured, notes), tuple(measured), wanted), options.out)
    return 1 if any(each.fault for each in measured) else 0


def _rows(options: argparse.Namespace) -> int | None:
    rows: int | None = options.rows
    return QUICK_ROWS if rows is None and options.quick else rows
