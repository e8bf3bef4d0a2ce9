"""The clients of a run: what they do is drawn from the seed, what they saw goes into the history.

All of them share a few hot keys, on which writes meet, in two partitions that know nothing of each other, and each
inserts keys of its own. A row has two fields that patches set one at a time. A field of a key in a partition is one
register of the history. A call that is refused did
nothing, unless its error says that the outcome is unknown; a call that got no answer in `CALL_S` may have happened. One
more client makes, fills, reads and drops collections and partitions of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from elanus.base.errors import Action, ElanusError
from elanus.model.errors import CollectionNotFoundError
from elanus.model.requests import Consistency, ListCollectionsRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import ConsistencyLevel, DataType
from elanus.nodes.contracts import Frontend
from elanus.testing.client import ID, VALUE, VECTOR, Client, Row
from elanus.testing.history import BrokenPromise
from elanus.testing.sim.linear import ClientHistory, Read, Write
from elanus.testing.sim.trace import Trace

R = TypeVar("R")

CALL_S: Final = 30.0
COUNTS_MAX: Final = 5
EMPHASIS: Final = 6
EMPHASIS_OF: Final = {"flush": 12, "compact": 6, "balance": 12}
"""Of operations that entail many others: as often as finds what they break."""
KEYS_OF_CLIENT: Final = 1000
THINK_S_MAX: Final = 0.1
MAIN: Final = "main"
OTHER: Final = FieldSchema(0, "other", DataType.INT64)
FIELDS: Final = (ID, VECTOR, VALUE, OTHER)
PARTITIONS: Final = ("_default", "p")
_SET_FIELDS: Final = ("value", "other")
LATE: Final = frozenset({"create", "load", "release"})
"""Calls of a definer that change what later ones find, if they are carried out late."""

WEIGHTS: Final = {
    "upsert": 22,
    "insert": 12,
    "delete": 10,
    "patch": 8,
    "query": 26,
    "count": 7,
    "search": 8,
    "flush": 0.5,
    "compact": 1,
    "reload": 0.5,
    "balance": 0.5,
}
LEVELS: Final = ("STRONG", "STRONG", "STRONG", "SESSION", "BOUNDED", "EVENTUALLY")


class Site(Protocol):
    """Where a client lives: a proxy to talk to now, a clock, and a way to ask for a channel to be moved."""

    trace: Trace
    name: str

    @property
    def proxy(self) -> Frontend: ...
    def now_s(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...
    async def balance(self) -> bool: ...


class Load(msgspec.Struct, frozen=True):
    """How much is done: `clients` with `operations` each, and how many turns with collections of their own. `hot_keys`
    keys are everybody's; of `emphasis`, a kind of operation, there is more. `replicas` of the collection that all share
    are served: with two, nodes follow the channels that others own."""

    clients: int = 4
    operations: int = 66
    collections: int = 2
    hot_keys: int = 10
    emphasis: str = ""
    replicas: int = 1


@dataclass
class Score:
    """What was done in a run."""

    calls: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    refused: int = 0


class Record(NamedTuple):
    """Where clients note what they saw and did."""

    history: ClientHistory
    score: Score


class WrongAnswer(BrokenPromise):
    """An answer that no state of the data allows."""


class NoAnswer(Exception):
    """The call may or may not have happened."""


def register(partition: str, key: int, field_name: str) -> int:
    """Where the history keeps a field of a key in a partition."""
    return PARTITIONS.index(partition) * 10_000_000 + 2 * key + _SET_FIELDS.index(field_name)


class Worker:
    """One client."""

    def __init__(self, site: Site, load: Load, record: Record, chance: random.Random, number: int) -> None:
        self._site = site
        self._load = load
        self._history, self._score = record.history, record.score
        self._chance = chance
        self._client = Client(site, MAIN, FIELDS)
        self._own = number * KEYS_OF_CLIENT
        self._inserted = 0
        self._mine: list[int] = []
        # Not those of unknown inserts: an insert that lands late stands beside what was upserted since.
        self._session = 0
        self._values = number << 20

    # --- calls ------------------------------------------------------------------------------------------------------
    async def _call(self, kind: str, call: Awaitable[R], said: object) -> R:
        """The answer. ElanusError: it was refused and did nothing. NoAnswer: nobody knows."""
        trace, name = self._site.trace, self._site.name
        self._score.calls[kind] += 1
        trace.note(name, kind, said)
        try:
            async with asyncio.timeout(CALL_S):
                answer = await call
        except TimeoutError:
            self._score.unknown += 1
            trace.note(name, "no answer", kind)
            raise NoAnswer from None
        except ElanusError as error:
            trace.note(name, "refused", f"{kind}: {type(error).__name__}: {error.message}")
            if error.action is Action.CORRUPTED:
                raise WrongAnswer(f"{kind}: {type(error).__name__}: {error.message}") from error
            if error.action is Action.UNKNOWN:
                self._score.unknown += 1
                raise NoAnswer from None
            self._score.refused += 1
            raise
        self._score.acknowledged[kind] += 1
        return answer

    async def run(self) -> None:
        """Do as many things as the load says."""
        weights, more = dict(WEIGHTS), self._load.emphasis
        if more:
            weights[more] *= EMPHASIS_OF.get(more, EMPHASIS)
        for _ in range(self._load.operations):
            kind = self._chance.choices(list(weights), list(weights.values()))[0]
            try:
                await getattr(self, f"do_{kind}")()
            except (ElanusError, NoAnswer):
                await self._site.sleep(self._chance.random() * 0.1)
            await self._site.sleep(self._chance.random() * THINK_S_MAX)

    # --- writes -----------------------------------------------------------------------------------------------------
    def _row(self, key: int) -> Row:
        self._values += 2
        vector = [float(key % KEYS_OF_CLIENT), 1.0]
        return {"id": key, "vector": vector, "value": self._values, "other": self._values + 1}

    def _partition(self) -> str:
        return PARTITIONS[self._chance.random() < 0.2]

    def _keys(self) -> list[int]:
        pool = [*range(self._load.hot_keys), *self._mine[: self._load.hot_keys]]
        return sorted(self._chance.sample(pool, min(len(pool), self._chance.randint(1, 3))))

    async def _write(self, kind: str, partition: str, rows: Sequence[Row], call: Awaitable[Any]) -> None:
        """A call that sets these fields of these keys."""
        begun, name = self._history.tick(), self._site.name
        writes = [
            Write(name, register(partition, row["id"], field), row[field], begun)
            for row in rows
            for field in _SET_FIELDS
            if field in row
        ]
        for write in writes:
            self._history.wrote(write)
        said = {row["id"]: row.get("value", row.get("other")) for row in rows}
        try:
            reply = await self._call(kind, call, f"{partition} {said}")
        except ElanusError:
            for write in writes:
                self._history.withdraw(write)
            raise
        ended = self._history.tick()
        for write in writes:
            write.ended, write.ended_s = ended, self._site.now_s()
        self._session = max(self._session, reply.timestamp)

    async def do_upsert(self) -> None:
        rows, partition = [self._row(key) for key in self._keys()], self._partition()
        await self._write("upsert", partition, rows, self._client.upsert(rows, partition=partition))

    async def do_insert(self) -> None:
        first = self._own + self._inserted
        self._inserted += self._chance.randint(1, 4)
        rows = [self._row(key) for key in range(first, self._own + self._inserted)]
        await self._write("insert", PARTITIONS[0], rows, self._client.insert(rows))
        self._mine += [row["id"] for row in rows]

    async def do_delete(self) -> None:
        keys, partition = self._keys(), self._partition()
        rows: list[Row] = [{"id": key, "value": None, "other": None} for key in keys]
        await self._write("delete", partition, rows, self._client.delete_ids(keys, partition=partition))

    async def do_patch(self) -> None:
        """Set one field of one key; refused where the key is not there."""
        row = self._row(self._chance.choice(self._keys()))
        one = {"id": row["id"], (kept := self._chance.choice(_SET_FIELDS)): row[kept]}
        call = self._client.upsert([one], partial_update=True, partition=PARTITIONS[0])
        await self._write("patch", PARTITIONS[0], [one], call)

    # --- reads ------------------------------------------------------------------------------------------------------
    def _level(self) -> tuple[str, Consistency]:
        name = self._chance.choice(LEVELS)
        token = self._session if name == "SESSION" else 0
        return name, Consistency(level=ConsistencyLevel[name], guarantee_timestamp=token)

    def _some_keys(self) -> list[int]:
        return sorted({*self._keys(), *self._keys(), *self._keys(), *range(0, self._load.hot_keys, 2)})

    def _saw(
        self, keys: Sequence[int], found: Sequence[Row], partition: str, begun: tuple[int, float], level: str
    ) -> None:
        rows = {row["id"]: row for row in found}
        if len(rows) != len(found) or not rows.keys() <= set(keys):
            raise WrongAnswer(f"T4: asked for {list(keys)}, found {found}")
        ended = self._history.tick()
        for key in keys:
            for name in _SET_FIELDS:
                value = rows[key][name] if key in rows else None
                at = register(partition, key, name)
                self._history.read(Read(self._site.name, at, value, begun[0], ended, begun[1], level))

    async def do_query(self) -> None:
        keys, partition, (level, consistency) = self._some_keys(), self._partition(), self._level()
        begun = (self._history.tick(), self._site.now_s())
        call = self._client.rows(
            f"id in {keys}", ("id", *_SET_FIELDS), consistency=consistency, partitions=(partition,)
        )
        found = await self._call("query", call, f"{level} {partition} {keys}")
        self._saw(keys, found, partition, begun, level)

    async def do_search(self) -> None:
        keys, partition, (level, consistency) = self._some_keys(), self._partition(), self._level()
        begun = (self._history.tick(), self._site.now_s())
        call = self._client.search_rows(
            [float(keys[0] % KEYS_OF_CLIENT), 1.0],
            len(keys),
            filter=f"id in {keys}",
            output_fields=("id", *_SET_FIELDS),
            consistency=consistency,
            partitions=(partition,),
        )
        found = await self._call("search", call, f"{level} {partition} {keys}")
        self._saw(keys, found, partition, begun, level)

    async def do_count(self) -> None:
        await self._count(self._some_keys(), self._partition())

    async def _count(self, keys: Sequence[int], partition: str) -> int:
        begun = self._history.tick()
        call = self._client.count(f"id in {keys}", partitions=(partition,))
        count = await self._call("count", call, f"{partition} {keys}")
        registers = [register(partition, key, "value") for key in keys]
        least, most = self._history.bounds(registers, begun, self._history.tick())
        if not least <= count <= most:
            raise WrongAnswer(f"T4: counted {count} of {keys} in {partition}, possible are {least} to {most}")
        return count

    async def read_all(self) -> None:
        """Every key that anybody wrote, at Strong, and how many there are; for when nobody else writes."""
        for number, partition in enumerate(PARTITIONS):
            registers = [one - number * 10_000_000 for one in self._history.registers if one // 10_000_000 == number]
            keys = sorted({one // 2 for one in registers})
            if keys:
                await self._read_and_count(keys, partition)

    async def _read_and_count(self, keys: Sequence[int], partition: str) -> None:
        """A query shows a row that is there twice once, a count does not. What is carried out late may come between
        the two, but not each time."""
        for _ in range(COUNTS_MAX):
            begun = (self._history.tick(), self._site.now_s())
            call = self._client.rows(f"id in {keys}", ("id", *_SET_FIELDS), partitions=(partition,))
            found = await self._call("query", call, f"STRONG {partition} {len(keys)} keys")
            self._saw(keys, found, partition, begun, "STRONG")
            count = await self._count(keys, partition)
            if count == len(found):
                return
            await self._site.sleep(1.0)
        raise WrongAnswer(f"T4: {len(found)} of {len(keys)} keys are in {partition}, but {count} are counted")

    # --- upkeep -----------------------------------------------------------------------------------------------------
    async def do_flush(self) -> None:
        await self._call("flush", self._client.flush(), "")

    async def do_compact(self) -> None:
        await self._call("compact", self._client.compact(), "")

    async def do_reload(self) -> None:
        await self._call("release", self._client.release(), "")
        await self._site.sleep(self._chance.random() * 0.2)
        while True:
            try:
                await self._call("load", self._client.load(replicas=self._load.replicas), "")
                return
            except (ElanusError, NoAnswer):
                await self._site.sleep(0.2)

    async def do_balance(self) -> None:
        self._score.calls["balance"] += 1
        self._score.acknowledged["balance"] += await self._site.balance()


class Definer:
    """A client that makes and drops collections, alone on their names, each of which it uses once: a call of unknown
    outcome may still be carried out much later. What such a call could undo is not held against anybody."""

    def __init__(self, site: Site, score: Score, chance: random.Random) -> None:
        self._site = site
        self._score = score
        self._chance = chance
        self._name = ""
        self._unknown: set[str] = set()

    async def _surely(self, kind: str, call: Callable[[], Awaitable[Any]]) -> bool:
        """Repeat until it succeeds; False when it met that the collection is gone."""
        while True:
            self._score.calls[kind] += 1
            self._site.trace.note(self._site.name, kind, self._name)
            try:
                async with asyncio.timeout(CALL_S):
                    await call()
                self._score.acknowledged[kind] += 1
                return True
            except CollectionNotFoundError:
                return False
            except (ElanusError, TimeoutError) as error:
                self._site.trace.note(self._site.name, "refused", f"{kind}: {type(error).__name__}: {error}")
                if not isinstance(error, ElanusError) or error.action is Action.UNKNOWN:
                    self._unknown.add(kind)
                elif error.action is Action.FIX_REQUEST and self._unknown & LATE:
                    raise NoAnswer from None
                elif error.action in (Action.CORRUPTED, Action.FIX_REQUEST):
                    raise WrongAnswer(f"{kind} {self._name}: {type(error).__name__}: {error.message}") from error
                await self._site.sleep(0.1 + self._chance.random() * 0.3)

    async def run(self, turns: int) -> None:
        """So many collections, each made, filled, read and dropped."""
        for turn in range(turns):
            self._name, self._unknown = f"scratch{turn}", set()
            try:
                await self._turn(turn)
            except NoAnswer:
                self._site.trace.note(self._site.name, "gives up", self._name)
            await self._site.sleep(self._chance.random() * 0.3)

    async def _turn(self, turn: int) -> None:
        client = Client(self._site, self._name, FIELDS)
        await self._surely("create", partial(client.create, shard_count=1 + self._chance.randint(0, 1)))
        keys = list(range(turn * 10, turn * 10 + self._chance.randint(1, 5)))
        rows = [{"id": key, "vector": [1.0, float(key)], "value": turn, "other": 0} for key in keys]
        await self._surely("upsert", partial(client.upsert, rows))
        await self._compare(client, keys)
        await self._partition(client, keys)
        await self._surely("drop", client.drop)
        if not self._unknown & LATE:
            await self._gone()

    async def _partition(self, client: Client, keys: list[int]) -> None:
        await self._surely("create_partition", partial(client.create_partition, "p"))
        row = {"id": 999, "vector": [1.0, 1.0], "value": 1, "other": 0}
        await self._surely("upsert", partial(client.upsert, [row], partition="p"))
        await self._compare(client, [*keys, 999])
        await self._surely("release", client.release)
        await self._surely("drop_partition", partial(client.drop_partition, "p"))
        await self._surely("load", client.load)
        await self._compare(client, keys)

    async def _compare(self, client: Client, keys: list[int]) -> None:
        found: list[int] = []

        async def ask() -> None:
            found[:] = await client.ids()

        await self._surely("query", ask)
        if found != keys:
            raise WrongAnswer(f"T1: {self._name} holds {found} instead of {keys}")

    async def _gone(self) -> None:
        listed: list[str] = []

        async def ask() -> None:
            listed[:] = [one.name for one in await self._site.proxy.list_collections(ListCollectionsRequest())]

        await self._surely("list", ask)
        if self._name in listed:
            raise WrongAnswer(f"T8: {self._name} was dropped and is listed")
