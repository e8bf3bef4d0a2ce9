"""A log stored by an earlier build opens, and today's build writes the same bytes.

`format/<version>` holds what `write_example` left behind when that version was current. A change of the bytes needs a
new version, a reader for the old one, and a new example beside the old; the old ones are never written again.
"""

from __future__ import annotations

import struct
from pathlib import Path
from zlib import crc32

import pytest

from elanus.base.doors import Doors, Files
from elanus.model.channel import ORIGIN, Position
from elanus.testing.clock import run
from elanus.testing.conformance_log import PCHANNEL, confirmed, entries, everything, refused
from elanus.testing.disk import ForgettingDisk
from elanus.wal.file import FileLog
from elanus.wal.format import FORMAT_VERSION, FileName
from elanus.wal.log import FormatError

STORED = Path(__file__).parent / "format"
VERSIONS = sorted(int(folder.name) for folder in STORED.iterdir())
ROOT = "/store/wal"
FIRST = [[b"one", b"", b"three"], [bytes(range(256))], [b"last of the first term"]]
SECOND = [[b"second term"], [b"x" * 200, b"y" * 33]]


async def write_example(doors: Doors) -> None:
    """Term 1 rolls and is killed; term 2 never serves; term 3 copies the tail, appends, and closes."""
    log = FileLog(doors, ROOT, file_bytes_max=500)
    first = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
    for batch in FIRST:
        await first.append(batch)
    log = FileLog(doors, ROOT)
    with pytest.raises(Exception, match="higher term"):
        await log.open(PCHANNEL, 2, ORIGIN, refused)
    third = await log.open(PCHANNEL, 3, ORIGIN, confirmed)
    for batch in SECOND:
        await third.append(batch)
    await third.close()


def put(files: Files, path: str, data: bytes) -> None:
    files.make_directory(path.rpartition("/")[0])
    file = files.create(path)
    file.append(data)
    file.sync()


def stored(version: int) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((STORED / str(version)).iterdir())}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stored_log_opens(version: int) -> None:
    async def main(doors: Doors) -> None:
        for name, data in stored(version).items():
            put(doors.files, f"{ROOT}/{PCHANNEL}/{name}", data)
        log = FileLog(doors, ROOT)
        writer = await log.open(PCHANNEL, 4, Position(1, 1, 0), confirmed)
        assert writer.end == Position(3, 1, 1)
        assert await everything(log, Position(1, 0, 2)) == [*entries(1, FIRST)[3:], *entries(3, SECOND)]
        assert (writer.report.copied_frames, writer.report.cut_bytes) == (0, 0)
        assert await everything(log) == [*entries(1, FIRST), *entries(3, SECOND)]

    run(main)


def test_todays_build_writes_the_stored_bytes() -> None:
    disk = ForgettingDisk()
    run(write_example, files=disk)
    folder = f"{ROOT}/{PCHANNEL}"
    assert {name: disk.read(f"{folder}/{name}") for name in disk.list(folder)} == stored(FORMAT_VERSION)
    assert max(VERSIONS) == FORMAT_VERSION


def test_a_newer_version_is_refused_by_name() -> None:
    name, data = list(stored(FORMAT_VERSION).items())[-1]
    changed = bytearray(data)
    struct.pack_into("<I", changed, 12, FORMAT_VERSION + 1)
    identity = FileName.parse(name)
    assert identity is not None
    struct.pack_into("<I", changed, 8, crc32(changed[12:96], identity.seed(PCHANNEL)))

    async def main(doors: Doors) -> None:
        put(doors.files, f"{ROOT}/{PCHANNEL}/{name}", bytes(changed))
        with pytest.raises(FormatError, match=name):
            await FileLog(doors, ROOT).open(PCHANNEL, 9, ORIGIN, confirmed)

    run(main)


@pytest.mark.parametrize("name", ["", "LOCK", "1-2.tmp", "a-b.log", "12.log", "1-2.log.old", "-1-2.log"])
def test_foreign_names_are_no_log_files(name: str) -> None:
    assert FileName.parse(name) is None


def test_file_names_sort_as_the_chain_does() -> None:
    names = [FileName(term, first) for term in (1, 9, 10, 123456) for first in (0, 5, 10, 99999)]
    assert [FileName.parse(text) for text in sorted(map(str, names))] == sorted(names)
