"""The hosts reach one another and what is published, until they are cut off, and again when that is mended."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest
from hosts import Hosts, need_hosts


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    need_hosts()
    made = Hosts()
    yield made
    made.close()


def reaches(hosts: Hosts, name: str, address: str) -> bool:
    host, _, port = address.partition(":")
    code = f"import socket; socket.create_connection(({host!r}, {port}), 0.5)"
    return subprocess.run([*hosts.prefix(name), "python3", "-c", code], capture_output=True).returncode == 0


@pytest.mark.drill
@pytest.mark.alone
def test_ways_are_cut_and_mended(hosts: Hosts) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service = hosts.publish(server.server_address[1])
    one, other = hosts.add("one"), hosts.add("other")
    listening = subprocess.Popen([*hosts.prefix("other"), "python3", "-m", "http.server", "8000"])
    try:
        while not reaches(hosts, "one", f"{other}:8000"):
            assert listening.poll() is None
        assert reaches(hosts, "one", service)
        assert reaches(hosts, "other", service)
        hosts.cut("one", "other")
        assert not reaches(hosts, "one", f"{other}:8000")
        assert reaches(hosts, "one", service)
        hosts.mend("one")
        hosts.cut("one", service)
        assert not reaches(hosts, "one", service)
        assert reaches(hosts, "one", f"{other}:8000")
        hosts.mend("one")
        assert reaches(hosts, "one", service)
        with socket.create_connection((other, 8000), 1):
            assert one != other
    finally:
        listening.kill()
        listening.wait()
        server.shutdown()
