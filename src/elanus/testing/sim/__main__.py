"""`python -m elanus.testing.sim replay SEED` and `… hunt`: see docs/simulator.md.

Each starts itself anew with a fixed hash seed and one thread for every library, so that a seed means the same run in
every shell.
"""

from __future__ import annotations

import argparse
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count, islice
from typing import Final

from elanus.testing.sim.apart import apart, settle
from elanus.testing.sim.hunt import Shrinker, kind_of, regression_test
from elanus.testing.sim.plan import SHAPES, plan_of
from elanus.testing.sim.report import Tally
from elanus.testing.sim.run import Outcome, play

FIXED: Final = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
_FAILED: Final = 1
_REPORT_EVERY: Final = 50
_WARMING: Final = 0
"""The seed of a run that is not tallied."""
_SEEDS_APART: Final = 16
"""Runs in one forked process: the first copies the memory that all change, and the garbage of all fits beside it."""


def _say(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def start_anew() -> None:
    """Run this very command again in the fixed environment, unless it is that one already."""
    if any(os.environ.get(name) != value for name, value in FIXED.items()):
        command = [sys.executable, "-m", "elanus.testing.sim", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **FIXED})


def replay(seed: int, shape: str, *, messages: bool) -> int:
    """Play one seed and show its timeline."""
    outcome = play(plan_of(seed, shape))
    if outcome.trace is not None:
        _say(outcome.trace.lines(messages=messages))
    _say(_verdict(outcome))
    return _FAILED if outcome.failure else 0


def _verdict(outcome: Outcome) -> list[str]:
    done = outcome.score
    return [
        "",
        f"seed {outcome.plan.seed}, {outcome.plan.shape}: {outcome.failure or 'every promise was kept'}",
        f"{sum(done.calls.values())} operations, {done.unknown} of unknown outcome, {done.refused} refused, "
        f"{sum(outcome.struck.values())} strikes of {len({fault for fault, _ in outcome.struck})} kinds of faults, "
        f"{outcome.virtual_s:.1f} virtual seconds, {outcome.steps} steps, trace {outcome.digest}",
    ]


def hunt(first: int, runs_max: int | None, shape: str) -> int:
    """Play seed after seed until one fails, or until stopped; shrink it and print a test."""
    tally, seed = Tally(shape), first
    while runs_max is None or seed < first + runs_max:
        begun_s = time.process_time()
        outcome = play(plan_of(seed, shape))
        tally.add(outcome, time.process_time() - begun_s)
        if outcome.failure:
            _say([*_verdict(outcome), f"shrinking {kind_of(outcome.failure)} …"])
            small = Shrinker(play).shrink(outcome)
            if small.trace is not None:
                _say(small.trace.lines(messages=False))
            _say([*_verdict(small), "", regression_test(small)])
            return _FAILED
        if tally.runs % _REPORT_EVERY == 0:
            _say(tally.lines()[:1])
        seed += 1
    _say(tally.lines())
    return 0


def batch(seeds: Iterable[int], counted_max: int, shape: str, cpu_s: float, report: str) -> int:
    """Play seeds until so many counted or the CPU time is used; print the tally and write it down. They are played in
    processes that are forked when one run has warmed up what all of them use."""
    tally = Tally(shape)
    begun_s = time.process_time()
    play(plan_of(_WARMING, shape))
    settle()
    tally.cpu_s += time.process_time() - begun_s
    left = iter(seeds)
    while tally.counted < counted_max and tally.cpu_s < cpu_s:
        some = tuple(islice(left, min(_SEEDS_APART, counted_max - tally.counted)))
        given, used_s = apart(partial(_tally_of, some, shape))
        one: Tally = pickle.loads(given)
        tally.merge(one, used_s)
        _say(f"seed {failed}: {why}" for failed, why in one.failures)
    _say(tally.lines())
    if report:
        with open(report, "wb") as file:
            file.write(tally.encoded())
    return 0


def _tally_of(seeds: Sequence[int], shape: str) -> bytes:
    tally = Tally(shape)
    for seed in seeds:
        tally.add(play(plan_of(seed, shape)), 0.0)
    return pickle.dumps(tally)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="elanus.testing.sim", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="cluster" if "cluster" in SHAPES else "standalone")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("replay", help="play one seed and show what happened")
    one.add_argument("seed", type=int)
    one.add_argument("--messages", action="store_true", help="every message, too")
    many = commands.add_parser("hunt", help="look for a seed that fails, and make it small")
    many.add_argument("--first", type=int, default=1)
    many.add_argument("--count", type=int, default=None, help="stop after so many")
    some = commands.add_parser("batch", help="play many seeds and say what they amount to")
    some.add_argument("--first", type=int, default=1)
    some.add_argument("--step", type=int, default=1, help="from one seed to the next, where several share the work")
    some.add_argument("--count", type=int, default=1000, help="as many as were hard enough to count")
    some.add_argument("--cpu", type=float, default=600.0, help="seconds of CPU time to use at most")
    some.add_argument("--report", default="", help="a file for the tally")
    asked = parser.parse_args(arguments)
    if asked.command == "replay":
        return replay(asked.seed, asked.shape, messages=asked.messages)
    if asked.command == "batch":
        return batch(count(asked.first, asked.step), asked.count, asked.shape, asked.cpu, asked.report)
    return hunt(asked.first, asked.count, asked.shape)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Who reads a timeline may stop early.
    start_anew()
    sys.exit(main())
