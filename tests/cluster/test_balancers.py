"""Behind a balancer every server gets its share, a restarted one too, and no client's call fails for it."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
from balancers import TcpBalancer, nginx
from pymilvus import MilvusClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wire"))
from wire_serving import Serving, serving

AGE_S = 1.0
CLIENTS = 8


class Crowd:
    """Clients that ask all the time; `failures` are calls that raised."""

    def __init__(self, port: int) -> None:
        self.failures: list[str] = []
        self.calls = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(f"http://127.0.0.1:{port}",)) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, uri: str) -> None:
        client = MilvusClient(uri, timeout=10, dedicated=True)
        while not self._stop.is_set():
            try:
                client.list_collections(timeout=10, retry_times=1)
                self.calls += 1
            except Exception as error:
                self.failures.append(repr(error))
            time.sleep(0.01)
        client.close()

    def leave(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def answered_during(servers: list[Serving], seconds: float) -> list[int]:
    """Calls that each server answers meanwhile."""
    before = [len(server.observed) for server in servers]
    time.sleep(seconds)
    return [len(server.observed) - count for server, count in zip(servers, before, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("age_s", [AGE_S, 0.0])
def test_old_connections_end_so_that_a_new_server_gets_its_share(age_s: float) -> None:
    with serving(connection_age_s_max=age_s) as one, serving(connection_age_s_max=age_s) as other:
        balancer = TcpBalancer([one.port])
        crowd = Crowd(balancer.port)
        try:
            assert answered_during([one, other], 0.5)[1] == 0
            balancer.ports = [one.port, other.port]
            answered_during([one, other], 1.5 * AGE_S)
            shares = answered_during([one, other], 4 * AGE_S)
        finally:
            crowd.leave()
            balancer.close()
        assert not crowd.failures, crowd.failures[:3]
        if age_s:
            assert min(shares) > 0.15 * sum(shares), shares
        else:
            assert shares[1] == 0, "without an age the connections stay where they were"


@pytest.mark.slow
@pytest.mark.parametrize("age_s", [0.0, AGE_S])
def test_nginx_spreads_requests_and_survives_a_server_that_leaves(tmp_path: Path, age_s: float) -> None:
    with serving(connection_age_s_max=age_s) as one, serving(connection_age_s_max=age_s) as other:
        addresses = [f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}"]
        with nginx(addresses, tmp_path) as balancer:
            crowd = Crowd(balancer.port)
            try:
                shares = answered_during([one, other], 3 * AGE_S)
                assert min(shares) > 0.3 * sum(shares), shares
                other.run(other.server.stop(1.0))
                assert answered_during([one, other], 1.0)[0] > 0
            finally:
                crowd.leave()
        assert not crowd.failures, crowd.failures[:3]
