"""Where segments, channels and followers should be, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.nodes.coordinator.channels import plan_followers, plan_owners
from elanus.nodes.coordinator.spread import SEGMENT_WEIGHT, Groups, Places, plan_groups, plan_places

NODES = st.lists(st.integers(1, 12), min_size=1, max_size=8, unique=True).map(sorted)
SIZES = st.dictionaries(st.integers(1, 40), st.integers(0, 1 << 30), max_size=30)


def loads_of(sizes: dict[int, int], places: Places) -> dict[int, int]:
    loads: dict[int, int] = {}
    for segment_id, nodes in places.items():
        for node in nodes:
            loads[node] = loads.get(node, 0) + sizes[segment_id] + SEGMENT_WEIGHT
    return loads


@settings(deadline=None)
@given(NODES, NODES, st.integers(1, 4))
def test_groups_share_no_node_and_are_even(before: list[int], nodes: list[int], count: int) -> None:
    first = plan_groups((), before, count)
    groups = plan_groups(first, nodes, count)
    assert sorted(node for group in groups for node in group) == nodes
    assert len(groups) == min(count, len(nodes))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert plan_groups(groups, nodes, count) == groups


def settled(sizes: dict[int, int], places: Places, groups: Groups) -> Places:
    """What planning again and again comes to."""
    for _ in range(100):
        again = plan_places(sizes, places, groups, loads_of(sizes, places))
        if again == places:
            return places
        places = again
    raise AssertionError("segments never come to rest")


@settings(deadline=None)
@given(SIZES, NODES, NODES, st.integers(1, 3))
def test_each_segment_lies_once_in_each_group_and_comes_to_rest(
    sizes: dict[int, int], before: list[int], nodes: list[int], count: int
) -> None:
    first = settled(sizes, {}, plan_groups((), before, count))
    groups = plan_groups((), nodes, count)
    kept = {one: tuple(node for node in places if node in nodes) for one, places in first.items()}
    places = settled(sizes, plan_places(sizes, kept, groups, loads_of(sizes, kept)), groups)
    for segment_id in sizes:
        assert [node in group for node, group in zip(places[segment_id], groups, strict=True)] == [True] * len(groups)
    loads = loads_of(sizes, places)
    for group in groups:
        weights = [loads.get(node, 0) for node in group]
        largest = max((sizes[one] + SEGMENT_WEIGHT for one in sizes), default=0)
        assert max(weights) - min(weights) <= 2 * largest


@settings(deadline=None)
@given(NODES, NODES, st.integers(1, 16), st.integers(1, 3))
def test_channels_are_even_stay_where_they_can_and_are_followed_elsewhere(
    before: list[int], nodes: list[int], count: int, copies: int
) -> None:
    names = [f"c{number}" for number in range(count)]
    first = plan_owners(names, {}, before)
    owners = plan_owners(names, first, nodes)
    held = [list(owners.values()).count(node) for node in nodes]
    assert sum(held) == count
    assert max(held) - min(held) <= 1
    assert plan_owners(names, owners, nodes) == owners
    followers = plan_followers(owners, dict.fromkeys(names, copies), {}, nodes)
    for name in names:
        assert len(followers[name]) == min(copies - 1, len(nodes) - 1)
        assert owners[name] not in followers[name]
    assert plan_followers(owners, dict.fromkeys(names, copies), followers, nodes) == followers
    gone = owners[names[0]]
    left = [node for node in nodes if node != gone]
    if left and copies > 1:
        assert plan_owners(names, {names[0]: gone}, left, followers)[names[0]] in left
