"""A byte is flipped, cut off or a file taken away in a closed store: the server says which file, or answers rightly.

For every file of the store and several places in it, a server is started on a damaged copy. It must refuse to start or
stop while loading, naming the file; or cut a torn tail and report it; or, where the place is not needed any more
(covered log, free pages, an older manifest), give exactly the answers from before. A wrong answer, a hang, or an error
that names nothing is a fault. What a torn tail may cost is only what was never acknowledged: bytes behind the last
synced frame.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from servers import DrillServer, StartRefusedError

SEED = 20261123
DIM = 8
SEALED, LOGGED = 1500, 40
SETTLE_S_MAX = 15.0
NAMED_S = 4.0
"""How long a server that has told of the damage is still asked for an answer."""
FLAGS = ("--set", "compaction.enabled=false", "--log-level", "info")


def vectors() -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal((SEALED + LOGGED, DIM)).astype(np.float32)


@dataclass(frozen=True)
class Store:
    """A closed store and what it answered."""

    folder: Path
    answers: Any


def make(folder: Path) -> Store:
    """Sealed and indexed rows, a file of deletes, rows and deletes in the log only, a second collection, an alias."""
    server = DrillServer(folder, *FLAGS).wait_ready()
    client = MilvusClient(server.uri)
    schema = client.create_schema(auto_id=False)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    params = client.prepare_index_params()
    params.add_index("vector", index_type="HNSW", metric_type="L2", params={"M": 8, "efConstruction": 64})
    client.create_collection("kept", schema=schema, index_params=params)
    data = [{"pk": at, "text": f"row {at}", "vector": row} for at, row in enumerate(vectors())]
    client.insert("kept", data[:SEALED])
    client.flush("kept")
    while client.describe_index("kept", "vector")["pending_index_rows"]:
        time.sleep(0.1)
    client.delete("kept", ids=list(range(100)))
    client.flush("kept")
    client.insert("kept", data[SEALED:])
    client.delete("kept", ids=list(range(100, 120)))
    client.create_collection("empty", dimension=4)
    client.create_alias("kept", "also")
    answers = ask(client)
    client.close()
    assert server.stop() == 0
    return Store(folder, answers)


def ask(client: MilvusClient) -> Any:
    """Everything that is compared: rows with their cells, count, searches, names."""
    strong = {"consistency_level": "Strong", "timeout": 10}
    found = client.query("also", "pk >= 0", output_fields=["*"], limit=16384, **strong)
    rows = sorted((row["pk"], row["text"], tuple(row["vector"])) for row in found)
    count = client.query("kept", "", output_fields=["count(*)"], **strong)[0]["count(*)"]
    hits = client.search("kept", list(vectors()[::300]), limit=3, search_params={"params": {"ef": 100}}, **strong)
    return (
        rows,
        count,
        [[(hit["pk"], round(hit["distance"], 3)) for hit in one] for one in hits],
        sorted(client.list_collections()),
    )


def outcome(folder: Path, store: Store, name: str) -> tuple[str, str]:
    """What a server makes of the folder in which that file is damaged: one of refused, stopped, error, right, wrong;
    and what it said."""
    server = DrillServer(folder, *FLAGS)
    try:
        try:
            server.wait_ready()
        except StartRefusedError as error:
            return "refused", str(error.args[1])
        return settled(server, store, name)
    finally:
        server.kill()


def settled(server: DrillServer, store: Store, name: str) -> tuple[str, str]:
    until = time.monotonic() + SETTLE_S_MAX
    last = ""
    client = None
    while time.monotonic() < until:
        if not server.is_alive:
            return "stopped", server.errors()
        try:
            client = client or MilvusClient(server.uri, timeout=5, dedicated=True)
            answers = ask(client)
        except Exception as error:
            last = str(error)
            if tells_of_damage(last + server.errors(), name):
                until = min(until, time.monotonic() + NAMED_S)
            time.sleep(0.1)
            continue
        finally:
            if client is not None and not server.is_alive:
                with contextlib.suppress(Exception):
                    client.close()
        return ("right" if answers == store.answers else "wrong"), server.errors()
    return "error", last + server.errors()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x5A
    path.write_bytes(data)


def damages(path: Path, dice: random.Random) -> dict[str, Callable[[Path], object]]:
    """Ways to damage a file, by name."""
    size = path.stat().st_size
    ways: dict[str, Callable[[Path], object]] = {"gone": lambda file: file.unlink()}
    if size:
        places = {0, size // 2, size - 1, *(dice.randrange(size) for _ in range(3))}
        for at in sorted(places):
            ways[f"flip at {at}"] = lambda file, at=at: flip(file, at)
        cut = dice.randrange(size)
        ways[f"cut at {cut}"] = lambda file: file.write_bytes(file.read_bytes()[:cut])
        ways["noughts at the end"] = lambda file: file.write_bytes(
            file.read_bytes()[: size // 2] + bytes(size - size // 2)
        )
    return ways


KINDS = {
    "log": r"^wal/",
    "manifest": r"manifests/",
    "scalars": r"scalars",
    "vectors": r"vector-",
    "index": r"index-",
    "deletes": r"deletes/",
    "snapshot": r"catalog/",
    "catalog": r"^meta",
    "identity": r"^objects/cluster\.object$",
}


def kind_of(name: str) -> str:
    """What a file of the store is."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), name)


def names_the_file(said: str, name: str) -> bool:
    """Whether the text names the file, in full or by its last part; of a log, its folder, when what is missing may
    have stood in any of its files."""
    if kind_of(name) == "log" and f"/{Path(name).parent}: " in said:
        return True
    stem = Path(name).name.removesuffix(".object")
    return stem in said or name in said or (kind_of(name) == "catalog" and "meta.db" in said)


def tells_of_damage(said: str, name: str) -> bool:
    """Whether the text names the file and says what is the matter with it."""
    words = ("damaged", "is gone", "not found", "bytes instead")
    return names_the_file(said, name) and any(word in said for word in words)


def try_damage(store: Store, name: str, way: str, damage: Callable[[Path], object], copy: Path) -> tuple[str, str]:
    """Damage a copy and see; returns what came of it and, if that is a fault, why."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store.folder, copy)
    damage(copy / name)
    came, said = outcome(copy, store, name)
    case = f"{name}, {way}"
    if came in ("refused", "stopped", "error") and not names_the_file(said, name):
        return came, f"{case}: {came}, but the file is not named: {said[-600:]}"
    if came == "error" and not tells_of_damage(said, name):
        return came, f"{case}: neither answers nor ends: {said[-600:]}"
    if came == "wrong" and not excused(name, said):
        return came, f"{case}: WRONG answers; {said[-600:]}"
    return came, ""


def excused(name: str, said: str) -> bool:
    """A tail behind the last synced frame may be cut, if that is reported."""
    return kind_of(name) == "log" and "torn_tail" in said


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file())


def drill(store: Store, cases: list[tuple[str, str, Callable[[Path], object]]], copy: Path) -> None:
    table: dict[str, Counter[str]] = {}
    faults = []
    for name, way, damage in cases:
        came, fault = try_damage(store, name, way, damage, copy)
        table.setdefault(kind_of(name), Counter())[came] += 1
        faults += [fault] if fault else []
    print(f"\ndamage drill: {len(cases)} cases", {kind: dict(came) for kind, came in table.items()})
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:12])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("damage") / "store")


@pytest.mark.slow
def test_one_flip_in_each_kind_of_file(store: Store, tmp_path: Path) -> None:
    by_kind: dict[str, str] = {}
    for name in files(store):
        newest = by_kind.get(kind_of(name))
        if newest is None or (store.folder / name).stat().st_size > (store.folder / newest).stat().st_size:
            by_kind[kind_of(name)] = name
    cases = [
        (name, "flip in the middle", lambda file: flip(file, file.stat().st_size // 2))
        for kind, name in by_kind.items()
        if kind in ("log", "manifest", "scalars", "vectors", "index", "deletes")
    ]
    drill(store, cases, tmp_path / "copy")


@pytest.mark.drill
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_in_several_ways(store: Store, tmp_path: Path, kind: str) -> None:
    dice = random.Random(SEED)
    names = [name for name in files(store) if kind_of(name) == kind]
    # Of the snapshots, which nobody reads while the catalog is there, the newest stands for all.
    names = names[-1:] if kind == "snapshot" else names
    cases = [(name, way, damage) for name in names for way, damage in damages(store.folder / name, dice).items()]
    assert cases
    drill(store, cases, tmp_path / "copy")


@pytest.mark.slow
def test_every_file_is_of_a_kind(store: Store) -> None:
    assert {kind_of(name) for name in files(store)} == {*KINDS, "LOCK"}


@pytest.mark.slow
def test_the_store_itself_is_right(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.folder, copy)
    (copy / "LOCK").write_bytes(b"garbage")
    assert outcome(copy, store, "LOCK")[0] == "right"


@pytest.mark.slow
def test_a_second_server_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.folder, copy)
    first = DrillServer(copy, *FLAGS).wait_ready()
    try:
        with pytest.raises(StartRefusedError) as folder_taken:
            DrillServer(copy, *FLAGS).wait_ready()
        assert str(copy) in folder_taken.value.args[1] and str(first.process.pid) in folder_taken.value.args[1]
        port = first.address.rpartition(":")[2]
        with pytest.raises(StartRefusedError) as port_taken:
            DrillServer(tmp_path / "other", "--port", port).wait_ready()
        assert port in port_taken.value.args[1]
        client = MilvusClient(first.uri)
        assert ask(client) == store.answers
        client.close()
    finally:
        first.kill()
