"""The commands of a cluster: `elanus run` (one role), `elanus up` (a local cluster), `elanus status`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import elanus
from elanus.app import flags, status, supervisor
from elanus.app.cluster import ROLE_NAMES
from elanus.app.node import Node
from elanus.app.serve import Companion, Running, forever, run_and_leave, until_end_of_input, warn_of_open_port
from elanus.app.settings import Settings, SettingsError

SHARED = ("--meta", "--store", "--wal")
RUN_FLAGS = (
    *SHARED,
    *("--cache", "--host", "--port", "--metrics-port", "--peer-host", "--peer-port", "--advertise"),
    *("--lease", "--connection-age-max", "--log-level"),
)
UP_FLAGS = (*SHARED, "--host", "--port", "--lease", "--connection-age-max", "--log-level")
PASSED = ("--wal", "--host", "--lease", "--connection-age-max", "--log-level")
"""Options of `up` that every process is started with as they were given."""

RUN = (
    "Run one role of a cluster in this process. All processes of a cluster name the same --meta and --store; S3 "
    "credentials and endpoint come from the usual AWS_* variables. Only a proxy listens for Milvus clients. SIGTERM "
    "lets the process hand over what it holds."
)
UP = (
    "Run a local cluster: every role a process of its own, watched and started again when it dies, until Ctrl-C or "
    "SIGTERM. The first proxy takes the port, the others those after it. Without --meta it brings its own etcd, if one "
    "is installed; without --store, objects and log are in the folder."
)
STATUS = "Show who is alive, which coordinator is active, and where every channel, shard and segment lives."
UP_COUNTS = {"coordinator": 2, "streaming": 2, "query": 2, "data": 1, "proxy": 1}


def add(commands: Any) -> None:
    """Add the three commands."""
    run = commands.add_parser("run", help="run one role of a cluster", description=RUN)
    run.add_argument("role", choices=sorted(ROLE_NAMES), help="what this process is")
    flags.add(run, *RUN_FLAGS)
    run.add_argument("--until-eof", action="store_true", help="leave when standard input ends, too")
    run.set_defaults(action=_run)

    up = commands.add_parser("up", help="run a local cluster, each role a process", description=UP)
    for role, count in UP_COUNTS.items():
        plural = {"proxy": "proxies", "coordinator": "coordinators"}.get(role, role)
        up.add_argument(
            f"--{plural}", dest=role, type=int, default=count, metavar="N", help=f"how many (default: {count})"
        )
    up.add_argument(
        "--folder", default="./elanus-cluster", metavar="DIR", help="folder for what is local (default: %(default)s)"
    )
    flags.add(up, *UP_FLAGS)
    up.set_defaults(action=_up)

    show = commands.add_parser("status", help="show the state of a cluster", description=STATUS)
    show.add_argument("--json", action="store_true", help="as JSON")
    flags.add(show, "--meta")
    show.set_defaults(action=_status)


def _run(given: argparse.Namespace) -> None:
    chosen = flags.load(given)
    # gRPC tells of every connection that a peer's death ends; the roles tell what came of it.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if given.role == "proxy":
        warn_of_open_port(chosen.server.host)
    started: list[Node] = []

    async def start(tree: Settings) -> Node:
        started.append(await Node.start(given.role, tree))
        return started[0]

    def announce(running: Running) -> None:
        started[0].metrics_port = running.metrics_port
        line = f"Elanus {elanus.__version__} {given.role} {started[0].process.node_id} on {running.address}"
        if running.metrics_port >= 0:
            line += f", metrics on port {running.metrics_port}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    until = until_end_of_input if given.until_eof else forever
    run_and_leave(start, chosen, Companion(announce, until))


def _up(given: argparse.Namespace) -> None:
    chosen = flags.load(given)
    folder = Path(given.folder).absolute()
    passed = [one for one in flags.given_flags(given).items() if one[0] in PASSED]
    passed += [("--set", f"{name}={value}") for name, value in given.assignments]
    passed += [("--config", str(Path(given.config).absolute()))] if given.config else []
    counts = {role: getattr(given, role) for role in UP_COUNTS}
    if min(counts.values()) < 0 or not all(counts[role] for role in ("coordinator", "streaming", "query", "proxy")):
        raise SettingsError("a cluster needs at least one coordinator, streaming node, query node and proxy")
    store = chosen.cluster.store or f"file://{folder}/objects"
    port = chosen.server.port
    plan = supervisor.Plan(counts, chosen.cluster.meta, store, folder, port, supervisor.flag_words(passed))
    asyncio.run(supervisor.supervise(plan, _say))


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _status(given: argparse.Namespace) -> None:
    report = asyncio.run(status.read(flags.load(given, needed=("--meta",))))
    sys.stdout.write(status.json(report) if given.json else status.text(report))
