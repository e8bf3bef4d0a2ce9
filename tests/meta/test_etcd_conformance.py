"""The MetaStore on a real etcd does what the port says, also while etcd is stopped, paused, restarted or compacted."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError, OutcomeUnknownError, StorageError, UnavailableError
from elanus.base.real import real_doors
from elanus.meta.etcd import EtcdMetaStore, open_etcd
from elanus.meta.etcd_client import Options
from elanus.meta.store import CompactedError, Delete, Put, absent
from elanus.testing.cases import case_name, raises
from elanus.testing.conformance_meta import CASES, Case, Step, check_history, histories, keys, put, take
from services import Service, start_etcd

pytestmark = pytest.mark.slow

SECOND_S = 0.2
"""etcd's shortest lease is 2 s: ten seconds of the cases."""

prefixes = (f"test-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = start_etcd(tmp_path_factory.mktemp("etcd"))
    yield service
    service.kill()


@dataclass
class Harness:
    """A store on etcd, whose leases take real time."""

    store: EtcdMetaStore
    doors: Doors
    second_s: float = SECOND_S

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds * SECOND_S)


def play(options: Options, scenario: Callable[[Harness], Awaitable[None]]) -> None:
    """Run the scenario on a store; tasks that die fail it."""

    async def main() -> None:
        failures: list[str] = []
        doors = real_doors(lambda name, error: failures.append(f"{name}: {error!r}"))
        store = await open_etcd(doors, options)
        try:
            await asyncio.wait_for(scenario(Harness(store, doors)), 60)
        finally:
            await store.close()
            await doors.stop_tasks()
            doors.close()
        assert not failures, failures

    asyncio.run(main())


def fresh(service: Service) -> Options:
    """A prefix that nobody has used."""
    return Options(endpoints=(f"127.0.0.1:{service.port}",), prefix=next(prefixes))


def etcdctl(service: Service, *words: str) -> None:
    """etcd's own client, for what ours does not do."""
    program = shutil.which("etcdctl")
    if program is None:
        pytest.skip("needs etcdctl: apt-get install etcd-client")
    environment = {"ETCDCTL_API": "3"}
    subprocess.run(
        [program, f"--endpoints=127.0.0.1:{service.port}", *words], check=True, capture_output=True, env=environment
    )


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_case(etcd: Service, case: Case) -> None:
    play(fresh(etcd), case)


@settings(max_examples=20)
@given(history=histories())
def test_history(etcd: Service, history: list[Step]) -> None:
    async def scenario(harness: Harness) -> None:
        await check_history(harness.store, history)

    play(fresh(etcd), scenario)


def test_prefixes_are_strangers(etcd: Service) -> None:
    async def write(harness: Harness) -> None:
        await put(harness.store, "a", b"1")

    async def look(harness: Harness) -> None:
        assert await keys(harness.store) == []

    play(fresh(etcd), write)
    play(fresh(etcd), look)


def test_large_ranges_come_in_pages(etcd: Service) -> None:
    async def scenario(harness: Harness) -> None:
        names = [f"{number:04}" for number in range(700)]
        for start in range(0, 700, 100):
            await harness.store.transact((), [Put(name, b"x" * 100) for name in names[start : start + 100]])
        assert await keys(harness.store) == names

    play(fresh(etcd), scenario)


def test_it_starts_no_sooner_than_etcd(tmp_path: Path) -> None:
    options = Options(endpoints=("127.0.0.1:1",), prefix="none")
    with pytest.raises(UnavailableError):
        play(options, lambda harness: asyncio.sleep(0))


# --- trouble --------------------------------------------------------------------------------------------------------
@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Service]:
    service = start_etcd(tmp_path)
    yield service
    service.kill()


async def count_up(store: EtcdMetaStore, told: list[tuple[str, str]], stop: asyncio.Event) -> None:
    """Create numbered keys, each once, and note what the store said of each."""
    number = 0
    while not stop.is_set():
        key = f"n/{number:05}"
        number += 1
        try:
            result = await store.transact((absent(key),), (Put(key, b"x"),))
            told.append((key, "yes" if result.succeeded else "no"))
        except OutcomeUnknownError:
            told.append((key, "unknown"))
        except ElanusError:
            told.append((key, "refused"))


async def follow(store: EtcdMetaStore, seen: list[str], after: int) -> None:
    async for batch in store.watch("n/", after):
        seen.extend(event.key for event in batch.events)
        if "n/z" in seen:
            break


@pytest.mark.parametrize("trouble", ["killed", "paused"])
def test_answers_are_true_and_watches_whole_across_an_outage(own_etcd: Service, trouble: str) -> None:
    async def scenario(harness: Harness) -> None:
        store, seen, told = harness.store, list[str](), list[tuple[str, str]]()
        stop = asyncio.Event()
        after = (await store.snapshot("")).revision
        watching = asyncio.ensure_future(follow(store, seen, after))
        writers = [asyncio.ensure_future(count_up(store, told, stop))]
        await asyncio.sleep(0.4)
        own_etcd.kill() if trouble == "killed" else own_etcd.pause()
        await asyncio.sleep(3)
        await asyncio.to_thread(own_etcd.start_again if trouble == "killed" else own_etcd.resume)
        await asyncio.sleep(2)
        stop.set()
        await asyncio.gather(*writers)
        stored = set(await keys(store, "n/"))
        for key, answer in told:
            if answer != "unknown":
                assert (key in stored) == (answer == "yes"), (key, answer)
        assert sum(answer == "yes" for _, answer in told) > 100
        assert sum(answer == "yes" for _, answer in told[-20:]) == 20, "it writes again"
        await put(store, "n/z")
        await watching
        assert seen == [*sorted(stored), "n/z"]

    play(Options(endpoints=(f"127.0.0.1:{own_etcd.port}",), prefix="p"), scenario)


def test_a_lost_reply_is_read_back(own_etcd: Service) -> None:
    """etcd is paused with the request in its socket: it executes it later, once, and the caller learns the truth."""

    async def scenario(harness: Harness) -> None:
        store = harness.store
        await put(store, "warm")
        own_etcd.pause()
        call = asyncio.ensure_future(store.transact((absent("once"),), (Put("once", b"1"),)))
        await asyncio.sleep(3)
        own_etcd.resume()
        result = await call
        item = await store.get("once")
        assert result.succeeded and item is not None
        assert item.create_revision == item.mod_revision == result.revision

    play(Options(endpoints=(f"127.0.0.1:{own_etcd.port}",), prefix="p"), scenario)


def test_a_cancelled_caller_leaves_a_receipt_that_the_next_one_corrects(etcd: Service) -> None:
    async def scenario(harness: Harness) -> None:
        store = harness.store
        for number in range(40):
            call = asyncio.ensure_future(store.transact((), (Put(f"c/{number:02}", b""),)))
            for _ in range(number % 7):
                await asyncio.sleep(0.0002)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert (await store.transact((absent("never"),), (Put("next", b"%d" % number),))).succeeded
        assert not (await store.transact((absent("next"),), (Put("next", b""),))).succeeded

    play(fresh(etcd), scenario)


def test_watching_goes_on_over_a_compaction_and_says_when_it_cannot(etcd: Service) -> None:
    async def scenario(harness: Harness) -> None:
        store = harness.store
        start = await put(store, "w/0")
        changes = store.watch("w/", start)
        for number in range(1, 4):
            revision = await put(store, f"w/{number}")
        assert [batch.events[0].key for batch in await take(changes, 3)] == ["w/1", "w/2", "w/3"]
        await asyncio.to_thread(etcdctl, etcd, "compact", str(revision))
        await put(store, "w/4")
        assert (await anext(changes)).events[0].key == "w/4"
        await raises(CompactedError, take(aiter(store.watch("w/", start)), 1))
        taken = await store.snapshot("w/")
        last = await put(store, "w/5")
        assert (await anext(aiter(store.watch("w/", taken.revision)))).revision == last

    play(fresh(etcd), scenario)


def test_a_lease_lives_through_a_short_outage(own_etcd: Service) -> None:
    async def scenario(harness: Harness) -> None:
        store = harness.store
        lease = await store.grant(6)
        await put(store, "l", b"", lease)
        own_etcd.pause()
        await asyncio.sleep(2)
        own_etcd.resume()
        await store.keep_alive(lease)
        assert await keys(store, "l") == ["l"]

    play(Options(endpoints=(f"127.0.0.1:{own_etcd.port}",), prefix="p"), scenario)


def test_two_endpoints_one_dead(etcd: Service) -> None:
    async def scenario(harness: Harness) -> None:
        await put(harness.store, "a")
        await harness.store.transact((), (Delete("a"),))

    options = Options(endpoints=("127.0.0.1:1", f"127.0.0.1:{etcd.port}"), prefix=next(prefixes))
    play(options, scenario)


# --- who may --------------------------------------------------------------------------------------------------------
def test_user_and_password(own_etcd: Service) -> None:
    for words in (
        ("user", "add", "root:secret"),
        ("user", "grant-role", "root", "root"),
        ("auth", "enable"),
    ):
        etcdctl(own_etcd, *words)
    endpoint = f"127.0.0.1:{own_etcd.port}"

    async def scenario(harness: Harness) -> None:
        await put(harness.store, "a", b"1")
        lease = await harness.store.grant(5)
        await harness.store.keep_alive(lease)
        changes = harness.store.watch("", 0)
        assert (await anext(changes)).events[0].key == "a"
        await asyncio.to_thread(own_etcd.kill)
        await asyncio.to_thread(own_etcd.start_again)
        await put(harness.store, "b")
        assert (await anext(changes)).events[0].key == "b"

    play(Options(endpoints=(endpoint,), prefix="p", user="root", password="secret"), scenario)
    for user, password in (("root", "wrong"), ("", "")):
        with pytest.raises(StorageError):
            play(Options(endpoints=(endpoint,), prefix="p", user=user, password=password), scenario)


def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    flags = ("--cert-file", str(tmp_path / "cert.pem"), "--key-file", str(tmp_path / "key.pem"))
    service = start_etcd(tmp_path, *flags, scheme="https")
    try:

        async def scenario(harness: Harness) -> None:
            await put(harness.store, "a", b"1")

        options = Options(
            endpoints=(f"127.0.0.1:{service.port}",),
            prefix="p",
            tls=True,
            authority=(tmp_path / "cert.pem").read_bytes(),
        )
        play(options, scenario)
    finally:
        service.kill()
