"""Every behaviour of the log on an object store within small bounds: puts late or twice, owners that overlap, truncation,
a follower that answers Strong reads.

An opener that meets the fence of a newer term gives up; that is no switch, as `confirm` alone would stop it later.

The model holds one pchannel. A slot holds one record or a fence; a put that was sent may be executed at any later time,
as often as `Bounds.executions` says, and its reply may be lost. The coordinator raises the term whenever it likes.
Breadth-first search visits every reachable state, so the counter-example of a rule left out is a shortest one.

What must hold
  kept      whoever opened term t has found every record of a lower term that is ever acknowledged
  strong    a follower that answers a read knows every record that was acknowledged before the read came

Rules (each a switch)
  take_once      a slot's name is taken once
  in_order       an owner acknowledges its slots strictly in order
  follow_links   an opener walks from replay_from and follows fences to the terms they name, instead of looking at the
                 term below its own
  read_late      replay_from is read after the opener's term is in the meta store
  compare_term   replay_from moves only while the owner's term is the current one
  confirm        the opener asks the meta store for its term once more, after its fence and before its first append
  keep_fences    truncation deletes no fence
  look_at_mark   who finds a slot absent and takes it for the end looks at the mark of truncation afterwards
  mark_first     truncation stores its mark before it deletes

Run it: python models/object_log.py
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

Key = tuple[int, int]
"""(term, sequence)"""
Record = Key
"""A record is named by the slot it was put into."""
Value = tuple[str, int]
"""('data', term) or ('fence', term it names)"""


@dataclass(frozen=True)
class Rules:
    take_once: bool = True
    in_order: bool = True
    follow_links: bool = True
    read_late: bool = True
    compare_term: bool = True
    confirm: bool = True
    keep_fences: bool = True
    look_at_mark: bool = True
    mark_first: bool = True


@dataclass(frozen=True)
class Bounds:
    terms: int = 3
    records: int = 2
    """Per term."""
    flying: int = 2
    executions: int = 1
    """Of one put."""
    follower: bool = True


SMALLEST = (
    Bounds(terms=2, records=1, flying=1),
    Bounds(terms=3, records=1, flying=1, follower=False),
    Bounds(terms=2, records=2, flying=2, follower=False),
    Bounds(terms=3, records=2, flying=1, follower=False),
)
CHECKED = (
    Bounds(terms=2, records=2, flying=2),
    Bounds(terms=3, records=2, flying=2, follower=False),
)
# May take hours: for `python models/object_log.py`, not for tests.
WIDE = (
    Bounds(terms=2, records=2, flying=2, executions=2),
    Bounds(terms=3, records=1, flying=1),
    Bounds(terms=3, records=2, flying=2, executions=2, follower=False),
    Bounds(terms=2, records=3, flying=3, follower=False),
)


class Owner(NamedTuple):
    """Of a term, once opened. `stored`: slots that its own puts were told of. `found`: what it recovered."""

    serving: bool
    next: int
    stored: frozenset[int]
    acked: frozenset[int]
    found: frozenset[Record]


class Opener(NamedTuple):
    """A take-over under way."""

    state: str
    """'walking', 'fenced' or 'gone'"""
    at: Key
    found: frozenset[Record]


class Put(NamedTuple):
    """A data put on its way."""

    key: Key
    left: int


class Follower(NamedTuple):
    """`wanted`: what was acknowledged when the pending read came; None: no read. `absent`: the next slot was."""

    at: Key
    known: frozenset[Record]
    wanted: frozenset[Record] | None
    absent: bool
    stale: bool


class State(NamedTuple):
    """Everything."""

    slots: tuple[tuple[Key, Value], ...]
    term: int
    replay_from: Key
    flushed: frozenset[Record]
    mark: Key
    owners: tuple[Owner | None, ...]
    openers: tuple[Opener | None, ...]
    puts: frozenset[Put]
    follower: Follower


def initial(bounds: Bounds) -> State:
    """Term 1 serves an empty log."""
    first = Owner(True, 0, frozenset(), frozenset(), frozenset())
    owners = (None, first, *[None] * (bounds.terms - 1))
    follower = Follower((1, 0), frozenset(), None, False, False)
    return State((), 1, (1, 0), frozenset(), (1, 0), owners, (None,) * (bounds.terms + 1), frozenset(), follower)


def broken(state: State) -> str:
    """Which property does not hold; empty when both do."""
    for low, high in itertools.combinations(range(1, len(state.owners)), 2):
        old, new = state.owners[low], state.owners[high]
        if old is not None and new is not None:
            lost = {(low, number) for number in old.acked} - new.found
            if lost:
                return f"kept: term {high} serves without {sorted(lost)}"
    return "strong: a follower answered without an acknowledged record" if state.follower.stale else ""


def steps(state: State, rules: Rules, bounds: Bounds) -> Iterator[tuple[str, State]]:
    """Everything that can happen next."""
    if state.term < bounds.terms:
        yield f"the coordinator writes term {state.term + 1}", state._replace(term=state.term + 1)
    for term in range(1, bounds.terms + 1):
        yield from _owner_steps(state, term, rules, bounds)
        if term > 1:
            yield from _opener_steps(state, term, rules)
    yield from _put_steps(state, rules)
    if bounds.follower:
        yield from _follower_steps(state, rules)


def _with(items: tuple, term: int, item: object) -> tuple:
    return (*items[:term], item, *items[term + 1 :])


def _owner_steps(state: State, term: int, rules: Rules, bounds: Bounds) -> Iterator[tuple[str, State]]:
    owner = state.owners[term]
    if owner is None:
        return
    if owner.serving and owner.next < bounds.records and owner.next - len(owner.acked) < bounds.flying:
        put = Put((term, owner.next), bounds.executions)
        sent = state._replace(owners=_with(state.owners, term, owner._replace(next=owner.next + 1)))
        yield f"owner {term} sends {put.key}", sent._replace(puts=state.puts | {put})
    for number in owner.stored - owner.acked:
        if number == len(owner.acked) or not rules.in_order:
            told = owner._replace(acked=owner.acked | {number})
            yield f"owner {term} acknowledges {number}", state._replace(owners=_with(state.owners, term, told))
    if not owner.serving:
        return
    covered = (term, len(owner.acked))
    if owner.acked and covered > state.replay_from and (state.term == term or not rules.compare_term):
        known = state.flushed | owner.found | {(term, number) for number in owner.acked}
        yield f"owner {term} moves replay_from to {covered}", state._replace(replay_from=covered, flushed=known)
    if state.mark < state.replay_from:
        yield f"owner {term} marks {state.replay_from}", state._replace(mark=state.replay_from)
    limit = state.mark if rules.mark_first else state.replay_from
    for key, value in state.slots:
        if key < limit and (value[0] == "data" or not rules.keep_fences):
            yield f"owner {term} deletes {key}", state._replace(slots=_without(state.slots, key))


def _opener_steps(state: State, term: int, rules: Rules) -> Iterator[tuple[str, State]]:
    opener = state.openers[term]
    slots = dict(state.slots)

    def become(new: Opener) -> State:
        return state._replace(openers=_with(state.openers, term, new))

    if opener is None:
        if (state.term == term or not rules.read_late) and state.mark <= state.replay_from:
            start = state.replay_from if rules.follow_links else max(state.replay_from, (term - 1, 0))
            yield f"opener {term} reads replay_from {start}", become(Opener("walking", start, state.flushed))
    elif opener.state == "walking" and state.term >= term:
        value = slots.get(opener.at)
        following = (opener.at[0], opener.at[1] + 1)
        if value is None:
            taken = state._replace(slots=_sorted(slots | {opener.at: ("fence", term)}))
            fenced = opener._replace(state="fenced")
            yield (
                f"opener {term} claims {opener.at}",
                taken._replace(openers=_with(state.openers, term, fenced)),
            )
        elif value[0] == "data":
            found = opener.found | {opener.at}
            yield f"opener {term} reads {opener.at}", become(opener._replace(at=following, found=found))
        elif value[1] >= term:
            yield f"opener {term} meets the fence of {value[1]}", become(opener._replace(state="gone"))
        else:
            yield f"opener {term} follows the fence to {value[1]}", become(opener._replace(at=(value[1], 0)))
    elif opener.state == "fenced" and state.owners[term] is None and (state.term == term or not rules.confirm):
        serving = Owner(True, 0, frozenset(), frozenset(), opener.found)
        yield f"opener {term} serves", state._replace(owners=_with(state.owners, term, serving))


def _put_steps(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    slots = dict(state.slots)
    for put in state.puts:
        term, number = put.key
        owner = state.owners[term]
        assert owner is not None
        rest = state.puts - {put} | ({put._replace(left=put.left - 1)} if put.left > 1 else frozenset())
        mine: Value = ("data", term)
        if slots.get(put.key, mine) == mine or not rules.take_once:
            done = state._replace(slots=_sorted(slots | {put.key: mine}), puts=rest)
            told = owner._replace(stored=owner.stored | {number})
            yield f"put {put.key} is stored", done._replace(owners=_with(state.owners, term, told))
            if put.left > 1:
                yield f"put {put.key} is stored, the reply is lost", done
        else:
            ended = owner._replace(serving=False)
            refused = state._replace(puts=rest, owners=_with(state.owners, term, ended))
            yield f"put {put.key} meets a fence", refused


def _follower_steps(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    follower = state.follower
    value = dict(state.slots).get(follower.at)
    acked = frozenset((term, number) for term, owner in enumerate(state.owners) if owner for number in owner.acked)
    if follower.stale:
        return
    if follower.wanted is None:
        yield "a Strong read comes", state._replace(follower=follower._replace(wanted=acked, absent=False))
        return
    if follower.absent and rules.look_at_mark and state.mark > follower.at:
        anew = follower._replace(at=state.replay_from, known=follower.known | state.flushed, absent=False)
        yield f"the follower begins again at {state.replay_from}", state._replace(follower=anew)
    elif follower.absent or (value is None and not rules.look_at_mark):
        stale = not follower.wanted <= follower.known
        answered = follower._replace(wanted=None, absent=False, stale=stale)
        yield f"the follower answers at {follower.at}", state._replace(follower=answered)
    elif value is None:
        yield f"the follower finds {follower.at} absent", state._replace(follower=follower._replace(absent=True))
    elif value[0] == "data":
        after = (follower.at[0], follower.at[1] + 1)
        read = follower._replace(at=after, known=follower.known | {follower.at})
        yield f"the follower reads {follower.at}", state._replace(follower=read)
    else:
        yield "the follower follows a fence", state._replace(follower=follower._replace(at=(value[1], 0)))


def _sorted(slots: dict[Key, Value]) -> tuple[tuple[Key, Value], ...]:
    return tuple(sorted(slots.items()))


def _without(slots: tuple[tuple[Key, Value], ...], key: Key) -> tuple[tuple[Key, Value], ...]:
    return tuple(slot for slot in slots if slot[0] != key)


def explore(rules: Rules, bounds: Bounds, states_max: int = 3_000_000) -> tuple[int, str, list[str]]:
    """(states visited, what broke or 'limit' or '', the steps that led there)."""
    start = initial(bounds)
    came: dict[State, tuple[str, State] | None] = {start: None}
    queue = deque([start])
    count = 0
    while queue:
        state = queue.popleft()
        count += 1
        wrong = broken(state) or ("limit" if count > states_max else "")
        if wrong:
            return count, wrong, _path(came, state)
        for label, following in steps(state, rules, bounds):
            if following not in came:
                came[following] = (label, state)
                queue.append(following)
    return count, "", []


def _path(came: dict[State, tuple[str, State] | None], state: State) -> list[str]:
    labels = []
    while (step := came[state]) is not None:
        labels.append(step[0])
        state = step[1]
    return labels[::-1]


def without(rule: str) -> Rules:
    """All rules but one."""
    return replace(Rules(), **{rule: False})


def breaks(rule: str) -> tuple[int, str, list[str]]:
    """A counter-example for a rule left out, within the smallest bounds that show one."""
    for bounds in SMALLEST:
        found = explore(without(rule), bounds)
        if found[1]:
            return found
    return found


def main() -> None:
    """Print a counter-example for each rule, then what the rules together allow."""
    for rule in fields(Rules):
        count, wrong, labels = breaks(rule.name)
        print(f"\n== without {rule.name}: {wrong or 'nothing breaks'} ({count} states)")
        for number, label in enumerate(labels, 1):
            print(f"   {number}. {label}")
        sys.stdout.flush()
    for bounds in (*CHECKED, *WIDE):
        count, wrong, _ = explore(Rules(), bounds)
        print(f"\n== all rules, {bounds}: {wrong or 'nothing breaks'} ({count} states)")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
