"""The simulated network: every message is bytes, takes time, and may be lost, doubled, overtaken or cut off.

What a caller may conclude is what gRPC lets it conclude. A call that met no listener, or no way to connect, was surely
not delivered: UnavailableError. A call whose connection broke, by a lost message in either direction or by the end of
the process that worked on it, may have been carried out: ReplyLostError. A silent peer (paused, or behind a cut)
is given up after `SILENCE_S`; a living peer is waited for as long as it works.

A doubled request is carried out twice, except for the calls of `ONCE`: no transport of ours sends a write a second time
(rule 8), and a network that did so by itself would be at the fault, not the roles.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar, cast

from elanus.base.errors import ElanusError, InvariantError, ReplyLostError, UnavailableError
from elanus.nodes.codec import Method, decode_error, encode_error, methods
from elanus.nodes.transport import CUT_WITH_CALLER
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.loop import Life, State, current_life
from elanus.testing.sim.trace import Trace

T = TypeVar("T")

LATENCY_S_MIN: Final = 0.0002
LATENCY_S_MAX: Final = 0.0015
SILENCE_S: Final = 3.0
GRACE_S: Final = 5.0
CONNECT_S: Final = 0.2
ONCE: Final = frozenset({"write", "insert", "upsert", "delete"})


class Weather:
    """What the network does to messages from or to one host now."""

    def __init__(self) -> None:
        self.calm()

    def calm(self) -> None:
        """Nothing."""
        self.loss = 0.0
        self.double = 0.0
        self.reorder = 0.0
        self.slow_s = 0.0


class _Endpoint:
    """What a life offers at an address."""

    def __init__(self, host: Host, life: Life, offered: Mapping[type, object]) -> None:
        self.host = host
        self.life = life
        self.calls: dict[str, tuple[Method, Any]] = {}
        for protocol, role in offered.items():
            for name, method in methods(protocol).items():
                self.calls[f"{protocol.__name__}.{name}"] = (method, getattr(role, name))


class _Call:
    """A call on its way: who waits, and for whom."""

    __slots__ = ("answer", "caller", "life", "server", "serving")

    def __init__(self, caller: Host, life: Life, answer: asyncio.Future[tuple[bool, bytes]]) -> None:
        self.caller = caller
        self.life = life
        self.answer = answer
        self.server: _Endpoint | None = None
        self.serving: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """End the work at the server."""
        if self.serving is not None:
            self.serving.cancel()

    def fail(self, error: ElanusError) -> None:
        """Give the call up."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Network:
    """All hosts and what lies between them."""

    def __init__(self, chance: random.Random, trace: Trace) -> None:
        self._loop = asyncio.get_running_loop()
        self._chance = chance
        self._trace = trace
        self._endpoints: dict[str, _Endpoint] = {}
        self._calls: dict[int, _Call] = {}
        self._next_call = 0
        self._due: dict[tuple[str, str], float] = {}
        self._weather: dict[str, Weather] = {}
        self.cuts: dict[tuple[str, str], str] = {}
        """(from host, to host) to the fault that keeps messages from passing."""
        self.failed: list[Exception] = []
        """What calls raised that none may raise: what is no ElanusError, and broken invariants."""

    def later(self, delay_s: float, step: Callable[[], None]) -> None:
        """Do something after a while, whatever becomes of the process that asks."""
        self._loop.call_later(delay_s, step, context=contextvars.Context())

    def weather(self, name: str) -> Weather:
        """What messages from and to this host meet."""
        return self._weather.setdefault(name, Weather())

    def serve(self, host: Host, offered: Mapping[type, object], address: str) -> None:
        """Offer these roles at an address until the process ends."""
        life = host.life
        assert life is not None
        endpoint = self._endpoints[address] = _Endpoint(host, life, offered)
        life.on_death.append(partial(self._gone, address, endpoint))

    def _gone(self, address: str, endpoint: _Endpoint) -> None:
        if self._endpoints.get(address) is endpoint:
            del self._endpoints[address]
        for call in [one for one in self._calls.values() if one.server is endpoint]:
            self._break(call, self._chance.random() * 0.01, "the connection was lost")

    async def withdraw(self, host: Host) -> None:
        """The host's process stops listening, and calls under way end within the grace."""
        for address in [one for one, endpoint in self._endpoints.items() if endpoint.life is host.life]:
            del self._endpoints[address]
        served = [call for call in self._calls.values() if call.server is not None and call.server.life is host.life]
        if under_way := [call.serving for call in served if call.serving is not None]:
            await asyncio.wait(under_way, timeout=GRACE_S)

    def paused(self, host: Host) -> None:
        """The host has fallen silent: those who wait for it give up after a while, if it stays so."""
        for call in [one for one in self._calls.values() if one.server is not None and one.server.host is host]:
            self._break_if_silent(call, host)

    def _break_if_silent(self, call: _Call, host: Host) -> None:
        life = host.life

        def give_up() -> None:
            if life is not None and life.state is State.PAUSED:
                call.fail(ReplyLostError(f"{host.name} does not answer"))

        self._loop.call_later(SILENCE_S, give_up, context=call.life.context)

    def _break(self, call: _Call, after_s: float, why: str) -> None:
        self._loop.call_later(after_s, call.fail, ReplyLostError(why), context=call.life.context)

    def calm(self) -> None:
        """Every message passes from now on."""
        self.cuts.clear()
        for weather in self._weather.values():
            weather.calm()

    # --- calls ------------------------------------------------------------------------------------------------------
    async def call(self, caller: Host, address: str, name: str, request: bytes) -> tuple[bool, bytes]:
        """Send a request and wait: whether it succeeded, and the bytes of its result or error."""
        life = current_life()
        assert life is not None
        life.check()
        number = self._next_call = self._next_call + 1
        call = _Call(caller, life, self._loop.create_future())
        self._calls[number] = call
        try:
            endpoint = self._endpoints.get(address)
            if endpoint is None:
                self._refuse(call, f"nobody listens at {address}")
            elif (caller.name, endpoint.host.name) in self.cuts and self._chance.random() < 0.3:
                self._strike(self.cuts[caller.name, endpoint.host.name], caller, endpoint.host)
                self._loop.call_later(
                    CONNECT_S, call.fail, UnavailableError(f"no way to {address}"), context=life.context
                )
            else:
                call.server = endpoint
                self._request(call, number, name, request, address)
            return await call.answer
        except asyncio.CancelledError:
            if life.state is not State.DEAD:
                self._abandon(call, name)
            raise
        finally:
            self._calls.pop(number, None)

    def _abandon(self, call: _Call, name: str) -> None:
        """The caller waits no more: what only reads, and what a client asked for, ends at the other side too."""
        protocol, _, verb = name.partition(".")
        if call.server is not None and (verb in CUT_WITH_CALLER or protocol == "Frontend"):
            self._loop.call_later(LATENCY_S_MAX, call.cancel, context=call.server.life.context)

    def _refuse(self, call: _Call, why: str) -> None:
        self._loop.call_later(LATENCY_S_MAX, call.fail, UnavailableError(why), context=call.life.context)

    def _request(self, call: _Call, number: int, name: str, request: bytes, address: str) -> None:
        endpoint = call.server
        assert endpoint is not None
        source, target = call.caller, endpoint.host
        self._trace.note(source.name, "send", f"{target.name} {name} #{number} {zlib.crc32(request):08x}")
        delay_s = self._passage(source, target)
        if delay_s is None:
            self._break(call, SILENCE_S * self._chance.random(), f"the connection to {address} was lost")
            return
        deliver = partial(self._deliver, call, number, name, request, endpoint)
        self._loop.call_later(delay_s, deliver, context=endpoint.life.context)
        if endpoint.life.state is State.PAUSED:
            self._break_if_silent(call, target)
        for host in (source, target):
            if self._likely(host, "double") and name.rpartition(".")[2] not in ONCE:
                self._strike("duplicate", source, target)
                self._loop.call_later(delay_s * (1 + self._chance.random()), deliver, context=endpoint.life.context)

    def _deliver(self, call: _Call, number: int, name: str, request: bytes, endpoint: _Endpoint) -> None:
        self._trace.note(endpoint.host.name, "receive", f"{call.caller.name} {name} #{number}")
        serving = self._serve(call, number, name, request, endpoint)
        call.serving = self._loop.create_task(serving, name=name)

    async def _serve(self, call: _Call, number: int, name: str, request: bytes, endpoint: _Endpoint) -> None:
        method, role = endpoint.calls[name]
        good = True
        try:
            result = await role(**method.decode_call(request))
            reply = method.encode_result(result)
        except ElanusError as error:
            good, reply = False, encode_error(error)
            if isinstance(error, InvariantError):
                self.failed.append(error)
        except Exception as error:
            # No call may end so; a dead process's ends however it likes.
            if endpoint.life.state is not State.DEAD:
                self.failed.append(error)
                self._break(call, LATENCY_S_MAX, f"{name} failed")
            raise
        if current_life() is not endpoint.life:
            return
        source, target = endpoint.host, call.caller
        self._trace.note(source.name, "send", f"{target.name} {name} #{number} {zlib.crc32(reply):08x}")
        delay_s = self._passage(source, target)
        if delay_s is None:
            self._break(call, SILENCE_S * self._chance.random(), f"the reply of {name} was lost")
            return
        call.server = None  # What is on its way arrives, whatever becomes of its sender.
        self._loop.call_later(delay_s, self._answer, call, (good, reply), context=call.life.context)

    @staticmethod
    def _answer(call: _Call, reply: tuple[bool, bytes]) -> None:
        if not call.answer.done():
            call.answer.set_result(reply)

    # --- what a message meets ---------------------------------------------------------------------------------------
    def _passage(self, source: Host, target: Host) -> float | None:
        """How long a message takes; None when it is lost."""
        link = (source.name, target.name)
        if link in self.cuts:
            self._strike(self.cuts[link], source, target)
            return None
        delay_s = LATENCY_S_MIN + self._chance.random() * (LATENCY_S_MAX - LATENCY_S_MIN)
        for host in (source, target):
            weather = self._weather.get(host.name)
            if weather is None:
                continue
            if weather.loss and self._chance.random() < weather.loss:
                self._strike("loss", source, target)
                return None
            if weather.slow_s:
                self._strike("delay", source, target)
                delay_s += self._chance.random() * weather.slow_s
            if weather.reorder and self._chance.random() < weather.reorder:
                delay_s += 0.02 * self._chance.random()
        due_s = self._loop.time() + delay_s
        if due_s < self._due.get(link, 0.0):
            self._strike("reorder", source, target)
        self._due[link] = max(due_s, self._due.get(link, 0.0))
        return delay_s

    def _likely(self, host: Host, kind: str) -> bool:
        weather = self._weather.get(host.name)
        likely = getattr(weather, kind) if weather is not None else 0.0
        return bool(likely) and self._chance.random() < likely

    def _strike(self, fault: str, source: Host, target: Host) -> None:
        self._trace.strike(fault, source.role, source.name, target.name)
        if target.role != source.role:
            self._trace.struck[fault, target.role] += 1


class SimTransport:
    """The transport of one process on the simulated network."""

    def __init__(self, network: Network, host: Host) -> None:
        self._network = network
        self._host = host
        self._served = 0

    async def serve(self, offered: Mapping[type, object]) -> str:
        """Offer roles to other processes; the address. A new life has a new one."""
        self._served += 1
        address = f"{self._host.name}:{self._host.lives}.{self._served}"
        self._network.serve(self._host, offered, address)
        return address

    def connect(self, address: str, protocol: type[T]) -> T:
        """The role as seen from here: calls go through the codec and the network."""
        return cast("T", _Remote(self._network, self._host, address, protocol))

    async def close(self) -> None:
        """Stop listening and let calls under way end."""
        await self._network.withdraw(self._host)


class _Remote:
    """A role at an address; offers exactly the protocol's calls."""

    def __init__(self, network: Network, host: Host, address: str, protocol: type) -> None:
        for name, method in methods(protocol).items():
            full = f"{protocol.__name__}.{name}"
            setattr(self, name, _caller(network, host, address, full, method))


def _caller(network: Network, host: Host, address: str, name: str, method: Method) -> Any:
    async def call(*positional: Any, **named: Any) -> Any:
        good, reply = await network.call(host, address, name, method.encode_call(positional, named))
        if not good:
            raise decode_error(reply)
        return method.decode_result(reply)

    return call
