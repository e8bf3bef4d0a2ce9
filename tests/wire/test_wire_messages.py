"""The message catalogue comes from the installed pymilvus, without importing it and beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pymilvus
from pymilvus.grpc_gen import milvus_pb2

from elanus.wire.messages import load_messages, messages


def test_pymilvus_is_not_imported() -> None:
    code = (
        "import sys; from elanus.wire import server; from elanus.wire.messages import messages; messages();"
        "print([name for name in ('pymilvus', 'pandas') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"


def test_classes_are_our_own_and_speak_the_same_bytes() -> None:
    theirs = milvus_pb2.ShowCollectionsRequest(db_name="d", collection_names=["a", "b"])
    ours = messages().ShowCollectionsRequest
    assert ours is not milvus_pb2.ShowCollectionsRequest
    assert ours.FromString(theirs.SerializeToString()).collection_names == ["a", "b"]
    assert "NoSuchMessage" not in messages()


def test_another_catalogue_can_stand_beside() -> None:
    folder = str(Path(pymilvus.__file__).parent / "grpc_gen")
    other = load_messages(folder)
    assert other.Status is not messages().Status
    assert set(other.methods) == set(messages().methods)
