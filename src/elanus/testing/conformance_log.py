"""What every `wal.log.Log` promises, as coroutines of a harness; one suite for all of them.

    @pytest.mark.parametrize("case", CASES, ids=case_name)
    def test_memory(case): run(lambda doors: case(MemoryHarness(doors)))

`Twin` is the plain list against which a log on a disk that forgets is driven through any sequence of steps and cuts.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np

from elanus.base.errors import CorruptedError, ElanusError, FencedError, InvariantError, OutcomeUnknownError
from elanus.model.channel import ORIGIN, Position
from elanus.testing.cases import raises
from elanus.wal.log import Log, TruncatedError, Writer

if TYPE_CHECKING:
    from elanus.wal.log import Payload

PCHANNEL: Final = "elanus-dml_0"
Entry: TypeAlias = tuple[Position, bytes]


class LogHarness(Protocol):
    """A store under test."""

    log: Log
    """The log as the living process has it."""

    async def restart(self) -> None:
        """Kill the process without warning; `log` becomes that of its successor, on the same store."""
        ...


Case: TypeAlias = Callable[[LogHarness], Awaitable[None]]


async def confirmed() -> None:
    """The confirmation of a term that nobody has superseded."""


async def refused() -> None:
    """The confirmation of a term that somebody has."""
    raise FencedError("the meta store has a higher term")


async def everything(log: Log, after: Position = ORIGIN, pchannel: str = PCHANNEL) -> list[Entry]:
    """All that can be read now."""
    return [(position, bytes(record)) async for position, record in log.read(pchannel, after)]


def entries(term: int, batches: Sequence[Sequence[bytes]]) -> list[Entry]:
    """What a reader must see of the batches of one term."""
    return [
        (Position(term, sequence, offset), record)
        for sequence, batch in enumerate(batches)
        for offset, record in enumerate(batch)
    ]


async def a_new_log_is_empty(harness: LogHarness) -> None:
    writer = await harness.log.open(PCHANNEL, 3, ORIGIN, confirmed)
    assert (writer.term, writer.end) == (3, ORIGIN)
    assert await everything(harness.log) == []
    await writer.close()


async def positions_count_batches_and_records(harness: LogHarness) -> None:
    batches = [[b"a", b"", b"c"], [b"d"], [bytes(range(256)) * 40, b"f"]]
    writer = await harness.log.open(PCHANNEL, 7, ORIGIN, confirmed)
    for sequence, batch in enumerate(batches):
        assert await writer.append(batch) == Position(7, sequence, 0)
        assert writer.end == Position(7, sequence, len(batch) - 1)
    assert await everything(harness.log) == entries(7, batches)


async def any_buffer_is_a_record(harness: LogHarness) -> None:
    numbers = np.arange(300_000, dtype=np.float32).reshape(300, 1000)
    records: list[Payload] = [numbers.data, bytearray(b"xy"), memoryview(b"abc")[1:], b""]
    writer = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    await writer.append(records)
    assert [record for _, record in await everything(harness.log)] == [numbers.tobytes(), b"xy", b"bc", b""]


async def an_empty_batch_is_refused(harness: LogHarness) -> None:
    writer = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    await raises(InvariantError, writer.append([]))
    assert await writer.append([b"next"]) == Position(1, 0, 0)


async def appends_in_flight_keep_the_order_of_their_calls(harness: LogHarness) -> None:
    writer = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    batches = [[f"{number}-{record}".encode() for record in range(number % 3 + 1)] for number in range(60)]
    answered: list[Position] = []

    async def append(batch: list[bytes]) -> None:
        answered.append(await writer.append(batch))

    await asyncio.gather(*map(append, batches))
    assert answered == [Position(1, sequence, 0) for sequence in range(60)]
    assert await everything(harness.log) == entries(1, batches)


async def a_cancelled_caller_leaves_its_batch_in_flight(harness: LogHarness) -> None:
    writer = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    first = asyncio.ensure_future(writer.append([b"left behind"]))
    second = asyncio.ensure_future(writer.append([b"waited for"]))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == Position(1, 1, 0)
    assert await everything(harness.log) == entries(1, [[b"left behind"], [b"waited for"]])


async def a_higher_term_fences_a_lower(harness: LogHarness) -> None:
    old = await harness.log.open(PCHANNEL, 4, ORIGIN, confirmed)
    await old.append([b"old"])
    new = await harness.log.open(PCHANNEL, 6, ORIGIN, confirmed)
    assert new.end == Position(4, 0, 0)
    await raises(FencedError, old.append([b"late"]))
    for term in (4, 5, 6):
        await raises(FencedError, harness.log.open(PCHANNEL, term, ORIGIN, confirmed))
    await new.append([b"new"])
    await old.close()
    assert await everything(harness.log) == [*entries(4, [[b"old"]]), *entries(6, [[b"new"]])]


async def a_term_stays_taken_after_a_restart(harness: LogHarness) -> None:
    writer = await harness.log.open(PCHANNEL, 4, ORIGIN, confirmed)
    await writer.append([b"x"])
    await harness.restart()
    for term in (3, 4):
        await raises(FencedError, harness.log.open(PCHANNEL, term, ORIGIN, confirmed))


async def appends_in_flight_at_the_fence_tell_the_truth(harness: LogHarness) -> None:
    old = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    flying = [asyncio.ensure_future(old.append([bytes([number])])) for number in range(20)]
    await asyncio.sleep(0)
    await harness.log.open(PCHANNEL, 2, ORIGIN, confirmed)
    answers = await asyncio.gather(*flying, return_exceptions=True)
    found = dict(await everything(harness.log))
    for sequence, answer in enumerate(answers):
        position = Position(1, sequence, 0)
        if isinstance(answer, Position):
            assert answer == position and found.pop(position) == bytes([sequence])
        elif isinstance(answer, OutcomeUnknownError):
            found.pop(position, None)
        else:
            assert isinstance(answer, FencedError) and position not in found
    assert not found


async def a_term_that_was_never_opened_is_no_gap(harness: LogHarness) -> None:
    """Correctness A1: terms 6 and 7 are written to the meta store, 6 never opens."""
    first = await harness.log.open(PCHANNEL, 5, ORIGIN, confirmed)
    await first.append([b"acknowledged"])
    await raises(FencedError, harness.log.open(PCHANNEL, 6, ORIGIN, refused))
    await harness.restart()
    await harness.log.open(PCHANNEL, 9, ORIGIN, confirmed)
    assert await everything(harness.log) == entries(5, [[b"acknowledged"]])


async def a_slow_opener_that_was_superseded_never_serves(harness: LogHarness) -> None:
    """Correctness A3: 7 opens, serves and truncates while 6 is between its fence and its first append."""
    first = await harness.log.open(PCHANNEL, 5, ORIGIN, confirmed)
    await first.append([b"a"])

    async def seven_overtakes() -> None:
        seven = await harness.log.open(PCHANNEL, 7, ORIGIN, confirmed)
        await seven.append([b"b"])
        await harness.log.truncate(PCHANNEL, Position(7, 0, 0))

    await raises(FencedError, harness.log.open(PCHANNEL, 6, ORIGIN, seven_overtakes))
    assert (await everything(harness.log, Position(5, 0, 0))) == entries(7, [[b"b"]])
    await harness.restart()
    await harness.log.open(PCHANNEL, 8, Position(7, 0, 0), confirmed)
    assert (await everything(harness.log, Position(5, 0, 0))) == entries(7, [[b"b"]])


async def confirm_comes_after_the_fence(harness: LogHarness) -> None:
    old = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    calls = []

    async def confirm() -> None:
        await raises(FencedError, old.append([b"too late"]))
        calls.append(1)

    await harness.log.open(PCHANNEL, 2, ORIGIN, confirm)
    assert calls == [1]
    assert await everything(harness.log) == []


async def a_refused_confirmation_changes_nothing(harness: LogHarness) -> None:
    first = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    await first.append([b"x", b"y"])
    for term in (2, 3, 4):
        await raises(FencedError, harness.log.open(PCHANNEL, term, ORIGIN, refused))
    last = await harness.log.open(PCHANNEL, 5, ORIGIN, confirmed)
    assert last.end == Position(1, 0, 1)
    assert await everything(harness.log) == entries(1, [[b"x", b"y"]])


async def every_life_replays_all_before_it(harness: LogHarness) -> None:
    expected: list[Entry] = []
    for term in range(1, 9):
        writer = await harness.log.open(PCHANNEL, term, ORIGIN, confirmed)
        assert await everything(harness.log) == expected
        batches = [[f"{term}/{number}".encode()] * (number + 1) for number in range(term % 4)]
        for batch in batches:
            await writer.append(batch)
        expected += entries(term, batches)
        assert writer.end == (expected[-1][0] if expected else ORIGIN)
        if term % 2:
            await writer.close()
        await harness.restart()


async def reading_begins_after_a_position(harness: LogHarness) -> None:
    first = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    await first.append([b"a", b"b", b"c"])
    await first.append([b"d"])
    second = await harness.log.open(PCHANNEL, 2, ORIGIN, confirmed)
    await second.append([b"e", b"f"])
    expected = await everything(harness.log)
    for number, (position, _) in enumerate(expected):
        assert await everything(harness.log, position) == expected[number + 1 :]
    assert await everything(harness.log, Position(1, 5, 0)) == expected[4:]
    assert await everything(harness.log, Position(9, 0, 0)) == []


async def reading_needs_an_open_log(harness: LogHarness) -> None:
    await raises(ElanusError, everything(harness.log))
    await raises(ElanusError, harness.log.truncate(PCHANNEL, Position(1, 0, 0)))


async def reading_while_appending_sees_a_prefix(harness: LogHarness) -> None:
    writer = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    batches = [[bytes([number])] for number in range(30)]
    flying = [asyncio.ensure_future(writer.append(batch)) for batch in batches]
    seen: list[Entry] = []
    while len(seen) < len(batches):
        found = await everything(harness.log, seen[-1][0] if seen else ORIGIN)
        seen += found
        assert seen == entries(1, batches)[: len(seen)]
        if not found:
            await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*flying)


async def truncation_keeps_all_at_and_above(harness: LogHarness) -> None:
    expected: list[Entry] = []
    for term in (1, 2, 3, 4):
        writer = await harness.log.open(PCHANNEL, term, ORIGIN, confirmed)
        batches = [[f"{term}{number}".encode() * 30, b"."] for number in range(10)]
        for batch in batches:
            await writer.append(batch)
        expected += entries(term, batches)
    for before in (Position(1, 4, 1), Position(2, 0, 0), Position(3, 9, 1), Position(4, 3, 0)):
        await harness.log.truncate(PCHANNEL, before)
        kept = [entry for entry in expected if entry[0] >= before]
        below = max(entry[0] for entry in expected if entry[0] < before)
        assert await everything(harness.log, below) == kept
        await _reads_all_or_says_truncated(harness.log, expected)
    await harness.restart()
    await harness.log.open(PCHANNEL, 5, before, confirmed)
    assert await everything(harness.log, below) == kept
    await _reads_all_or_says_truncated(harness.log, expected)


async def _reads_all_or_says_truncated(log: Log, expected: list[Entry]) -> None:
    try:
        assert await everything(log) == expected
    except TruncatedError:
        return


async def a_log_older_than_the_meta_store_is_refused(harness: LogHarness) -> None:
    """Correctness A6, one way: the log lacks its end."""
    await raises(CorruptedError, harness.log.open(PCHANNEL, 1, Position(4, 2, 0), confirmed))
    writer = await harness.log.open(PCHANNEL, 5, ORIGIN, confirmed)
    await writer.append([b"only"])
    await harness.restart()
    await raises(CorruptedError, harness.log.open(PCHANNEL, 6, Position(5, 2, 0), confirmed))
    await harness.restart()
    await harness.log.open(PCHANNEL, 7, Position(5, 1, 0), confirmed)


async def a_meta_store_older_than_the_log_is_refused(harness: LogHarness) -> None:
    """Correctness A6, the other way: the log lacks its beginning, as far as it was really deleted."""
    for term in (1, 2, 3):
        writer = await harness.log.open(PCHANNEL, term, ORIGIN, confirmed)
        await writer.append([b"x"])
    await harness.log.truncate(PCHANNEL, Position(3, 0, 0))
    await harness.restart()
    try:
        await harness.log.open(PCHANNEL, 4, Position(1, 0, 0), confirmed)
    except CorruptedError:
        return
    assert [position.term for position, _ in await everything(harness.log)] == [1, 2, 3]


async def a_closed_writer_is_silent(harness: LogHarness) -> None:
    writer = await harness.log.open(PCHANNEL, 1, ORIGIN, confirmed)
    flying = asyncio.ensure_future(writer.append([b"in flight"]))
    await asyncio.sleep(0)
    await writer.close()
    await writer.close()
    assert await flying == Position(1, 0, 0)
    await raises(ElanusError, writer.append([b"after"]))
    await harness.restart()
    await harness.log.open(PCHANNEL, 2, ORIGIN, confirmed)
    assert await everything(harness.log) == entries(1, [[b"in flight"]])


async def pchannels_are_strangers(harness: LogHarness) -> None:
    one = await harness.log.open("elanus-dml_1", 1, ORIGIN, confirmed)
    two = await harness.log.open("elanus-dml_2", 1, ORIGIN, confirmed)
    await one.append([b"1"])
    await harness.log.open("elanus-dml_1", 2, ORIGIN, confirmed)
    await two.append([b"2"])
    assert await everything(harness.log, pchannel="elanus-dml_1") == entries(1, [[b"1"]])
    assert await everything(harness.log, pchannel="elanus-dml_2") == entries(1, [[b"2"]])


CASES: Final[list[Case]] = [
    a_new_log_is_empty,
    positions_count_batches_and_records,
    any_buffer_is_a_record,
    an_empty_batch_is_refused,
    appends_in_flight_keep_the_order_of_their_calls,
    a_cancelled_caller_leaves_its_batch_in_flight,
    a_higher_term_fences_a_lower,
    a_term_stays_taken_after_a_restart,
    appends_in_flight_at_the_fence_tell_the_truth,
    a_term_that_was_never_opened_is_no_gap,
    a_slow_opener_that_was_superseded_never_serves,
    confirm_comes_after_the_fence,
    a_refused_confirmation_changes_nothing,
    every_life_replays_all_before_it,
    reading_begins_after_a_position,
    reading_needs_an_open_log,
    reading_while_appending_sees_a_prefix,
    truncation_keeps_all_at_and_above,
    a_log_older_than_the_meta_store_is_refused,
    a_meta_store_older_than_the_log_is_refused,
    a_closed_writer_is_silent,
    pchannels_are_strangers,
]


@dataclass(slots=True)
class Twin:
    """A plain list of what a log must hold: batches that are certain, then batches that may or may not be there."""

    certain: list[tuple[Position, tuple[bytes, ...]]] = field(default_factory=list)
    doubtful: list[tuple[Position, tuple[bytes, ...]]] = field(default_factory=list)
    floor: Position = ORIGIN
    """Records below it may be gone."""

    def appended(self, position: Position, batch: tuple[bytes, ...]) -> None:
        """An append was acknowledged; it comes after all doubtful batches of earlier terms, which are settled."""
        self.certain.append((position, batch))

    def uncertain(self, position: Position, batch: tuple[bytes, ...]) -> None:
        """An append ended without a proof that it was not written."""
        self.doubtful.append((position, batch))

    def truncate(self) -> Position:
        """Allow all below the last certain batch to go; returns the new floor."""
        if self.certain:
            self.floor = max(self.floor, self.certain[-1][0])
        return self.floor

    def below_floor(self) -> Position:
        """The last record below the floor."""
        below = [position._replace(offset=len(batch) - 1) for position, batch in self.certain if position < self.floor]
        return below[-1] if below else ORIGIN

    def settle(self, found: list[Entry]) -> None:
        """Compare with what a new owner replays from the floor on; what it found is certain from now on."""
        batches: dict[Position, list[bytes]] = {}
        for position, record in found:
            batch = batches.setdefault(position._replace(offset=0), [])
            assert position.offset == len(batch), f"records of a batch out of order at {position}"
            batch.append(record)
        order = list(batches)
        assert order == sorted(order), "batches out of order"
        for one, next_one in itertools.pairwise(order):
            gap = next_one.sequence - one.sequence if one.term == next_one.term else next_one.sequence + 1
            assert gap == 1, f"nothing between {one} and {next_one}"
        known = dict(self.certain + self.doubtful)
        for position, batch in batches.items():
            assert position in known, f"{position} was never appended, or was refused for certain"
            assert tuple(batch) == known[position], f"{position} has changed, or is half there"
        lost = [position for position, _ in self.certain if position >= self.floor and position not in batches]
        assert not lost, f"acknowledged batches are gone: {lost}"
        self.certain = sorted(
            {**dict(self.certain), **{position: known[position] for position in batches}}.items(),
            key=lambda item: item[0],
        )
        self.doubtful = []


@dataclass(slots=True)
class Flight:
    """Appends of one writer, in flight at once, whose answers are told to a twin."""

    twin: Twin
    writer: Writer
    next_sequence: int = 0

    async def append_all(self, batches: Sequence[tuple[bytes, ...]]) -> bool:
        """Append them at once; False if the writer ended."""
        answers = await asyncio.gather(*(self.writer.append(batch) for batch in batches), return_exceptions=True)
        healthy = True
        for batch, answer in zip(batches, answers, strict=True):
            position = Position(self.writer.term, self.next_sequence, 0)
            self.next_sequence += 1
            if isinstance(answer, Position):
                assert answer == position and healthy, "an append was acknowledged out of order"
                self.twin.appended(answer, batch)
                continue
            healthy = False
            if not isinstance(answer, ElanusError) or isinstance(answer, OutcomeUnknownError):
                self.twin.uncertain(position, batch)
        return healthy
