"""Names of objects, and reading what a manifest names."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, InvariantError
from elanus.base.limits import KIB
from elanus.model.channel import Position
from elanus.model.segment import FileRef
from elanus.objects import paths
from elanus.objects.checksums import checksum, map_verified, read_verified, write_file
from elanus.objects.memory import MemoryObjectStore
from elanus.objects.posix import open_posix
from elanus.objects.store import ObjectNotFoundError, check_key
from elanus.testing import clock

NUMBERS = st.integers(0, 2**40)
TOKENS = st.text("0123456789abcdef", min_size=16, max_size=16)
SHARDS = st.integers(0, 99).map(lambda number: f"elanus-dml_{number}_4711v{number % 3}")
POSITIONS = st.builds(Position, st.integers(0, 10**7), st.integers(0, 10**11), st.integers(0, 1000))


@given(collection=NUMBERS, shard=SHARDS, number=NUMBERS, writer=TOKENS, builder=TOKENS, through=POSITIONS)
def test_every_name_tells_its_writer(
    collection: int, shard: str, number: int, writer: str, builder: str, through: Position
) -> None:
    folder = paths.segment_folder(collection, shard, number, writer)
    written = [
        paths.scalars(folder),
        paths.vector(folder, 101),
        paths.deletes(collection, shard, through, writer),
        paths.manifest(collection, shard, number, writer),
        paths.catalog_snapshot(number, writer),
    ]
    built = paths.index(paths.folder_of(paths.scalars(folder)), 7, builder, "IVF_FLAT")
    for key in (*written, built):
        check_key(key)
        assert key.startswith((paths.shard_prefix(collection, shard), paths.CATALOG_PREFIX))
    assert {paths.token_of(key) for key in written} == {writer}
    right = paths.owner_of_term(number) if number % 2 else paths.coordinator_of_lead(number)
    assert paths.right_of(right.token(writer)) == right and paths.right_of(writer) is None
    folder = paths.segment_folder(collection, shard, number, right.token(writer))
    assert paths.token_of(paths.scalars(folder)) == right.token(writer)
    assert paths.token_of(built) == builder and built.startswith(paths.folder_of(written[0]) + "/")
    assert paths.parse_manifest(written[3]) == (collection, shard, number, writer)
    assert paths.parse_catalog_snapshot(written[4]) == (number, writer)
    assert len({*written, built}) == 6
    for key in (*written[:3], built):
        assert paths.parse_manifest(key) is None and paths.parse_catalog_snapshot(key) is None


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**11)), min_size=2))
def test_slots_and_deletes_sort_as_positions(positions: list[tuple[int, int]]) -> None:
    slots = [paths.log_slot("elanus-dml_0", term, sequence) for term, sequence in sorted(positions)]
    assert slots == sorted(slots)
    files = [paths.deletes(1, "p_0_1v0", Position(*position), "ab") for position in sorted(positions)]
    assert files == sorted(files)
    assert all(paths.token_of(slot) is None for slot in slots)
    assert slots[0].startswith(paths.log_prefix("elanus-dml_0", sorted(positions)[0][0]))


@pytest.mark.parametrize("bad", ["", "a/b", "..", "a.b", "a b", "é"])
def test_foreign_parts_are_refused(bad: str) -> None:
    for make in (
        lambda: paths.shard_prefix(1, bad),
        lambda: paths.segment_folder(1, "shard", 2, bad),
        lambda: paths.log_slot(bad, 1, 2),
    ):
        with pytest.raises(InvariantError):
            make()


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_checksum_is_crc32_of_the_whole(parts: list[bytes]) -> None:
    assert checksum(parts) == checksum(b"".join(parts)) == zlib.crc32(b"".join(parts))


@pytest.mark.parametrize("size", [0, 10, 200 * KIB])
@pytest.mark.parametrize("kind", ["memory", "fake disk"])
def test_damage_is_named(kind: str, size: int) -> None:
    async def scenario(doors: Doors) -> None:
        store = MemoryObjectStore() if kind == "memory" else await open_posix(doors, "/objects")
        data = bytes(n % 251 for n in range(size))
        ref = await write_file(doors, store, "a/b.parquet", [data[:5], data[5:]])
        assert ref == FileRef("a/b.parquet", size, zlib.crc32(data))
        assert await read_verified(doors, store, ref) == data
        assert await map_verified(doors, store, ref) == data
        wrong = [FileRef(ref.key, size + 1, ref.checksum), FileRef(ref.key, size, ref.checksum ^ 1)]
        for bad in wrong:
            for call in (read_verified(doors, store, bad), map_verified(doors, store, bad)):
                with pytest.raises(CorruptedError, match=r"a/b\.parquet"):
                    await call
        with pytest.raises(ObjectNotFoundError, match="no/such"):
            await read_verified(doors, store, FileRef("no/such", 1, 1))

    clock.run(scenario)
