"""Every behaviour of the file log within small bounds: processes die, power fails, syncs lie, bytes rot.

The model holds one pchannel. A file is its header, the frames copied into it, and the frames of its own term; a frame
is one record. What a reader sees is kept apart from what would survive a power cut. Breadth-first search visits every
reachable state, so the counter-example printed for a rule that is switched off is a shortest one.

What must hold
  kept      a record that was acknowledged, or replayed by an opener that came to serve, is replayed by every later one
  no alarm  while no byte has rotted, no opener refuses
  no blink  once a byte that was known to be synced has rotted, no opener serves without the records that it held

Rules (each a switch)
  copy_tail        frames that nothing proves synced are copied into the opener's own file, not trusted where they stand
  sync_file        the opener syncs its file before it serves
  sync_name        ... and the folder that holds the name
  sync_ack         a record is acknowledged after a sync of the file
  end_on_error     a failed sync ends the writer; it is not tried again
  whole_copy       a file with fewer good copied frames than its header says is no head
  past_unmarked    an opener never links to a file that no mark proves synced, but to that file's predecessor
  marks            a bad frame below a later mark refuses to open
  served_evidence  a newest file with a bad head but with frames of its own term refuses to open
  link_evidence    the header of a file that is passed over still proves what it links to synced

Run it: python models/file_log.py
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

Record = tuple[int, int]
"""(term, number in the term)"""


@dataclass(frozen=True)
class Rules:
    copy_tail: bool = True
    sync_file: bool = True
    sync_name: bool = True
    sync_ack: bool = True
    end_on_error: bool = True
    whole_copy: bool = True
    past_unmarked: bool = True
    marks: bool = True
    served_evidence: bool = True
    link_evidence: bool = True


@dataclass(frozen=True)
class Bounds:
    terms: int = 3
    records: int = 2
    """Per term."""
    cuts: int = 2
    kills: int = 3
    failed_syncs: int = 1
    rots: int = 1


class Frame(NamedTuple):
    record: Record
    mark: int | None
    """How many frames of the file were known to be synced when this one was written; None for a copy."""
    good: bool = True


class File(NamedTuple):
    link: tuple[int, int] | None
    """Predecessor's term, and how many of its frames belong to the chain."""
    copies: int
    """As the header says."""
    frames: tuple[Frame, ...]
    synced: int = 0
    """How many frames survive a power cut."""
    header_synced: bool = False
    header_good: bool = True
    name_synced: bool = False
    poisoned: bool = False
    """A sync failed: what was not synced then never will be, whatever later syncs say."""


class Process(NamedTuple):
    term: int
    stage: str
    """write, sync, name, serve: what it does next; then serving."""
    replayed: frozenset[Record]
    believed: int = 0
    """How many frames of its file it believes synced."""
    acknowledged: int = 0
    """How many of its own records it has acknowledged."""


class State(NamedTuple):
    files: tuple[File | None, ...]
    process: Process | None
    term: int
    owed: frozenset[Record]
    """Acknowledged, or replayed by an opener that served."""
    cuts: int
    kills: int
    failed_syncs: int
    rots: int
    broken: str = ""


class Refused(Exception):
    """The opener sees corruption."""


class Recovery(NamedTuple):
    link: tuple[int, int] | None
    tail: tuple[Record, ...]
    replayed: frozenset[Record]


def sound(file: File) -> int:
    """Frames before the first bad one."""
    return next((number for number, frame in enumerate(file.frames) if not frame.good), len(file.frames))


def head_of(files: tuple[File | None, ...], rules: Rules) -> int | None:
    """Term of the newest file that is whole."""
    for term in range(len(files) - 1, 0, -1):
        file = files[term]
        if file is None:
            continue
        if file.header_good and (sound(file) >= file.copies or not rules.whole_copy):
            return term
        if rules.served_evidence and any(frame.good and frame.record[0] == term for frame in file.frames):
            raise Refused
    return None


def proven_by_links(files: tuple[File | None, ...], term: int) -> int:
    """How many frames of a term's file the good headers of newer files prove synced."""
    links = [file.link for file in files[term + 1 :] if file and file.header_good and file.link]
    return max((kept for linked, kept in links if linked == term), default=0)


def recover(files: tuple[File | None, ...], rules: Rules) -> Recovery:
    """What an opener learns from the files as they are seen."""
    term = head_of(files, rules)
    if term is None:
        return Recovery(None, (), frozenset())
    file = files[term]
    assert file is not None
    end = sound(file)
    if rules.marks and any(frame.mark is not None and frame.mark > end for frame in file.frames[end + 1 :]):
        raise Refused
    if rules.link_evidence and proven_by_links(files, term) > end:
        raise Refused
    proofs = [frame.mark for frame in file.frames[:end] if frame.mark is not None]
    marked = bool(proofs)
    kept = max(proofs, default=0)
    if not rules.copy_tail:
        marked, kept = True, end
    elif not rules.past_unmarked:
        marked = True
    tail = tuple(frame.record for frame in file.frames[kept:end])
    below = chain(files, file.link, rules)
    link = (term, kept) if marked else file.link
    replayed = below | {frame.record for frame in file.frames[:end]}
    return Recovery(link, tail, frozenset(replayed))


def chain(files: tuple[File | None, ...], link: tuple[int, int] | None, rules: Rules) -> frozenset[Record]:
    """Records of the kept parts behind a link; refuses what is missing or bad there."""
    found: set[Record] = set()
    while link is not None:
        term, kept = link
        file = files[term]
        if file is None or not file.header_good or len(file.frames) < kept:
            raise Refused
        if rules.marks and sound(file) < kept:
            raise Refused
        found |= {frame.record for frame in file.frames[:kept] if frame.good}
        link = file.link
    return frozenset(found)


def with_file(state: State, term: int, file: File | None) -> tuple[File | None, ...]:
    return (*state.files[:term], file, *state.files[term + 1 :])


def opener_begins(state: State, rules: Rules, bounds: Bounds) -> Iterator[tuple[str, State]]:
    """A new process opens the next term: it reads what is seen and writes its file."""
    if state.process is None and state.term < bounds.terms:
        term = state.term + 1
        try:
            recovery = recover(state.files, rules)
        except Refused:
            broken = "" if state.rots else f"opener {term} refuses although no byte has rotted"
            yield f"opener {term} refuses", state._replace(term=term, broken=broken)
            return
        file = File(recovery.link, len(recovery.tail), tuple(Frame(record, None) for record in recovery.tail))
        stage = "sync" if rules.sync_file else "name" if rules.sync_name else "serve"
        process = Process(term, stage, recovery.replayed)
        label = f"opener {term} replays {sorted(recovery.replayed)}, links to {recovery.link}, copies {recovery.tail}"
        yield label, state._replace(files=with_file(state, term, file), process=process, term=term)


def opener_goes_on(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """It syncs its file, syncs the folder, serves."""
    process = state.process
    if process is None or process.stage == "serving":
        return
    file = state.files[process.term]
    assert file is not None
    if process.stage == "sync":
        following = "name" if rules.sync_name else "serve"
        yield (
            f"opener {process.term} syncs its file",
            state._replace(
                files=with_file(state, process.term, synced(file)), process=process._replace(stage=following)
            ),
        )
    elif process.stage == "name":
        named = with_file(state, process.term, file._replace(name_synced=True))
        yield (
            f"opener {process.term} syncs the folder",
            state._replace(files=named, process=process._replace(stage="serve")),
        )
    else:
        lost = sorted(state.owed - process.replayed)
        broken = f"owner {process.term} serves without {lost}" if lost else ""
        serving = process._replace(stage="serving", believed=len(file.frames))
        owed = state.owed | process.replayed
        yield f"owner {process.term} serves", state._replace(process=serving, owed=owed, broken=broken)


def synced(file: File) -> File:
    """After a sync that said it succeeded."""
    return file if file.poisoned else file._replace(synced=len(file.frames), header_synced=True)


def writer_steps(state: State, rules: Rules, bounds: Bounds) -> Iterator[tuple[str, State]]:
    """The serving process appends, syncs and acknowledges; a sync may fail."""
    process = state.process
    if process is None or process.stage != "serving":
        return
    term = process.term
    file = state.files[term]
    assert file is not None
    own = len(file.frames) - file.copies
    if own < bounds.records:
        frame = Frame((term, own), process.believed)
        grown = file._replace(frames=(*file.frames, frame))
        yield (
            f"owner {term} writes {frame.record}, mark {frame.mark}",
            state._replace(files=with_file(state, term, grown)),
        )
    if process.believed < len(file.frames):
        done = process._replace(believed=len(file.frames))
        yield f"owner {term} syncs", state._replace(files=with_file(state, term, synced(file)), process=done)
        if state.failed_syncs < bounds.failed_syncs:
            files = with_file(state, term, file._replace(poisoned=True))
            after = None if rules.end_on_error else process
            failed = state._replace(files=files, process=after, failed_syncs=state.failed_syncs + 1)
            yield f"owner {term}: sync fails" + (", its term ends" if after is None else ", it tries again"), failed
    written = (process.believed if rules.sync_ack else len(file.frames)) - file.copies
    if process.acknowledged < written:
        record = (term, process.acknowledged)
        answered = process._replace(acknowledged=process.acknowledged + 1)
        yield f"owner {term} acknowledges {record}", state._replace(process=answered, owed=state.owed | {record})


def disaster_steps(state: State, bounds: Bounds) -> Iterator[tuple[str, State]]:
    """Kills, power cuts, rot."""
    if state.process is not None and state.kills < bounds.kills:
        yield "the process is killed", state._replace(process=None, kills=state.kills + 1)
    if state.cuts < bounds.cuts:
        worlds: list[tuple[File | None, ...]] = [()]
        for file in state.files:
            outcomes = [None] if file is None else list(dict.fromkeys(after_cut(file)))
            worlds = [(*world, outcome) for world in worlds for outcome in outcomes]
        for world in worlds:
            label = f"power fails, left: {[describe(file) for file in world[1:]]}"
            yield label, state._replace(files=world, process=None, cuts=state.cuts + 1)
    if state.process is None and state.rots < bounds.rots:
        for term, number in rottable(state):
            file = state.files[term]
            assert file is not None
            frames = list(file.frames)
            frames[number] = frames[number]._replace(good=False)
            rotten = with_file(state, term, file._replace(frames=tuple(frames)))
            yield f"frame {number} of file {term} rots", state._replace(files=rotten, rots=state.rots + 1)


def describe(file: File | None) -> str:
    if file is None:
        return "-"
    return ("" if file.header_good else "bad header ") + "".join("+" if frame.good else "x" for frame in file.frames)


def after_cut(file: File) -> Iterator[File | None]:
    """What a power cut may leave of a file: the synced frames, and any prefix of the rest, its last one torn or not."""
    if not file.name_synced:
        yield None
    if not file.header_synced:
        yield file._replace(frames=(), synced=0, header_synced=True, header_good=False, name_synced=True)
        if file.poisoned:
            return
    most = file.synced if file.poisoned else len(file.frames)
    for kept in range(file.synced, most + 1):
        frames = file.frames[:kept]
        settled = file._replace(frames=frames, synced=kept, header_synced=True, name_synced=True, poisoned=False)
        yield settled
        if kept > file.synced and frames[-1].good:
            yield settled._replace(frames=(*frames[:-1], frames[-1]._replace(good=False)))


def rottable(state: State) -> Iterator[tuple[int, int]]:
    """Good frames that something durable on the disk proves to have been synced."""
    for term, file in enumerate(state.files):
        if file is None:
            continue
        proofs = [frame.mark for frame in file.frames[: file.synced] if frame.good and frame.mark is not None]
        links = [other.link for other in state.files if other and other.link and is_durable(other)]
        proofs += [kept for linked, kept in links if linked == term]
        for number in range(min(max(proofs, default=0), file.synced)):
            if file.frames[number].good:
                yield term, number


def is_durable(file: File) -> bool:
    return file.header_good and file.header_synced and file.name_synced


def explore(rules: Rules, bounds: Bounds, limit: int = 3_000_000) -> tuple[int, str, list[str]]:
    """States visited, what broke ("" if nothing, "limit" if the search was cut short), and the steps that led there."""
    first = State((None,) * (bounds.terms + 1), None, 0, frozenset(), 0, 0, 0, 0)
    came_from: dict[State, tuple[str, State] | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        if state.broken:
            return len(came_from), state.broken, path_to(state, came_from)
        if len(came_from) > limit:
            return len(came_from), "limit", []
        opening = itertools.chain(opener_begins(state, rules, bounds), opener_goes_on(state, rules))
        serving = itertools.chain(writer_steps(state, rules, bounds), disaster_steps(state, bounds))
        for label, after in itertools.chain(opening, serving):
            if after not in came_from:
                came_from[after] = (label, state)
                queue.append(after)
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


CHECKED = (
    Bounds(records=1),
    Bounds(cuts=1, kills=2),
    Bounds(terms=4, records=1, kills=2, rots=0),
)
"""Bounds within which all rules together are checked to the end."""


def main() -> None:
    for rule in (each.name for each in fields(Rules)):
        count, broken, steps = explore(without(rule), Bounds())
        lines = [f"   {number}. {label}" for number, label in enumerate(steps, 1)]
        sys.stdout.write(
            "\n".join(["", f"== without {rule}: {broken or 'NOTHING BREAKS'} ({count} states)", *lines, ""])
        )
    for bounds in (*CHECKED, Bounds()):
        count, broken, _ = explore(Rules(), bounds)
        sys.stdout.write(f"\n== all rules, {bounds}: {broken or 'no violation, exhaustive'} ({count} states)\n")


if __name__ == "__main__":
    main()
