"""The names of all objects. Nobody else builds or reads a key.

    cluster                                                                   the store's cluster id
    transfer                                                                  an unfinished move of a store to here
    probe/<token>                                                             written and deleted at start
    catalog/<intent id>-<token>.snapshot                                      the catalog after a DDL
    spill/<expiry: Unix ms>-<token>.result                                    a result on its way to who asked for it
    wal/<pchannel>/<term>/<sequence>                                          a slot of the object-store log
    wal/<pchannel>/<term>/head                                                that the term was opened
    wal/<pchannel>/truncated/<term>-<sequence>                                slots below may be gone
    collection/<collection id>/<vchannel>/
        manifests/<version>-<token>.manifest
        deletes/<through: term-sequence-offset>-<token>.parquet
        segments/<segment id>-<token>/scalars.parquet
                                      vector-<field id>.arrow
                                      index-<index id>-<token>.<type>

Each name contains its writer's token, so that two writers of the same thing never meet under one name: whoever commits
names its own. The token of a file of a collection also says under which right it is to be committed, `o<term>_…` for
the owner of the channel in that term, `l<lead>_…` for the coordinator of that lead and the tasks it hands out. Numbers
that sort are padded. A log slot is the exception: there the contest for the name *is* the protocol.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from elanus.base.errors import check
from elanus.model.channel import Position

CLUSTER: Final = "cluster"
TRANSFER: Final = "transfer"
CATALOG_PREFIX: Final = "catalog/"
COLLECTIONS_PREFIX: Final = "collection/"
LOG_PREFIX: Final = "wal/"
SPILL_PREFIX: Final = "spill/"
OWNER: Final = "o"
LEAD: Final = "l"

_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_]+")
_TOKEN_IN_NAME: Final = re.compile(r"-([A-Za-z0-9_]+)(?:\.[a-z0-9_]+)?$")
_MANIFEST: Final = re.compile(r"collection/(\d+)/([^/]+)/manifests/(\d+)-([A-Za-z0-9_]+)\.manifest")
_SLOT: Final = re.compile(r"wal/[^/]+/(\d+)/(\d+)")
_LOG_TERM: Final = re.compile(r"wal/[^/]+/(\d+)/")
_WRITER: Final = re.compile(r"([ol])(\d+)_[A-Za-z0-9]+")
_SPILL: Final = re.compile(r"spill/(\d+)-[A-Za-z0-9_]+\.result")
_SNAPSHOT: Final = re.compile(r"catalog/(\d+)-([A-Za-z0-9_]+)\.snapshot")


class ManifestName(NamedTuple):
    """What the key of a manifest says."""

    collection_id: int
    vchannel: str
    version: int
    token: str


class SnapshotName(NamedTuple):
    """What the key of a catalog snapshot says."""

    intent_id: int
    token: str


class Right(NamedTuple):
    """Under which a file's writer may commit it: that of the channel's owner in a term, or of a coordinator's lead."""

    kind: str
    number: int

    def token(self, unique: str) -> str:
        """A token of a writer with this right; `unique` is drawn for it."""
        return _token(f"{self.kind}{self.number}_{unique}")


def owner_of_term(term: int) -> Right:
    """The right of a channel's owner."""
    return Right(OWNER, term)


def coordinator_of_lead(lead: int) -> Right:
    """The right of a coordinator."""
    return Right(LEAD, lead)


def probe(token: str) -> str:
    """Where a start tries whether names are taken once."""
    return f"probe/{_token(token)}"


def collection_prefix(collection_id: int) -> str:
    """Before the keys of all objects of a collection."""
    return f"{COLLECTIONS_PREFIX}{collection_id}/"


def shard_prefix(collection_id: int, vchannel: str) -> str:
    """Before the keys of all objects of a shard."""
    return f"{collection_prefix(collection_id)}{_word(vchannel)}/"


def shard_of(key: str) -> str | None:
    """The shard an object belongs to; None for objects of no shard."""
    parts = key.split("/")
    return parts[2] if key.startswith(COLLECTIONS_PREFIX) and len(parts) > 3 else None


def segment_folder(collection_id: int, vchannel: str, segment_id: int, token: str) -> str:
    """Where a segment's files stand; no '/' at the end."""
    return f"{shard_prefix(collection_id, vchannel)}segments/{segment_id}-{_token(token)}"


def folder_of(key: str) -> str:
    """The folder of an object: from any file of a segment to `segment_folder`."""
    return key.rpartition("/")[0]


def scalars(folder: str) -> str:
    """The Parquet file of all columns that are not vectors."""
    return f"{folder}/scalars.parquet"


def vector(folder: str, field_id: int) -> str:
    """The Arrow IPC file of a vector column."""
    return f"{folder}/vector-{field_id}.arrow"


def index(folder: str, index_id: int, token: str, resolved_type: str) -> str:
    """An index of the segment; `token` is the builder's."""
    return f"{folder}/index-{index_id}-{_token(token)}.{_word(resolved_type).lower().replace('-', '_')}"


def deletes(collection_id: int, vchannel: str, through: Position, token: str) -> str:
    """The Parquet file of a shard's deletes up to a position."""
    term, sequence, offset = through
    return f"{shard_prefix(collection_id, vchannel)}deletes/{term:08d}-{sequence:012d}-{offset}-{_token(token)}.parquet"


def manifest(collection_id: int, vchannel: str, version: int, token: str) -> str:
    """A version of a shard's manifest, or one that lost its race."""
    return f"{shard_prefix(collection_id, vchannel)}manifests/{version:012d}-{_token(token)}.manifest"


def parse_manifest(key: str) -> ManifestName | None:
    """The parts of a manifest's key; None for any other key."""
    match = _MANIFEST.fullmatch(key)
    return ManifestName(int(match[1]), match[2], int(match[3]), match[4]) if match else None


def catalog_snapshot(intent_id: int, token: str) -> str:
    """The catalog as it stood after a DDL."""
    return f"{CATALOG_PREFIX}{intent_id:020d}-{_token(token)}.snapshot"


def parse_catalog_snapshot(key: str) -> SnapshotName | None:
    """The parts of a catalog snapshot's key; None for any other key."""
    match = _SNAPSHOT.fullmatch(key)
    return SnapshotName(int(match[1]), match[2]) if match else None


def spill(expires_ms: int, token: str) -> str:
    """A result that is kept until a moment, in milliseconds since 1970."""
    return f"{SPILL_PREFIX}{expires_ms:016d}-{_token(token)}.result"


def parse_spill(key: str) -> int:
    """Until when the result under a key is kept."""
    match = _SPILL.fullmatch(key)
    check(match is not None, f"{key!r} is not a spilled result's")
    assert match is not None
    return int(match[1])


def log_prefix(pchannel: str, term: int | None = None) -> str:
    """Before the slots of a pchannel's log, or of one of its terms."""
    return f"{LOG_PREFIX}{_word(pchannel)}/" + ("" if term is None else f"{term:08d}/")


def log_slot(pchannel: str, term: int, sequence: int) -> str:
    """A slot of the object-store log."""
    return f"{log_prefix(pchannel, term)}{sequence:012d}"


def parse_log_slot(key: str) -> tuple[int, int] | None:
    """(term, sequence) of a slot's key; None for any other key."""
    match = _SLOT.fullmatch(key)
    return (int(match[1]), int(match[2])) if match else None


def parse_log_term(key: str) -> int:
    """The term of which a key of a log tells: that of a slot or a head; 0 for any other."""
    match = _LOG_TERM.match(key)
    return int(match[1]) if match else 0


def log_head(pchannel: str, term: int) -> str:
    """What a term's opener leaves beside its slots, for ever."""
    return f"{log_prefix(pchannel, term)}head"


def log_truncated(pchannel: str, term: int, sequence: int) -> str:
    """That slots below a slot may be gone."""
    return f"{log_truncated_prefix(pchannel)}{term:08d}-{sequence:012d}"


def log_truncated_prefix(pchannel: str) -> str:
    """Before the marks of truncation."""
    return f"{log_prefix(pchannel)}truncated/"


def parse_log_truncated(key: str) -> tuple[int, int]:
    """(term, sequence) of a mark of truncation."""
    term, _, sequence = key.rpartition("/")[2].partition("-")
    return int(term), int(sequence)


def token_of(key: str) -> str | None:
    """The token of the writer of an object; None where names hold none. GC asks by it whether more may come."""
    folder, _, name = key.rpartition("/")
    match = _TOKEN_IN_NAME.search(name if name.startswith("index-") or "/segments/" not in key else folder)
    return match[1] if match and not key.startswith(LOG_PREFIX) else None


def right_of(token: str) -> Right | None:
    """The right that a token tells; None for one that tells none."""
    match = _WRITER.fullmatch(token)
    return Right(match[1], int(match[2])) if match else None


def _word(text: str) -> str:
    check(_WORD.fullmatch(text) is not None, f"{text!r} cannot be part of an object's name")
    return text


def _token(text: str) -> str:
    check(_TOKEN.fullmatch(text) is not None, f"{text!r} cannot be a writer's token")
    return text
