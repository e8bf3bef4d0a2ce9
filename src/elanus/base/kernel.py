"""Kernels in two forms: a loop that numba compiles at the first call, and its twin in NumPy.

A kernel is written as a plain function over arrays and numbers, decorated with `kernel(twin)`; what only other kernels
call is decorated with `part`. Nothing is compiled, and numba is not loaded, before the first call of a kernel. Compiled
code releases the GIL and is kept in a folder of this user's (`base.private_folder`), or where `NUMBA_CACHE_DIR` says;
where there is no such folder it is compiled again by each process.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, Final, Generic, ParamSpec, TypeVar

from elanus.base.private_folder import private_folder

P = ParamSpec("P")
R = TypeVar("R")

FOLDER: Final = "kernels"
FAST_MATH: Final = frozenset({"nsz", "nnan", "ninf", "reassoc", "contract", "arcp"})
"""What the compiler may assume of sums: any order, no NaN. Inputs are checked to be finite when they arrive."""


@cache
def is_compiled() -> bool:
    """Whether kernels run compiled in this process."""
    return find_spec("numba") is not None


@cache
def _library() -> Any:
    """numba itself, loaded at the first call (about 0.3 s)."""
    import numba

    base = os.environ.get("NUMBA_CACHE_DIR") or private_folder(FOLDER)
    numba.config.CACHE_DIR = os.path.join(base, _sources_stamp()) if base else ""
    return numba


def _sources_stamp() -> str:
    """A name for the text of all kernels: numba itself does not notice when a part in another file changed."""
    files = sorted(Path(__file__).parent.parent.glob("*/compiled/*.py"))
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}"


class Part(Generic[P, R]):
    """A function that only kernels call."""

    def __init__(self, body: Callable[P, R]) -> None:
        self._body = body
        self._dispatcher: Any = None

    def dispatcher(self) -> Any:
        """The body as numba sees it: the parts it names are dispatchers too. Two threads may both make one."""
        if self._dispatcher is None:
            numba, body = _library(), self._body
            assert isinstance(body, FunctionType)
            known = {name: value.dispatcher() if isinstance(value, Part) else value for name, value in _named(body)}
            copied = FunctionType(body.__code__, body.__globals__ | known, body.__name__, body.__defaults__)
            copied.__qualname__, copied.__module__ = body.__qualname__, body.__module__
            keeps = bool(numba.config.CACHE_DIR)
            self._dispatcher = numba.njit(copied, nogil=True, cache=keeps, fastmath=set(FAST_MATH), error_model="numpy")
        return self._dispatcher

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As plain Python; compiled code does not come here."""
        return self._body(*args, **kwargs)


class Kernel(Part[P, R]):
    """A function that the rest of the package calls. `twin` takes the same arguments and gives the same answer."""

    def __init__(self, body: Callable[P, R], twin: Callable[P, R]) -> None:
        super().__init__(body)
        self.twin = twin
        self._chosen: Callable[..., R] | None = None if is_compiled() else twin
        self._is_begun = False

    @property
    def is_ready(self) -> bool:
        """Whether a call does its work at once; the first one compiles for seconds, or reads what was kept."""
        return self._chosen is not None

    def now(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """By the loop where it is ready, else by the twin: nothing is loaded and nothing compiled for this call."""
        return (self._chosen or self.twin)(*args, **kwargs)

    def soon(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, and from the first call on a thread makes the loop ready for later ones."""
        if self._chosen is None and not self._is_begun:
            self._is_begun = True
            threading.Thread(target=self, args=args, kwargs=kwargs, name="compiling", daemon=True).start()
        return self.now(*args, **kwargs)

    def compiled(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The loop, compiled, for tests."""
        return self.dispatcher()(*args, **kwargs)  # type: ignore[no-any-return]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        chosen = self._chosen
        if chosen is not None:
            return chosen(*args, **kwargs)
        found: R = self.dispatcher()(*args, **kwargs)
        self._chosen = self.dispatcher()
        return found


def part(body: Callable[P, R]) -> Part[P, R]:
    """A function that only kernels call."""
    return Part(body)


def kernel(twin: Callable[P, R]) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """The decorated loop, with its twin."""
    return lambda body: Kernel(body, twin)


def _named(body: FunctionType) -> list[tuple[str, Any]]:
    """Names of globals that the body mentions, and their values."""
    return [(name, body.__globals__[name]) for name in body.__code__.co_names if name in body.__globals__]
