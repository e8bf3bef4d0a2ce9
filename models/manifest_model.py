"""Every behaviour of a shard's manifest, as built, within small bounds: flushes, compactions, a partition's drop,
take-overs, lost answers and the start of replay, in every order.

The model holds one shard with two partitions and one primary key, the worst case. Position and timestamp of a record
are its number in the log. A record is 'p' or 'q' (an insert of the key into that partition), 'D' (a delete of the key
in both), 'd' (a delete in p only) or 'X' (p is dropped). A manifest is a value; a segment holds rows of one partition,
each with the mark of the delete that hides it (0: none). A flush seals everything up to one position. Tasks of earlier
owners and coordinators run on after a take-over. Breadth-first search visits every reachable state, so the
counter-example printed for a rule that is switched off is a shortest one.

What must hold in every state, for the committed manifest and for the one before it
  a fresh owner that starts from it and from what is left of the log sees, at every timestamp that the manifest calls
  readable, each row that the whole log says is alive exactly once, and no other. While the drop of p is between its
  record and its commit, rows of p may be there or not.

Rules (each a switch)
  whole_shard       a flush seals the rows of all partitions up to the position it commits
  flush_from        a flush commits only if flushed_through is still where it began
  skip_flushed      replay skips what the manifest has flushed
  deletes_in_file   a flush commits the deletes it passes, for the segments that are there already
  deletes_in_marks  ... and marks the rows that they hide among those it seals
  inputs_present    a compaction commits only if all its inputs are still there
  folded_as_read    its output has folded in what the manifest held that it read, not the one it commits to
  leave_when_all    a delete file leaves when every segment has folded it in, not just the new one
  drop_removes      the commit of a drop takes the partition's segments out
  drop_stays        ... and leaves its name, by which later flushes and replays leave out its rows
  previous          the start of replay follows the manifest before the committed one
  readable_from     what purged rows tells from which timestamp on it may be read

Run it: python models/manifest_model.py
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import combinations
from typing import NamedTuple


@dataclass(frozen=True)
class Rules:
    whole_shard: bool = True
    flush_from: bool = True
    skip_flushed: bool = True
    deletes_in_file: bool = True
    deletes_in_marks: bool = True
    inputs_present: bool = True
    folded_as_read: bool = True
    leave_when_all: bool = True
    drop_removes: bool = True
    drop_stays: bool = True
    previous: bool = True
    readable_from: bool = True


@dataclass(frozen=True)
class Bounds:
    records: int = 4
    terms: int = 2
    segments: int = 3
    """Made in all."""
    compactions: int = 2
    drops: bool = True


Row = tuple[int, int]
"""(position, mark)"""


class Segment(NamedTuple):
    number: int
    partition: str
    rows: frozenset[Row]
    folded: int


class DeleteFile(NamedTuple):
    through: int
    deletes: tuple[int, ...]


class Manifest(NamedTuple):
    flushed: int = 0
    segments: frozenset[Segment] = frozenset()
    files: tuple[DeleteFile, ...] = ()
    dropped: bool = False
    readable: int = 0


class Flush(NamedTuple):
    term: int
    after: int
    through: int
    parts: tuple[tuple[str, frozenset[Row]], ...]
    file: DeleteFile | None


class Compaction(NamedTuple):
    inputs: frozenset[Segment]
    partition: str
    rows: frozenset[Row]
    folded: int
    purged: int


class State(NamedTuple):
    log: str = ""
    term: int = 1
    manifest: Manifest = Manifest()
    before: Manifest = Manifest()
    replay_from: int = 0
    flushes: frozenset[Flush] = frozenset()
    compactions: frozenset[Compaction] = frozenset()
    made: int = 0
    compacted: int = 0


def covers(delete: str, partition: str) -> bool:
    return delete == "D" or (delete == "d" and partition == "p")


def first_delete(log: str, position: int, partition: str, deletes: tuple[int, ...]) -> int:
    """The first of these deletes that hides the row; 0 for none."""
    return next((at for at in deletes if at > position and covers(log[at - 1], partition)), 0)


def records_of(log: str, kinds: str, after: int, through: int) -> tuple[int, ...]:
    return tuple(at for at in range(after + 1, through + 1) if log[at - 1] in kinds)


# --- what must hold -------------------------------------------------------------------------------------------------
def truth(state: State, at: int) -> Counter[tuple[int, str]]:
    deletes = records_of(state.log, "Dd", 0, at)
    return Counter(
        (one, state.log[one - 1])
        for one in records_of(state.log, "pq", 0, at)
        if not first_delete(state.log, one, state.log[one - 1], deletes)
    )


def answer(rules: Rules, state: State, manifest: Manifest, at: int) -> Counter[tuple[int, str]]:
    """What a fresh owner sees from this manifest and the log above replay_from."""
    log = state.log
    start = max(state.replay_from, manifest.flushed) if rules.skip_flushed else state.replay_from
    late = records_of(log, "Dd", max(state.replay_from, manifest.flushed), at)
    found: Counter[tuple[int, str]] = Counter()
    for segment in manifest.segments:
        pending = tuple(
            one for file in manifest.files if file.through > segment.folded for one in file.deletes if one <= at
        )
        for position, mark in segment.rows:
            hidden = 0 < mark <= at or first_delete(log, position, segment.partition, (*pending, *late))
            if position <= at and not hidden:
                found[(position, segment.partition)] += 1
    replayed = "q" if manifest.dropped and rules.drop_stays else "pq"
    for position in records_of(log, replayed, start, at):
        if not first_delete(log, position, log[position - 1], records_of(log, "Dd", start, at)):
            found[(position, log[position - 1])] += 1
    return found


def broken(rules: Rules, state: State) -> str:
    """What does not hold; empty when all does."""
    dropping = "X" in state.log
    for name, manifest in (("committed", state.manifest), ("previous", state.before)):
        for at in range(manifest.readable, len(state.log) + 1):
            seen, alive = answer(rules, state, manifest, at), truth(state, at)
            if dropping:
                doubled = [row for row, count in seen.items() if count > 1]
                if doubled or (manifest.dropped and any(row[1] == "p" for row in seen)):
                    return f"log {state.log}: the {name} manifest shows {sorted(seen)} at {at} though p is dropped"
                seen = Counter({row: count for row, count in seen.items() if row[1] == "q"})
                alive = Counter({row: count for row, count in alive.items() if row[1] == "q"})
            if seen != alive:
                shown, wanted = sorted(seen.elements()), sorted(alive.elements())
                return f"log {state.log}: the {name} manifest shows {shown} at {at} instead of {wanted}"
    return ""


# --- what may happen ------------------------------------------------------------------------------------------------
def commit(state: State, manifest: Manifest) -> State:
    return state._replace(manifest=manifest, before=state.manifest)


def begin_flush(rules: Rules, state: State) -> Iterator[tuple[str, State]]:
    after, through, log = state.manifest.flushed, len(state.log), state.log
    if through == after or any(one.term == state.term for one in state.flushes):
        return
    deletes = records_of(log, "Dd", after, through)
    kept = "pq" if rules.whole_shard else "p"
    parts = []
    for partition in kept:
        if partition == "p" and ("X" in log or state.manifest.dropped):
            continue
        rows = frozenset(
            (at, first_delete(log, at, partition, deletes) if rules.deletes_in_marks else 0)
            for at in records_of(log, partition, after, through)
        )
        if rows:
            parts.append((partition, rows))
    file = DeleteFile(through, deletes) if deletes and state.manifest.segments and rules.deletes_in_file else None
    if state.made + len(parts) <= 9:
        flush = Flush(state.term, after, through, tuple(parts), file)
        yield (
            f"owner {state.term} writes files for {after + 1}..{through}",
            state._replace(flushes=state.flushes | {flush}),
        )


def commit_flush(rules: Rules, bounds: Bounds, state: State, flush: Flush) -> Iterator[tuple[str, State]]:
    manifest, rest = state.manifest, state._replace(flushes=state.flushes - {flush})
    if rules.flush_from and manifest.flushed != flush.after:
        yield f"flush of owner {flush.term} is refused", rest
        return
    if state.made + len(flush.parts) > bounds.segments:
        return
    segments = set(manifest.segments)
    for number, (partition, rows) in enumerate(flush.parts, state.made):
        if partition == "q" or not (rules.drop_stays and manifest.dropped):
            segments.add(Segment(number, partition, rows, flush.through))
    new = manifest._replace(
        flushed=max(manifest.flushed, flush.through),
        segments=frozenset(segments),
        files=manifest.files if flush.file is None else (*manifest.files, flush.file),
    )
    done = commit(state, new)._replace(made=state.made + len(flush.parts))
    yield f"flush of owner {flush.term} commits through {flush.through}", done._replace(flushes=rest.flushes)
    yield f"flush of owner {flush.term} commits through {flush.through}, the answer is lost, it tries again", done


def begin_compaction(state: State) -> Iterator[tuple[str, State]]:
    manifest = state.manifest
    for partition in "pq":
        mine = sorted(one for one in manifest.segments if one.partition == partition)
        for size in (1, 2):
            for inputs in combinations(mine, size):
                if size == 1 and all(file.through <= inputs[0].folded for file in manifest.files):
                    continue
                rows = set()
                for segment in inputs:
                    pending = tuple(
                        one for file in manifest.files if file.through > segment.folded for one in file.deletes
                    )
                    rows |= {(at, mark or first_delete(state.log, at, partition, pending)) for at, mark in segment.rows}
                for purged in sorted({0, max((mark for _, mark in rows), default=0)}):
                    left = frozenset(row for row in rows if not 0 < row[1] <= purged)
                    task = Compaction(frozenset(inputs), partition, left, manifest.flushed, purged)
                    names = [one.number for one in inputs]
                    yield (
                        f"a data node merges {names}, purging through {purged}",
                        state._replace(compactions=state.compactions | {task}, compacted=state.compacted + 1),
                    )


def commit_compaction(rules: Rules, bounds: Bounds, state: State, task: Compaction) -> Iterator[tuple[str, State]]:
    manifest, rest = state.manifest, state._replace(compactions=state.compactions - {task})
    names = {one.number for one in task.inputs}
    present = {one.number for one in manifest.segments}
    if rules.inputs_present and not names <= present:
        yield f"merge of {sorted(names)} is refused", rest
        return
    if state.made + 1 > bounds.segments:
        return
    kept = {one for one in manifest.segments if one.number not in names}
    folded = task.folded if rules.folded_as_read else manifest.flushed
    if task.rows:
        kept.add(Segment(state.made, task.partition, task.rows, folded))
    least = min((one.folded for one in kept), default=manifest.flushed) if rules.leave_when_all else folded
    new = manifest._replace(
        segments=frozenset(kept),
        files=tuple(file for file in manifest.files if file.through > least),
        readable=max(manifest.readable, task.purged) if rules.readable_from else manifest.readable,
    )
    yield (
        f"merge of {sorted(names)} commits as {state.made}, deletes folded through {folded}",
        commit(rest, new)._replace(made=state.made + 1),
    )


def append(bounds: Bounds, state: State) -> Iterator[tuple[str, State]]:
    if len(state.log) >= bounds.records:
        return
    kinds = "qD" if "X" in state.log else "pqDdX" if bounds.drops else "pqDd"
    for kind in kinds:
        yield f"{len(state.log) + 1} is appended: {kind}", state._replace(log=state.log + kind)


def upkeep(rules: Rules, bounds: Bounds, state: State) -> Iterator[tuple[str, State]]:
    manifest = state.manifest
    if state.term < bounds.terms:
        yield f"owner {state.term + 1} takes over", state._replace(term=state.term + 1)
    if "X" in state.log and not manifest.dropped:
        left = frozenset(one for one in manifest.segments if one.partition == "q" or not rules.drop_removes)
        yield "the drop of p commits", commit(state, manifest._replace(segments=left, dropped=True))
    if state.before != manifest and len(state.log) == manifest.flushed:
        yield "an idle shard commits its manifest again", commit(state, manifest)
    start = state.before.flushed if rules.previous else manifest.flushed
    if start > state.replay_from:
        yield f"replay starts after {start}, the log below is gone", state._replace(replay_from=start)


def successors(rules: Rules, bounds: Bounds, state: State) -> Iterator[tuple[str, State]]:
    yield from append(bounds, state)
    yield from begin_flush(rules, state)
    for flush in state.flushes:
        yield from commit_flush(rules, bounds, state, flush)
    if state.compacted < bounds.compactions:
        yield from begin_compaction(state)
    for task in state.compactions:
        yield from commit_compaction(rules, bounds, state, task)
    yield from upkeep(rules, bounds, state)


def explore(rules: Rules, bounds: Bounds) -> tuple[int, str, list[str]]:
    """States visited, what broke (empty: nothing, and every state was visited), and the shortest way there."""
    came_from: dict[State, tuple[str, State] | None] = {State(): None}
    waiting = deque(came_from)
    while waiting:
        state = waiting.popleft()
        fault = broken(rules, state)
        if fault:
            return len(came_from), fault, path_to(state, came_from)
        for label, following in successors(rules, bounds, state):
            if following not in came_from:
                came_from[following] = (label, state)
                waiting.append(following)
    return len(came_from), "", []


def path_to(state: State, came_from: dict[State, tuple[str, State] | None]) -> list[str]:
    labels: list[str] = []
    step = came_from[state]
    while step is not None:
        labels.append(step[0])
        step = came_from[step[1]]
    return labels[::-1]


def without(rule: str) -> Rules:
    """All rules but one."""
    assert rule in {each.name for each in fields(Rules)}
    return Rules(**{rule: False})


TIGHT = Bounds(records=3, terms=1, compactions=1)
"""Bounds within which each rule that is left out is seen to break something."""

CHECKED = (
    Bounds(records=3, segments=3, compactions=1),
    Bounds(records=3, terms=1, segments=4, compactions=2, drops=False),
)
"""Bounds within which all rules together are checked to the end by the tests."""

WIDER = (Bounds(records=4, segments=4, compactions=1), Bounds(records=4, terms=1, segments=5, drops=False))
"""Minutes each; run by hand."""


def main() -> None:
    for rule in (each.name for each in fields(Rules)):
        count, fault, steps = explore(without(rule), TIGHT)
        lines = [f"   {number}. {label}" for number, label in enumerate(steps, 1)]
        sys.stdout.write(
            "\n".join(["", f"== without {rule}: {fault or 'NOTHING BREAKS'} ({count} states)", *lines, ""])
        )
    for bounds in (*CHECKED, *WIDER):
        count, fault, _ = explore(Rules(), bounds)
        sys.stdout.write(f"\n== all rules, {bounds}: {fault or 'no violation, exhaustive'} ({count} states)\n")


if __name__ == "__main__":
    main()
