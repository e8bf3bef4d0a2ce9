"""The MetaStore of a local folder: one sqlite file, owned by one process, mirrored in memory.

Durability. WAL journal with synchronous=FULL (and fullfsync where the system has it): a commit returns when its frames
are synced. With NORMAL, sqlite's usual advice for WAL, a committed manifest pointer could roll back at power loss after
the log behind it was truncated. The exclusive locking mode keeps a second process out and needs no shared-memory file.

Damage. sqlite checks no content. So each row carries a CRC-32, and the head row the count of all rows and the exclusive
or of their checksums, moved by every commit; opening verifies all three. That finds flipped bits, lost rows and pages
that fell back to an older content.

Leases. They live and end with the process, so a key under a lease is never written: only the revision is. Opening takes
one revision for itself (nobody was told of it before), so that a watcher from an earlier process lists again.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, DiskFullError, ElanusError, InUseError, StorageError
from elanus.meta.local import LocalMetaStore
from elanus.meta.state import State
from elanus.meta.store import NO_LEASE, Item, WatchBatch

T = TypeVar("T")

FORMAT_VERSION: Final = 1
_SQLITE_BUSY: Final = 5
_SQLITE_LOCKED: Final = 6
_SQLITE_CORRUPT: Final = 11
_SQLITE_FULL: Final = 13
_SQLITE_NOT_A_DATABASE: Final = 26

_PRAGMAS: Final = (
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
    "INSERT INTO head VALUES (1, 0, 0, 0)",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)
_UPSERT: Final = "INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM item WHERE key = ?"
_MOVE_HEAD: Final = "UPDATE head SET revision = ?, item_count = ?, checksums = ?"


class _Opened(NamedTuple):
    connection: sqlite3.Connection
    revision: int
    items: list[Item]


async def open_sqlite(doors: Doors, path: str) -> LocalMetaStore:
    """Open or create the store in the file `path` (absolute; its folder is created).

    InUseError: another process holds it. CorruptedError: its content is damaged, or written by a newer Elanus.
    """
    opened = await doors.compute.run_io(_open, doors, path)
    journal = SqliteJournal(doors, path, opened)
    return LocalMetaStore(doors, State(opened.items, opened.revision + 1), journal)


class SqliteJournal:
    """Writes a local store's changes into its sqlite file. One call at a time; all on disk threads."""

    def __init__(self, doors: Doors, path: str, opened: _Opened) -> None:
        self._doors = doors
        self._path = path
        self._connection = opened.connection
        self._checksums = {item.key: _checksum(item) for item in opened.items}
        self._digest = _digest(self._checksums)

    async def write(self, change: WatchBatch) -> None:
        """See Journal."""
        await self._doors.compute.run_io(_typed, self._path, self._write, change)

    async def close(self) -> None:
        """See Journal."""
        await self._doors.compute.run_io(_typed, self._path, self._connection.close)

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
        self._commit(rows, gone, (change.revision, count, digest))
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
def _open(doors: Doors, path: str) -> _Opened:
    """Blocking. The folder's entry for the file is durable on return."""
    folder = path.rpartition("/")[0]
    doors.files.make_directory(folder)
    fresh = not doors.files.exists(path)
    opened = _typed(path, _open_file, path)
    if fresh:
        doors.files.sync_directory(folder)
    return opened


def _open_file(path: str) -> _Opened:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=16)
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.execute("BEGIN IMMEDIATE")
        _ensure_tables(connection, path)
        revision, items = _load(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return _Opened(connection, revision, items)


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
    items = []
    checksums = {}
    for key, value, created, modified, checksum in connection.execute("SELECT * FROM item ORDER BY key"):
        item = Item(key, value, created, modified)
        if _checksum(item) != checksum:
            raise CorruptedError(f"{path}: the meta store's item {key!r} is damaged")
        items.append(item)
        checksums[key] = checksum
    revision, count, digest = head
    if (count, digest) != (len(items), _digest(checksums)):
        raise CorruptedError(f"{path}: the meta store's items are not those of revision {revision}")
    return revision, items


def _checksum(item: Item) -> int:
    state = zlib.crc32(struct.pack("<qq", item.create_revision, item.mod_revision))
    return zlib.crc32(item.value, zlib.crc32(item.key.encode(), state))


def _digest(checksums: dict[str, int]) -> int:
    digest = 0
    for checksum in checksums.values():
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
    kinds: dict[int, type[ElanusError]] = {
        _SQLITE_FULL: DiskFullError,
        _SQLITE_BUSY: InUseError,
        _SQLITE_LOCKED: InUseError,
        _SQLITE_CORRUPT: CorruptedError,
        _SQLITE_NOT_A_DATABASE: CorruptedError,
    }
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    raise kinds.get(code, StorageError)(f"{path}: {error}") from error
