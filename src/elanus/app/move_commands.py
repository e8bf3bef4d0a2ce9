"""The commands that move a store: `elanus promote` (folder to cluster) and `elanus demote` (cluster to folder); and the
one that makes a lost metadata store again, `elanus rebuild`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from elanus.app import flags
from elanus.app.promote import demote, promote
from elanus.app.rebuild import Rebuilt, rebuild
from elanus.app.settings import Settings
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
FLAGS = ("--meta", "--store", "--wal", "--log-level")
NEEDED = ("--meta", "--store")

Move = Callable[[Settings, Mapping[str, str], Say], Awaitable[Report]]


def add(commands: Any) -> None:
    """Add the commands."""
    for name, move, text, short in (
        ("promote", promote, PROMOTE, "move a folder's store to a cluster"),
        ("demote", demote, DEMOTE, "move a cluster's store to a folder"),
    ):
        command = commands.add_parser(name, help=short, description=text)
        command.add_argument("folder", metavar="DIR", help="the folder's store")
        flags.add(command, *FLAGS)
        command.set_defaults(action=lambda given, move=move: _move(given, move))
    command = commands.add_parser("rebuild", help="make lost metadata again", description=REBUILD)
    flags.add(command, *FLAGS)
    command.set_defaults(action=_rebuild)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _rebuild(given: argparse.Namespace) -> None:
    async def run() -> Rebuilt:
        return await rebuild(flags.load(given, NEEDED), os.environ, _say)

    made = asyncio.run(run())
    for one in made.lost:
        _say(f"lost: {one}")
    sys.stdout.write(
        f"rebuilt: {made.shards} shards, {made.records} records in the log; the new cluster id is {made.cluster_id}\n"
    )


def _move(given: argparse.Namespace, move: Move) -> None:
    chosen = flags.load(given, NEEDED, **{"storage.data": given.folder})

    async def run() -> Report:
        return await move(chosen, os.environ, _say)

    report = asyncio.run(run())
    sys.stdout.write(
        f"moved: {report.files} files, {report.bytes} bytes, {report.copied} copied now; "
        f"the new cluster id is {report.cluster_id}\n"
    )
