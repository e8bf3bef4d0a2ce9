"""One id for a meta store and an object store that belong together; nothing starts on a mismatch.

The object store's copy is made first, by put-if-absent, and the meta store's from it, by compare-and-set: of many
processes that start on empty stores at once, all end with one id. A meta store without an id over an object store with
data is a meta store that was lost, or a foreign one.
"""

from __future__ import annotations

from contextlib import suppress

from elanus.base.doors import Doors
from elanus.base.errors import Action, CorruptedError, ElanusError
from elanus.meta.catalog import ConflictError, create, fetch, run
from elanus.meta.records import CLUSTER, PROMOTED, Cluster, Promoted
from elanus.meta.store import MetaStore
from elanus.objects import paths
from elanus.objects.store import ObjectExistsError, ObjectNotFoundError, ObjectStore


class MovedError(ElanusError):
    """The store lives elsewhere. Nothing was started."""

    code = 5
    action = Action.FIX_REQUEST


async def settle_cluster_id(doors: Doors, meta: MetaStore, objects: ObjectStore, *, meta_name: str) -> str:
    """The cluster's id, made if both stores are new. CorruptedError, by `meta_name` (a file or an address), when they
    name different stores; MovedError."""
    moved = await fetch(meta, Promoted, PROMOTED)
    if moved is not None:
        raise MovedError(f"this store was moved to {moved.record.target}; what is here is a copy that starts no more")
    stored = await fetch(meta, Cluster, CLUSTER)
    kept = await _kept(objects)
    if stored is None and not kept:
        with suppress(ObjectExistsError):
            await objects.put(paths.CLUSTER, doors.random.token().encode())
        kept = await _kept(objects)
    if stored is None and not await objects.list(paths.COLLECTIONS_PREFIX):
        with suppress(ConflictError):
            await run(meta, create(Cluster(cluster_id=kept)))
        stored = await fetch(meta, Cluster, CLUSTER)
    if stored is None:
        raise CorruptedError(
            f"{meta_name} knows nothing of the data in the object store: it is another store's, or what it held is "
            "lost (a cluster's is made again by `elanus rebuild`)"
        )
    if stored.record.cluster_id != kept:
        raise CorruptedError(f"{meta_name} and objects/{paths.CLUSTER}.object name different stores")
    return kept


async def _kept(objects: ObjectStore) -> str:
    try:
        return (await objects.get(paths.CLUSTER)).decode(errors="replace")
    except ObjectNotFoundError:
        return ""
