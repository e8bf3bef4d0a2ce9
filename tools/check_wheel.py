"""Build the wheel, install it alone into a fresh environment, and use it: `python tools/check_wheel.py`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEEL_BYTES_MAX = 8 * 1024 * 1024


def run(*command: str | Path, cwd: str) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def main() -> None:
    """Raise if the wheel is not what a user needs."""
    with tempfile.TemporaryDirectory() as folder:
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
        home = Path(folder) / "venv"
        venv.create(home, with_pip=True)
        run(home / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        sys.stdout.write(run(home / "bin" / "elanus", "--version", cwd=folder))
        shown = run(home / "bin" / "elanus", "demo", cwd=folder)
        if "How to go on" not in shown:
            raise SystemExit(f"the demo of the installed wheel ended early:\n{shown}")
        sys.stdout.write(f"{wheel.name}: {wheel.stat().st_size} bytes, installs alone and runs its demo\n")


if __name__ == "__main__":
    main()
