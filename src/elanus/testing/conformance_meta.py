"""What every MetaStore must do: cases that a test runs on each implementation, and a dumb twin for random histories.

    @pytest.mark.parametrize("case", CASES, ids=case_name)
    def test_conforms(case): asyncio.run(with_my_store(case))

A case gets a `MetaHarness` around an empty store and raises AssertionError. Time passes only by `pass_time`; a store
with real leases implements it by waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hypothesis import strategies as st

from elanus.base.errors import ElanusError, InvariantError, UnavailableError
from elanus.base.limits import META_TRANSACTION_OPERATIONS_MAX, META_VALUE_BYTES_MAX
from elanus.meta.store import (
    KEY_BYTES_MAX,
    NO_LEASE,
    Compare,
    Delete,
    Event,
    Field,
    Item,
    LeaseGoneError,
    MetaLimitError,
    MetaStore,
    Operation,
    Put,
    Transaction,
    WatchBatch,
    absent,
    created_at,
    has_value,
    unchanged,
)
from elanus.testing.cases import raises


class ManualClock:
    """A `doors.Clock` that stands still until told to move."""

    def __init__(self) -> None:
        self._now_s = 1_000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """See Clock."""
        return int(self._now_s * 1000)

    def monotonic_s(self) -> float:
        """See Clock."""
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        """See Clock."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_s + seconds, woken))
        await woken

    def suspend(self, seconds: float) -> None:
        """Let the machine sleep: time passes, timers stand still."""
        self._now_s += seconds
        self._sleepers = [(until + seconds, woken) for until, woken in self._sleepers]

    async def advance(self, seconds: float) -> None:
        """Let time pass and wake who is due."""
        self._now_s += seconds
        due = [woken for until, woken in self._sleepers if until <= self._now_s]
        self._sleepers = [(until, woken) for until, woken in self._sleepers if until > self._now_s]
        for woken in due:
            if not woken.done():
                woken.set_result(None)


class MetaHarness(Protocol):
    """An empty store, and its time."""

    store: MetaStore
    second_s: float
    """How long a second of the cases really lasts; a store whose leases take real time makes it short."""

    async def pass_time(self, seconds: float) -> None:
        """Let so many of the cases' seconds pass."""
        ...


Case = Callable[[MetaHarness], Awaitable[None]]


async def put(store: MetaStore, key: str, value: bytes = b"", lease: int = NO_LEASE) -> int:
    """Store unconditionally; the revision."""
    result = await store.transact((), (Put(key, value, lease),))
    assert result.succeeded
    return result.revision


async def keys(store: MetaStore, prefix: str = "") -> list[str]:
    """Keys under a prefix, in the store's order."""
    return [item.key for item in await store.range(prefix)]


# --- keys and revisions ---------------------------------------------------------------------------------------------
async def stores_and_removes(harness: MetaHarness) -> None:
    store = harness.store
    assert await store.get("a") is None
    first = await put(store, "a", b"one")
    assert await store.get("a") == Item("a", b"one", first, first)
    second = await put(store, "a", b"two")
    assert await store.get("a") == Item("a", b"two", first, second)
    await store.transact((), (Delete("a"),))
    assert await store.get("a") is None
    third = await put(store, "a", b"")
    assert await store.get("a") == Item("a", b"", third, third)


async def ranges_are_sorted_prefixes(harness: MetaHarness) -> None:
    store = harness.store
    for key in ("b", "a/2", "a", "a/10", "a0", "é", "a/\U0001f600", "a/\uffff", "aa/1"):
        await put(store, key)
    assert await keys(store, "a/") == ["a/10", "a/2", "a/\uffff", "a/\U0001f600"]
    assert await keys(store) == sorted(["b", "a/2", "a", "a/10", "a0", "é", "a/\U0001f600", "a/\uffff", "aa/1"])
    assert await keys(store, "c") == []
    taken = await store.snapshot("a/")
    assert [item.key for item in taken.items] == await keys(store, "a/")
    assert taken.revision == await put(store, "z") - 1


async def revision_counts_changes(harness: MetaHarness) -> None:
    store = harness.store
    start = (await store.snapshot("")).revision
    result = await store.transact((), (Put("a", b""), Put("b", b"")))
    assert result.revision == start + 1
    assert {item.mod_revision for item in await store.range("")} == {start + 1}
    assert (await store.transact((), (Put("a", b""),))).revision == start + 2
    unchanged_by: list[tuple[tuple[Compare, ...], tuple[Operation, ...]]] = [
        ((absent("a"),), (Put("a", b"x"), Delete("b"))),
        ((), (Delete("missing"),)),
        ((), ()),
        ((absent("missing"),), ()),
    ]
    for compares, operations in unchanged_by:
        assert (await store.transact(compares, operations)).revision == start + 2
    assert (await store.snapshot("")).revision == start + 2
    assert (await store.transact((), (Delete("missing"), Delete("a")))).revision == start + 3
    assert await keys(store) == ["b"]


async def compares_decide(harness: MetaHarness) -> None:
    store = harness.store
    created = await put(store, "a", b"1")
    changed = await put(store, "a", b"2")
    holds = [created_at("a", created), unchanged("a", changed), has_value("a", b"2"), absent("b"), unchanged("b", 0)]
    fails = [
        created_at("a", changed),
        unchanged("a", created),
        has_value("a", b"1"),
        has_value("b", b""),
        absent("a"),
        created_at("b", 1),
        unchanged("a", 0),
    ]
    assert (await store.transact(holds, ())).succeeded
    for compare in fails:
        result = await store.transact((*holds, compare), (Put("c", b""),))
        assert not result.succeeded and result.revision == changed, compare
    assert await keys(store) == ["a"]
    whole = Transaction((holds[0],), (Put("c", b"3"),)) + Transaction((holds[0], holds[1]), (Delete("a"),))
    assert whole.compares == (holds[0], holds[1])
    assert (await store.transact(whole.compares, whole.operations)).succeeded
    assert await keys(store) == ["c"]


async def bounds_are_kept(harness: MetaHarness) -> None:
    store = harness.store
    many = META_TRANSACTION_OPERATIONS_MAX
    assert (await store.transact((), [Put(f"{n:03}", b"") for n in range(many)])).succeeded
    assert (await store.transact([absent(f"x{n}") for n in range(many)], ())).succeeded
    await put(store, "big", bytes(META_VALUE_BYTES_MAX))
    await put(store, "k" * KEY_BYTES_MAX)
    before = await store.snapshot("")
    refused: list[tuple[list[Compare], list[Operation]]] = [
        ([], [Put(f"{n:03}", b"") for n in range(many + 1)]),
        ([absent(f"x{n}") for n in range(many + 1)], []),
        ([], [Put("a", bytes(META_VALUE_BYTES_MAX + 1))]),
        ([], [Put("a", bytes(META_VALUE_BYTES_MAX)), Put("b", bytes(META_VALUE_BYTES_MAX))]),
        ([], [Put("", b"")]),
        ([absent("")], []),
        ([], [Put("é" * KEY_BYTES_MAX, b"")]),
    ]
    for compares, operations in refused:
        await raises(MetaLimitError, store.transact(compares, operations))
    await raises(InvariantError, store.transact((), (Put("a", b""), Delete("a"))))
    assert await store.snapshot("") == before


# --- concurrency ----------------------------------------------------------------------------------------------------
async def one_writer_wins(harness: MetaHarness) -> None:
    store = harness.store
    for number in range(5):
        key = f"race/{number}"
        results = await asyncio.gather(
            *(store.transact((absent(key),), (Put(key, bytes([writer])),)) for writer in range(8))
        )
        winners = [writer for writer, result in enumerate(results) if result.succeeded]
        assert len(winners) == 1
        item = await store.get(key)
        assert item is not None and item.value == bytes(winners)
        assert item.mod_revision == results[winners[0]].revision


async def no_increment_is_lost(harness: MetaHarness) -> None:
    store = harness.store

    async def increment(times: int) -> None:
        while times:
            item = await store.get("counter")
            count, revision = (int(item.value), item.mod_revision) if item else (0, 0)
            result = await store.transact((unchanged("counter", revision),), (Put("counter", b"%d" % (count + 1)),))
            times -= result.succeeded

    await asyncio.gather(*(increment(4) for _ in range(8)))
    item = await store.get("counter")
    assert item is not None and item.value == b"32"


async def cancelled_callers_leave_a_whole_store(harness: MetaHarness) -> None:
    store = harness.store
    calls = [asyncio.ensure_future(store.transact((), (Put(f"a{n}", b""), Put(f"b{n}", b"")))) for n in range(6)]
    for number, call in enumerate(calls):
        for _ in range(number):
            await asyncio.sleep(0)
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    last = await put(store, "end")
    found = [item for item in await store.range("") if item.key != "end"]
    assert [item.key[1:] for item in found if item.key[0] == "a"] == [i.key[1:] for i in found if i.key[0] == "b"]
    assert len({item.mod_revision for item in found}) * 2 == len(found)
    assert all(item.mod_revision < last for item in found)


# --- watch ----------------------------------------------------------------------------------------------------------
async def take(changes: AsyncIterator[WatchBatch], count: int) -> list[WatchBatch]:
    """The next `count` batches."""
    return [await anext(changes) for _ in range(count)]


async def watch_tells_all_in_order(harness: MetaHarness) -> None:
    store = harness.store
    start = (await store.snapshot("")).revision
    await store.transact((), (Put("w/a", b"1"), Put("other", b""), Put("w/b", b"2")))
    await put(store, "other")
    await put(store, "w/a", b"3")
    changes = store.watch("w/", start)
    first, second = await take(changes, 2)
    assert first.revision == start + 1
    assert [(event.key, event.item and event.item.value) for event in first.events] == [("w/a", b"1"), ("w/b", b"2")]
    assert second.revision == start + 3
    assert second.events == (Event("w/a", await store.get("w/a")),)
    later = asyncio.ensure_future(take(changes, 2))
    await store.transact((), (Delete("w/a"), Delete("w/none")))
    await put(store, "w/c")
    deleted, created = await later
    assert deleted.events == (Event("w/a", None),) and deleted.revision == start + 4
    assert created.events == (Event("w/c", await store.get("w/c")),)
    again = await take(store.watch("w/", start + 3), 2)
    assert again == [deleted, created]


async def watch_of_the_future_waits(harness: MetaHarness) -> None:
    store = harness.store
    start = (await store.snapshot("")).revision
    waiting = asyncio.ensure_future(take(store.watch("", start + 2), 1))
    for number in range(3):
        await put(store, f"k{number}")
    (batch,) = await waiting
    assert batch.revision == start + 3 and batch.events[0].key == "k2"


async def a_list_and_its_watch_miss_nothing(harness: MetaHarness) -> None:
    store = harness.store

    async def follow() -> dict[str, bytes]:
        taken = await store.snapshot("f/")
        seen = {item.key: item.value for item in taken.items}
        async for batch in store.watch("f/", taken.revision):
            for event in batch.events:
                seen.pop(event.key, None)
                if event.item is not None:
                    seen[event.key] = event.item.value
            if "f/end" in seen:
                break
        return seen

    followers = [asyncio.ensure_future(follow())]
    for number in range(30):
        await store.transact((), (Put(f"f/{number % 7}", b"%d" % number), Delete(f"f/{(number + 3) % 7}")))
        if number % 10 == 0:
            followers.append(asyncio.ensure_future(follow()))
    await put(store, "f/end")
    expected = {item.key: item.value for item in await store.range("f/")}
    assert all(seen == expected for seen in await asyncio.gather(*followers))


# --- leases ---------------------------------------------------------------------------------------------------------
async def leased_keys_vanish(harness: MetaHarness) -> None:
    store = harness.store
    lease, other = await store.grant(10 * harness.second_s), await store.grant(100 * harness.second_s)
    assert lease != other and min(lease, other) > NO_LEASE
    await store.transact((), (Put("l/a", b"", lease), Put("l/b", b"", lease), Put("l/c", b"", other), Put("l/d", b"")))
    await put(store, "l/b")
    item = await store.get("l/a")
    assert item is not None and item.lease == lease
    start = await put(store, "l/e", b"", lease)
    await harness.pass_time(11)
    batch = await anext(aiter(store.watch("l/", start)))
    assert batch.revision == start + 1
    assert sorted(event.key for event in batch.events) == ["l/a", "l/e"]
    assert all(event.item is None for event in batch.events)
    assert await keys(store, "l/") == ["l/b", "l/c", "l/d"]
    await raises(LeaseGoneError, store.keep_alive(lease))
    await raises(LeaseGoneError, store.transact((), (Put("l/a", b"", lease),)))
    await store.revoke(lease)
    await store.keep_alive(other)


async def kept_leases_live(harness: MetaHarness) -> None:
    store = harness.store
    lease = await store.grant(10 * harness.second_s)
    start = await put(store, "l", b"", lease)
    for _ in range(5):
        await harness.pass_time(6)
        await store.keep_alive(lease)
    assert await keys(store) == ["l"]
    await harness.pass_time(11)
    batch = await anext(aiter(store.watch("", start)))
    assert batch.events == (Event("l", None),)
    assert await keys(store) == []


async def revoked_leases_end_at_once(harness: MetaHarness) -> None:
    store = harness.store
    lease = await store.grant(1000 * harness.second_s)
    for number in range(META_TRANSACTION_OPERATIONS_MAX + 5):
        await put(store, f"l/{number}", b"", lease)
    await store.revoke(lease)
    assert await keys(store) == []
    await raises(LeaseGoneError, store.keep_alive(lease))
    await raises(LeaseGoneError, store.transact((), (Put("l", b"", lease),)))
    await raises(LeaseGoneError, store.keep_alive(10**9))
    await store.revoke(lease)


async def an_election_changes_hands(harness: MetaHarness) -> None:
    store = harness.store
    first, second = await store.grant(5 * harness.second_s), await store.grant(50 * harness.second_s)
    won = await store.transact((absent("leader"),), (Put("leader", b"1", first),))
    lost = await store.transact((absent("leader"),), (Put("leader", b"2", second),))
    assert won.succeeded and not lost.succeeded
    await harness.pass_time(6)
    await anext(aiter(store.watch("leader", won.revision)))
    assert not (await store.transact((created_at("leader", won.revision),), (Put("late", b""),))).succeeded
    assert (await store.transact((absent("leader"),), (Put("leader", b"2", second),))).succeeded
    item = await store.get("leader")
    assert item is not None and item.create_revision > won.revision


# --- end ------------------------------------------------------------------------------------------------------------
async def closed_is_closed(harness: MetaHarness) -> None:
    store = harness.store
    lease = await store.grant(5 * harness.second_s)
    revision = await put(store, "a", b"", lease)
    waiting = asyncio.ensure_future(take(store.watch("", revision), 1))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await raises(UnavailableError, waiting)
    calls: list[Awaitable[Any]] = [
        store.get("a"),
        store.range(""),
        store.snapshot(""),
        store.grant(1 * harness.second_s),
    ]
    calls += [store.transact((), (Put("b", b""),)), store.keep_alive(lease), store.revoke(lease)]
    for call in calls:
        await raises(ElanusError, call)


CASES: Final[tuple[Case, ...]] = (
    stores_and_removes,
    ranges_are_sorted_prefixes,
    revision_counts_changes,
    compares_decide,
    bounds_are_kept,
    one_writer_wins,
    no_increment_is_lost,
    cancelled_callers_leave_a_whole_store,
    watch_tells_all_in_order,
    watch_of_the_future_waits,
    a_list_and_its_watch_miss_nothing,
    leased_keys_vanish,
    kept_leases_live,
    revoked_leases_end_at_once,
    an_election_changes_hands,
    closed_is_closed,
)


# --- random histories -----------------------------------------------------------------------------------------------
_KEYS: Final = st.sampled_from(["a", "a/b", "a/c", "b", "é", "b/é"])
_VALUES: Final = st.sampled_from([b"", b"\x00", b"x", b"y" * 300])
_OPERATIONS: Final = st.one_of(st.builds(Put, _KEYS, _VALUES), st.builds(Delete, _KEYS))
_REVISION_FIELDS: Final = st.sampled_from([Field.CREATE_REVISION, Field.MOD_REVISION])
_COMPARES: Final = st.one_of(
    st.builds(Compare, _KEYS, _REVISION_FIELDS, st.integers(0, 12)), st.builds(has_value, _KEYS, _VALUES)
)


@dataclass(frozen=True)
class Step:
    """A transaction; revisions in compares count from the history's start."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]


def histories() -> st.SearchStrategy[list[Step]]:
    """Random sequences of transactions on few keys."""
    operations = st.lists(_OPERATIONS, max_size=4, unique_by=lambda operation: operation.key).map(tuple)
    compares = st.lists(_COMPARES, max_size=2).map(tuple)
    return st.lists(st.builds(Step, compares, operations), max_size=25)


@dataclass
class Twin:
    """A MetaStore as one would write it on the back of an envelope."""

    revision: int
    items: dict[str, Item] = field(default_factory=dict)
    log: list[WatchBatch] = field(default_factory=list)

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> bool:
        """Whether all compares held; if so the operations were done."""
        for compare in compares:
            item = self.items.get(compare.key)
            found = getattr(item, compare.field.value) if item else (None if compare.field is Field.VALUE else 0)
            if found != compare.operand:
                return False
        events = []
        for operation in operations:
            old = self.items.pop(operation.key, None)
            if isinstance(operation, Put):
                created = old.create_revision if old else self.revision + 1
                new = Item(operation.key, operation.value, created, self.revision + 1)
                self.items[operation.key] = new
                events.append(Event(operation.key, new))
            elif old is not None:
                events.append(Event(operation.key, None))
        if events:
            self.revision += 1
            self.log.append(WatchBatch(self.revision, tuple(events)))
        return True


async def check_history(store: MetaStore, history: Sequence[Step]) -> Twin:
    """Play the history on the store and on the twin; they agree after every step and on the whole log. The twin."""
    taken = await store.snapshot("")
    start = taken.revision
    twin = Twin(start, {item.key: item for item in taken.items})
    for step in history:
        compares = [_shifted(compare, start) for compare in step.compares]
        result = await store.transact(compares, step.operations)
        assert result.succeeded == twin.transact(compares, step.operations), step
        assert result.revision == twin.revision
        for prefix in ("", "a", "a/", "b/é"):
            expected = [twin.items[key] for key in sorted(twin.items) if key.startswith(prefix)]
            assert await store.range(prefix) == expected
        for key in ("a", "b"):
            assert await store.get(key) == twin.items.get(key)
    await _check_watch(store, twin, start)
    return twin


def _shifted(compare: Compare, start: int) -> Compare:
    if compare.field is Field.VALUE or compare.operand == 0:
        return compare
    assert isinstance(compare.operand, int)
    return Compare(compare.key, compare.field, compare.operand + start)


async def _check_watch(store: MetaStore, twin: Twin, start: int) -> None:
    """Watching from the start and from the middle tells what the twin logged."""
    for after in {start, (start + twin.revision) // 2}:
        for prefix in ("", "a/"):
            expected = []
            for batch in twin.log:
                events = tuple(event for event in batch.events if event.key.startswith(prefix))
                if batch.revision > after and events:
                    expected.append(WatchBatch(batch.revision, events))
            assert await take(aiter(store.watch(prefix, after)), len(expected)) == expected
