"""`elanus status`: who is alive, who leads, and where every channel and segment lives.

Read from the meta store and asked of the processes themselves. A process that does not answer is listed as silent: its
lease says that it lives, and it does not say so itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from elanus.app.node import link_of
from elanus.app.settings import Settings
from elanus.app.stores import open_meta
from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, ElanusError
from elanus.base.real import real_doors
from elanus.meta.catalog import fetch, fetch_all
from elanus.meta.records import (
    CLUSTER,
    COLLECTIONS,
    ELECTION,
    LOADS,
    NODES,
    PCHANNELS,
    SHARDS,
    Cluster,
    Collection,
    Election,
    LoadRecord,
    NodeRecord,
    Pchannel,
    ShardPointer,
)
from elanus.meta.store import MetaStore
from elanus.model.channel import pchannel_of
from elanus.model.timestamp import physical_ms
from elanus.nodes.contracts import NodeStatus, Process, ProcessStatus, Query, ShardStatus, Streaming
from elanus.nodes.transport import Transport
from elanus.wire.internal import StreamTransport

ASK_S_MAX = 3.0


class NodeReport(msgspec.Struct, kw_only=True):
    """A registered process. `process` None: it did not answer."""

    record: NodeRecord
    leads: bool = False
    process: ProcessStatus | None = None
    held: NodeStatus | None = None


class FollowerReport(msgspec.Struct, kw_only=True):
    """A node that serves a shard beside its owner."""

    node_id: int
    status: ShardStatus


class ShardReport(msgspec.Struct, kw_only=True):
    """A shard: its committed manifest, and what its owner (None: no owner, or a silent one) and its followers say."""

    vchannel: str
    collection: str
    owner: int
    term: int
    manifest_version: int
    status: ShardStatus | None = None
    followers: list[FollowerReport] = []


class Report(msgspec.Struct, kw_only=True):
    """A cluster at one moment, as far as it could be asked."""

    cluster_id: str
    nodes: list[NodeReport]
    channels: list[Pchannel]
    shards: list[ShardReport]


async def read(settings: Settings) -> Report:
    """The report. UnavailableError when the meta store cannot be reached; CorruptedError when no cluster is there."""
    doors = real_doors(lambda name, error: None)
    try:
        meta = await open_meta(doors, settings.cluster.meta, os.environ)
        try:
            cluster = await fetch(meta, Cluster, CLUSTER)
            if cluster is None:
                raise CorruptedError(f"no cluster has ever been started on {settings.cluster.meta}")
            link = link_of(settings.cluster, cluster.record.cluster_id)
            transport = StreamTransport(link, doors, report=lambda error: None, observe=lambda *call: None)
            return await _Asker(doors, meta, transport).report(cluster.record.cluster_id)
        finally:
            await meta.close()
    finally:
        await doors.stop_tasks()
        doors.close()


class _Asker:
    """Asks everybody at once, and waits for nobody longer than `ASK_S_MAX`."""

    def __init__(self, doors: Doors, meta: MetaStore, transport: Transport) -> None:
        self._doors = doors
        self._meta = meta
        self._transport = transport

    async def report(self, cluster_id: str) -> Report:
        meta = self._meta
        election = await fetch(meta, Election, ELECTION)
        leader = 0 if election is None else election.record.node_id
        records = [one.record for one in await fetch_all(meta, NodeRecord, NODES)]
        channels = await self._channels()
        names = {one.record.collection_id: one.record.name for one in await fetch_all(meta, Collection, COLLECTIONS)}
        pointers = [one.record for one in await fetch_all(meta, ShardPointer, SHARDS)]
        loads = [one.record for one in await fetch_all(meta, LoadRecord, LOADS)]
        followed = {load.collection_id for load in loads if load.replica_count > 1}
        nodes = await asyncio.gather(*(self._node(record, record.node_id == leader) for record in records))
        owners = {record.node_id: record for record in records if record.role == "streaming"}
        shards = await asyncio.gather(
            *(self._shard(one, names, channels, owners) for one in pointers if not one.dropped)
        )
        for shard, pointer in zip(shards, (one for one in pointers if not one.dropped), strict=True):
            if pointer.collection_id in followed:
                shard.followers = await self._followers(shard, owners)
        return Report(cluster_id=cluster_id, nodes=list(nodes), channels=channels, shards=list(shards))

    async def _channels(self) -> list[Pchannel]:
        items = await self._meta.range(PCHANNELS)
        names = sorted({item.key.removeprefix(PCHANNELS).partition("/")[0] for item in items})
        found = [await fetch(self._meta, Pchannel, Pchannel(name=name, term=0).key) for name in names]
        return [one.record for one in found if one is not None]

    async def _node(self, record: NodeRecord, leads: bool) -> NodeReport:
        process = await self._ask(self._transport.connect(record.address, Process).process_status())
        held = None
        if record.role == "query" and process is not None:
            held = await self._ask(self._transport.connect(record.address, Query).status())
        return NodeReport(record=record, leads=leads, process=process, held=held)

    async def _shard(
        self, pointer: ShardPointer, names: dict[int, str], channels: list[Pchannel], owners: dict[int, NodeRecord]
    ) -> ShardReport:
        channel = next(one for one in channels if one.name == pchannel_of(pointer.vchannel))
        owner, status = owners.get(channel.owner), None
        if owner is not None:
            status = await self._ask(self._transport.connect(owner.address, Streaming).status(pointer.vchannel))
        return ShardReport(
            vchannel=pointer.vchannel,
            collection=names.get(pointer.collection_id, str(pointer.collection_id)),
            owner=channel.owner,
            term=channel.term,
            manifest_version=pointer.version,
            status=status,
        )

    async def _followers(self, shard: ShardReport, nodes: dict[int, NodeRecord]) -> list[FollowerReport]:
        others = [node for node_id, node in nodes.items() if node_id != shard.owner]
        calls = (self._ask(self._transport.connect(one.address, Streaming).status(shard.vchannel)) for one in others)
        told = zip(others, await asyncio.gather(*calls), strict=True)
        return [FollowerReport(node_id=one.node_id, status=status) for one, status in told if status is not None]

    async def _ask(self, call: Any) -> Any:
        """The answer, or None."""
        try:
            return await self._doors.tasks.timeout(ASK_S_MAX, call)
        except (ElanusError, TimeoutError):
            return None


# --- showing --------------------------------------------------------------------------------------------------------
def text(report: Report) -> str:
    """The report for people."""
    parts = [f"cluster {report.cluster_id}\n", _table(_NODE_HEAD, (_node_row(one) for one in report.nodes))]
    channels = ((one.name, str(one.owner or "nobody"), str(one.term)) for one in report.channels)
    parts.append(_table(("channel", "owner", "term"), channels))
    parts.append(_table(_SHARD_HEAD, (_shard_row(one) for one in report.shards)))
    places = sorted((segment, one.record.node_id) for one in report.nodes if one.held for segment in one.held.segments)
    parts.append(_table(("segment", "on query node"), ((str(segment), str(node)) for segment, node in places)))
    return "\n".join(part for part in parts if part)


def json(report: Report) -> str:
    """The report for machines."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


_NODE_HEAD = ("node", "role", "state", "up", "memory", "segments", "address", "clients")
_SHARD_HEAD = (
    *("shard", "collection", "owner", "manifest", "served", "growing rows", "growing bytes", "unflushed"),
    "followers (behind)",
)


def _node_row(one: NodeReport) -> tuple[str, ...]:
    process = one.process
    state = "silent" if process is None else process.fault or ("active" if one.leads else "ready")
    if one.record.draining:
        state = "leaving"
    return (
        str(one.record.node_id),
        one.record.role,
        state,
        "" if process is None else f"{process.up_s:.0f} s",
        "" if process is None else f"{process.resident_bytes / 2**20:.0f} MiB",
        "" if one.held is None else f"{len(one.held.segments)} ({one.held.memory_bytes / 2**20:.0f} MiB)",
        one.record.address.partition("#")[0],
        "" if process is None else process.client_address,
    )


def _shard_row(one: ShardReport) -> tuple[str, ...]:
    status = one.status
    served = "silent" if status is None else str(status.served_version)
    return (
        one.vchannel,
        one.collection,
        str(one.owner or "nobody"),
        str(one.manifest_version),
        served,
        "" if status is None else str(sum(status.row_counts.values())),
        "" if status is None else str(status.growing_bytes),
        "" if status is None else unflushed(status),
        ", ".join(f"{other.node_id} ({_behind(other.status, status)})" for other in one.followers),
    )


def _behind(follower: ShardStatus, owner: ShardStatus | None) -> str:
    """How far a follower lags behind the owner, in time between records."""
    if owner is None or follower.last_timestamp >= owner.last_timestamp:
        return "0.0 s"
    return f"{(physical_ms(owner.last_timestamp) - physical_ms(follower.last_timestamp)) / 1000:.1f} s"


def unflushed(status: ShardStatus) -> str:
    """How far the shard's sealed data lag behind its log, in time between records: what a replay would read."""
    if status.last_timestamp <= status.flushed_timestamp:
        return "nothing"
    if not status.flushed_timestamp:
        return "all"
    return f"{(physical_ms(status.last_timestamp) - physical_ms(status.flushed_timestamp)) / 1000:.1f} s"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    if len(lines) == 1:
        return ""
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )
