"""`elanus promote` and `elanus demote`: a folder's store becomes a cluster's, a stopped cluster's a folder's.

A folder is first served once, by nobody's leave but this process's, so that everything in its log becomes files.
A cluster is flushed by its users and stopped; what is not flushed is counted and refused. See `transfer` for the move.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Final

import msgspec

from elanus.app.host import Host
from elanus.app.settings import Settings
from elanus.app.standalone import Standalone
from elanus.app.stores import open_log, open_meta, open_objects
from elanus.app.transfer import Report, Say, Stores, TransferError, transfer
from elanus.base.lock import FolderLock
from elanus.meta.catalog import fetch, fetch_all
from elanus.meta.records import PROMOTED, SHARDS, Promoted, ShardPointer
from elanus.meta.sqlite import open_sqlite
from elanus.objects.posix import open_posix
from elanus.wal.file import FileLog

POLL_S: Final = 0.05
META_NAME: Final = "meta.db"


async def promote(settings: Settings, environment: Mapping[str, str], say: Say) -> Report:
    """Move the store of `storage.data` to `cluster.meta` and `cluster.store`. InUseError, TransferError, …"""
    folder = os.path.abspath(settings.storage.data)  # noqa: ASYNC240 - nobody is served
    if not os.path.exists(f"{folder}/{META_NAME}"):  # noqa: ASYNC240
        raise TransferError(f"{folder} holds no store")
    if not await _was_moved(settings, folder):
        say("flushing")
        await _flush(settings)
    return await _move(settings, folder, environment, say, up=True)


async def demote(settings: Settings, environment: Mapping[str, str], say: Say) -> Report:
    """Move the stopped cluster of `cluster.meta` and `cluster.store` to the folder `storage.data`."""
    folder = os.path.abspath(settings.storage.data)  # noqa: ASYNC240 - nobody is served
    os.makedirs(folder, exist_ok=True)
    return await _move(settings, folder, environment, say, up=False)


async def _move(settings: Settings, folder: str, environment: Mapping[str, str], say: Say, *, up: bool) -> Report:
    cluster, host = settings.cluster, Host(settings)
    lock = FolderLock.acquire(folder)
    try:
        objects = await open_objects(host.doors, cluster.store, environment)
        log = open_log(host.doors, cluster.wal, objects)
        shared = Stores(cluster.store, await open_meta(host.doors, cluster.meta, environment), objects, log)
        local = await _local(host, folder, lock)
        try:
            return await transfer(host.doors, *((local, shared) if up else (shared, local)), say)
        finally:
            await local.meta.close()
            await shared.meta.close()
    finally:
        await host.close()
        lock.release()


async def _local(host: Host, folder: str, lock: FolderLock) -> Stores:
    doors = host.doors
    meta = await open_sqlite(doors, f"{folder}/{META_NAME}")
    objects = await open_posix(doors, f"{folder}/objects", partial(host.on_failure, "object store"))
    return Stores(folder, meta, objects, FileLog(doors, f"{folder}/wal", guard=lock.check, events=host.events))


async def _was_moved(settings: Settings, folder: str) -> bool:
    """Whether an earlier promotion got so far that the folder starts no more."""
    host = Host(settings)
    lock = FolderLock.acquire(folder)
    try:
        meta = await open_sqlite(host.doors, f"{folder}/{META_NAME}")
        moved = await fetch(meta, Promoted, PROMOTED)
        await meta.close()
        return moved is not None
    finally:
        await host.close()
        lock.release()


async def _flush(settings: Settings) -> None:
    """Serve the folder to nobody until every shard's files cover its log."""
    server_settings = msgspec.structs.replace(settings.server, host="127.0.0.1", port=0, unix_path="")
    server = await Standalone.start(msgspec.structs.replace(settings, server=server_settings))
    try:
        for stored in await fetch_all(server.meta, ShardPointer, SHARDS):
            if not stored.record.dropped:
                await _flush_shard(server, stored.record.vchannel)
    finally:
        await server.stop(0.0)


async def _flush_shard(server: Standalone, vchannel: str) -> None:
    await server.streaming.flush(vchannel)
    while True:
        status = await server.streaming.status(vchannel)
        if status.flushed_timestamp >= status.last_timestamp:
            return
        if server.fault():
            raise TransferError(f"the store could not be flushed: {server.fault()}")
        await server.doors.clock.sleep(POLL_S)
