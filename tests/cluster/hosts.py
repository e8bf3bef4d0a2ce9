"""Hosts of a cluster as network namespaces on a bridge, so that the way between any two can be cut for real.

Needs root, `ip` and `nft`. Services on the loopback interface are reached at the address of the bridge: packets to
a published port are sent on to 127.0.0.1. A cut drops packets in both directions without a word, at one host.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

_NUMBERS = itertools.count(1)


def run(*words: str) -> None:
    """Run a command; its complaint is the test's."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def lacking(reason: str) -> NoReturn:
    """Skip the test, visibly; where CI may install what it wants, that is a failure."""
    pytest.fail(reason) if os.environ.get("CI") and os.geteuid() == 0 else pytest.skip(reason)


def need_hosts() -> None:
    """Skip the test where namespaces cannot be made."""
    if os.geteuid() != 0:
        lacking("needs root for network namespaces")
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            lacking(f"needs {tool}: apt-get install {package}")


class Hosts:
    """A bridge with hosts on it. `address` of the machine itself is `gateway`."""

    def __init__(self) -> None:
        self._id = f"{os.getpid() % 10000}x{next(_NUMBERS)}"
        self._net = f"10.{77 + os.getpid() % 100}.{next(_NUMBERS) % 250}"
        self.gateway = f"{self._net}.1"
        self._bridge = f"el{self._id}"
        self._table = f"elanus_{self._id}"
        self._hosts: dict[str, str] = {}
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.gateway}/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")
        Path(f"/proc/sys/net/ipv4/conf/{self._bridge}/route_localnet").write_text("1")
        run("nft", "add", "table", "ip", self._table)
        run("nft", "add", "chain", "ip", self._table, "in", "{ type nat hook prerouting priority -100; }")

    def publish(self, port: int) -> str:
        """Let hosts reach a port of 127.0.0.1; the address that they use."""
        rule = f"iifname {self._bridge} tcp dport {port} dnat to 127.0.0.1:{port}"
        run("nft", "add", "rule", "ip", self._table, "in", *rule.split())
        return f"{self.gateway}:{port}"

    def add(self, name: str) -> str:
        """A host; its address."""
        number = len(self._hosts) + 2
        space, address = self._space(name), f"{self._net}.{number}"
        near, far = f"v{self._id}-{number}", f"w{self._id}-{number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        run("ip", "link", "set", far, "netns", space)
        run("ip", "link", "set", near, "master", self._bridge)
        run("ip", "link", "set", near, "up")
        inside = ("ip", "-n", space)
        run(*inside, "addr", "add", f"{address}/24", "dev", far)
        run(*inside, "link", "set", far, "up")
        run(*inside, "link", "set", "lo", "up")
        nft = self._nft(name)
        run(*nft, "add", "table", "ip", "cut")
        for chain, hook in (("in", "input"), ("out", "output")):
            run(*nft, "add", "chain", "ip", "cut", chain, f"{{ type filter hook {hook} priority 0; }}")
        self._hosts[name] = address
        return address

    def address(self, name: str) -> str:
        """Of a host."""
        return self._hosts[name]

    def prefix(self, name: str) -> list[str]:
        """What stands before a command that is to run on the host."""
        return ["ip", "netns", "exec", self._space(name)]

    def cut(self, name: str, other: str) -> None:
        """Let nothing pass between the host and another one, or `ADDRESS:PORT`."""
        address, _, port = self._hosts.get(other, other).partition(":")
        ports = (["tcp", "sport", port], ["tcp", "dport", port]) if port else ([], [])
        run(*self._nft(name), "add", "rule", "ip", "cut", "in", "ip", "saddr", address, *ports[0], "drop")
        run(*self._nft(name), "add", "rule", "ip", "cut", "out", "ip", "daddr", address, *ports[1], "drop")

    def mend(self, name: str) -> None:
        """Undo all cuts at the host."""
        run(*self._nft(name), "flush", "table", "ip", "cut")

    def _space(self, name: str) -> str:
        return f"el{self._id}-{name}"

    def _nft(self, name: str) -> list[str]:
        return [*self.prefix(name), "nft"]

    def close(self) -> None:
        """Remove everything; processes on the hosts have ended."""
        for name in self._hosts:
            run("ip", "netns", "del", self._space(name))
        run("nft", "delete", "table", "ip", self._table)
        run("ip", "link", "del", self._bridge)
