"""What a server process does when something under it dies."""

from __future__ import annotations

import asyncio

import pytest

from elanus.app.host import Host
from elanus.app.settings import Settings
from elanus.base.errors import StorageError


def test_a_start_that_waits_for_a_dead_store_ends() -> None:
    """Found by the simulator: the object store's sync failed while the log was being opened; the start waited for a
    flush that could not come, for ever."""

    async def main() -> None:
        host = Host(Settings())
        opened = asyncio.Event()

        async def start() -> None:
            opened.set()
            await asyncio.get_running_loop().create_future()

        starting = asyncio.ensure_future(host.unless_failed(start()))
        await opened.wait()
        host.on_failure("object store", StorageError("sync failed"))
        with pytest.raises(StorageError, match="sync failed"):
            await starting
        assert host.failure() == "sync failed"
        await host.close()

    asyncio.run(asyncio.wait_for(main(), 30))
