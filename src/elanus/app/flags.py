"""The options of the command line that stand for settings: one name and one explanation wherever a command takes them.

Every command with settings also takes `--config` and `--set`, through which any setting can be given.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Final, NamedTuple

from elanus.app import settings
from elanus.app.settings import Settings, SettingsError


class Flag(NamedTuple):
    """`value` is shown in the help in place of the value."""

    setting: str
    value: str
    text: str


FLAGS: Final[dict[str, Flag]] = {
    "--data": Flag("storage.data", "DIR", "folder of the store; made if missing"),
    "--meta": Flag("cluster.meta", "URL", "metadata of the cluster: etcd://HOST:PORT/PREFIX, etcds:// for TLS"),
    "--store": Flag(
        "cluster.store",
        "URL",
        "objects of the cluster: s3://BUCKET/PREFIX, az://…, gs://…, or file:///FOLDER on one machine",
    ),
    "--wal": Flag("cluster.wal", "URL", "log of the cluster: store:// keeps it on the objects"),
    "--cache": Flag("cluster.cache", "DIR", "the one folder it writes to; nothing is lost with it"),
    "--host": Flag("server.host", "ADDRESS", "address to listen on for Milvus clients"),
    "--port": Flag("server.port", "PORT", "port for Milvus clients; 0 takes a free one"),
    "--metrics-port": Flag(
        "server.metrics_port", "PORT", "port for /healthz, /livez and /metrics; 0 takes a free one, -1 is off"
    ),
    "--peer-host": Flag("cluster.host", "ADDRESS", "address to listen on for the other processes"),
    "--peer-port": Flag("cluster.port", "PORT", "port for the other processes; 0 takes a free one"),
    "--advertise": Flag("cluster.advertise", "HOST", "host under which the other processes reach it"),
    "--lease": Flag("cluster.lease_s", "SECONDS", "a process not heard of for so long is replaced"),
    "--connection-age-max": Flag(
        "server.connection_age_s_max", "SECONDS", "age at which a client's connection is to end; 0: never"
    ),
    "--log-level": Flag("logging.level", "LEVEL", "debug, info, warning or error"),
}


def add(command: argparse.ArgumentParser, *names: str) -> None:
    """Add these options, `--config` and `--set` to a command."""
    defaults = {setting.name: setting.default for setting in settings.describe()}
    for name in names:
        flag = FLAGS[name]
        shown = f" (default: {defaults[flag.setting]})" if defaults[flag.setting] != "" else ""
        command.add_argument(name, dest=flag.setting, metavar=flag.value, help=flag.text + shown)
    command.add_argument(
        "--config", metavar="FILE", default=os.environ.get("ELANUS_CONFIG"), help="TOML file with settings"
    )
    command.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_assignment,
        dest="assignments",
        help="any setting by its name, as often as needed; `elanus settings` lists them",
    )


def given_flags(given: argparse.Namespace) -> dict[str, str]:
    """Option and value of every option of `FLAGS` that was given."""
    values = {name: getattr(given, flag.setting, None) for name, flag in FLAGS.items()}
    return {name: value for name, value in values.items() if value is not None}


def load(given: argparse.Namespace, needed: Iterable[str] = (), **more: str) -> Settings:
    """The settings that a command runs with. SettingsError, also when one of the options `needed` has no value."""
    named = {FLAGS[name].setting: value for name, value in given_flags(given).items()}
    chosen = settings.load(given.config, os.environ, {**dict(given.assignments), **named, **more})
    for name in needed:
        section, _, key = FLAGS[name].setting.partition(".")
        if not getattr(getattr(chosen, section), key):
            raise SettingsError(f"{FLAGS[name].setting} ({name}) is needed: {FLAGS[name].text}")
    return chosen


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()
