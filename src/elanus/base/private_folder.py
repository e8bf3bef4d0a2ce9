"""A folder for what may be made again, chosen so that nobody else can put anything into it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_OTHERS_MAY_WRITE: Final = 0o022


def private_folder(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """An absolute folder for files called `name` that this user owns and only this user may write to; made if need be.

    `$XDG_CACHE_HOME`, else `~/.cache`. None where there is none: no home, a read-only root, a folder of somebody else.
    What is kept there may hold code, so a shared folder such as /tmp is never taken.
    """
    given = os.environ if environment is None else environment
    base = given.get("XDG_CACHE_HOME") or _joined(given.get("HOME"), ".cache")
    if base is None or not os.path.isabs(base):
        return None
    folder = Path(base, "elanus", name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if all(map(_is_ours, (folder, folder.parent))) and os.access(folder, os.W_OK) else None


def _joined(home: str | None, name: str) -> str | None:
    return os.path.join(home, name) if home else None


def _is_ours(folder: Path) -> bool:
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_MAY_WRITE
