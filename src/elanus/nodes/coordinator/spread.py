"""Where segments should lie: pure decisions over what is there.

A collection with R replicas divides the query nodes into R groups that share no node, and each segment lies once in
each group. Within a group a new segment goes to the node with the least on it; a segment moves only when that evens out
two nodes by more than it unsettles. What lies well stays where it is, whoever plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

SEGMENT_WEIGHT: Final = 1 << 20
"""Bytes that a segment counts for beside its size: a query pays per segment."""
MOVES_MAX: Final = 4
"""Segments of a shard that move in one plan only to even out the load."""

Groups = tuple[tuple[int, ...], ...]
Places = dict[int, tuple[int, ...]]


def plan_groups(before: Groups, nodes: Sequence[int], replica_count: int) -> Groups:
    """`nodes` in at most `replica_count` groups of about equal size; a node stays in its group if that can be."""
    count = max(1, min(replica_count, len(nodes)))
    groups = [[node for node in group if node in nodes] for group in before[:count]]
    groups += [[] for _ in range(count - len(groups))]
    placed = {node for group in groups for node in group}
    for node in nodes:
        if node not in placed:
            min(groups, key=len).append(node)
    while True:
        most, least = max(groups, key=len), min(groups, key=len)
        if len(most) - len(least) < 2:
            return tuple(tuple(sorted(group)) for group in groups)
        least.append(most.pop())


def plan_places(
    sizes: Mapping[int, int], current: Mapping[int, Sequence[int]], groups: Groups, loads: Mapping[int, int]
) -> Places:
    """For each segment, by id, the node of each group on which it should lie. `sizes`: bytes by segment. `current`:
    nodes that hold it. `loads`: the weight of all that lies on each node, these segments included."""
    weights = {node: loads.get(node, 0) for group in groups for node in group}
    places: dict[int, list[int]] = {segment_id: [] for segment_id in sizes}
    for group in groups:
        lying = {
            segment_id: [node for node in current.get(segment_id, ()) if node in group][:1] for segment_id in sizes
        }
        for segment_id in sorted(sizes, key=lambda one: (-sizes[one], one)):
            if not lying[segment_id]:
                node = min(group, key=lambda one: (weights[one], one))
                lying[segment_id] = [node]
                weights[node] += sizes[segment_id] + SEGMENT_WEIGHT
        chosen = {segment_id: nodes[0] for segment_id, nodes in lying.items()}
        _even_out(sizes, chosen, group, weights)
        for segment_id, node in chosen.items():
            places[segment_id].append(node)
    return {segment_id: tuple(nodes) for segment_id, nodes in places.items()}


def _even_out(sizes: Mapping[int, int], chosen: dict[int, int], group: Sequence[int], weights: dict[int, int]) -> None:
    """Move segments from the fullest node of the group, of those with segments here, to the emptiest."""
    for _ in range(MOVES_MAX):
        holding = set(chosen.values())
        if not holding:
            return
        most = max(holding, key=lambda one: (weights[one], one))
        least = min(group, key=lambda one: (weights[one], one))
        gap = weights[most] - weights[least]
        movable = [one for one in chosen if chosen[one] == most and 2 * (sizes[one] + SEGMENT_WEIGHT) <= gap]
        if not movable:
            return
        moved = max(movable, key=lambda one: (sizes[one], -one))
        chosen[moved] = least
        weights[most] -= sizes[moved] + SEGMENT_WEIGHT
        weights[least] += sizes[moved] + SEGMENT_WEIGHT
