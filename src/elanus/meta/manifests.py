"""Commits of shard manifests: the one way in which sealed data changes.

A commit is an edit with preconditions, not a value: `edit(manifest)` is run on the newest manifest and either answers
the next one or refuses. The next one is written as an object of its own under a fresh token, then one meta transaction
moves the pointers of all shards concerned, if none of them has moved and every guard (the owner's term, the
coordinator's election) still holds. Losing that race costs nothing: read the newest manifests, run the edits again.

Theory of the three outcomes. A transaction may end in *unknown*: it landed, never will, or is still on its way. Each
attempt has a token; a pointer names the tokens of the versions before it. So after an unknown outcome, in this order:

1. Read the guards, then the pointers. An attempt that was still on its way when a guard was found broken can no longer
   land, so that what the pointers say after that is final. (The other order misses an attempt that lands in between.)
2. If a pointer's lineage holds an attempt's token at the attempt's version, it landed, whoever committed on top of it.
3. If a pointer has moved without it, it never will: its compare names the older revision.
4. If nothing has moved, try again under a new token. The first attempt may still land first; then the second one fails,
   and step 2 finds the first.

Edits must therefore be pure, and refuse when what they were made from is gone: running one twice must not do it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import (
    CorruptedError,
    ElanusError,
    FencedError,
    OutcomeUnknownError,
    UnavailableError,
    check,
)
from elanus.meta.catalog import ConflictError, Stored, combine, fetch, replace
from elanus.meta.records import ShardPointer, decode, encode, shard_key
from elanus.meta.store import Compare, MetaStore, Transaction, unchanged
from elanus.model.segment import Manifest
from elanus.objects import paths
from elanus.objects.checksums import read_verified, write_file
from elanus.objects.paths import Right
from elanus.objects.store import ObjectNotFoundError, ObjectStore

COMMIT_ATTEMPTS_MAX: Final = 32
LINEAGE_MAX: Final = 64
RECENT_HEADS_MAX: Final = 1024
"""Shards whose manifest is kept by who reads it again and again."""


class Refused(msgspec.Struct, frozen=True):
    """An edit's preconditions do not hold on the newest manifest; nothing was done."""

    reason: str


Edit = Callable[[Manifest], Manifest | Refused]
"""Pure. Answering the very manifest it was given means that there is nothing to do. `version` and `token` are set by
the driver."""


class ShardEdit(msgspec.Struct, frozen=True):
    """An edit of one shard."""

    vchannel: str
    edit: Edit


@dataclass(frozen=True)
class Head:
    """A shard's committed manifest and the pointer that names it."""

    pointer: Stored[ShardPointer]
    manifest: Manifest


class Committed(msgspec.Struct, frozen=True):
    """The manifests and pointers of the edited shards, in the edits' order, as this commit left them."""

    manifests: tuple[Manifest, ...]
    pointers: tuple[ShardPointer, ...]


class _Attempt(msgspec.Struct, frozen=True):
    """A transaction that was sent: what it would leave, and the manifests it wrote for that."""

    result: Committed
    written: tuple[Manifest, ...]


@dataclass
class _Attempts:
    """What has been tried in one commit, and whether an outcome is unknown."""

    tried: list[_Attempt] = field(default_factory=list)
    unknown: bool = False

    def landed(self, heads: Sequence[Head | None]) -> Committed | None:
        """The attempt that the shards' pointers contain. OutcomeUnknownError when they do not reach back so far."""
        pointers = {head.manifest.vchannel: head.pointer.record for head in heads if head is not None}
        for attempt in self.tried:
            # All or nothing: one shard tells for all.
            manifest = attempt.written[0]
            if self._contains(pointers.get(manifest.vchannel), manifest):
                return attempt.result
        return None

    def _contains(self, pointer: ShardPointer | None, manifest: Manifest) -> bool:
        if pointer is None:
            if self.unknown:
                raise OutcomeUnknownError(f"{manifest.vchannel}: the shard is gone, with what became of the commit")
            return False
        tokens = (*pointer.lineage, pointer.token)
        back = pointer.version - manifest.version
        if back >= len(tokens) and self.unknown:
            raise OutcomeUnknownError(f"{manifest.vchannel}: version {manifest.version} is too far back to tell")
        return 0 <= back < len(tokens) and tokens[-1 - back] == manifest.token


class RecentHeads:
    """What shards' pointers and manifests were when they were last read, so that only a pointer that has moved costs a
    read of the manifest.

    Where somebody follows the pointers, too, and tells what it sees, `newest` answers without asking the store: for
    loops that are woken by each move, so that an older answer than the store's costs a turn and nothing else."""

    def __init__(self) -> None:
        self._heads: dict[str, Head] = {}
        self._moved: dict[str, int] = {}

    def manifest(self, pointer: Stored[ShardPointer]) -> Manifest | None:
        """What the pointer names, if it was read before."""
        known = self._heads.get(pointer.record.vchannel)
        return known.manifest if known is not None and known.pointer.mod_revision == pointer.mod_revision else None

    def newest(self, vchannel: str) -> Head | None:
        """The newest that is known, if nothing newer was seen to be there."""
        known = self._heads.get(vchannel)
        moved = self._moved.get(vchannel)
        return known if known is not None and moved is not None and moved <= known.pointer.mod_revision else None

    def keep(self, head: Head) -> None:
        """Remember it in place of the shard's one before."""
        known = self._heads.pop(head.manifest.vchannel, None)
        if known is not None and known.pointer.mod_revision > head.pointer.mod_revision:
            head = known
        self._heads[head.manifest.vchannel] = head
        if len(self._heads) > RECENT_HEADS_MAX:
            del self._heads[next(iter(self._heads))]

    def moved(self, vchannel: str, mod_revision: int) -> None:
        """The pointer was seen to stand at this revision."""
        self._moved[vchannel] = mod_revision

    def gone(self, vchannel: str) -> None:
        """The pointer was seen to be gone."""
        self._moved.pop(vchannel, None)
        self._heads.pop(vchannel, None)


@dataclass(frozen=True)
class Manifests:
    """Reads and commits manifests. `right`: under which commits are made, told by their tokens. `recent` is shared by
    all that read through the same store."""

    doors: Doors
    meta: MetaStore
    objects: ObjectStore
    right: Right | None = None
    recent: RecentHeads = field(default_factory=RecentHeads)

    async def read(self, vchannel: str) -> Head | None:
        """The newest committed manifest; linearizable. None: no such shard. CorruptedError; ObjectNotFoundError."""
        seen = 0
        while True:
            pointer = await fetch(self.meta, ShardPointer, shard_key(vchannel))
            if pointer is None:
                return None
            known = self.recent.manifest(pointer)
            if known is not None:
                return Head(pointer, known)
            file = pointer.record.file
            try:
                data = await read_verified(self.doors, self.objects, file)
            except ObjectNotFoundError:
                # A newer commit may have let the collector take it; a pointer that still stands must not dangle.
                if pointer.mod_revision == seen:
                    raise
                seen = pointer.mod_revision
                continue
            manifest = decode(Manifest, data, file.key)
            named = (pointer.record.vchannel, pointer.record.version, pointer.record.token)
            if (manifest.vchannel, manifest.version, manifest.token) != named:
                raise CorruptedError(f"{file.key} is not the manifest {named}")
            head = Head(pointer, manifest)
            self.recent.keep(head)
            return head

    async def write(self, manifest: Manifest, before: Head | None = None) -> tuple[Manifest, ShardPointer]:
        """Write the object of a manifest under a fresh token; nothing names it before its pointer is committed.

        `before` is the version it follows; without one it is a new shard's first.
        """
        unique = self.doors.random.token()
        token = unique if self.right is None else self.right.token(unique)
        version = 0 if before is None else before.manifest.version + 1
        manifest = msgspec.structs.replace(manifest, version=version, token=token)
        key = paths.manifest(manifest.collection_id, manifest.vchannel, version, token)
        file = await write_file(self.doors, self.objects, key, encode(manifest))
        pointer = ShardPointer(
            vchannel=manifest.vchannel,
            collection_id=manifest.collection_id,
            version=version,
            token=token,
            file=file,
            flushed_through=manifest.flushed_through,
        )
        if before is not None:
            old = before.pointer.record
            pointer = msgspec.structs.replace(
                pointer,
                previous=old.file,
                previous_flushed_through=old.flushed_through,
                lineage=(*old.lineage, old.token)[-LINEAGE_MAX:],
            )
        return manifest, pointer

    async def commit(
        self, edits: Sequence[ShardEdit], guards: Sequence[Compare], also: Transaction | None = None
    ) -> Committed | Refused:
        """Run the edits on the newest manifests and commit all of them, and `also`, in one transaction.

        Refused: what an edit answered, or the shard is gone or dropped. FencedError: a guard no longer holds.
        ConflictError: a compare of `also` does not hold. OutcomeUnknownError: read before trying again.
        UnavailableError: too many lost races. Objects of attempts that did not land are left to the collector.
        """
        also = also or Transaction()
        attempts = _Attempts()
        for _ in range(COMMIT_ATTEMPTS_MAX):
            try:
                done = await self._attempt(edits, guards, also, attempts)
            except (FencedError, ConflictError, OutcomeUnknownError):
                raise
            except ElanusError as error:
                if attempts.unknown:
                    raise OutcomeUnknownError(f"a manifest commit of unknown outcome: {error}") from error
                raise
            if done is not None:
                return done
        if attempts.unknown:
            raise OutcomeUnknownError("a manifest commit: its outcome could not be learned")
        raise UnavailableError(f"a manifest commit lost {COMMIT_ATTEMPTS_MAX} races")

    async def _attempt(
        self, edits: Sequence[ShardEdit], guards: Sequence[Compare], also: Transaction, attempts: _Attempts
    ) -> Committed | Refused | None:
        """One round; None when it lost its race or its outcome is unknown."""
        broken = await self._broken(guards, also)
        heads = await asyncio.gather(*(self.read(edit.vchannel) for edit in edits))
        landed = attempts.landed(heads)
        if landed is not None:
            return landed
        if broken is not None:
            raise broken
        planned = _plan(edits, heads)
        if isinstance(planned, Refused):
            return planned
        attempt = await self._write_all(planned)
        if not attempt.written and not also.operations:
            return attempt.result
        moves = combine(_move(head, new) for (head, _), new in zip(planned, attempt.result.pointers, strict=True))
        whole = Transaction(tuple(guards)) + also + moves
        if attempt.written:
            attempts.tried.append(attempt)
        try:
            done = await self.meta.transact(whole.compares, whole.operations)
        except OutcomeUnknownError:
            if not attempt.written:
                raise
            attempts.unknown = True
            return None
        if not done.succeeded:
            return None
        self._remember(planned, attempt.result, done.revision)
        return attempt.result

    def _remember(self, planned: Sequence[tuple[Head, Manifest]], result: Committed, revision: int) -> None:
        for (head, _), manifest, pointer in zip(planned, result.manifests, result.pointers, strict=True):
            if manifest is not head.manifest:
                self.recent.keep(Head(Stored(pointer, head.pointer.create_revision, revision), manifest))

    async def _write_all(self, planned: Sequence[tuple[Head, Manifest]]) -> _Attempt:
        """Write the objects of the shards that change."""
        written = await asyncio.gather(*(self.write(new, head) for head, new in planned if new is not head.manifest))
        by_shard = {manifest.vchannel: (manifest, pointer) for manifest, pointer in written}
        pairs = [by_shard.get(head.manifest.vchannel, (head.manifest, head.pointer.record)) for head, _ in planned]
        result = Committed(tuple(manifest for manifest, _ in pairs), tuple(pointer for _, pointer in pairs))
        return _Attempt(result, tuple(manifest for manifest, _ in written))

    async def _broken(self, guards: Sequence[Compare], also: Transaction) -> ElanusError | None:
        for compare in (*guards, *also.compares):
            if not compare.holds(await self.meta.get(compare.key)):
                kind = FencedError if compare in guards else ConflictError
                return kind(f"{compare.key} has changed")
        return None


def _plan(edits: Sequence[ShardEdit], heads: Sequence[Head | None]) -> list[tuple[Head, Manifest]] | Refused:
    """What each edit makes of its shard's newest manifest, or the first refusal."""
    check(len({edit.vchannel for edit in edits}) == len(edits), "a commit edits a shard twice")
    planned = []
    for edit, head in zip(edits, heads, strict=True):
        if head is None or head.pointer.record.dropped:
            return Refused(f"{edit.vchannel} is dropped")
        new = edit.edit(head.manifest)
        if isinstance(new, Refused):
            return new
        _check_successor(head.manifest, new)
        planned.append((head, new))
    return planned


def _check_successor(old: Manifest, new: Manifest) -> None:
    """What no edit may do, whatever it is for."""
    shard = old.vchannel
    check((new.vchannel, new.collection_id) == (shard, old.collection_id), f"{shard}: an edit names another shard")
    check(new.flushed_through >= old.flushed_through, f"{shard}: flushed_through goes back")
    check(new.timestamp_max >= old.timestamp_max, f"{shard}: timestamp_max goes back")
    check(new.term >= old.term, f"{shard}: term goes back")
    ids = [entry.segment_id for entry in new.segments]
    check(len(set(ids)) == len(ids), f"{shard}: a segment is named twice")


def _move(head: Head, pointer: ShardPointer) -> Transaction:
    """Compare the pointer of a shard that was looked at, and move it if it changes."""
    if pointer is head.pointer.record:
        return Transaction((unchanged(pointer.key, head.pointer.mod_revision),))
    return replace(head.pointer, pointer)
