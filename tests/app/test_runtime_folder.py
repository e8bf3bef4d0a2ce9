"""The helper's runtime folder is private, short, and the same for everybody who means the same folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elanus.app.embedded import SERVER_SOCKET, is_repeatable, runtime_folder
from elanus.base.errors import StorageError


def test_one_name_for_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELANUS_RUNTIME_DIR", str(tmp_path / "run"))
    assert runtime_folder("/a/b") == runtime_folder("/a/b") != runtime_folder("/a/c")
    assert os.stat(runtime_folder("/a/b")).st_mode & 0o077 == 0


def test_the_default_is_short_enough_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(f"{runtime_folder('/x' * 500)}/{SERVER_SOCKET}") < 100


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o700)
    open_to_all.chmod(0o777)
    monkeypatch.setenv("ELANUS_RUNTIME_DIR", str(open_to_all))
    with pytest.raises(StorageError, match="not a private folder"):
        runtime_folder("/a")


def test_a_symbolic_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("ELANUS_RUNTIME_DIR", str(tmp_path / "link"))
    with pytest.raises(StorageError, match="not a private folder"):
        runtime_folder("/a")


def test_writes_are_never_repeated() -> None:
    for method in ("Insert", "Upsert", "Delete", "CreateCollection", "DropCollection", "CreateAlias", "AlterIndex"):
        assert not is_repeatable(method)
    for method in ("Search", "HybridSearch", "Query", "DescribeCollection", "Connect", "Flush", "LoadCollection"):
        assert is_repeatable(method)
