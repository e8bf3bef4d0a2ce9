"""The figures as bars: one small panel per measure, one bar per system, drawn by matplotlib where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.report import Report

PANELS: tuple[tuple[str, str], ...] = (
    ("p50_ms", "single search p50, ms"),
    ("p99_ms", "single search p99, ms"),
    ("filtered_p50_ms", "filtered search p50, ms"),
    ("rate_2", "queries/s, 2 clients"),
    ("rate_8", "queries/s, 8 clients"),
    ("batch_rate", "queries/s, calls of 1000"),
    ("rows_per_s", "rows/s inserted"),
    ("ready_s", "last insert to loaded, s"),
    ("loaded_mib", "memory after 1,000 queries, MiB"),
    ("start_s", "start on an empty store, s"),
    ("recall", "recall@10"),
    ("filtered_recall", "filtered recall@10"),
)
COLOURS = {"elanus": "#d1495b", "milvus": "#30638e", "lite": "#66a182", "faiss": "#8d8d8d", "canned": "#c8c8c8"}


def draw(report: Report, path: Path) -> bool:
    """Write the plot as PNG; False when matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 4, figsize=(16, 9))
    for panel, (field, title) in zip(panels.flat, PANELS, strict=True):
        _bars(panel, report, field, title)
    versions = report.heading.versions
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    figure.suptitle(f"{named}\n{report.heading.machine}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _bars(panel: Any, report: Report, field: str, title: str) -> None:
    seen = [(each.name, getattr(each, field)) for each in report.systems]
    shown = [(name, value) for name, value in seen if value is not None]
    panel.set_title(title, fontsize=9)
    panel.tick_params(labelsize=8)
    if not shown:
        return
    names, values = zip(*shown, strict=True)
    bars = panel.bar(names, values, color=[COLOURS[name] for name in names])
    panel.bar_label(bars, fmt="%.3g", fontsize=7)
    panel.margins(y=0.12)
    if max(values) > 20 * min(values):
        panel.set_yscale("log")
