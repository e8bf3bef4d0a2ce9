"""The `elanus` command as a user meets it: real processes, one line per refusal, clean ends."""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pymilvus
import pytest

import elanus
from elanus.app.cli import parser
from elanus.app.flags import FLAGS

Serve = Callable[..., Any]

# Nothing of these is needed by a server at rest; each costs start-up time and memory.
HEAVY = ("pandas", "pymilvus", "numba", "tantivy", "shapely", "icu", "icu4py", "uvicorn", "obstore", "pydantic", "rich")
PSS_BYTES_MAX = 150 * 1024 * 1024


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "elanus", *words], capture_output=True, text=True, timeout=30)


def test_help_explains_every_option() -> None:
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert set(commands.choices) == {"serve", "run", "up", "status", "promote", "demote", "rebuild", "demo", "settings"}
    for name, command_parser in commands.choices.items():
        assert command_parser.description, name
        for action in command_parser._actions:
            assert action.help, f"{name} {action.dest}"


def test_an_option_means_the_same_everywhere() -> None:
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    for flag, (setting, _, text) in FLAGS.items():
        told = [
            (action.dest, str(action.help).split(" (default: ")[0])
            for command_parser in commands.choices.values()
            for action in command_parser._actions
            if flag in action.option_strings and "." in action.dest  # Elsewhere it stands for something else.
        ]
        assert told and set(told) == {(setting, text)}, flag


@pytest.mark.slow
def test_version_and_settings() -> None:
    assert command("--version").stdout == f"elanus {elanus.__version__}\n"
    listed = command("settings").stdout
    assert "server.port = 19530" in listed
    assert "ELANUS_SEGMENT_FLUSH_BYTES_MAX" in listed


@pytest.mark.slow
def test_a_reader_may_leave_early() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-m", "elanus", "settings"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "server.port"),
        (["--set", "server.prt=1"], "did you mean 'server.port'"),
        (["--set", "nonsense"], "NAME=VALUE"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--log-level", "loud"], "logging.level"),
    ],
)
def test_wrong_settings_are_refused_by_name(flags: list[str], words: str) -> None:
    ended = command("serve", *flags)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_second_server_on_a_folder_is_refused(serve: Serve, tmp_path: Path) -> None:
    first = serve()
    ended = command("serve", "--data", str(first.folder), "--port", "0", "--metrics-port", "-1")
    assert ended.returncode == 3
    assert str(first.folder) in ended.stderr
    assert str(first.process.pid) in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_second_server_on_a_port_is_refused(serve: Serve, tmp_path: Path) -> None:
    first = serve()
    port = first.address.rpartition(":")[2]
    ended = command("serve", "--data", str(tmp_path / "other"), "--port", port, "--metrics-port", "-1")
    assert ended.returncode == 3
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_port_of_another_program_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        ended = command("serve", "--data", str(tmp_path), "--port", port, "--metrics-port", "-1")
    assert ended.returncode == 3
    assert port in ended.stderr


@pytest.mark.slow
def test_sigterm_ends_it_cleanly_and_the_folder_opens_again(serve: Serve) -> None:
    for _ in range(2):
        server = serve()
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 10
        assert server.errors() == ""


@pytest.mark.slow
def test_a_wide_address_warns(serve: Serve) -> None:
    assert "warning: 0.0.0.0" in serve("--host", "0.0.0.0").errors()


@pytest.mark.slow
def test_probes_of_a_real_server(serve: Serve) -> None:
    server = serve("--metrics-port", "0")
    port = re.search(r"metrics on port (\d+)", server.announcement)
    assert port is not None
    pymilvus.MilvusClient(server.uri).list_collections()
    for path, expected in (("livez", b"OK"), ("healthz", b"OK"), ("metrics", b"# HELP")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/{path}", timeout=10) as answer:
            assert expected in answer.read(), path
    assert server.stop() == 0


@pytest.mark.slow
def test_a_server_at_rest_is_light(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    server = serve("--metrics-port", "0")
    modules = {line.rpartition("|")[2].strip() for line in server.errors().splitlines()}
    # A library that is there has loaded modules of its own; one that was only looked for has not.
    imported = {module.partition(".")[0] for module in modules if "." in module}
    assert "elanus" in imported
    assert not imported & set(HEAVY)
    assert psutil.Process(server.process.pid).memory_full_info().pss < PSS_BYTES_MAX
