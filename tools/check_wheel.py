"""Build the wheel and use it as a user would: `python tools/check_wheel.py`.

For every Python from 3.11 to 3.14 on this machine, the wheel is installed alone into a fresh environment and runs its
demo with either line of pymilvus: server and client on one build.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEEL_BYTES_MAX = 8 * 1024 * 1024
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
PYMILVUS = ("pymilvus==2.6.17", "pymilvus==3.0.2")


def run(*command: str | Path, cwd: str) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def interpreters() -> Iterator[tuple[str, str]]:
    """(version, path) of each supported Python that can make environments; this one counts for its own version."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in VERSIONS:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        found = sys.executable if version == own else shutil.which(f"python{version}")
        for candidate in (found, *pyenv):
            if candidate is None:
                continue
            probe = subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True)
            if probe.returncode == 0:
                yield version, str(candidate)
                break


def build(folder: str) -> Path:
    """The wheel, looked at."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (wheel,) = Path(folder).glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    if not wheel.name.endswith("-py3-none-any.whl"):
        raise SystemExit(f"{wheel.name} is not a pure-Python wheel")
    if wheel.stat().st_size > WHEEL_BYTES_MAX:
        raise SystemExit(f"{wheel.name} has {wheel.stat().st_size} bytes")
    for needed in ("elanus/app/sample/packages.parquet", "elanus/py.typed"):
        if needed not in names:
            raise SystemExit(f"{wheel.name} lacks {needed}")
    if strays := [name for name in names if not name.startswith(("elanus/", "elanus-"))]:
        raise SystemExit(f"{wheel.name} carries {strays}")
    return wheel


def use(wheel: Path, interpreter: str) -> Iterator[str]:
    """Install into a fresh environment and run the demo with each client; what ran."""
    with tempfile.TemporaryDirectory() as folder:
        run(interpreter, "-m", "venv", "env", cwd=folder)
        scripts = Path(folder) / "env" / "bin"
        for requirement in PYMILVUS:
            run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, requirement, cwd=folder)
            shown = run(scripts / "elanus", "demo", cwd=folder)
            if "How to go on" not in shown:
                raise SystemExit(f"the demo of the installed wheel ended early:\n{shown}")
            yield f"{requirement}: {run(scripts / 'elanus', '--version', cwd=folder).strip()} runs its demo"


def main() -> None:
    """Raise if the wheel is not what a user needs."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(folder)
        sys.stdout.write(f"{wheel.name}: {wheel.stat().st_size} bytes\n")
        for version, interpreter in interpreters():
            for said in use(wheel, interpreter):
                sys.stdout.write(f"Python {version}, {said}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
