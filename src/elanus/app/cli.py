"""The `elanus` command: serve, demo, settings.

Only the shape of the command line lives here: flags become a `Settings`, refusals become one line on standard error
and an exit code (2: wrong settings or flags, 3: folder or port in use, 1: everything else). `elanus serve` has to
answer within a second, so nothing here loads what serving does not need.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

import elanus
from elanus.app import settings
from elanus.app.demo import demonstrate
from elanus.app.serve import Companion, Running, forever, is_loopback, run
from elanus.app.settings import Settings, SettingsError
from elanus.app.standalone import Standalone
from elanus.base.errors import ElanusError, InUseError

EXIT_FAILED = 1
EXIT_WRONG_SETTINGS = 2
EXIT_IN_USE = 3

app = typer.Typer(
    name="elanus",
    help="Elanus: a vector database that any Milvus client drives. `elanus serve` starts it, `elanus demo` shows it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFlag = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", envvar="ELANUS_CONFIG", help="TOML file with settings."),
]
SetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any setting by its name; `elanus settings` lists them. Repeatable."
    ),
]


def main() -> None:
    """Entry point of the console script."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"elanus {elanus.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Show the version and leave."),
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def serve(
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the store; made if missing. [default: ./elanus-data]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port for Milvus clients; 0 takes a free one. [default: 19530]")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Port for /healthz, /livez and /metrics; 0 takes a free one, -1 is off. [default: 9091]"),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: warning]")] = None,
    config: ConfigFlag = None,
    set_: SetFlag = None,
) -> None:
    """Run the whole database in this process: every role, one folder, no other services.

    Stop it with Ctrl-C or SIGTERM: calls under way end, then everything is closed. Settings come from the defaults, the
    file given by --config, ELANUS_* variables and these options, each stronger than the one before.
    """
    flags = {
        "storage.data": data,
        "server.host": host,
        "server.port": port,
        "server.metrics_port": metrics_port,
        "logging.level": log_level,
    }
    with_refusals(lambda: _serve(config, {**_assignments(set_), **{k: v for k, v in flags.items() if v is not None}}))


@app.command()
def demo(
    words: Annotated[list[str] | None, typer.Argument(help="Your own search, in words.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep the demo's store here. [default: a temporary folder]")
    ] = None,
) -> None:
    """Start a server, load a few thousand Debian packages, and search them by meaning."""
    with_refusals(lambda: demonstrate(" ".join(words or ()), data))


@app.command("settings")
def list_settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the text of docs/settings.md.")] = False,
) -> None:
    """List every setting with its default, bounds and environment variable."""
    if markdown:
        typer.echo(settings.markdown(), nl=False)
        return
    for setting in settings.describe():
        typer.echo(f"{setting.name} = {setting.default!r}")
        typer.echo(f"    {setting.description}")
        typer.echo(f"    {setting.kind} {setting.bounds}".rstrip() + f"   {setting.variable}")


def with_refusals(action: Callable[[], None]) -> None:
    """Run `action`; what it refuses becomes one line and an exit code."""
    try:
        action()
    except SettingsError as error:
        _refuse(error, EXIT_WRONG_SETTINGS)
    except InUseError as error:
        _refuse(error, EXIT_IN_USE)
    except ElanusError as error:
        _refuse(error, EXIT_FAILED)


def _refuse(error: ElanusError, code: int) -> NoReturn:
    typer.echo(f"elanus: {error.message}", err=True)
    raise typer.Exit(code)


def _assignments(pairs: list[str] | None) -> dict[str, str | int]:
    values: dict[str, str | int] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--set")
        values[name.strip()] = value.strip()
    return values


def _serve(config: str | None, flags: dict[str, str | int]) -> None:
    chosen = settings.load(config, os.environ, flags)
    if not chosen.server.unix_path and not is_loopback(chosen.server.host):
        typer.echo(
            f"elanus: warning: {chosen.server.host} can be reached from other machines, and nothing controls access: "
            "whoever reaches the port can read and delete everything",
            err=True,
        )
    run(Standalone.start, chosen, Companion(lambda running: _announce(chosen, running), forever))


def _announce(chosen: Settings, running: Running) -> None:
    line = f"Elanus {elanus.__version__} serves {os.path.abspath(chosen.storage.data)} on {running.address}"
    if running.metrics_port >= 0:
        line += f", metrics on port {running.metrics_port}"
    typer.echo(line)
    sys.stdout.flush()
