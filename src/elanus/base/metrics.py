"""Counters, gauges and histograms that cost a fraction of a microsecond, and their text form for a scraper.

Values live in plain attributes of plain objects: nothing is imported, locked or formatted until somebody scrapes
(`Registry.render`, the Prometheus text format 0.0.4). Updates come from the event loop and from pool threads; an update
is one read-modify-write without a call in between, which CPython does not interrupt.

Get a metric once, at import or construction, and keep the child of its labels; never look one up per request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

from elanus.base.errors import check

LABEL_SETS_MAX: Final = 10_000
"""Children of one metric: more means that a label carries an identity."""
SECONDS_BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)
    kind = "counter"

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add a non-negative amount."""
        self.value += amount

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """(name suffix, extra label, value) of each line."""
        yield "", "", self.value


class Gauge:
    """A number that goes up and down, or is asked for at the scrape."""

    __slots__ = ("_ask", "value")
    kind = "gauge"

    def __init__(self) -> None:
        self.value = 0.0
        self._ask: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value

    def inc(self, amount: float = 1.0) -> None:
        """Add an amount of either sign."""
        self.value += amount

    def ask(self, function: Callable[[], float]) -> None:
        """Take the value from `function` at each scrape."""
        self._ask = function

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """(name suffix, extra label, value) of each line."""
        yield "", "", self.value if self._ask is None else float(self._ask())


class Histogram:
    """How often values fell into buckets, with their count and sum. `bounds` are inclusive upper bounds, ascending."""

    __slots__ = ("bounds", "counts", "sum")
    kind = "histogram"

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """(name suffix, extra label, value) of each line; buckets are cumulative."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            yield "_bucket", f'le="{_number(bound)}"', total
        yield "_sum", "", self.sum
        yield "_count", "", total


M = TypeVar("M", bound="Counter | Gauge | Histogram")


class Family(Generic[M]):
    """One metric name with its children, one per set of label values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], make: Callable[[], M]) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._make = make
        self._children: dict[tuple[str, ...], M] = {}

    def of(self, *values: str) -> M:
        """The child of these label values, in the order of `labels`; created on first use."""
        child = self._children.get(values)
        if child is None:
            check(len(values) == len(self.labels), f"{self.name} has labels {self.labels}, got {values}")
            check(len(self._children) < LABEL_SETS_MAX, f"{self.name} has too many label sets")
            child = self._children[values] = self._make()
        return child

    def drop(self, *values: str) -> None:
        """Forget a child, for a thing that is gone. A missing one is not an error."""
        self._children.pop(values, None)

    def lines(self) -> Iterator[str]:
        """The family in the text format."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self._make().kind}"
        for values, child in list(self._children.items()):
            pairs = [f'{label}="{_escaped(value)}"' for label, value in zip(self.labels, values, strict=True)]
            for suffix, extra, value in child.samples():
                inside = ",".join([*pairs, extra] if extra else pairs)
                yield (
                    f"{self.name}{suffix}{{{inside}}} {_number(value)}"
                    if inside
                    else (f"{self.name}{suffix} {_number(value)}")
                )


class Registry:
    """All metrics of a process, or of one simulated node. Asking twice for a name gives the same family."""

    def __init__(self) -> None:
        self._families: dict[str, Family[Any]] = {}

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Family[Counter]:
        """A counter family; the name ends in `_total`."""
        return self._family(name, text, labels, Counter)

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Family[Gauge]:
        """A gauge family."""
        return self._family(name, text, labels, Gauge)

    def histogram(
        self, name: str, text: str, labels: tuple[str, ...] = (), bounds: Sequence[float] = SECONDS_BUCKETS
    ) -> Family[Histogram]:
        """A histogram family; the name ends in its unit."""
        return self._family(name, text, labels, lambda: Histogram(bounds))

    def render(self) -> str:
        """Everything in the Prometheus text format 0.0.4."""
        return "".join(f"{line}\n" for name in sorted(self._families) for line in self._families[name].lines())

    def _family(self, name: str, text: str, labels: tuple[str, ...], make: Callable[[], M]) -> Family[M]:
        found = self._families.setdefault(name, Family(name, text, labels, make))
        check(found.labels == labels, f"{name} was made with labels {found.labels}")
        return found


METRICS: Final = Registry()
"""The registry of this process."""


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
