"""Loads and the memory there is, through the whole composition."""

from __future__ import annotations

from typing import Any

from node_calls import Client, refused, rows

from elanus.base.doors import Doors
from elanus.model.errors import MemoryLimitError
from elanus.nodes.query.node import QueryNode
from elanus.objects.store import ObjectStore
from elanus.search.execute import Execution
from elanus.testing.composition import Parts, World


class SmallNodes(Parts):
    """Query nodes with room for one of the collections below and a half."""

    def query(self, doors: Doors, objects: ObjectStore, execution: Execution) -> QueryNode:
        return QueryNode(doors, objects, execution, memory_bytes_max=30_000)


def test_a_load_that_memory_cannot_hold_is_refused_and_what_is_loaded_is_served_on(composed: Any) -> None:
    async def scenario(world: World) -> None:
        clients = [Client(world, name) for name in ("first", "second")]
        for client in clients:
            await client.create(load=False)
            await client.insert(rows(range(400)))
            await client.flush()
        first, second = clients
        await first.load()
        await refused(second.load(), MemoryLimitError, "memory limit exceeded[predict=")
        assert await first.count() == 400
        await first.insert(rows(range(400, 1200)))
        await first.flush()
        await world.settle()
        assert await first.count() == 1200
        await refused(second.load(), MemoryLimitError)
        await first.release()
        await second.load()
        assert await second.count() == 400

    composed(scenario, parts=SmallNodes())
