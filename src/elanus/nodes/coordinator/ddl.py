"""DDL that concerns shards: intent, a record in every shard's log, catalog commit with the intent's end, answer.

Each step is idempotent, so whoever is coordinator can replay an intent from its beginning: records carry the intent's
id, the commit compares what it replaces, and an intent that is gone has been committed. One intent is open at a time: a
step that fails for now (a log that is being opened again, a full disk) is repeated until it succeeds, and nothing else
is changed meanwhile.

An intent that lies open while nobody carries it would be carried out by the next coordinator, on a catalog that it was
not made for: a second partition of one name, of which a drop leaves one. So whoever cannot carry his intent to its end,
or does not know whether it was written, begins nothing more and gives his lead up: the intent's transaction names his
term, and in the next one it stands or never will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from elanus.base.errors import Action, ElanusError, FencedError, OutcomeUnknownError, UnavailableError
from elanus.meta.catalog import (
    alter_schema,
    combine,
    create,
    create_collection,
    fetch,
    fetch_all,
    remove,
    replace,
    run,
    tombstone,
)
from elanus.meta.manifests import Refused, ShardEdit
from elanus.meta.records import INTENTS, Collection, CollectionState, Intent, ShardPointer, shard_key
from elanus.meta.store import Compare, Transaction
from elanus.model.channel import Position, pchannel_of
from elanus.model.records import ShardChange
from elanus.model.segment import Manifest
from elanus.nodes.contracts import ShardTarget, Streaming
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.intents import (
    AlterSchema,
    Body,
    CreateCollection,
    CreatePartition,
    DropCollection,
    DropPartition,
    TruncateCollection,
    collection_of,
    decode_body,
    encode_body,
)
from elanus.nodes.coordinator.placement import Owners

RETRY_S: Final = 0.5


class ShardDdl:
    """Runs intents. `owners` are the streaming nodes that own pchannels."""

    def __init__(
        self,
        ground: Surroundings,
        catalog: Catalog,
        guard: Compare,
        owners: Owners,
        term: int,
    ) -> None:
        self._ground = ground
        self._meta = ground.meta
        self._catalog = catalog
        self._guard = guard
        self._owners = owners
        self._term = term
        self._manifests = ground.manifests
        self._is_in_doubt = False

    async def begin(self, intent_id: int, body: Body) -> None:
        """Write the intent and carry it to its end. UnavailableError once an intent is in doubt; OutcomeUnknownError
        when the next coordinator will tell."""
        if self._is_in_doubt:
            raise UnavailableError("the coordinator gives its lead up")
        intent = Intent(
            intent_id=intent_id, kind=type(body).__name__, collection_id=collection_of(body), body=encode_body(body)
        )
        try:
            await run(self._meta, create(intent), (self._guard,))
        except OutcomeUnknownError:
            self.doubt()
            raise
        try:
            await self._carry(intent)
        except FencedError as error:
            self.doubt()
            raise OutcomeUnknownError(f"the next coordinator carries it on: {error.message}") from error
        except ElanusError:
            self.doubt()
            raise

    def doubt(self) -> None:
        """Begin nothing more and give the lead up: nobody here knows what the catalog is."""
        self._is_in_doubt = True
        with suppress(UnavailableError):  # The lead has ended already.
            self._ground.doors.tasks.spawn(_give_up(), name="give up the lead")

    async def finish_all(self) -> None:
        """Carry on whatever predecessors left, in order."""
        for stored in await fetch_all(self._meta, Intent, INTENTS):
            await self._carry(stored.record)

    async def _carry(self, intent: Intent) -> None:
        """To its end, however often that takes."""
        is_first = True
        while True:
            try:
                if not is_first:
                    await self._catalog.refresh_collection(intent.collection_id)
                return await self.finish(intent)
            except ElanusError as error:
                if error.action not in (Action.RETRY, Action.ELSEWHERE, Action.UNKNOWN):
                    raise
                self._ground.events.warning("ddl.step_failed", intent=intent.kind, error=error.message)
            is_first = False
            await self._ground.doors.clock.sleep(RETRY_S)

    async def finish(self, intent: Intent) -> None:
        """Do all steps of an intent that are still to do."""
        match decode_body(intent):
            case CreateCollection() as body:
                await self._create_collection(intent, body)
            case DropCollection() as body:
                await self._drop_collection(intent, body)
            case CreatePartition() as body:
                await self._create_partition(intent, body)
            case DropPartition() as body:
                await self._drop_partition(intent, body)
            case AlterSchema() as body:
                await self._alter_schema(intent, body)
            case TruncateCollection() as body:
                await self._truncate(intent, body)
        await self._catalog.refresh_collection(intent.collection_id)

    # --- steps ------------------------------------------------------------------------------------------------------
    async def _log(self, intent: Intent, vchannels: tuple[str, ...], change: ShardChange) -> list[Position]:
        """The change in every shard's log."""

        async def log(vchannel: str) -> Position:
            named = msgspec.structs.replace(change, vchannel=vchannel, intent_id=intent.intent_id)
            return await self._owners.ask(pchannel_of(vchannel), lambda owner: owner.apply_change(named, self._term))

        return list(await asyncio.gather(*(log(vchannel) for vchannel in vchannels)))

    async def _commit(self, intent: Intent, transaction: Transaction) -> None:
        stored = await fetch(self._meta, Intent, intent.key)
        if stored is not None:
            await run(self._meta, combine((transaction, remove(stored))), (self._guard,))

    async def _create_collection(self, intent: Intent, body: CreateCollection) -> None:
        collection = body.collection
        change = ShardChange(
            vchannel="",
            collection_id=collection.collection_id,
            kind="create",
            intent_id=0,
            schema=collection.schema,
            partition_ids=tuple(partition.partition_id for partition in collection.partitions),
        )
        positions = await self._log(intent, collection.vchannels, change)
        first = [
            await self._manifests.write(
                Manifest(
                    vchannel=vchannel,
                    collection_id=collection.collection_id,
                    version=0,
                    token="",
                    term=position.term,
                    flushed_through=position,
                    intent_id=intent.intent_id,
                )
            )
            for vchannel, position in zip(collection.vchannels, positions, strict=True)
        ]
        stored = await fetch(self._meta, Intent, intent.key)
        if stored is not None:
            pointers = [pointer for _, pointer in first]
            await run(self._meta, create_collection(collection, pointers, stored), (self._guard,))
        for manifest, _ in first:
            target = ShardTarget(manifest=manifest, loaded=False, coordinator_term=self._term)
            await self._owners.ask(pchannel_of(manifest.vchannel), partial(_set_target, target))

    async def _drop_collection(self, intent: Intent, body: DropCollection) -> None:
        stored = self._catalog.collections.get(body.collection_id)
        if stored is None:
            return await self._commit(intent, Transaction())
        collection = stored.record
        change = ShardChange(vchannel="", collection_id=collection.collection_id, kind="drop", intent_id=0)
        await self._log(intent, collection.vchannels, change)
        pointers = [await fetch(self._meta, ShardPointer, shard_key(vchannel)) for vchannel in collection.vchannels]
        parts = [
            replace(stored, msgspec.structs.replace(collection, state=CollectionState.DROPPING)),
            tombstone(pointer for pointer in pointers if pointer is not None),
        ]
        load = self._catalog.loads.get(collection.collection_id)
        if load is not None:
            parts.append(remove(load))
        return await self._commit(intent, combine(parts))

    async def _create_partition(self, intent: Intent, body: CreatePartition) -> None:
        stored = self._catalog.collections[body.collection_id]
        collection, partition_id = stored.record, body.partition.partition_id
        change = ShardChange(
            vchannel="",
            collection_id=collection.collection_id,
            kind="create_partition",
            intent_id=0,
            partition_ids=(partition_id,),
        )
        await self._log(intent, collection.vchannels, change)
        partitions = (*collection.partitions, body.partition)
        changed = msgspec.structs.replace(collection, partitions=partitions)
        await self._commit(intent, replace(stored, changed))

    async def _drop_partition(self, intent: Intent, body: DropPartition) -> None:
        stored = self._catalog.collections[body.collection_id]
        collection = stored.record
        change = ShardChange(
            vchannel="",
            collection_id=collection.collection_id,
            kind="drop_partition",
            intent_id=0,
            partition_ids=(body.partition_id,),
        )
        await self._log(intent, collection.vchannels, change)
        kept = tuple(one for one in collection.partitions if one.partition_id != body.partition_id)
        changed = replace(stored, msgspec.structs.replace(collection, partitions=kept))
        await self._commit_without(intent, collection, {body.partition_id}, changed)

    async def _alter_schema(self, intent: Intent, body: AlterSchema) -> None:
        stored = self._catalog.collections[body.collection_id]
        collection = stored.record
        change = ShardChange(
            vchannel="",
            collection_id=collection.collection_id,
            kind="alter_schema",
            intent_id=0,
            schema=body.schema,
        )
        await self._log(intent, collection.vchannels, change)
        changed = msgspec.structs.replace(collection, schema=body.schema, updated_timestamp=body.timestamp)
        await self._commit(intent, alter_schema(stored, changed, None))

    async def _truncate(self, intent: Intent, body: TruncateCollection) -> None:
        stored = self._catalog.collections[body.collection_id]
        collection = stored.record
        new_ids = {
            old.partition_id: new.partition_id
            for old, new in zip(collection.partitions, body.partitions, strict=True)
            if old.partition_id != new.partition_id
        }
        change = ShardChange(
            vchannel="",
            collection_id=collection.collection_id,
            kind="replace_partitions",
            intent_id=0,
            partition_ids=tuple(new_ids.values()),
            dropped_partition_ids=tuple(new_ids),
        )
        await self._log(intent, collection.vchannels, change)
        changed = replace(stored, msgspec.structs.replace(collection, partitions=body.partitions))
        load = self._catalog.loads.get(collection.collection_id)
        if load is not None and load.record.partition_ids is not None:
            loaded = tuple(new_ids.get(one, one) for one in load.record.partition_ids)
            changed = combine((changed, replace(load, msgspec.structs.replace(load.record, partition_ids=loaded))))
        await self._commit_without(intent, collection, set(new_ids), changed)

    async def _commit_without(
        self, intent: Intent, collection: Collection, partition_ids: set[int], changed: Transaction
    ) -> None:
        """The change with the intent's end and manifests that hold nothing of these partitions, at once."""
        open_intent = await fetch(self._meta, Intent, intent.key)
        if open_intent is None:
            return
        edits = [ShardEdit(vchannel, _without_partitions(partition_ids)) for vchannel in collection.vchannels]
        outcome = await self._manifests.commit(edits, (self._guard,), combine((changed, remove(open_intent))))
        if isinstance(outcome, Refused):
            raise FencedError(outcome.reason)


async def _give_up() -> None:
    """What ends an office (`base.scope`)."""
    raise FencedError("the catalog is in doubt: another term decides")


async def _set_target(target: ShardTarget, owner: Streaming) -> None:
    await owner.set_target(target)


def _without_partitions(partition_ids: set[int]) -> Callable[[Manifest], Manifest | Refused]:
    def edit(manifest: Manifest) -> Manifest | Refused:
        return msgspec.structs.replace(
            manifest,
            segments=tuple(entry for entry in manifest.segments if entry.partition_id not in partition_ids),
            dropped_partitions=tuple(sorted({*manifest.dropped_partitions, *partition_ids})),
        )

    return edit
