"""The systems under comparison: where their servers come from and how each is started.

Every server takes free ports and writes below the folder it is given. All bind to loopback, except that Milvus 2.3.5
has no setting for it and listens on every address; only the etcd inside it is held to loopback. Servers that are not
ours live in virtual environments of their own.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.environment import CACHE, PYMILVUS_VERSION, ROOT, server_python, virtual_environment
from bench.procs import Server, free_ports

MILVUS_VERSION = "2.3.5"
LITE_VERSION = "3.2.2"
MILVUS_ROLES = (
    *("root_coord", "proxy", "proxy_internal", "query_coord", "query_node"),
    *("index_coord", "index_node", "data_coord", "data_node"),
)


@dataclass(frozen=True)
class Launch:
    """How to start one server on a fresh folder: `port` is where it answers gRPC on 127.0.0.1."""

    command: tuple[str, ...]
    port: int
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> Server:
        """Spawn the process; its output goes to ``server.log`` beside its data."""
        return Server(self.command, self.cwd / "server.log", self.env, self.cwd)


@dataclass(frozen=True)
class System:
    """One system: its name in reports, its version, and `launch(folder)` which prepares everything but the spawn.

    `setup` fetches what is missing and is never timed.
    """

    name: str
    setup: Callable[[], None]
    version: Callable[[], str]
    launch: Callable[[Path], Launch]


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


# --- Elanus ---------------------------------------------------------------------------------------------------------


def elanus_version() -> str:
    """The git commit of the working tree, marked when tracked files of the package were changed since."""
    commit = _output("git", "rev-parse", "--short=10", "HEAD") or "no commit"
    changed = _output("git", "status", "--porcelain", "--untracked-files=all", "--", "src", "pyproject.toml")
    return f"git {commit}{' + changes' if changed else ''}"


def _elanus_setup() -> None:
    """As pip does where it installs a package. A tree that is edited where Python may not write bytecode is compiled
    anew at every start, which is no part of one."""
    subprocess.run([server_python(), "-m", "compileall", "-q", str(ROOT / "src")], check=True)


def _elanus_launch(folder: Path) -> Launch:
    port, metrics_port = free_ports(2)
    script = Path(server_python()).parent / "elanus"
    head = (str(script),) if script.exists() else (server_python(), "-m", "elanus")
    options = ("--data", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port))
    return Launch((*head, "serve", *options, "--metrics-port", str(metrics_port)), port, folder)


# --- Milvus ---------------------------------------------------------------------------------------------------------


def _milvus_bin() -> Path:
    return CACHE / f"milvus-{MILVUS_VERSION}-bin"


def _milvus_setup() -> None:
    """Install the package and unpack the server binary it carries, as its own launcher does on its first start."""
    venv = virtual_environment("milvus", f"milvus=={MILVUS_VERSION}")
    target = _milvus_bin()
    if (target / "ready").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    (packed,) = venv.glob("lib/python*/site-packages/milvus/data/bin")
    for each in packed.glob("*.lzma"):
        unpacked = target / each.stem
        unpacked.write_bytes(lzma.decompress(each.read_bytes()))
        unpacked.chmod(0o755)
    (target / "ready").touch()


def _etcd_settings(client_port: int, peer_port: int) -> str:
    """Settings of the etcd inside Milvus's process, which would else take the fixed ports 2379 and 2380."""
    urls = {"client": f"http://127.0.0.1:{client_port}", "peer": f"http://127.0.0.1:{peer_port}"}
    lines = [f"listen-{kind}-urls: {url}" for kind, url in urls.items()]
    lines += [f"advertise-client-urls: {urls['client']}", f"initial-advertise-peer-urls: {urls['peer']}"]
    lines += ["name: default", f"initial-cluster: default={urls['peer']}"]
    return "\n".join(lines) + "\n"


def _milvus_launch(folder: Path) -> Launch:
    """Write the configuration with the package's own code, then start its binary directly.

    The package's launcher would add a Python process and a wait of a second to what is measured.
    """
    *ports, metrics_port, client_port, peer_port = free_ports(len(MILVUS_ROLES) + 3)
    chosen = {f"{name}_port": port for name, port in zip(MILVUS_ROLES, ports, strict=True)}
    etcd_file = folder / "etcd.yaml"
    etcd_file.write_text(_etcd_settings(client_port, peer_port))
    program = f"import milvus; milvus.MilvusServerConfig(data_dir={str(folder)!r}, **{chosen!r}).resolve()"
    subprocess.run([str(CACHE / "venv-milvus/bin/python"), "-c", program], check=True)
    env = {
        "DEPLOY_MODE": "STANDALONE",
        "ETCD_CONFIG_PATH": str(etcd_file),
        "METRICS_PORT": str(metrics_port),
        "MILVUS_RUN_DIR": str(folder / "run"),
        "LD_LIBRARY_PATH": str(_milvus_bin()),
    }
    return Launch((str(_milvus_bin() / "milvus"), "run", "standalone"), chosen["proxy_port"], folder, env)


# --- milvus-lite ----------------------------------------------------------------------------------------------------


def _lite_setup() -> None:
    virtual_environment("lite", f"milvus-lite=={LITE_VERSION}", f"pymilvus=={PYMILVUS_VERSION}")


def _lite_launch(folder: Path) -> Launch:
    (port,) = free_ports(1)
    program = str(CACHE / "venv-lite/bin/milvus-lite")
    options = ("--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port))
    return Launch((program, "server", *options), port, folder)


# --- canned answers -------------------------------------------------------------------------------------------------


def _canned_launch(folder: Path) -> Launch:
    (port,) = free_ports(1)
    return Launch((sys.executable, "-m", "bench.canned", str(port)), port, folder, {"PYTHONPATH": str(ROOT)})


def _nothing() -> None:
    return None


ELANUS = System("elanus", _elanus_setup, elanus_version, _elanus_launch)
MILVUS = System("milvus", _milvus_setup, lambda: MILVUS_VERSION, _milvus_launch)
LITE = System("lite", _lite_setup, lambda: LITE_VERSION, _lite_launch)
CANNED = System("canned", _nothing, lambda: "grpc.aio", _canned_launch)
SERVERS = {each.name: each for each in (MILVUS, ELANUS, LITE, CANNED)}
