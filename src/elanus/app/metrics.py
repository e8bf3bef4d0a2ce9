"""What `/metrics` says about a server: its calls, what its parts count, and the process it lives in.

Names follow Prometheus: a unit last, counters in `_total`. The page is made when it is asked for; between scrapes a
call costs two dictionary look-ups.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import elanus
from elanus.base.metrics import METRICS, Registry

STATM = Path("/proc/self/statm")


class ServerMetrics:
    """One server's registry. Roles may add families of their own to `registry`."""

    def __init__(self, fault: Callable[[], str]) -> None:
        """`fault` says why the server cannot serve, empty when it can."""
        self.registry = Registry()
        self._calls = self.registry.counter(
            "elanus_calls_total", "Calls answered, by method and Milvus error code (0: success).", ("method", "code")
        )
        self._seconds = self.registry.histogram(
            "elanus_call_seconds", "Time from a decoded request to its encoded answer.", ("method",)
        )
        self.registry.gauge("elanus_info", "Always 1; the label is the version.", ("version",)).of(
            elanus.__version__
        ).set(1)
        self.registry.gauge("elanus_up", "1 while the server can serve.").of().ask(lambda: 0.0 if fault() else 1.0)
        self.registry.gauge("elanus_resident_bytes", "Memory of the process.").of().ask(resident_bytes)
        self.registry.gauge("elanus_cpu_seconds", "Processor time of the process since its start.").of().ask(
            cpu_seconds
        )

    def observe(self, method: str, code: int, seconds: float) -> None:
        """Count one answered call."""
        self._calls.of(method, str(code)).inc()
        self._seconds.of(method).observe(seconds)

    def render(self) -> bytes:
        """Prometheus text: this server's, and what is counted by the process."""
        return (self.registry.render() + METRICS.render()).encode()


def resident_bytes() -> float:
    """Resident memory now; its peak where the system does not tell."""
    try:
        return float(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def cpu_seconds() -> float:
    """User and system time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
