"""Calls of the Milvus service that are more, or less, than one method of the `Frontend`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elanus.base.errors import ElanusError
from elanus.model.errors import (
    CollectionNotFoundError,
    CollectionNotLoadedError,
    NoIndexError,
    PartitionNotFoundError,
)
from elanus.model.requests import (
    CollectionReply,
    CollectionRequest,
    FlushedCollection,
    FlushRequest,
    FlushStateRequest,
    IndexReply,
    IndexRequest,
    ListCollectionsRequest,
    LoadState,
    PartitionRequest,
    PartitionsRequest,
    SegmentInfo,
)
from elanus.model.schema import DEFAULT_DATABASE
from elanus.model.types import LoadStatus
from elanus.nodes.contracts import Frontend
from elanus.wire.status import status_of


async def has_collection(frontend: Frontend, request: CollectionRequest) -> bool:
    """Whether the name or alias names a collection."""
    try:
        await frontend.describe_collection(request)
    except CollectionNotFoundError:
        return False
    return True


async def describe_each(frontend: Frontend, requests: Sequence[CollectionRequest]) -> tuple[CollectionReply | Any, ...]:
    """For each collection its description, or the `Status` of its refusal."""
    replies: list[CollectionReply | Any] = []
    for request in requests:
        try:
            replies.append(await frontend.describe_collection(request))
        except ElanusError as error:
            replies.append(status_of(error))
    return tuple(replies)


async def load_state(frontend: Frontend, request: PartitionsRequest) -> LoadState:
    """A missing collection is a state here, not an error."""
    try:
        return await frontend.load_state(request)
    except CollectionNotFoundError:
        return LoadState(LoadStatus.NOT_EXIST, 0)


async def loading_progress(frontend: Frontend, request: PartitionsRequest) -> int:
    """Percentage; unlike GetLoadState, refuses collections that are missing or not loaded."""
    state = await frontend.load_state(request)
    if state.state is LoadStatus.NOT_EXIST:
        raise CollectionNotFoundError(request.database or DEFAULT_DATABASE, request.collection)
    if state.state is LoadStatus.NOT_LOADED:
        raise CollectionNotLoadedError(request.collection)
    return state.percentage


async def has_partition(frontend: Frontend, request: PartitionRequest) -> bool:
    """Whether the collection, which must exist, has the partition."""
    named = PartitionsRequest(database=request.database, collection=request.collection, partitions=(request.partition,))
    try:
        return bool(await frontend.list_partitions(named))
    except PartitionNotFoundError:
        return False


async def loaded_segments(frontend: Frontend, request: CollectionRequest) -> tuple[SegmentInfo, ...]:
    """Segments of a collection that is loaded."""
    await loading_progress(frontend, PartitionsRequest(database=request.database, collection=request.collection))
    return await frontend.list_segments(request)


async def replicas(frontend: Frontend, request: CollectionRequest) -> tuple[CollectionReply, tuple[int, ...]]:
    """The collection and the nodes that serve it."""
    reply = await frontend.describe_collection(request)
    if reply.loaded_percentage < 0:
        raise CollectionNotLoadedError(reply.name)
    segments = await frontend.list_segments(CollectionRequest(database=reply.database, collection=reply.name))
    return reply, tuple(sorted({segment.node_id for segment in segments})) or (1,)


async def some_indexes(frontend: Frontend, request: IndexRequest) -> tuple[IndexReply, ...]:
    """At least one index."""
    replies = await frontend.describe_index(request)
    if not replies:
        raise NoIndexError(request.collection)
    return replies


async def flush_all(
    frontend: Frontend, targets: Sequence[FlushRequest]
) -> tuple[tuple[str, tuple[FlushedCollection, ...]], ...]:
    """Flush the targets, every database where none is given."""
    return tuple(
        [(target.database, await frontend.flush(target)) for target in targets or await _every_database(frontend)]
    )


async def flush_all_state(
    frontend: Frontend, request: tuple[Sequence[FlushRequest], int]
) -> tuple[tuple[str, dict[str, bool]], ...]:
    """By database, whether each collection is sealed up to the timestamp."""
    targets, timestamp = request
    states: list[tuple[str, dict[str, bool]]] = []
    for target in targets or await _every_database(frontend):
        names = target.collections or await _names(frontend, target.database)
        flushed: dict[str, bool] = {}
        for name in names:
            state = FlushStateRequest(database=target.database, collection=name, timestamp=timestamp)
            flushed[name] = await frontend.flush_state(state)
        states.append((target.database, flushed))
    return tuple(states)


async def _every_database(frontend: Frontend) -> tuple[FlushRequest, ...]:
    return tuple([FlushRequest(database=reply.name) for reply in await frontend.list_databases()])


async def _names(frontend: Frontend, database: str) -> tuple[str, ...]:
    replies = await frontend.list_collections(ListCollectionsRequest(database=database))
    return tuple(reply.name for reply in replies)


async def nothing(frontend: Frontend, request: Any) -> None:
    """Calls answered from constants."""
