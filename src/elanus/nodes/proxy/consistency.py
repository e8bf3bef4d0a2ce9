"""How fresh a read must be, from what the client sent (contract of Milvus, legacy forms included).

Strong and Bounded reads need no timestamp: their shards answer at the last applied position with evidence of the
right age. Session and Customized name a timestamp; a read of an iterator is pinned to one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from elanus.model.requests import Consistency
from elanus.model.timestamp import COUNTER_BITS
from elanus.model.types import ConsistencyLevel
from elanus.nodes.proxy.entry import CollectionEntry

_LITERAL_MIN: Final = 1 << COUNTER_BITS
"""Smaller values are signs (0 strong, 1 eventually, 2 bounded), not times."""
_SIGNS: Final = {1: ConsistencyLevel.EVENTUALLY, 2: ConsistencyLevel.BOUNDED}


class Freshness(NamedTuple):
    """For `ShardRead`: level, the least timestamp to be seen, and the exact one (0: the last applied)."""

    level: ConsistencyLevel
    guarantee_timestamp: int = 0
    at_timestamp: int = 0


def freshness(sent: Consistency, entry: CollectionEntry, *, is_iterator: bool = False) -> Freshness:
    """What the shards are asked for."""
    literal = sent.guarantee_timestamp if sent.guarantee_timestamp >= _LITERAL_MIN else 0
    if is_iterator and literal:
        return Freshness(ConsistencyLevel.CUSTOMIZED, literal, literal)
    level = entry.view.description.consistency_level if sent.use_default else sent.level
    if level is ConsistencyLevel.STRONG and not sent.use_default and sent.guarantee_timestamp > 0:
        level = _SIGNS.get(sent.guarantee_timestamp, ConsistencyLevel.CUSTOMIZED)
    if level not in (ConsistencyLevel.SESSION, ConsistencyLevel.CUSTOMIZED):
        return Freshness(level)
    return Freshness(level, max(literal, entry.view.description.updated_timestamp) if literal else 0)
