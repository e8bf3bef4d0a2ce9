"""The network in memory does what every transport must, with values encoded on the way and without."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from elanus.base.tasks import LoopTasks
from elanus.nodes.transport import Transport
from elanus.testing.cases import case_name
from elanus.testing.conformance_transport import CASES, Case, a_lost_reply_is_an_unknown_outcome
from elanus.testing.network import Network


class InMemory:
    """Members of one `Network`."""

    def __init__(self, codec: bool) -> None:
        self.network = Network()
        self.names: list[str] = []
        self._codec = codec
        self._tasks = LoopTasks(lambda name, error: None)

    def join(self) -> Transport:
        self.names.append(f"member {len(self.names)}")
        return self.network.transport(self._tasks, self.names[-1], codec=self._codec)

    def cut_all(self) -> None:
        for one, other in itertools.combinations(self.names, 2):
            self.network.cut(one, other)


@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("codec", [False, True], ids=["direct", "codec"])
def test_case(case: Case, codec: bool) -> None:
    asyncio.run(case(InMemory(codec)))


@pytest.mark.slow
@pytest.mark.parametrize("codec", [False, True], ids=["direct", "codec"])
def test_a_cut_loses_the_reply(codec: bool) -> None:
    async def scenario() -> None:
        network = InMemory(codec)
        await a_lost_reply_is_an_unknown_outcome(network, network.cut_all)

    asyncio.run(scenario())
