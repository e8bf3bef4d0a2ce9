"""The commands that move a store: `elanus promote` (folder to cluster) and `elanus demote` (cluster to folder); and the
one that makes a lost metadata store again, `elanus rebuild`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from elanus.app import settings
from elanus.app.promote import demote, promote
from elanus.app.rebuild import Rebuilt, rebuild
from elanus.app.settings import Settings, SettingsError
from elanus.app.transfer import Report, Say

PROMOTE = (
    "Move the store of a folder to a cluster: files are copied and verified by their checksums, then the catalog is "
    "written, and the folder starts no more. Nothing may run on the folder. Stopped half-way, the same command goes on."
)
DEMOTE = (
    "Move a cluster's store to a folder, for `elanus serve`. Flush everything and stop every process of the cluster "
    "first; afterwards the cluster starts no more. Stopped half-way, the same command goes on."
)
REBUILD = (
    "Make the metadata of a cluster again from its object store, when what etcd held is lost. Stop every process of "
    "the cluster first, and name an empty prefix. No row is lost; of definitions made in the last second, some may be, "
    "and what is known of them is told. Stopped half-way, the same command goes on."
)
FLAGS = (
    ("--meta", "cluster.meta", "URL", "metadata of the cluster: etcd://HOST:PORT/PREFIX"),
    ("--store", "cluster.store", "URL", "objects of the cluster: s3://BUCKET/PREFIX, az://…, gs://… or file:///FOLDER"),
    ("--wal", "cluster.wal", "URL", "log of the cluster: store:// keeps it on the objects"),
)

Move = Callable[[Settings, Mapping[str, str], Say], Awaitable[Report]]


def add(commands: Any, add_sources: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands."""
    for name, move, text, short in (
        ("promote", promote, PROMOTE, "move a folder's store to a cluster"),
        ("demote", demote, DEMOTE, "move a cluster's store to a folder"),
    ):
        command = commands.add_parser(name, help=short, description=text)
        command.add_argument("folder", metavar="DIR", help="the folder's store")
        _add_flags(command)
        add_sources(command)
        command.set_defaults(action=lambda given, move=move: _move(given, move))
    command = commands.add_parser("rebuild", help="make lost metadata again", description=REBUILD)
    _add_flags(command)
    add_sources(command)
    command.set_defaults(action=_rebuild)


def _add_flags(command: argparse.ArgumentParser) -> None:
    for flag, setting, value, explanation in FLAGS:
        command.add_argument(flag, dest=setting, metavar=value, help=explanation)


def _load(given: argparse.Namespace, **more: str) -> Settings:
    named = {name: value for _, name, _, _ in FLAGS if (value := getattr(given, name)) is not None}
    chosen = settings.load(given.config, os.environ, {**dict(given.assignments), **named, **more})
    for name in ("meta", "store"):
        if not getattr(chosen.cluster, name):
            raise SettingsError(f"cluster.{name} (--{name}) is needed: it says what the processes share")
    return chosen


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _rebuild(given: argparse.Namespace) -> None:
    async def run() -> Rebuilt:
        return await rebuild(_load(given), os.environ, _say)

    made = asyncio.run(run())
    for one in made.lost:
        _say(f"lost: {one}")
    sys.stdout.write(
        f"rebuilt: {made.shards} shards, {made.records} records in the log; the new cluster id is {made.cluster_id}\n"
    )


def _move(given: argparse.Namespace, move: Move) -> None:
    chosen = _load(given, **{"storage.data": given.folder})

    async def run() -> Report:
        return await move(chosen, os.environ, _say)

    report = asyncio.run(run())
    sys.stdout.write(
        f"moved: {report.files} files, {report.bytes} bytes, {report.copied} copied now; "
        f"the new cluster id is {report.cluster_id}\n"
    )
