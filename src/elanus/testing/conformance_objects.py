"""What every ObjectStore must do: cases that a test runs on each implementation, and a dict as twin of histories.

    @pytest.mark.parametrize("case", CASES, ids=case_name)
    def test_conforms(case): asyncio.run(case(my_empty_store))

A case gets an empty store and raises AssertionError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

from elanus.base.errors import InvariantError
from elanus.base.limits import MIB
from elanus.objects.probe import probe
from elanus.objects.store import Buffer, ObjectExistsError, ObjectInfo, ObjectNotFoundError, ObjectStore
from elanus.testing.cases import raises

Case = Callable[[ObjectStore], Awaitable[None]]


async def keeps_bytes(store: ObjectStore) -> None:
    for key, data in (("a", b""), ("b.c", b"\x00\xff"), ("d/e/f.parquet", bytes(range(256)) * 5000)):
        await store.put(key, data)
        assert await store.get(key) == data
        assert await store.stat(key) == ObjectInfo(key, len(data))
        mapped = await store.map(key)
        assert mapped == data and mapped.readonly


async def joins_buffers(store: ObjectStore) -> None:
    parts: list[Buffer] = [b"one", bytearray(b"two"), memoryview(b""), memoryview(b"three!!!").cast("H")]
    await store.put("joined", parts)
    assert await store.get("joined") == b"onetwothree!!!"
    await store.put("joined", [b"onetwo", b"three!!!"])
    await store.put("none", [])
    assert await store.get("none") == b""
    large = [bytes([number % 251]) * 70_000 for number in range(300)]
    await store.put("large", large)
    assert await store.get("large") == b"".join(large)


async def reads_ranges(store: ObjectStore) -> None:
    await store.put("k", b"0123456789")
    for offset, length, expected in (
        (0, 10, b"0123456789"),
        (3, 4, b"3456"),
        (8, 9, b"89"),
        (10, 1, b""),
        (99, 1, b""),
    ):
        assert await store.get_range("k", offset, length) == expected
    assert await store.get_range("k", 4, 0) == b""


async def missing_is_told(store: ObjectStore) -> None:
    await store.put("a/b", b"")
    for key in ("none", "a", "a/c", "a/b/c"):
        await raises(ObjectNotFoundError, store.get(key))
        await raises(ObjectNotFoundError, store.get_range(key, 0, 1))
        await raises(ObjectNotFoundError, store.map(key))
        assert await store.stat(key) is None
        await store.delete(key)
    assert await store.list("") == ["a/b"]


async def a_name_is_taken_once(store: ObjectStore) -> None:
    await store.put("a", b"first")
    await store.put("a", b"first")
    for other in (b"", b"First", b"firs", b"first!", [b"fir", b"ts"]):
        await raises(ObjectExistsError, store.put("a", other))
        assert await store.get("a") == b"first"
    await store.put("a", [b"fir", b"st"])
    await store.delete("a")
    assert await store.stat("a") is None
    await store.put("a", b"second")
    assert await store.get("a") == b"second"


async def names_nest(store: ObjectStore) -> None:
    """An object may be named as a folder is, and names that look alike stay apart."""
    names = ["a", "a.b", "a/b", "a/b.c", "a/b/c", "a-b/c", "a0", "_", "-", "Z/z", "a/object", "x.y.z"]
    for name in names:
        await store.put(name, name.encode())
    assert await store.list("") == sorted(names)
    for name in names:
        assert await store.get(name) == name.encode()


async def malformed_names_are_faults(store: ObjectStore) -> None:
    for key in ("", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".a", "a/.b", "a.b/c", "é", "a b", "x" * 2000):
        for call in (store.put(key, b""), store.get(key), store.delete(key), store.stat(key), store.map(key)):
            await raises(InvariantError, call)
    assert await store.list("") == []


async def lists_by_prefix(store: ObjectStore) -> None:
    names = ["p/1", "p/10", "p/2", "p/q/1", "pp/1", "q", "p/q.r"]
    for name in names:
        await store.put(name, b"")
    for prefix in (
        "",
        "p",
        "p/",
        "p/1",
        "p/q",
        "p/q/",
        "p/q.",
        "q",
        "r",
        "p/1/",
        "p/q/1",
        "q/",
        "p.x/",
        "no/such/folder/",
    ):
        assert await store.list(prefix) == sorted(name for name in names if name.startswith(prefix)), prefix
    await store.delete("p/10")
    assert await store.list("p/1") == ["p/1"]


async def mappings_outlive_names(store: ObjectStore) -> None:
    data = bytes(range(256)) * 4096
    await store.put("m", data)
    mapped = await store.map("m")
    await store.delete("m")
    await store.put("m", b"other")
    assert mapped == data


async def local_files_hold_the_object(store: ObjectStore) -> None:
    await store.put("a/b.bin", b"content")
    path = store.local_path("a/b.bin")
    if path is not None:
        assert await asyncio.to_thread(Path(path).read_bytes) == b"content"


async def one_of_eight_writers_wins(store: ObjectStore) -> None:
    for number in range(3):
        await probe(store, f"probe/{number}")
    assert await store.list("") == []


async def equal_writers_all_win(store: ObjectStore) -> None:
    data = bytes(2 * MIB)
    await asyncio.gather(*(store.put("same", data) for _ in range(4)))
    assert await store.get("same") == data


async def readers_see_whole_objects(store: ObjectStore) -> None:
    data = bytes(range(256)) * 8192

    async def look() -> None:
        for _ in range(100_000):
            if await store.list("whole"):
                break
            await asyncio.sleep(0)
        assert await store.stat("whole") == ObjectInfo("whole", len(data))
        assert await store.get("whole") == data
        assert await store.list("") == ["whole"]

    looking = [asyncio.ensure_future(look()) for _ in range(2)]
    await asyncio.sleep(0)
    await store.put("whole", data)
    await asyncio.gather(*looking)


CASES: Final[tuple[Case, ...]] = (
    keeps_bytes,
    joins_buffers,
    reads_ranges,
    missing_is_told,
    a_name_is_taken_once,
    names_nest,
    malformed_names_are_faults,
    lists_by_prefix,
    mappings_outlive_names,
    local_files_hold_the_object,
    one_of_eight_writers_wins,
    equal_writers_all_win,
    readers_see_whole_objects,
)


# --- random histories -----------------------------------------------------------------------------------------------
_KEYS: Final = st.sampled_from(["a", "a/b", "a/b.c", "a/c/d", "b", "b.x"])
_CONTENTS: Final = st.sampled_from([b"", b"x", b"y", b"z" * 5000])


@dataclass(frozen=True)
class Step:
    """Put `content` under `key`, or delete the key when it is None."""

    key: str
    content: bytes | None


def histories() -> st.SearchStrategy[list[Step]]:
    """Random sequences of puts and deletes on few keys."""
    return st.lists(st.builds(Step, _KEYS, st.one_of(_CONTENTS, st.none())), max_size=20)


async def check_history(store: ObjectStore, history: Sequence[Step]) -> dict[str, bytes]:
    """Play the history on an empty store and on a dict; they agree after every step. The dict."""
    twin: dict[str, bytes] = {}
    for step in history:
        if step.content is None:
            await store.delete(step.key)
            twin.pop(step.key, None)
        elif twin.get(step.key, step.content) == step.content:
            await store.put(step.key, step.content)
            twin[step.key] = step.content
        else:
            await raises(ObjectExistsError, store.put(step.key, step.content))
        assert await contents(store) == twin
        assert await store.list("a/") == sorted(key for key in twin if key.startswith("a/"))
    return twin


async def contents(store: ObjectStore) -> dict[str, bytes]:
    """Everything in the store."""
    found = {}
    for key in await store.list(""):
        found[key] = await store.get(key)
        assert await store.stat(key) == ObjectInfo(key, len(found[key]))
    return found
