"""The network in memory keeps the port's promises."""

from __future__ import annotations

import asyncio

import pytest

from elanus.base.doors import Doors
from elanus.base.errors import ReplyLostError, UnavailableError
from elanus.base.tasks import LoopTasks
from elanus.testing.cases import case_name
from elanus.testing.clock import Failures, run
from elanus.testing.conformance_transport import CASES, Case, Desk, Postman, raised
from elanus.testing.network import MemoryTransport, Network


class _Members:
    """Every member with tasks of its own."""

    def __init__(self, codec: bool) -> None:
        self.network = Network()
        self._codec = codec
        self.tasks: list[LoopTasks] = []

    def join(self) -> MemoryTransport:
        self.tasks.append(LoopTasks(Failures()))
        return self.network.transport(self.tasks[-1], f"member {len(self.tasks)}", codec=self._codec)


@pytest.mark.parametrize("codec", [False, True], ids=["direct", "codec"])
@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_conforms(case: Case, codec: bool) -> None:
    async def main(_doors: Doors) -> None:
        await case(_Members(codec))

    run(main)


@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_a_call_whose_process_dies_or_is_cut_off_is_of_unknown_outcome(fault: str) -> None:
    async def main(doors: Doors) -> None:
        members = _Members(codec=True)
        desk, server, client = Desk(), members.join(), members.join()
        postman = client.connect(await server.serve({Postman: desk}), Postman)
        calling = asyncio.ensure_future(raised(postman.wait(5)))
        await doors.clock.sleep(1)
        if fault == "killed":
            await members.tasks[0].cancel_all()
        else:
            members.network.cut("member 1", "member 2")
        assert isinstance(await calling, ReplyLostError)
        if fault == "cut":
            assert isinstance(await raised(postman.wait(5)), UnavailableError)
            members.network.mend("member 1", "member 2")
            assert await postman.add(1) == 2

    run(main)
