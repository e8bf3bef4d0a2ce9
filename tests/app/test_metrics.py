"""The metrics page counts calls by code and tells whether the server serves."""

from __future__ import annotations

from elanus.app.metrics import ServerMetrics


def test_page() -> None:
    fault = ""
    metrics = ServerMetrics(lambda: fault)
    metrics.observe("Search", 0, 0.0004)
    metrics.observe("Search", 100, 0.2)
    page = metrics.render().decode()
    assert 'elanus_calls_total{method="Search",code="0"} 1\n' in page
    assert 'elanus_calls_total{method="Search",code="100"} 1\n' in page
    assert 'elanus_call_seconds_bucket{method="Search",le="0.0005"} 1\n' in page
    assert 'elanus_call_seconds_count{method="Search"} 2\n' in page
    assert "elanus_up 1\n" in page
    fault = "the log is closed"
    assert "elanus_up 0\n" in metrics.render().decode()


def test_memory_is_plausible() -> None:
    (line,) = (x for x in ServerMetrics(str).render().decode().splitlines() if x.startswith("elanus_resident_bytes"))
    assert 10**7 < float(line.split()[1]) < 10**11
