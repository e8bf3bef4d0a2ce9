"""The log on an object store under a hostile network, with owners that overlap, followers and truncation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from elanus.base.doors import Doors, Job
from elanus.base.errors import CorruptedError, ElanusError, FencedError, OutcomeUnknownError, StorageError
from elanus.model.channel import ORIGIN, Position
from elanus.objects import paths
from elanus.objects.memory import MemoryObjectStore
from elanus.testing.cases import raises
from elanus.testing.clock import run
from elanus.testing.conformance_log import PCHANNEL, confirmed, entries, everything
from elanus.testing.faulty_store import FaultyObjectStore
from elanus.wal.log import TruncatedError, Writer
from elanus.wal.objects import ObjectLog, deletable
from elanus.wal.slots import Key
from elanus.wal.window import SLOT_STRIDE, SLOTS_IN_FLIGHT_MAX


# --- a world of owners, followers and a coordinator -----------------------------------------------------------------
@dataclass
class World:
    """The meta store's record of one pchannel, and what everybody was told."""

    doors: Doors
    shared: MemoryObjectStore
    trouble: float
    term: int = 0
    replay_from: Position = ORIGIN
    acked: dict[Position, bytes] = field(default_factory=dict)
    seen: dict[Position, bytes] = field(default_factory=dict)
    """What anybody ever read under a position."""
    covered: set[Position] = field(default_factory=set)
    """Records that owners flushed before they moved replay_from."""
    appended: int = 0

    def log(self) -> ObjectLog:
        delay_s = (0.003, 0.02, 0.6)[self.doors.random.below(3)]
        return ObjectLog(self.doors, FaultyObjectStore(self.doors, self.shared, self.trouble, delay_s))

    def read(self, position: Position, record: bytes) -> None:
        assert self.seen.setdefault(position, record) == record, f"{position} holds two records"

    async def own(self) -> None:
        """A new owner: take a term, open, replay, append, flush and truncate until fenced."""
        self.term += 1
        term, log = self.term, self.log()
        await self.doors.clock.sleep(self.doors.random.uniform() * 0.5)
        if self.term != term:
            return
        replay_from = self.replay_from
        covered = set(self.covered)
        await self.doors.clock.sleep(self.doors.random.uniform() * 0.5)

        async def confirm() -> None:
            await self.doors.clock.sleep(self.doors.random.uniform() * 0.2)
            if self.term != term:
                raise FencedError("superseded")

        before = {position for position in self.acked if position.term < term}
        try:
            writer = await log.open(PCHANNEL, term, replay_from, confirm)
        except (FencedError, StorageError):
            return
        # All that lower terms ever acknowledge, before this moment or after it, must have been found.
        before |= {position for position in self.acked if position.term < term}
        try:
            replayed = await everything(log, replay_from)
        except (StorageError, TruncatedError):
            return
        for position, record in replayed:
            self.read(position, record)
        found = {position for position, _ in replayed} | covered
        self.openings.append((term, found))
        assert before <= found, f"term {term} opened without {sorted(before - found)}"
        await self._serve(log, writer, found)

    openings: list[tuple[int, set[Position]]] = field(default_factory=list)

    async def _serve(self, log: ObjectLog, writer: Writer, known: set[Position]) -> None:
        jobs: list[Job] = []
        for round_number in range(12):
            jobs += [self.doors.tasks.spawn(self._append(writer, known), name="append") for _ in range(3)]
            await self.doors.clock.sleep(self.doors.random.uniform() * 0.1)
            if round_number % 4 == 3 and known and self.term == writer.term:
                position = max(known)
                if position > self.replay_from:
                    self.covered |= known
                    self.replay_from = position
                    try:
                        await log.truncate(PCHANNEL, position)
                    except StorageError:
                        continue
        for job in jobs:
            await job.wait()

    async def _append(self, writer: Writer, known: set[Position]) -> None:
        self.appended += 1
        records = [b"%d/%d/%d" % (writer.term, self.appended, number) for number in range(1 + self.appended % 3)]
        try:
            first = await writer.append(records)
        except ElanusError:
            return
        for number, record in enumerate(records):
            position = first._replace(offset=number)
            self.read(position, record)
            self.acked[position] = record
            known.add(position)
            for term, found in self.openings:
                assert position.term >= term or position in found, f"{position} was acknowledged beside term {term}"

    async def follow(self, reads: int) -> None:
        """Strong reads at a follower: evidence asked after an acknowledgement covers it."""
        log, done = self.log(), 0
        while done < reads:
            follower, known = log.follow(PCHANNEL, self.replay_from), set(self.covered)
            try:
                while done < reads:
                    wanted = set(self.acked)
                    while not await follower.at_end():
                        for position, record in await follower.next():
                            self.read(position, record)
                            known.add(position)
                    assert wanted <= known, f"a Strong read missed {sorted(wanted - known)}"
                    done += 1
                    await self.doors.clock.sleep(0.05)
            except TruncatedError:
                continue
            except StorageError:
                done += 1
            finally:
                await follower.close()


def play(seed: int, trouble: float) -> World:
    async def main(doors: Doors) -> World:
        world = World(doors, MemoryObjectStore(), trouble)
        followers = [doors.tasks.spawn(world.follow(30), name="follower") for _ in range(2)]
        owners = []
        for _ in range(6):
            owners.append(doors.tasks.spawn(world.own(), name="owner"))
            await doors.clock.sleep(doors.random.uniform() * 3)
        for job in (*owners, *followers):
            await job.wait()
        return world

    return run(main, seed)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [0.0, 0.2, 0.5])
def test_nothing_acknowledged_is_lost_between_overlapping_owners(trouble: float) -> None:
    acked = terms = 0
    for seed in range(25):
        world = play(seed, trouble)
        acked += len(world.acked)
        terms += len({position.term for position in world.acked})
    assert acked > 200 and terms > 15, "the worlds did some work"


def catches(monkeypatch: pytest.MonkeyPatch, seeds: int = 60) -> bool:
    """Whether some world goes wrong."""
    for seed in range(seeds):
        try:
            play(seed, 0.3)
        except (AssertionError, CorruptedError):
            return True
    return False


@pytest.mark.slow
def test_an_open_without_confirmation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    opens = ObjectLog.open

    async def unconfirmed(
        self: ObjectLog, pchannel: str, term: int, replay_from: Position, confirm: Callable[[], Awaitable[None]]
    ) -> object:
        return await opens(self, pchannel, term, replay_from, confirmed)

    monkeypatch.setattr(ObjectLog, "open", unconfirmed)
    assert catches(monkeypatch)


@pytest.mark.slow
def test_names_that_are_taken_twice_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(self: MemoryObjectStore, key: str, data: bytes) -> None:
        self._objects[key] = bytes(data)

    monkeypatch.setattr(MemoryObjectStore, "put", put)
    assert catches(monkeypatch)


# --- single stories -------------------------------------------------------------------------------------------------
def scenario(story: Callable[[Doors, MemoryObjectStore], Awaitable[None]]) -> None:
    async def main(doors: Doors) -> None:
        await story(doors, MemoryObjectStore())

    run(main)


def test_what_is_stored_behind_a_fence_is_neither_acknowledged_nor_read() -> None:
    async def story(doors: Doors, store: MemoryObjectStore) -> None:
        old = await ObjectLog(doors, store).open(PCHANNEL, 1, ORIGIN, confirmed)
        await old.append([b"a"])
        new = ObjectLog(doors, store)
        await new.open(PCHANNEL, 2, ORIGIN, confirmed)
        late = [asyncio.ensure_future(old.append([bytes([number])])) for number in range(5)]
        for answer in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(answer, FencedError)
        assert await store.stat(paths.log_slot(PCHANNEL, 1, 2)) is not None, "the second slot was stored"
        assert await everything(new) == entries(1, [[b"a"]])

    scenario(story)


def test_a_busy_owner_is_fenced_in_the_end() -> None:
    """Each claim of the opener loses against a put that is already on its way."""

    class Racing(MemoryObjectStore):
        """The owner's next slot always arrives just before the opener's fence."""

        writer: Writer | None = None
        lost = 0

        async def put(self, key: str, data: object) -> None:
            slot = paths.parse_log_slot(key)
            if self.writer is not None and slot is not None and slot[0] == 1 and isinstance(data, bytes):
                writer, ahead = self.writer, slot[1] == self.writer.end.sequence + 1
                if ahead:
                    self.lost += 1
                    try:
                        await writer.append([b"busy"])
                    except FencedError:
                        self.writer = None
            await super().put(key, data)  # type: ignore[arg-type]

    async def main(doors: Doors) -> None:
        store = Racing()
        old = await ObjectLog(doors, store).open(PCHANNEL, 1, ORIGIN, confirmed)
        await old.append([b"first"])
        store.writer = old
        log = ObjectLog(doors, store)
        writer = await log.open(PCHANNEL, 2, ORIGIN, confirmed)
        assert 3 < store.lost <= (SLOTS_IN_FLIGHT_MAX + 3) * SLOT_STRIDE
        assert len(await everything(log)) == 1 + store.lost - (store.writer is None)
        await writer.append([b"new"])

    run(main)


def test_an_append_survives_an_outage_and_gives_up_after_its_patience() -> None:
    async def main(doors: Doors) -> None:
        store = FaultyObjectStore(doors, MemoryObjectStore(), 0.0)

        class Refusing(FaultyObjectStore):
            async def put(self, key: str, data: object) -> None:
                raise StorageError("no")

        log = ObjectLog(doors, store)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        store.stopped = True
        flying = [asyncio.ensure_future(writer.append([bytes([number])])) for number in range(10)]
        await doors.clock.sleep(30)
        assert not any(one.done() for one in flying)
        store.stopped = False
        await asyncio.gather(*flying)
        store.put = Refusing(doors, MemoryObjectStore(), 0).put  # type: ignore[method-assign]
        flying = [asyncio.ensure_future(writer.append([b"late"])) for _ in range(10)]
        answers = await asyncio.gather(*flying, return_exceptions=True)
        kinds = [type(answer) for answer in answers]
        unknown = kinds.count(OutcomeUnknownError)
        assert unknown == 2 and kinds.count(StorageError) == 8, kinds
        await raises(StorageError, writer.append([b"after"]))

    run(main)


def test_a_damaged_slot_is_named_and_a_missing_one_too() -> None:
    async def story(doors: Doors, store: MemoryObjectStore) -> None:
        log = ObjectLog(doors, store)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        for number in range(6):
            await writer.append([bytes([number]) * 100])
        name = paths.log_slot(PCHANNEL, 1, 3)
        whole = await store.get(name)
        for place in (3, 10, 40, 70, len(whole) - 1):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            await store.delete(name)
            await store.put(name, bytes(damaged))
            with pytest.raises(CorruptedError, match=name):
                await everything(log)
        await store.delete(name)
        with pytest.raises(CorruptedError, match=name):
            await everything(log)

    scenario(story)


def test_ten_thousand_slots_are_read_many_at_once() -> None:
    async def main(doors: Doors) -> None:
        shared = MemoryObjectStore()
        writer = await ObjectLog(doors, shared).open(PCHANNEL, 1, ORIGIN, confirmed)
        for number in range(2000):
            await writer.append([b"%d" % number])
        log = ObjectLog(doors, FaultyObjectStore(doors, shared, 0.0, delay_s=0.02))
        start_s = doors.clock.monotonic_s()
        await log.open(PCHANNEL, 2, ORIGIN, confirmed)
        assert len(await everything(log)) == 2000
        took_s = doors.clock.monotonic_s() - start_s
        assert took_s < 2000 * 0.01 / 16, f"{took_s:.1f} s; one after another takes {2000 * 0.01:.0f} s"

    run(main)


def test_only_fences_and_the_last_slot_with_records_are_kept() -> None:
    below = [Key(0, 0), Key(1, 0), Key(1, 1), Key(1, 2), Key(1, 3), Key(2, 0)]
    fences = {Key(0, 0), Key(1, 2), Key(2, 0)}
    assert deletable(below, fences) == [Key(1, 0), Key(1, 3)], "(1, 3) is stored behind the fence"
    assert deletable([*below, Key(3, 0), Key(3, 5)], fences) == [Key(1, 0), Key(1, 1), Key(1, 3), Key(3, 0)]
    assert deletable([Key(0, 0)], {Key(0, 0)}) == []


# --- followers ------------------------------------------------------------------------------------------------------
def test_a_follower_sees_all_terms_in_order_and_knows_the_end() -> None:
    async def story(doors: Doors, store: MemoryObjectStore) -> None:
        follower = ObjectLog(doors, store).follow(PCHANNEL, ORIGIN)
        assert await follower.at_end()
        expected = []
        for term in (2, 3, 7):
            writer = await ObjectLog(doors, store).open(PCHANNEL, term, ORIGIN, confirmed)
            assert await follower.at_end()
            batches = [[f"{term}/{number}".encode(), b"."] for number in range(5)]
            for batch in batches:
                await writer.append(batch)
            expected += entries(term, batches)
            assert not await follower.at_end()
            found: list[tuple[Position, bytes]] = []
            while len(found) < 10:
                found += [(position, bytes(record)) for position, record in await follower.next()]
            assert found == entries(term, batches)
            assert follower.position == expected[-1][0] and await follower.at_end()
        late = ObjectLog(doors, store).follow(PCHANNEL, Position(2, 3, 1))
        assert not await late.at_end()
        assert (await late.next())[0] == (Position(2, 4, 0), b"2/4")

    scenario(story)


def test_a_follower_waits_for_what_comes() -> None:
    async def story(doors: Doors, store: MemoryObjectStore) -> None:
        writer = await ObjectLog(doors, store).open(PCHANNEL, 1, ORIGIN, confirmed)
        follower = ObjectLog(doors, store).follow(PCHANNEL, ORIGIN)
        waiting = asyncio.ensure_future(follower.next())
        await doors.clock.sleep(5)
        assert not waiting.done() and await follower.at_end()
        await writer.append([b"x"])
        assert [bytes(record) for _, record in await waiting] == [b"x"]

    scenario(story)


def test_a_follower_may_be_let_go_whatever_it_asked_for_ahead() -> None:
    async def main(doors: Doors) -> None:
        shared = MemoryObjectStore()
        writer = await ObjectLog(doors, shared).open(PCHANNEL, 1, ORIGIN, confirmed)
        for number in range(300):
            await writer.append([b"%d" % number])

        async def follow() -> None:
            follower = ObjectLog(doors, FaultyObjectStore(doors, shared, 0.0, delay_s=1.0)).follow(PCHANNEL, ORIGIN)
            try:
                while True:
                    await follower.next()
            finally:
                await follower.close()

        for turn in range(20):
            following = asyncio.ensure_future(follow())
            await doors.clock.sleep(0.7 * turn)
            following.cancel()
            await doors.clock.sleep(60)

    run(main)


def test_a_follower_that_was_overtaken_by_truncation_is_told() -> None:
    async def story(doors: Doors, store: MemoryObjectStore) -> None:
        log = ObjectLog(doors, store)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        for _ in range(10):
            await writer.append([b"x"])
        follower = ObjectLog(doors, store).follow(PCHANNEL, ORIGIN)
        await follower.next()
        await log.truncate(PCHANNEL, Position(1, 8, 0))
        await raises(TruncatedError, follower.next())
        await raises(TruncatedError, follower.at_end())
        fresh = ObjectLog(doors, store).follow(PCHANNEL, Position(1, 8, 0))
        assert (await fresh.next())[0][0] == Position(1, 9, 0)

    scenario(story)
