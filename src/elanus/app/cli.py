"""The `elanus` command: serve, demo, settings. Commands of a cluster, and those that move a store, stand beside it.

Only the shape of the command line lives here: flags become a `Settings`, refusals become one line on standard error
and an exit code. `elanus serve` has to answer within a second, so nothing here loads what serving does not need; that
is why the parser is the standard library's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import elanus
from elanus.app import cluster_commands, flags, move_commands, settings
from elanus.app.demo import demonstrate
from elanus.app.serve import (
    EXIT_FAILED,
    EXIT_IN_USE,
    EXIT_WRONG_SETTINGS,
    Companion,
    Running,
    forever,
    run_and_leave,
    warn_of_open_port,
)
from elanus.app.settings import Settings, SettingsError
from elanus.app.standalone import Standalone
from elanus.base.errors import ElanusError, InUseError

FLAGS = ("--data", "--host", "--port", "--metrics-port", "--connection-age-max", "--log-level")

SERVE = (
    "Run the whole database in this process: every role, one folder, no other services. Stop it with Ctrl-C or "
    "SIGTERM: calls under way end, then everything is closed. Settings come from the defaults, the file given by "
    "--config, ELANUS_* variables and these options, each stronger than the one before."
)
DEMO = "Start a server, load 7,000 Debian packages, and search them by meaning, with and without filters."
LIST = "List every setting with its default, bounds and environment variable."

Say = Callable[[str], object]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; leaves with an exit code."""
    given = parser().parse_args(arguments)
    try:
        given.action(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read this has enough of it. What is still buffered goes nowhere, without a word at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except SettingsError as error:
        _refuse(error, EXIT_WRONG_SETTINGS)
    except InUseError as error:
        _refuse(error, EXIT_IN_USE)
    except ElanusError as error:
        _refuse(error, EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_FAILED)


def parser() -> argparse.ArgumentParser:
    """The whole command line; every option explains itself."""
    top = argparse.ArgumentParser(prog="elanus", description="Elanus: a vector database that any Milvus client drives.")
    version = f"elanus {elanus.__version__}"
    top.add_argument("--version", action="version", version=version, help="show the version and leave")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands.add_parser("serve", help="run the whole database in this process", description=SERVE))
    cluster_commands.add(commands)
    move_commands.add(commands)
    _add_demo(commands.add_parser("demo", help="start a server and search real data by meaning", description=DEMO))
    _add_settings(commands.add_parser("settings", help="list every setting", description=LIST))
    return top


def _add_serve(command: argparse.ArgumentParser) -> None:
    flags.add(command, *FLAGS)
    command.set_defaults(action=_serve)


def _add_demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("words", nargs="*", help="your own search, in words")
    command.add_argument("--data", metavar="DIR", help="keep the demo's store here (default: a temporary folder)")
    command.set_defaults(action=lambda given: demonstrate(" ".join(given.words), given.data))


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--markdown", action="store_true", help="as the text of docs/settings.md")
    command.set_defaults(action=_list_settings)


def _refuse(error: ElanusError, code: int) -> None:
    sys.stderr.write(f"elanus: {error.message}\n")
    sys.exit(code)


def _list_settings(given: argparse.Namespace) -> None:
    say: Say = sys.stdout.write
    if given.markdown:
        say(settings.markdown())
        return
    for setting in settings.describe():
        say(f"{setting.name} = {setting.default!r}\n    {setting.description}\n")
        say("    " + f"{setting.kind} {setting.bounds}".rstrip() + f"   {setting.variable}\n")


def _serve(given: argparse.Namespace) -> None:
    chosen = flags.load(given)
    if not chosen.server.unix_path:
        warn_of_open_port(chosen.server.host)
    run_and_leave(Standalone.start, chosen, Companion(lambda running: _announce(chosen, running), forever))


def _announce(chosen: Settings, running: Running) -> None:
    line = f"Elanus {elanus.__version__} serves {os.path.abspath(chosen.storage.data)} on {running.address}"
    if running.metrics_port >= 0:
        line += f", metrics on port {running.metrics_port}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
