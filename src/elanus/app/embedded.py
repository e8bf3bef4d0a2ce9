"""`elanus.connect("./demo.db")`: a Milvus client of a folder, with no server to start.

The folder is served by a helper process of its own (`app.helper`) over a private Unix socket. The first client starts
it, every further client of any process joins it, and it leaves ten seconds after the last one. This module is the
client's half and runs in the user's process: it is synchronous, loads `pymilvus` on first use, and never the server.

A client holds one connection to the helper's presence socket for its life; that connection is how the helper counts
clients, and how a client knows without asking that its helper is alive. Every call passes `Reviver`, which looks at it
first, so a helper that was killed is started again by the next call.

Repeating a call
1. The channel never reached a helper: nothing was sent, the call is sent again, whatever it is.
2. The helper went away with the call under way: reads are sent again. A write may have happened or not. It is not
   repeated, nor is `pymilvus` allowed to: the caller gets a MilvusException that says so and decides.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import stat
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from elanus.base.errors import ElanusError, InUseError, OutcomeUnknownError, StorageError, UnavailableError

# --- what client and helper agree on --------------------------------------------------------------------------------
SERVER_SOCKET = "s"
PRESENCE_SOCKET = "p"
GREETING = b"elanus\n"
READY = "elanus-helper: ready"
BUSY = "elanus-helper: busy"
REFUSED = "elanus-helper: refused: "

# --- bounds ---------------------------------------------------------------------------------------------------------
START_S_MAX = 120.0  # a helper that replays a long log is still starting
ANSWER_S_MAX = 10.0  # a helper that is alive greets within this
REPEAT_S_MAX = 30.0  # how long one call is sent again
REPEAT_PAUSE_S = 0.05
BUSY_PAUSE_S_MAX = 0.2
SILENT_DEATHS_MAX = 10  # somebody kills helpers as fast as they start
VERDICT_BYTES_MAX = 64 * 1024

# gRPC's words when no connection could be made, so that nothing can have been sent.
NEVER_SENT = "failed to connect to all addresses"

# Calls that change nothing, or whose repetition changes nothing more.
REPEATABLE_PREFIXES = ("Search", "HybridSearch", "Query", "Get", "Describe", "Show", "Has", "List", "Check", "Flush")
REPEATABLE = frozenset(
    {"Connect", "AllocTimestamp", "LoadCollection", "LoadPartitions", "ReleaseCollection", "ReleasePartitions"}
)

# Detached from the client: a grandchild in a session of its own, so that nobody has to reap it and no Ctrl-C meant for
# the client reaches it.
LAUNCH = (
    "import os, sys; os.fork() and os._exit(0); os.setsid(); from elanus.app.helper import main; main(*sys.argv[1:])"
)


def connect(path: str | os.PathLike[str], **options: Any) -> Any:
    """A `pymilvus.MilvusClient` of the folder `path`, which is made if missing.

    `options` are passed to MilvusClient (`db_name`, `timeout`, …). Any number of processes may connect to one folder;
    all see the same data. Close the client, or let it go, to let the helper leave.

    Raises InUseError when a server that is not a helper holds the folder, StorageError when the folder cannot be used.
    """
    folder = os.path.realpath(os.fspath(path))
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise StorageError(f"{folder} is a file; elanus.connect needs a folder, or a name that is not taken")
    link = Link(folder, runtime_folder(folder))
    link.begin()
    # These take longer to load than the helper to start.
    import grpc
    import pymilvus

    link.ensure()
    grpc.UnaryUnaryClientInterceptor.register(Reviver)
    raw = grpc.insecure_channel(
        link.address,
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 100),
            ("grpc.enable_http_proxy", 0),
        ],
    )
    reviver = Reviver(link, pymilvus.MilvusException, grpc.StatusCode.UNAVAILABLE)
    channel = LinkedChannel(grpc.intercept_channel(raw, reviver), link)
    client = pymilvus.MilvusClient(uri=link.address, dedicated=True, channel=channel, **options)
    weakref.finalize(client, link.drop)
    return client


def runtime_folder(folder: str) -> str:
    """The private folder of the helper of `folder`: short enough for socket names, safe from other users.

    It depends on the user and the folder alone, as every process has to come to the same name.
    """
    base = os.environ.get("ELANUS_RUNTIME_DIR") or f"/tmp/elanus-{os.getuid()}"
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    for path in (base, f"{base}/{name}"):
        _make_private(path)
    return f"{base}/{name}"


def _make_private(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StorageError(
            f"{path} is not a private folder of this user; remove it, or name another in ELANUS_RUNTIME_DIR"
        )


class Link:
    """This client's connection to the presence socket of its folder's helper; starts helpers as needed. Thread-safe."""

    def __init__(self, folder: str, runtime: str) -> None:
        self._folder = folder
        self._runtime = runtime
        self._lock = threading.Lock()
        self._presence: socket.socket | None = None
        self._launched: Launch | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """Where the helper's Milvus service listens."""
        return f"unix:{self._runtime}/{SERVER_SOCKET}"

    def begin(self) -> None:
        """Join the helper if it runs, or start one without waiting for it."""
        with self._lock:
            self._presence = self._greeted()
            if self._presence is None:
                self._launched = Launch(self._folder, self._runtime)

    def ensure(self) -> None:
        """Return when a helper is there. Costs a microsecond while it is.

        Raises UnavailableError, InUseError or StorageError when none can be had.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError("this client is closed")
            if self._presence is not None and is_open(self._presence):
                return
            self._let_go()
            self._presence = self._join()

    def drop(self) -> None:
        """No longer count as a client; a later `ensure` joins again."""
        with self._lock:
            self._let_go()

    def close(self) -> None:
        """No longer count as a client, for good."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        if self._presence is not None:
            self._presence.close()
            self._presence = None

    def _join(self) -> socket.socket:
        deadline = time.monotonic() + START_S_MAX
        pause = 0.01
        silent_deaths = 0
        while time.monotonic() < deadline:
            presence = None if self._launched else self._greeted()
            if presence is not None:
                return presence
            launched, self._launched = self._launched or Launch(self._folder, self._runtime), None
            verdict = launched.verdict(deadline)
            if verdict.startswith(REFUSED):
                raise InUseError(verdict.removeprefix(REFUSED))
            silent_deaths += not verdict
            if verdict not in (READY, BUSY, "") or silent_deaths > SILENT_DEATHS_MAX:
                raise UnavailableError(f"the helper of {self._folder} did not start: {verdict or 'it was killed'}")
            if verdict != READY:
                time.sleep(pause)
                pause = min(2 * pause, BUSY_PAUSE_S_MAX)
        raise UnavailableError(f"the helper of {self._folder} did not start within {START_S_MAX:.0f} s")

    def _greeted(self) -> socket.socket | None:
        """A counted connection, or None where no helper listens."""
        presence = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        presence.settimeout(ANSWER_S_MAX)
        try:
            presence.connect(f"{self._runtime}/{PRESENCE_SOCKET}")
            if presence.recv(len(GREETING)) == GREETING:
                presence.setblocking(False)
                return presence
        except TimeoutError:
            presence.close()
            raise UnavailableError(f"the helper of {self._folder} is alive but does not answer") from None
        except (FileNotFoundError, ConnectionError):
            pass
        presence.close()
        return None


def is_open(presence: socket.socket) -> bool:
    """Whether the other end of a non-blocking socket is still there."""
    try:
        return presence.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


class Launch:
    """A helper process being started, and the pipe on which it says how that went."""

    def __init__(self, folder: str, runtime: str) -> None:
        self._pipe, theirs = os.pipe()
        package_parent = str(Path(__file__).resolve().parents[2])
        path = os.environ.get("PYTHONPATH")
        environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{package_parent}" if path else package_parent}
        try:
            starter = subprocess.Popen(
                [sys.executable, "-P", "-c", LAUNCH, folder, runtime],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=theirs,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        starter.wait()  # it forks at once and ends

    def verdict(self, deadline: float) -> str:
        """The helper's verdict line, or all it said where it ended without one: nothing, where it was killed."""
        said = b""
        try:
            while len(said) < VERDICT_BYTES_MAX:
                if not select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    break
                chunk = os.read(self._pipe, 4096)
                said += chunk
                for line in said.decode(errors="replace").splitlines(keepends=True):
                    if line.endswith("\n") and line.startswith((READY, BUSY, REFUSED)):
                        return line.rstrip("\n")
                if not chunk:
                    break
        finally:
            os.close(self._pipe)
        return said.decode(errors="replace").strip()


class Reviver:
    """Passes every call on to a living helper; told in the module's docstring. A gRPC unary interceptor."""

    def __init__(self, link: Link, error_type: Any, unavailable: Any) -> None:
        self._link = link
        self._error_type = error_type
        self._unavailable = unavailable

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """The call's outcome; waits for it, also where the caller asked for a future."""
        method = details.method.rpartition("/")[2]
        deadline = time.monotonic() + REPEAT_S_MAX
        while True:
            self._ensure()
            outcome = continuation(details, request)
            if outcome.code() is not self._unavailable:
                return outcome
            said = outcome.details() or ""
            if NEVER_SENT not in said and not is_repeatable(method):
                raise self._error_type(
                    code=OutcomeUnknownError.code,
                    message=f"the outcome of {method} is unknown: the server went away before it answered ({said}). "
                    "It may have been done or not; read before writing again",
                )
            if time.monotonic() > deadline:
                raise self._error_type(code=UnavailableError.code, message=f"{method}: no server answers ({said})")
            time.sleep(REPEAT_PAUSE_S)

    def _ensure(self) -> None:
        try:
            self._link.ensure()
        except ElanusError as error:
            raise self._error_type(code=error.code, message=error.message) from error


def is_repeatable(method: str) -> bool:
    """Whether sending the call a second time can change nothing more than the first did."""
    return method in REPEATABLE or method.startswith(REPEATABLE_PREFIXES)


class LinkedChannel:
    """A gRPC channel whose end is also the end of its link: `MilvusClient.close` comes through here."""

    def __init__(self, channel: Any, link: Link) -> None:
        self._channel = channel
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def close(self) -> None:
        """Close both."""
        self._channel.close()
        self._link.close()
