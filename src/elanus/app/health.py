"""The metrics port: `/livez`, `/healthz` and `/metrics`.

`/livez` says that the process's event loop turns. `/healthz` says that the server can serve; otherwise it answers 503
with the reason. `/metrics` is Prometheus text. Probes may come at any rate and touch no role's state.

The port is bound before the server starts, so that a taken one is refused by name before anything else happens.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elanus.base.errors import InUseError

LISTEN_BACKLOG = 128


@dataclass(frozen=True)
class Probes:
    """What the port asks of the server."""

    fault: Callable[[], str]  # why the server cannot serve now; empty when it can
    metrics: Callable[[], bytes]  # Prometheus text


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket on `host`:`port`, refused by name when the port is taken.

    Raises InUseError; `setting` names what to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(LISTEN_BACKLOG)
    except OSError as error:
        sock.close()
        raise InUseError(f"cannot listen on {host}:{port}: {error.strerror}; choose another {setting}") from error
    sock.setblocking(False)
    return sock


class HealthServer:
    """Serves the probes on an already listening socket until stopped.

    The first probe waits in the socket's backlog while the HTTP libraries load, on a thread, so that a server that
    nobody probes never loads them and one that is probed at once does not keep the database's callers waiting.
    """

    def __init__(self, sock: socket.socket, probes: Probes) -> None:
        self.port: int = sock.getsockname()[1]
        self._sock = sock
        self._probes = probes
        self._server: Any = None
        self._starting: asyncio.Task[None] | None = None
        asyncio.get_running_loop().add_reader(sock, self._begin)

    async def stop(self) -> None:
        """Close the port."""
        if self._starting is None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            return
        await self._starting
        await self._server.shutdown(sockets=[self._sock])

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock)
        self._starting = loop.create_task(self._serve(), name="health")

    async def _serve(self) -> None:
        server = await asyncio.to_thread(http_server, self._probes)
        # Not `Server.serve`: it takes over the process's signals, and wakes ten times a second for nothing.
        await server.startup(sockets=[self._sock])
        self._server = server


def http_server(probes: Probes) -> Any:
    """An uvicorn server, not yet started."""
    import uvicorn

    config = uvicorn.Config(
        application(probes),
        log_config=None,
        date_header=False,
        server_header=False,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ws="none",
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server


def application(probes: Probes) -> Any:
    """The ASGI application of the port."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    async def live(_: Request) -> Response:
        return PlainTextResponse("OK")

    async def health(request: Request) -> Response:
        fault = probes.fault()
        status = 503 if fault else 200
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"state": fault or "OK"}, status)
        return PlainTextResponse(fault or "OK", status)

    async def metrics(_: Request) -> Response:
        return Response(probes.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            Route("/livez", live),
            Route("/healthz", health),
            Route("/metrics", metrics),
        ]
    )
