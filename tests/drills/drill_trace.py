"""Reading a strace of a gRPC server: what it received, sent, wrote and synced, and when.

`strace -ff` writes one file per thread, so that no line is cut in two by another thread. From the bytes of every
`recvmsg` and `sendmsg` the HTTP/2 frames are put together again, which gives for each call (connection, stream) the
moment its request was complete and the moment its response began to leave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "fsync,fdatasync,sendmsg,recvmsg,write,writev,pwrite64"
FLAGS = ("-ff", "-D", "-ttt", "-T", "-y", "-xx", "-s", "262144", "-e", f"trace={CALLS}", "-e", "signal=none")

_LINE = re.compile(
    r"^(?P<at>\d+\.\d+) (?P<name>\w+)\((?P<fd>\d+)<(?P<path>.*?)>(?P<rest>.*) = (?P<result>-?\d+).*?<(?P<took>[\d.]+)>$"
)
_BASES = re.compile(r'iov_base="((?:\\x[0-9a-f]{2})*)"')
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS = 0, 1
_END_STREAM = 1


@dataclass(frozen=True, order=True)
class Event:
    """One system call that did something; times in seconds since 1970."""

    began_s: float
    ended_s: float
    name: str
    path: str
    data: bytes


@dataclass
class Stream:
    """One direction of one connection, as frames."""

    pending: bytes = b""

    def frames(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """Kind, flags and stream of every frame that `data` completes."""
        self.pending += data
        if self.pending.startswith(_PREFACE):
            self.pending = self.pending[len(_PREFACE) :]
        while len(self.pending) >= 9:
            length = int.from_bytes(self.pending[:3], "big")
            if len(self.pending) < 9 + length:
                return
            yield self.pending[3], self.pending[4], int.from_bytes(self.pending[5:9], "big") & 0x7FFFFFFF
            self.pending = self.pending[9 + length :]


@dataclass
class Trace:
    """A whole trace; a call is named by its socket, which is one per connection, and its stream."""

    requests: dict[tuple[str, int], float] = field(default_factory=dict)
    responses: dict[tuple[str, int], float] = field(default_factory=dict)
    syncs: list[Event] = field(default_factory=list)
    writes: list[Event] = field(default_factory=list)


def events(folder: Path) -> list[Event]:
    """Every successful call of every thread, by time."""
    found = []
    for path in sorted(folder.iterdir()):
        for line in path.read_text(errors="replace").splitlines():
            match = _LINE.match(line)
            if match is None or int(match["result"]) < 0:
                continue
            began, result = float(match["at"]), int(match["result"])
            data = b"".join(bytes.fromhex(part.replace("\\x", "")) for part in _BASES.findall(match["rest"]))
            ended = began + float(match["took"])
            found.append(Event(began, ended, match["name"], unhexed(match["path"]), data[:result]))
    return sorted(found)


def unhexed(path: str) -> str:
    """A path as it is."""
    return bytes.fromhex(path.replace("\\x", "")).decode() if path.startswith("\\x") else path


def read(folder: Path) -> Trace:
    """The trace in `folder`."""
    trace = Trace()
    incoming: dict[str, Stream] = {}
    outgoing: dict[str, Stream] = {}
    for event in events(folder):
        if event.name in ("fsync", "fdatasync"):
            trace.syncs.append(event)
        elif event.name in ("write", "writev", "pwrite64"):
            trace.writes.append(event)
        elif event.name == "recvmsg":
            for kind, flags, stream in incoming.setdefault(event.path, Stream()).frames(event.data):
                if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
                    trace.requests[event.path, stream] = event.ended_s
        elif event.name == "sendmsg":
            for kind, _, stream in outgoing.setdefault(event.path, Stream()).frames(event.data):
                if kind == _HEADERS:
                    trace.responses.setdefault((event.path, stream), event.began_s)
    return trace
