"""What every transport between roles must do: cases that a test runs on each implementation.

    @pytest.mark.parametrize("case", CASES, ids=case_name)
    def test_conforms(case):
        asyncio.run(case(my_network))

A case gets a network that members join, one transport each, and raises AssertionError. What a caller may conclude from
an error is the heart of it: *unavailable* proves that the call never ran, *unknown* proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.errors import Action, ElanusError, ReplyLostError, UnavailableError
from elanus.model.columns import Batch, Column
from elanus.model.errors import BadParameterError, CollectionNotFoundError, DeletesBehindError
from elanus.nodes.transport import Transport

T = TypeVar("T")


class Network(Protocol):
    """Members that can reach one another."""

    def join(self) -> Transport:
        """A transport of a further member."""
        ...


Case = Callable[[Network], Awaitable[None]]


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A value with something of every kind in it."""

    name: str
    batch: Batch
    count: int = 7
    counts: dict[int, tuple[int, ...]] = {}


class Postman(Protocol):
    """A role made for the cases."""

    async def echo(self, parcel: Parcel) -> Parcel: ...
    async def add(self, one: int, other: int = 1) -> int: ...
    async def refuse(self, kind: str) -> None: ...
    async def wait(self, seconds: float) -> int: ...
    async def search(self, seconds: float) -> int: ...


class Stranger(Protocol):
    """A role that nobody offers."""

    async def call(self) -> int: ...


ERRORS: Final[dict[str, ElanusError]] = {
    "bad": BadParameterError("no such thing"),
    "collection": CollectionNotFoundError("default", "films"),
    "behind": DeletesBehindError("behind"),
    "later": UnavailableError("starting"),
}


class Desk:
    """Serves `Postman`; `done` counts the calls that ran to their ends, `begun` those that began."""

    def __init__(self) -> None:
        self.begun = 0
        self.done = 0
        self.cancelled = 0

    async def echo(self, parcel: Parcel) -> Parcel:
        return parcel

    async def add(self, one: int, other: int = 1) -> int:
        return one + other

    async def refuse(self, kind: str) -> None:
        raise ERRORS[kind]

    async def wait(self, seconds: float) -> int:
        self.begun += 1
        await asyncio.sleep(seconds)
        self.done += 1
        return self.done

    async def search(self, seconds: float) -> int:
        self.begun += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.done += 1
        return self.done


async def raised(call: Awaitable[Any]) -> ElanusError:
    """The error that the call ends with."""
    try:
        await call
    except ElanusError as error:
        return error
    raise AssertionError("nothing was raised")


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for it."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")


async def _pair(network: Network) -> tuple[Desk, Transport, Transport, Postman]:
    desk, server, client = Desk(), network.join(), network.join()
    address = await server.serve({Postman: desk})
    return desk, server, client, client.connect(address, Postman)


def _parcel(rows: int, dim: int) -> Parcel:
    words = pa.array([f"word {number % 97}" for number in range(rows)])
    columns = {
        1: Column(np.arange(rows, dtype=np.int64)),
        2: Column(np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)),
        3: Column(words, np.arange(rows) % 3 != 0),
    }
    return Parcel(name="ü", batch=Batch(rows, columns), counts={5: (1, 2), 6: ()})


async def values_arrive_as_they_were(network: Network) -> None:
    _, server, client, postman = await _pair(network)
    for rows in (0, 1, 100):
        sent = _parcel(rows, 4)
        got = await postman.echo(sent)
        assert (got.name, got.count, got.counts) == (sent.name, sent.count, sent.counts)
        for number, column in sent.batch.columns.items():
            other = got.batch.columns[number]
            assert (other.valid is None) == (column.valid is None)
            assert np.array_equal(np.asarray(other.values), np.asarray(column.values))
    assert await postman.add(2) == 3
    assert await postman.add(2, other=5) == 7
    await _close(server, client)


async def large_messages_pass_both_ways(network: Network) -> None:
    _, server, client, postman = await _pair(network)
    sent = _parcel(30_000, 512)
    got = await postman.echo(sent)
    assert np.array_equal(np.asarray(got.batch.columns[2].values), np.asarray(sent.batch.columns[2].values))
    await _close(server, client)


async def errors_keep_their_class_and_text(network: Network) -> None:
    _, server, client, postman = await _pair(network)
    for kind, error in ERRORS.items():
        met = await raised(postman.refuse(kind))
        assert (type(met), met.message, met.code, met.action) == (type(error), error.message, error.code, error.action)
    await _close(server, client)


async def calls_run_side_by_side(network: Network) -> None:
    _, server, client, postman = await _pair(network)
    started = asyncio.get_running_loop().time()
    await asyncio.gather(*(postman.wait(0.2) for _ in range(100)))
    assert asyncio.get_running_loop().time() - started < 5.0
    assert await asyncio.gather(*(postman.add(number) for number in range(300))) == list(range(1, 301))
    await _close(server, client)


async def two_members_serve_apart(network: Network) -> None:
    one, other, client = network.join(), network.join(), network.join()
    desks = Desk(), Desk()
    addresses = await one.serve({Postman: desks[0]}), await other.serve({Postman: desks[1]})
    assert addresses[0] != addresses[1]
    await client.connect(addresses[1], Postman).wait(0.0)
    assert (desks[0].done, desks[1].done) == (0, 1)
    await _close(one, other, client)


async def a_member_calls_itself(network: Network) -> None:
    desk, member = Desk(), network.join()
    address = await member.serve({Postman: desk})
    assert await member.connect(address, Postman).add(1) == 2
    await _close(member)


async def what_is_not_offered_was_not_delivered(network: Network) -> None:
    server, client = network.join(), network.join()
    address = await server.serve({Postman: Desk()})
    error = await raised(client.connect(address, Stranger).call())
    assert isinstance(error, UnavailableError), repr(error)
    await _close(server, client)


async def a_member_that_left_was_not_reached(network: Network) -> None:
    """The first call may still be written into the connection that is ending: its fate is unknown then."""
    desk, server, client, postman = await _pair(network)
    await postman.wait(0.0)
    await server.close()
    first = await raised(postman.wait(0.0))
    assert isinstance(first, UnavailableError | ReplyLostError), repr(first)
    for _ in range(3):
        error = await raised(postman.wait(0.0))
        assert isinstance(error, UnavailableError), repr(error)
    assert desk.begun == 1
    await _close(client)


async def a_successor_does_not_get_its_predecessors_calls(network: Network) -> None:
    _, server, client, postman = await _pair(network)
    await server.close()
    desk, successor = Desk(), network.join()
    address = await successor.serve({Postman: desk})
    assert isinstance(await raised(postman.wait(0.0)), UnavailableError)
    assert await client.connect(address, Postman).wait(0.0) == 1
    assert desk.begun == 1
    await _close(successor, client)


async def a_write_goes_on_without_its_caller(network: Network) -> None:
    desk, server, client, postman = await _pair(network)
    running = asyncio.ensure_future(postman.wait(0.3))
    await until(lambda: desk.begun == 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: desk.done == 1)
    await _close(server, client)


async def a_member_that_leaves_ends_what_it_began(network: Network) -> None:
    desk, server, client, postman = await _pair(network)
    running = asyncio.ensure_future(postman.wait(0.3))
    await until(lambda: desk.begun == 1)
    await server.close()
    assert await running == 1
    await _close(client)


async def _close(*members: Transport) -> None:
    for member in members:
        await member.close()


CASES: Final[tuple[Case, ...]] = (
    values_arrive_as_they_were,
    large_messages_pass_both_ways,
    errors_keep_their_class_and_text,
    calls_run_side_by_side,
    two_members_serve_apart,
    a_member_calls_itself,
    what_is_not_offered_was_not_delivered,
    a_member_that_left_was_not_reached,
    a_successor_does_not_get_its_predecessors_calls,
    a_write_goes_on_without_its_caller,
    a_member_that_leaves_ends_what_it_began,
)


# --- a connection that breaks ---------------------------------------------------------------------------------------
async def a_lost_reply_is_an_unknown_outcome(network: Network, break_connections: Callable[[], None]) -> None:
    """The connection breaks while a call runs: nobody can say. For networks that can be broken."""
    desk, server, client, postman = await _pair(network)
    running = asyncio.ensure_future(postman.wait(0.5))
    await until(lambda: desk.begun == 1)
    break_connections()
    error = await raised(running)
    assert error.action is Action.UNKNOWN, repr(error)
    await until(lambda: desk.done == 1)
    await _close(server, client)
