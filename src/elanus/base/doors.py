"""The doors: the only way for Elanus to reach time, chance, identity, concurrency and the disk.

Production passes real ones (`base.real`), the simulator passes virtual ones, and the code between never knows.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Time. Wall time may jump; monotonic time never goes back."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970-01-01 UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that only goes forward, from an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Give way for at least `seconds`."""
        ...


class Random(Protocol):
    """Chance and identity."""

    def token(self) -> str:
        """A fresh 16-character hexadecimal name, never repeated."""
        ...

    def uniform(self) -> float:
        """A float in [0, 1)."""
        ...

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        ...


class Job(Protocol):
    """A running task."""

    def cancel(self) -> None:
        """Ask the task to stop at its next await."""
        ...

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        ...

    async def wait(self) -> None:
        """Wait for the end; raises what the task raised, except its own cancellation."""
        ...


class Tasks(Protocol):
    """Concurrency on the event loop. A task that dies of an unexpected error takes its role down."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Job:
        """Start `coroutine`; its failure is reported to the supervisor, never swallowed."""
        ...

    async def timeout(self, seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine`, or cancel it and raise TimeoutError after `seconds`."""
        ...


class Compute(Protocol):
    """Work that would hold the event loop for more than about a millisecond."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run on a serving thread: at most one per core, one OpenMP thread each."""
        ...

    async def run_background(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run on a background thread of lower priority that may use all cores (builds, merges)."""
        ...

    async def run_io(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a blocking disk call on an I/O thread."""
        ...


class AppendFile(Protocol):
    """A file that only grows. After any error the handle is dead: every later call raises StorageError."""

    def append(self, data: bytes | memoryview) -> None:
        """Write at the end; not durable before `sync`."""
        ...

    def gather(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write the parts one after another at the end, without joining large ones; not durable before `sync`.

        After DiskFullError some prefix of the bytes, but never all of them, may stand in the file; after any other
        error possibly all.
        """
        ...

    def sync(self) -> None:
        """Return when everything appended so far survives power loss (fdatasync; F_FULLFSYNC on macOS)."""
        ...

    def close(self) -> None:
        """Release the handle without syncing. Idempotent."""
        ...


class ReadFile(Protocol):
    """An open file that never changes, read in pieces. Any number of threads may read at once; released when nothing
    refers to it."""

    @property
    def piece_count(self) -> int:
        """Pieces read so far."""
        ...

    def read_pieces(self, offsets: Sequence[int], into: Sequence[memoryview]) -> None:
        """Fill each buffer from its offset on; the disk is told of all of them before the first is waited for.
        StorageError, also where the file ends before a buffer is full."""
        ...


class Files(Protocol):
    """The disk. Paths are absolute strings with '/'. All calls block: use `Compute.run_io` off the start-up path.

    A name (created, linked, renamed or removed) is durable only after `sync_directory` of its folder.
    OSError never leaves this door: ENOSPC becomes DiskFullError, a missing file FileNotFoundError,
    an existing one FileExistsError, all else StorageError.
    """

    def create(self, path: str) -> AppendFile:
        """Create a new file for appending; FileExistsError if the name is taken."""
        ...

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes [offset, offset + length), shorter at the end of the file."""
        ...

    def open(self, path: str) -> ReadFile:
        """The file for reading in pieces, which are few among many: the system reads nothing ahead."""
        ...

    def map(self, path: str) -> memoryview:
        """The whole file as read-only memory; lives as long as anything refers to it."""
        ...

    def size(self, path: str) -> int:
        """Length in bytes."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or folder of that name exists."""
        ...

    def link(self, source: str, target: str) -> None:
        """Give the file a second name; FileExistsError if `target` is taken, atomically."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Move a name, replacing `target` silently. For private temporary names only."""
        ...

    def remove(self, path: str) -> None:
        """Remove a name; a missing one is not an error."""
        ...

    def list(self, path: str) -> list[str]:
        """Names in a folder, sorted; empty if the folder does not exist."""
        ...

    def make_directory(self, path: str) -> None:
        """Create a folder and its parents durably; an existing one is fine."""
        ...

    def sync_directory(self, path: str) -> None:
        """Make the names in a folder durable."""
        ...

    def free_bytes(self, path: str) -> int:
        """Room left for this process on the volume of `path`."""
        ...


@dataclass(frozen=True, slots=True)
class Doors:
    """All doors in one value, passed down from `app/`."""

    clock: Clock
    random: Random
    tasks: Tasks
    compute: Compute
    files: Files
