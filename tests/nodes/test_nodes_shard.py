"""What a shard may serve, told by the manifests it knows."""

from __future__ import annotations

import pytest

from elanus.base.errors import UnavailableError
from elanus.model.channel import Position
from elanus.model.schema import CollectionSchema
from elanus.model.segment import Manifest
from elanus.nodes.contracts import ShardTarget
from elanus.nodes.streaming.shard import Shard
from elanus.testing.client import ID, VECTOR

SCHEMA = CollectionSchema("c", (ID, VECTOR))


def manifest(version: int, flushed_through: Position) -> Manifest:
    return Manifest("dml_0_1v0", 1, version, f"token-{version}", 1, flushed_through)


def test_an_owner_serves_no_manifest_from_before_its_replay() -> None:
    """Story: the owner flushed and left. The next one replays above the new manifest and is told to serve the old one,
    whose coordinator has yet to hear of the flush: the rows between the two would be in neither part of the view."""
    older, newer = manifest(1, Position(1, 3)), manifest(2, Position(1, 9))
    shard = Shard(newer, SCHEMA, committed=True, replay_after=older.flushed_through)
    with pytest.raises(UnavailableError, match="a newer manifest is needed"):
        shard.serve(ShardTarget(manifest=older, loaded=True))
    assert shard.view is None
    shard.serve(ShardTarget(manifest=newer, loaded=True))
    assert shard.view is not None
    assert shard.view.manifest == newer


def test_an_owner_serves_the_manifest_before_its_own_flush() -> None:
    """Its memory still holds what the flush has sealed."""
    older, newer = manifest(1, Position(1, 3)), manifest(2, Position(1, 9))
    shard = Shard(older, SCHEMA, committed=True, replay_after=older.flushed_through)
    shard.serve(ShardTarget(manifest=older, loaded=True))
    shard.install(newer)
    shard.serve(ShardTarget(manifest=older, loaded=True))
    assert shard.view is not None
    assert shard.view.manifest == older
