"""The MetaStore of a local folder: one sqlite file, owned by one process, mirrored in memory.

Durability. WAL journal with synchronous=FULL (and fullfsync where the system has it): a commit returns when its frames
are synced. With NORMAL, sqlite's usual advice for WAL, a committed manifest pointer could roll back at power loss after
the log behind it was truncated. The exclusive locking mode keeps a second process out and needs no shared-memory file.

Damage. sqlite checks no content. So each row carries a CRC-32, and the head row one over its own numbers and, by
exclusive or, those of all rows; every commit moves it and opening verifies it. That finds flipped bits, lost rows and
pages that fell back to an older content. Commits that recovery would drop are found by `sqlite_journal`.

Leases. They live and end with the process, so a key under a lease is never written: only the revision is. Opening takes
one revision for itself (nobody was told of it before), so that a watcher from an earlier process lists again.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from elanus.base.compute import thread_lock
from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, DiskFullError, ElanusError, InUseError, StorageError
from elanus.base.limits import GIB
from elanus.meta.local import LocalMetaStore
from elanus.meta.sqlite_journal import commit_frames
from elanus.meta.state import State
from elanus.meta.store import NO_LEASE, Item, WatchBatch

T = TypeVar("T")

FORMAT_VERSION: Final = 1
STORE_BYTES_MAX: Final = 2 * GIB
"""etcd's default quota."""
_PAGE_BYTES: Final = 4096
_PAGE_BYTES_MIN: Final = 512

# sqlite's primary result codes; those not named here come from damaged content (or of a fault of ours).
_KINDS: Final[dict[int, type[ElanusError]]] = {
    3: StorageError,  # PERM
    5: InUseError,  # BUSY
    6: InUseError,  # LOCKED
    7: StorageError,  # NOMEM
    8: StorageError,  # READONLY
    10: StorageError,  # IOERR
    13: DiskFullError,  # FULL
    14: StorageError,  # CANTOPEN
    15: StorageError,  # PROTOCOL
    21: StorageError,  # MISUSE: a closed connection
}

_PRAGMAS: Final = (
    f"PRAGMA page_size = {_PAGE_BYTES}",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = 1",
    "PRAGMA checkpoint_fullfsync = 1",
    "PRAGMA cache_size = -256",
)
_TABLES: Final = (
    "CREATE TABLE item (key TEXT PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,"
    " mod_revision INTEGER NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,"
    " item_count INTEGER NOT NULL, checksums INTEGER NOT NULL)",
    f"INSERT INTO head VALUES (1, 0, 0, {zlib.crc32(b'0 0')})",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)
_UPSERT: Final = "INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM item WHERE key = ?"
_MOVE_HEAD: Final = "UPDATE head SET revision = ?, item_count = ?, checksums = ?"


class _Opened(NamedTuple):
    connection: sqlite3.Connection
    revision: int
    items: list[Item]


async def open_sqlite(doors: Doors, path: str, bytes_max: int = STORE_BYTES_MAX) -> LocalMetaStore:
    """Open or create the store in the file `path` (absolute; its folder is created); it never outgrows `bytes_max`.

    InUseError: another process holds it. CorruptedError: its content is damaged, or written by a newer Elanus.
    """
    opened = await doors.compute.run_io(_open, doors, path, bytes_max)
    journal = SqliteJournal(doors, path, opened)
    return LocalMetaStore(doors, State(opened.items, opened.revision + 1), journal)


class SqliteJournal:
    """Writes a local store's changes into its sqlite file. One call at a time; all on disk threads.

    A caller that is cancelled leaves its write to a thread. The connection is not closed under that: sqlite would write
    to memory that is no longer its own.
    """

    def __init__(self, doors: Doors, path: str, opened: _Opened) -> None:
        self._doors = doors
        self._path = path
        self._connection = opened.connection
        self._in_use = thread_lock()
        self._checksums = {item.key: _checksum(item) for item in opened.items}
        self._digest = _digest(self._checksums.values())

    async def write(self, change: WatchBatch) -> None:
        """See Journal."""
        await self._doors.compute.run_io(_typed, self._path, self._write, change)

    async def close(self) -> None:
        """See Journal."""
        await self._doors.compute.run_io(_typed, self._path, self._close)

    def _close(self) -> None:
        with self._in_use:
            self._connection.close()

    def _write(self, change: WatchBatch) -> None:
        rows, gone, checksums = [], [], {}
        digest = self._digest
        for event in change.events:
            item = event.item
            digest ^= self._checksums.get(event.key, 0)
            if item is None or item.lease != NO_LEASE:
                gone.append((event.key,))
                continue
            checksum = _checksum(item)
            digest ^= checksum
            checksums[event.key] = checksum
            rows.append((item.key, item.value, item.create_revision, item.mod_revision, checksum))
        removed = sum(key in self._checksums for (key,) in gone)
        added = sum(key not in self._checksums for key in checksums)
        count = len(self._checksums) + added - removed
        with self._in_use:
            self._commit(rows, gone, (change.revision, count, digest ^ _head_checksum(change.revision, count)))
        self._digest = digest
        self._checksums.update(checksums)
        for (key,) in gone:
            self._checksums.pop(key, None)

    def _commit(self, rows: list[tuple[Any, ...]], gone: list[tuple[str]], head: tuple[int, int, int]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(_UPSERT, rows)
            connection.executemany(_DELETE, gone)
            connection.execute(_MOVE_HEAD, head)
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


# --- opening --------------------------------------------------------------------------------------------------------
def _open(doors: Doors, path: str, bytes_max: int) -> _Opened:
    """Blocking. The folder's entry for the file is durable on return."""
    folder = path.rpartition("/")[0]
    doors.files.make_directory(folder)
    fresh = not doors.files.exists(path)
    if not fresh and 0 < doors.files.size(path) < _PAGE_BYTES_MIN:
        raise CorruptedError(f"{path}: cut off")  # sqlite would start anew
    journal = f"{path}-wal"
    commits = commit_frames(doors.files.read(journal)) if doors.files.exists(journal) else []
    opened = _typed(path, _open_file, path, bytes_max, commits)
    if fresh:
        doors.files.sync_directory(folder)
    return opened


def _open_file(path: str, bytes_max: int, commits: list[int]) -> _Opened:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=16)
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.execute(f"PRAGMA max_page_count = {bytes_max // _PAGE_BYTES}")
        if commits:
            _check_recovery(connection, path, commits)
        connection.execute("BEGIN IMMEDIATE")
        _ensure_tables(connection, path)
        revision, items = _load(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return _Opened(connection, revision, items)


def _check_recovery(connection: sqlite3.Connection, path: str, commits: list[int]) -> None:
    """Compare the commits in the write-ahead file with what sqlite recovered of them."""
    recovered = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
    lost = [frame for frame in commits if frame > recovered]
    if len(lost) > 1:
        raise CorruptedError(f"{path}-wal: damaged after frame {recovered}, with {len(lost)} commits behind it")


def _ensure_tables(connection: sqlite3.Connection, path: str) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise CorruptedError(f"{path}: not a meta store of Elanus")
        for statement in _TABLES:
            connection.execute(statement)
    elif version != FORMAT_VERSION:
        raise CorruptedError(f"{path}: meta store of format {version}; this Elanus knows {FORMAT_VERSION}")


def _load(connection: sqlite3.Connection, path: str) -> tuple[int, list[Item]]:
    head = connection.execute("SELECT revision, item_count, checksums FROM head").fetchone()
    if head is None:
        raise CorruptedError(f"{path}: the meta store's head is missing")
    items, checksums = [], []
    for row in connection.execute("SELECT * FROM item ORDER BY key"):
        item = _item(row)
        if item is None:
            raise CorruptedError(f"{path}: the meta store's item {row[0]!r} is damaged")
        items.append(item)
        checksums.append(row[-1])
    revision, count, digest = head
    if count != len(items) or digest != _digest(checksums) ^ _head_checksum(revision, count):
        raise CorruptedError(f"{path}: the meta store's items are not those of revision {revision}")
    return revision, items


def _item(row: tuple[Any, ...]) -> Item | None:
    """The item of a row; None when it is damaged. A damaged row may hold values of any type."""
    key, value, created, modified, checksum = row
    if not (isinstance(key, str) and isinstance(value, bytes) and isinstance(created, int)):
        return None
    if not (isinstance(modified, int) and isinstance(checksum, int)):
        return None
    item = Item(key, value, created, modified)
    return item if _checksum(item) == checksum else None


def _checksum(item: Item) -> int:
    state = zlib.crc32(struct.pack("<qq", item.create_revision, item.mod_revision))
    return zlib.crc32(item.value, zlib.crc32(item.key.encode(), state))


def _head_checksum(revision: int, count: int) -> int:
    return zlib.crc32(f"{revision} {count}".encode())


def _digest(checksums: Iterable[int]) -> int:
    digest = 0
    for checksum in checksums:
        digest ^= checksum
    return digest


# --- errors ---------------------------------------------------------------------------------------------------------
def _typed(path: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call, turning sqlite's errors into ours."""
    try:
        return function(*arguments)
    except sqlite3.Error as error:
        _raise(path, error)


def _raise(path: str, error: sqlite3.Error) -> NoReturn:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    raise _KINDS.get(code, CorruptedError)(f"{path}: {error}") from error
