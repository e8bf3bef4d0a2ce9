"""The remote ObjectStores do what the port says, on real servers: radosgw and moto (S3), Azurite (Azure Blob)."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.app.stores import StoreUrlError, open_objects
from elanus.base.doors import Doors
from elanus.base.errors import StorageError
from elanus.base.real import real_doors
from elanus.model.columns import Column
from elanus.model.reads import Found
from elanus.nodes.codec import encode
from elanus.nodes.spill import Spills, collect_expired
from elanus.objects import paths
from elanus.objects.memory import MemoryObjectStore
from elanus.objects.probe import UnsafeStoreError, probe
from elanus.objects.remote import Location, Patience, open_remote
from elanus.objects.store import Data, ObjectExistsError, ObjectStore
from elanus.testing import clock
from elanus.testing.cases import case_name
from elanus.testing.conformance_objects import CASES, Case, Step, check_history, histories
from services import BUCKET, Radosgw, Service, azure_environment, s3_environment, start_azurite, start_moto

pytest.importorskip("obstore", reason="needs obstore: pip install 'elanus[cluster]'")
pytestmark = pytest.mark.slow

STARTS: dict[str, Callable[[Path], Service]] = {"moto": start_moto, "radosgw": Radosgw, "azurite": start_azurite}
prefixes = (f"test/number-{number}" for number in itertools.count())


@pytest.fixture(scope="module", params=["moto", "azurite", pytest.param("radosgw", marks=pytest.mark.drill)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = STARTS[request.param](tmp_path_factory.mktemp(request.param))
    yield service
    service.kill()


@pytest.fixture
def url(server: Service, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix on the server, reached through the environment."""
    azure = request.node.callspec.params["server"] == "azurite"
    for name, value in (azure_environment if azure else s3_environment)(server.port).items():
        monkeypatch.setenv(name, value)
    return f"{'az' if azure else 's3'}://{BUCKET}/{next(prefixes)}"


def play(scenario: Callable[[Doors], Awaitable[None]]) -> None:
    async def main() -> None:
        failures: list[object] = []
        doors = real_doors(lambda *failure: failures.append(failure))
        try:
            await asyncio.wait_for(scenario(doors), 60)
        finally:
            await doors.stop_tasks()
            doors.close()
        assert not failures, failures

    asyncio.run(main())


def environment() -> dict[str, str]:
    return dict(os.environ)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_case(url: str, case: Case) -> None:
    async def scenario(doors: Doors) -> None:
        await case(await open_objects(doors, url, environment()))

    play(scenario)


def test_histories(url: str) -> None:
    @settings(max_examples=8)
    @given(history=histories(), number=st.integers())
    def check(history: list[Step], number: int) -> None:
        async def scenario(doors: Doors) -> None:
            await check_history(await open_objects(doors, f"{url}/{next(prefixes)}", environment()), history)

        play(scenario)

    check()


def test_a_server_that_is_stopped_for_a_while_loses_no_put(url: str, server: Service) -> None:
    """Paused with requests in flight: each is stored once, and says so."""

    async def scenario(doors: Doors) -> None:
        store = await open_objects(doors, url, environment())
        calls = [asyncio.ensure_future(store.put(f"a/{number}", bytes([number]) * 100)) for number in range(40)]
        await asyncio.sleep(0.002)
        server.pause()
        late = [asyncio.ensure_future(store.put(f"b/{number}", bytes([number]) * 100)) for number in range(10)]
        await asyncio.sleep(6)
        server.resume()
        await asyncio.gather(*calls, *late)
        assert len(await store.list("")) == 50
        with pytest.raises(ObjectExistsError):
            await store.put("a/1", b"other")

    play(scenario)


def test_a_missing_bucket_is_told_at_once(url: str) -> None:
    async def scenario(doors: Doors) -> None:
        with pytest.raises(StorageError):
            await open_objects(doors, url.replace(BUCKET, "no-such-bucket"), environment())

    play(scenario)


# --- without a server -----------------------------------------------------------------------------------------------
def test_a_silent_endpoint_is_given_up() -> None:
    async def scenario(doors: Doors) -> None:
        options: dict[str, object] = {"endpoint": "http://127.0.0.1:1", "region": "us-east-1"}
        options |= {"access_key_id": "a", "secret_access_key": "b", "client": {"allow_http": True}}
        location = Location(scheme="s3", bucket="b", options=options)
        store = await open_remote(doors, location, Patience(attempt_s=0.5, calls_s=1))
        for call in (store.get("a"), store.put("a", b""), store.list(""), store.stat("a"), store.delete("a")):
            with pytest.raises(StorageError):
                await call

    play(scenario)


@pytest.mark.parametrize("wrong", ["", "nonsense", "s3://", "ftp://a/b", "file://host/x", "file://"])
def test_a_url_that_names_no_store_is_refused(wrong: str) -> None:
    async def scenario(doors: Doors) -> None:
        with pytest.raises(StoreUrlError):
            await open_objects(doors, wrong, {})

    play(scenario)


class Overwriting(MemoryObjectStore):
    """A store that ignores the condition of a conditional write."""

    async def put(self, key: str, data: Data) -> None:
        await self.delete(key)
        await super().put(key, data)


class LookingFirst(MemoryObjectStore):
    """A gateway that looks whether the name is free, and writes then."""

    async def put(self, key: str, data: Data) -> None:
        if await self.stat(key) is not None:
            raise ObjectExistsError(key)
        await asyncio.sleep(0)
        await self.delete(key)
        await super().put(key, data)


@pytest.mark.parametrize("kind", [Overwriting, LookingFirst])
def test_a_store_whose_names_are_taken_twice_is_refused(kind: type[ObjectStore]) -> None:
    async def scenario(doors: Doors) -> None:
        with pytest.raises(UnsafeStoreError):
            await probe(kind(), "probe/x")

    clock.run(scenario)


def test_results_are_spilled_to_it_and_expire(url: str) -> None:
    async def scenario(doors: Doors) -> None:
        store = await open_objects(doors, url, os.environ)
        spills = Spills(doors, store, reply_bytes_max=1024, ttl_s=0.5)
        found = Found(row_count=100_000, keys=Column(np.arange(100_000)), read_timestamp=7)
        received = await spills.received(await spills.sent(found))
        assert encode(received) == encode(found)
        lost = await spills.sent(found)
        assert lost.spilled is not None
        await doors.clock.sleep(0.6)
        await collect_expired(doors, store)
        assert await store.list(paths.SPILL_PREFIX) == []

    play(scenario)
