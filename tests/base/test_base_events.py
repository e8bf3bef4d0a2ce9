"""Events and metrics: quiet, cheap, and in the form that others read."""

from __future__ import annotations

import sys
import time

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from elanus.base.errors import InvariantError
from elanus.base.events import EVENTS_KEPT_MAX, Event, Events, Level
from elanus.base.metrics import Registry


def test_only_loud_events_reach_the_sink_and_all_are_kept() -> None:
    shown: list[Event] = []
    events = Events(lambda: 42, sink=shown.append)
    node = events.bind(node="n1")
    node.info("wal.opened", term=3)
    node.warning("wal.tail_cut", term=4, path=b"/x")
    events.error("task.died", node="other")
    events.debug("noise")
    assert [event.name for event in shown] == ["wal.tail_cut", "task.died"]
    assert [event.name for event in node.kept()] == ["wal.opened", "wal.tail_cut", "task.died", "noise"]
    assert events.kept("wal.opened")[0].fields == {"node": "n1", "term": 3}
    line = msgspec.json.decode(shown[0].line())
    assert line["event"] == "wal.tail_cut" and line["level"] == "warning" and line["node"] == "n1"
    for _ in range(EVENTS_KEPT_MAX * 2):
        events.debug("noise")
    assert len(events.kept()) == EVENTS_KEPT_MAX


def test_the_level_can_be_lowered() -> None:
    shown: list[Event] = []
    Events(lambda: 0, level=Level.DEBUG, sink=shown.append).bind(a=1).debug("x")
    assert len(shown) == 1


def test_a_scraper_reads_what_was_counted() -> None:
    registry = Registry()
    calls = registry.counter("elanus_calls_total", "Calls served.", ("method", "code"))
    calls.of("Search", "0").inc()
    calls.of("Search", "0").inc(2)
    calls.of('odd "\\\n', "1").inc()
    registry.gauge("elanus_segments", "Loaded segments.").of().ask(lambda: 7)
    latency = registry.histogram("elanus_wait_seconds", "Wait.", bounds=(0.1, 1.0)).of()
    for value in (0.05, 0.1, 0.5, 3.0):
        latency.observe(value)
    families = {family.name: family for family in text_string_to_metric_families(registry.render())}
    counted = {tuple(sample.labels.values()): sample.value for sample in families["elanus_calls"].samples}
    assert counted == {("Search", "0"): 3, ('odd "\\\n', "1"): 1}
    assert families["elanus_segments"].samples[0].value == 7
    waits = {(sample.name, sample.labels.get("le")): sample.value for sample in families["elanus_wait_seconds"].samples}
    assert waits == {
        ("elanus_wait_seconds_bucket", "0.1"): 2,
        ("elanus_wait_seconds_bucket", "1"): 3,
        ("elanus_wait_seconds_bucket", "+Inf"): 4,
        ("elanus_wait_seconds_sum", None): 3.65,
        ("elanus_wait_seconds_count", None): 4,
    }


def test_a_name_has_one_family_and_one_set_of_labels() -> None:
    registry = Registry()
    one = registry.counter("a_total", "A.", ("x",))
    assert registry.counter("a_total", "A.", ("x",)) is one
    assert one.of("1") is one.of("1")
    with pytest.raises(InvariantError):
        registry.counter("a_total", "A.", ("y",))
    with pytest.raises(InvariantError):
        one.of()
    one.drop("1")
    assert "{" not in registry.render()


@pytest.mark.skipif(sys.gettrace() is not None, reason="tracing makes everything slow")
def test_an_update_costs_under_a_microsecond() -> None:
    registry = Registry()
    counter = registry.counter("a_total", "A.").of()
    histogram = registry.histogram("b_seconds", "B.").of()
    best = min(_cost(counter.inc, histogram.observe) for _ in range(20))
    assert best < 2e-6


def _cost(inc, observe) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    for _ in range(2000):
        inc()
        observe(0.003)
    return (time.perf_counter() - start) / 2000
