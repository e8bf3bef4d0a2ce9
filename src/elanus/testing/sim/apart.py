"""Does something in a process of its own, forked from this one, and brings back what came of it.

A run makes a whole world of things that point at each other, and to take it apart again costs nearly as much as a tenth
of the run. A forked process begins with everything that is loaded and warm here, and its end takes nothing apart.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn


def settle() -> None:
    """What is there now stays: no process that is forked from here need look at it again."""
    gc.collect()
    gc.freeze()


def apart(work: Callable[[], bytes]) -> tuple[bytes, float]:
    """What the work gives, and the CPU seconds it took, with those of the fork. Garbage is not collected meanwhile.
    RuntimeError when it raised, which is told on stderr."""
    begun_s = time.process_time()
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work_and_end(work, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        given = pipe.read()
    _, status, used = os.wait4(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"a process that was forked to work has ended with status {code}")
    return given, time.process_time() - begun_s + used.ru_utime + used.ru_stime


def _work_and_end(work: Callable[[], bytes], writing: int) -> NoReturn:
    """Whatever happens, nothing here goes on with what the parent was doing."""
    status = 1
    try:
        gc.disable()
        with open(writing, "wb") as pipe:
            pipe.write(work())
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
