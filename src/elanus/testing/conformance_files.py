"""What every `doors.Files` promises, as functions of an empty folder on it.

@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_real_disk(case, tmp_path): case(PosixFiles(), str(tmp_path))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from elanus.base.doors import Files
from elanus.base.errors import StorageError

Case = Callable[[Files, str], None]


def _refused(kind: type[Exception], work: Callable[[], object]) -> None:
    try:
        work()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")


def _write(files: Files, path: str, data: bytes) -> None:
    file = files.create(path)
    file.append(data)
    file.sync()
    file.close()


def appends_are_read_back_in_order(files: Files, folder: str) -> None:
    file = files.create(f"{folder}/a")
    file.append(b"one")
    file.append(memoryview(b"two"))
    file.gather([b"", b"three", memoryview(b"four"), b"5" * 100_000])
    file.sync()
    expected = b"onetwothreefour" + b"5" * 100_000
    assert files.read(f"{folder}/a") == expected
    assert bytes(files.map(f"{folder}/a")) == expected
    assert files.size(f"{folder}/a") == len(expected)
    file.close()


def a_gather_of_very_many_parts_is_whole(files: Files, folder: str) -> None:
    parts = [bytes([number % 251]) * (number % 90) for number in range(5000)]
    file = files.create(f"{folder}/a")
    file.gather(parts)
    file.close()
    assert files.read(f"{folder}/a") == b"".join(parts)


def reads_stop_at_the_end(files: Files, folder: str) -> None:
    _write(files, f"{folder}/a", b"0123456789")
    assert files.read(f"{folder}/a", 3, 4) == b"3456"
    assert files.read(f"{folder}/a", 8, 100) == b"89"
    assert files.read(f"{folder}/a", 8) == b"89"
    assert files.read(f"{folder}/a", 10) == b""
    assert files.read(f"{folder}/a", 50, 1) == b""


def an_empty_file_maps_to_nothing(files: Files, folder: str) -> None:
    files.create(f"{folder}/a").close()
    assert len(files.map(f"{folder}/a")) == 0
    assert files.size(f"{folder}/a") == 0


def a_taken_name_is_refused(files: Files, folder: str) -> None:
    _write(files, f"{folder}/a", b"first")
    _write(files, f"{folder}/b", b"second")
    _refused(FileExistsError, lambda: files.create(f"{folder}/a"))
    _refused(FileExistsError, lambda: files.link(f"{folder}/b", f"{folder}/a"))
    assert files.read(f"{folder}/a") == b"first"


def a_missing_name_is_refused(files: Files, folder: str) -> None:
    for work in (files.read, files.open, files.map, files.size):
        _refused(FileNotFoundError, lambda work=work: work(f"{folder}/missing"))  # type: ignore[misc]
    _refused(FileNotFoundError, lambda: files.link(f"{folder}/missing", f"{folder}/x"))
    _refused(FileNotFoundError, lambda: files.rename(f"{folder}/missing", f"{folder}/x"))
    _refused(FileNotFoundError, lambda: files.create(f"{folder}/no/such/folder"))
    files.remove(f"{folder}/missing")
    assert not files.exists(f"{folder}/missing")


def a_link_is_a_second_name(files: Files, folder: str) -> None:
    _write(files, f"{folder}/a", b"bytes")
    files.link(f"{folder}/a", f"{folder}/b")
    files.remove(f"{folder}/a")
    files.sync_directory(folder)
    assert files.read(f"{folder}/b") == b"bytes"
    assert files.list(folder) == ["b"]


def a_rename_replaces(files: Files, folder: str) -> None:
    _write(files, f"{folder}/a", b"new")
    _write(files, f"{folder}/b", b"old")
    files.rename(f"{folder}/a", f"{folder}/b")
    assert files.read(f"{folder}/b") == b"new"
    assert files.list(folder) == ["b"]


def folders_are_made_with_their_parents(files: Files, folder: str) -> None:
    files.make_directory(f"{folder}/x/y/z")
    files.make_directory(f"{folder}/x/y/z")
    _write(files, f"{folder}/x/y/b", b"")
    _write(files, f"{folder}/x/y/a", b"")
    assert files.list(f"{folder}/x/y") == ["a", "b", "z"]
    assert files.list(f"{folder}/nowhere") == []
    assert files.exists(f"{folder}/x/y") and files.exists(f"{folder}/x/y/a")
    assert files.free_bytes(folder) > 0


def a_mapping_outlives_its_name(files: Files, folder: str) -> None:
    _write(files, f"{folder}/a", b"still here")
    mapped = files.map(f"{folder}/a")
    files.remove(f"{folder}/a")
    assert bytes(mapped) == b"still here"
    assert mapped.readonly


def pieces_are_read_whole_and_counted(files: Files, folder: str) -> None:
    _write(files, f"{folder}/a", b"0123456789")
    file = files.open(f"{folder}/a")
    buffers = [bytearray(3), bytearray(0), bytearray(10)]
    file.read_pieces([7, 4, 0], [memoryview(one) for one in buffers])
    assert [bytes(one) for one in buffers] == [b"789", b"", b"0123456789"]
    assert file.piece_count == 3
    _refused(StorageError, lambda: file.read_pieces([5], [memoryview(bytearray(6))]))
    files.remove(f"{folder}/a")
    file.read_pieces([1], [memoryview(buffers[0])])
    assert bytes(buffers[0]) == b"123"


def a_closed_handle_is_dead(files: Files, folder: str) -> None:
    file = files.create(f"{folder}/a")
    file.append(b"x")
    file.close()
    file.close()
    _refused(StorageError, lambda: file.append(b"y"))
    _refused(StorageError, file.sync)
    assert files.read(f"{folder}/a") == b"x"


CASES: Final[list[Case]] = [
    appends_are_read_back_in_order,
    a_gather_of_very_many_parts_is_whole,
    reads_stop_at_the_end,
    an_empty_file_maps_to_nothing,
    a_taken_name_is_refused,
    a_missing_name_is_refused,
    a_link_is_a_second_name,
    a_rename_replaces,
    folders_are_made_with_their_parents,
    a_mapping_outlives_its_name,
    pieces_are_read_whole_and_counted,
    a_closed_handle_is_dead,
]
