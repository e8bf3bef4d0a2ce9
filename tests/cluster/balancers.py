"""Balancers in front of several servers: a plain TCP one, as a NodePort or LVS is, and real nginx."""

from __future__ import annotations

import itertools
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hosts import lacking

from services import Service, free_port

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parents[1] / "deploy" / "nginx.conf"


class TcpBalancer:
    """Gives each new connection to the next of its servers, and knows nothing of what passes."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self._turn = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with suppress(OSError):
                    far = socket.create_connection(("127.0.0.1", self.ports[next(self._turn) % len(self.ports)]))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=_pump, args=pair, daemon=True).start()
                    continue
                near.close()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def find_nginx() -> str:
    """Path of nginx; skips the test when there is none."""
    found = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else "")
    if not found:
        lacking("needs nginx: apt-get install nginx-light")
    return found


def nginx_configuration(upstreams: list[str], port: int, folder: Path) -> str:
    """The sample configuration that we ship, with its upstreams, port and paths replaced by those of a test."""
    text = SAMPLE.read_text()
    start = text.index("upstream elanus {")
    end = text.index("}", start)
    servers = "".join(f"        server {address};\n" for address in upstreams)
    keepalive = "".join(f"{line}\n" for line in text[start:end].splitlines() if "keepalive" in line)
    text = text[:start] + "upstream elanus {\n" + servers + keepalive + "    " + text[end:]
    assert "listen 19530" in text, "the sample listens on Milvus's port"
    text = text.replace("listen 19530", f"listen {port}")
    head = f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log info;\n"
    return head + text


@contextmanager
def nginx(upstreams: list[str], folder: Path) -> Iterator[Service]:
    """nginx on a free port, with the shipped sample configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(nginx_configuration(upstreams, port, folder))
    service = Service([find_nginx(), "-p", str(folder), "-c", str(path)], port, folder / "said.log")
    try:
        service.wait_ready()
        yield service
    finally:
        service.process.terminate()
        service.process.wait()
