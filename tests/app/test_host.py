"""What a server process does when something under it dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys

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


def test_importing_every_role_loads_no_heavy_library() -> None:
    """pandas comes with the first conversion of an Arrow array, so no module may convert one as it is loaded."""
    code = (
        "import sys, elanus.app.standalone, elanus.app.node;"
        "print([name for name in ('pandas', 'pymilvus', 'numba', 'tantivy', 'shapely') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"
