"""How much memory a sealed segment takes once it is loaded and searched, told from its manifest entry alone.

Counted is what searches touch: scalar columns, decoded; vector columns and indexes, mapped. Mapped pages can be given
back and read anew, but a node that needs more of them than it has memory reads its disk for every query.
"""

from __future__ import annotations

from typing import Final

from elanus.index.registry import answers_alone, is_readable, resident_bytes
from elanus.model.segment import SegmentEntry

DECODED_RATIO: Final = 2
"""Of scalars in entries that do not say how large theirs are: memory for each byte of the file."""


def footprint(entry: SegmentEntry) -> int:
    """Bytes."""
    scalars = entry.scalar_bytes or DECODED_RATIO * entry.scalars.size_bytes
    readable = [one for one in entry.indexes if is_readable(one)]
    indexes = sum(resident_bytes(one.resolved_type, one.file.size_bytes, one.params) for one in readable)
    alone = {one.field_id for one in readable if answers_alone(one.resolved_type)}
    vectors = sum(file.size_bytes for field_id, file in entry.vectors.items() if field_id not in alone)
    return scalars + vectors + indexes
