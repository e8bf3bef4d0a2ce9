"""The commands of a cluster: `elanus run` (one role), `elanus up` (a local cluster), `elanus status`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import elanus
from elanus.app import settings, status, supervisor
from elanus.app.cluster import ROLE_NAMES
from elanus.app.node import Node
from elanus.app.serve import Companion, Running, forever, run_and_leave, until_end_of_input, warn_of_open_port
from elanus.app.settings import Settings, SettingsError

# Flags that stand for a setting: flag, setting, value shown in the help, help.
SHARED = (
    ("--meta", "cluster.meta", "URL", "metadata: etcd://HOST:PORT/PREFIX"),
    (
        "--store",
        "cluster.store",
        "URL",
        "objects: s3://BUCKET/PREFIX, az://…, gs://…, or file:///FOLDER on one machine",
    ),
)
OWN = (
    ("--wal", "cluster.wal", "URL", "the log: store:// keeps it on the objects"),
    ("--cache", "cluster.cache", "DIR", "the one folder it writes to; nothing is lost with it"),
    ("--host", "server.host", "ADDRESS", "proxy: address for Milvus clients"),
    ("--port", "server.port", "PORT", "proxy: port for Milvus clients; 0 takes a free one"),
    ("--metrics-port", "server.metrics_port", "PORT", "port for /healthz, /livez and /metrics; -1 is off"),
    ("--peer-host", "cluster.host", "ADDRESS", "address on which it listens for the other processes"),
    ("--peer-port", "cluster.port", "PORT", "port for the other processes; 0 takes a free one"),
    ("--advertise", "cluster.advertise", "HOST", "host under which the others reach it"),
    ("--lease", "cluster.lease_s", "SECONDS", "a process not heard of for so long is replaced"),
    ("--connection-age-max", "server.connection_age_s_max", "SECONDS", "proxy: age at which a connection is to end"),
    ("--log-level", "logging.level", "LEVEL", "debug, info, warning or error"),
)

RUN = (
    "Run one role of a cluster in this process. All processes of a cluster name the same --meta and --store; S3 "
    "credentials and endpoint come from the usual AWS_* variables. SIGTERM lets the process hand over what it holds."
)
UP = (
    "Run a local cluster: every role a process of its own, watched and started again when it dies, until Ctrl-C or "
    "SIGTERM. Without --meta it brings its own etcd, if one is installed; without --store, objects "
    "and log are in the folder."
)
STATUS = "Show who is alive, which coordinator is active, and where every channel, shard and segment lives."
UP_COUNTS = {"coordinator": 2, "streaming": 2, "query": 2, "data": 1, "proxy": 1}

AddSources = Callable[[argparse.ArgumentParser], None]


def add(commands: Any, add_sources: AddSources) -> None:
    """Add the three commands."""
    run = commands.add_parser("run", help="run one role of a cluster", description=RUN)
    run.add_argument("role", choices=sorted(ROLE_NAMES), help="what this process is")
    _add_flags(run, (*SHARED, *OWN))
    run.add_argument("--until-eof", action="store_true", help="leave when standard input ends, too")
    add_sources(run)
    run.set_defaults(action=_run)

    up = commands.add_parser("up", help="run a local cluster, each role a process", description=UP)
    for role, count in UP_COUNTS.items():
        plural = {"proxy": "proxies", "coordinator": "coordinators"}.get(role, role)
        up.add_argument(
            f"--{plural}", dest=role, type=int, default=count, metavar="N", help=f"how many (default: {count})"
        )
    _add_flags(up, SHARED)
    up.add_argument(
        "--folder", default="./elanus-cluster", metavar="DIR", help="folder for what is local (default: %(default)s)"
    )
    up.add_argument("--port", type=int, default=19530, metavar="PORT", help="port of the first proxy; 0: free ones")
    up.add_argument("--log-level", default="warning", metavar="LEVEL", help="debug, info, warning or error")
    add_sources(up)
    up.set_defaults(action=_up)

    show = commands.add_parser("status", help="show the state of a cluster", description=STATUS)
    _add_flags(show, SHARED)
    show.add_argument("--json", action="store_true", help="as JSON")
    add_sources(show)
    show.set_defaults(action=_status)


def _add_flags(command: argparse.ArgumentParser, flags: tuple[tuple[str, str, str, str], ...]) -> None:
    defaults = {setting.name: setting.default for setting in settings.describe()}
    for flag, name, value, text in flags:
        shown = f" (default: {defaults[name]})" if defaults[name] != "" else ""
        command.add_argument(flag, dest=name, metavar=value, help=text + shown)


def _load(given: argparse.Namespace) -> Settings:
    names = [name for _, name, _, _ in (*SHARED, *OWN)]
    flags = {name: value for name in names if (value := getattr(given, name, None)) is not None}
    return settings.load(given.config, os.environ, {**dict(given.assignments), **flags})


def _run(given: argparse.Namespace) -> None:
    chosen = _load(given)
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
    chosen = _load(given)
    folder = Path(given.folder).absolute()
    passed = [("--log-level", given.log_level)]
    passed += [("--set", f"{name}={value}") for name, value in given.assignments]
    passed += [("--config", str(Path(given.config).absolute()))] if given.config else []
    counts = {role: getattr(given, role) for role in UP_COUNTS}
    if min(counts.values()) < 0 or not all(counts[role] for role in ("coordinator", "streaming", "query", "proxy")):
        raise SettingsError("a cluster needs at least one coordinator, streaming node, query node and proxy")
    store = chosen.cluster.store or f"file://{folder}/objects"
    plan = supervisor.Plan(counts, chosen.cluster.meta, store, folder, given.port, supervisor.flag_words(passed))
    asyncio.run(supervisor.supervise(plan, _say))


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _status(given: argparse.Namespace) -> None:
    chosen = _load(given)
    if not chosen.cluster.meta:
        raise SettingsError("cluster.meta (--meta) is needed: it says which cluster")
    report = asyncio.run(status.read(chosen))
    sys.stdout.write(status.json(report) if given.json else status.text(report))
