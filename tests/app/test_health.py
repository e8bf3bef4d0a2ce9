"""The metrics port tells the truth, and a taken one is refused by name."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import pytest

from elanus.app.health import HealthServer, Probes, bind
from elanus.base.errors import InUseError


def get(port: int, path: str, accept: str = "*/*") -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_probes() -> None:
    fault = ""

    async def scenario() -> None:
        nonlocal fault
        server = HealthServer(bind("127.0.0.1", 0, "x"), Probes(lambda: fault, lambda: b"elanus_up 1\n"))
        ask = asyncio.to_thread
        assert await ask(get, server.port, "/livez") == (200, b"OK")
        assert await ask(get, server.port, "/healthz") == (200, b"OK")
        assert await ask(get, server.port, "/metrics") == (200, b"elanus_up 1\n")
        fault = "the log is closed"
        assert await ask(get, server.port, "/healthz") == (503, b"the log is closed")
        assert await ask(get, server.port, "/healthz", "application/json") == (503, b'{"state":"the log is closed"}')
        assert await ask(get, server.port, "/livez") == (200, b"OK")
        assert (await ask(get, server.port, "/nothing"))[0] == 404
        with pytest.raises(InUseError, match=f"127.0.0.1:{server.port}.*choose another metrics port"):
            bind("127.0.0.1", server.port, "metrics port")
        await server.stop()

    asyncio.run(scenario())


def test_nothing_is_loaded_for_a_port_that_nobody_asks() -> None:
    async def scenario() -> None:
        server = HealthServer(bind("127.0.0.1", 0, "x"), Probes(lambda: "", lambda: b""))
        await server.stop()
        bind("127.0.0.1", server.port, "x").close()

    asyncio.run(scenario())
